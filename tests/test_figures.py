"""The paper's figures: every seed is a mark, and the committed files are what the data give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ipd_lite import plots
from ipd_lite.report.redraw import (
    AUGMENTATIONS,
    TARGETED,
    WEIGHTED,
    by_task,
    paper_figures,
    redraw,
    table1,
)
from ipd_lite.report.results import summarize
from ipd_lite.tasks.mazes import geometry
from tests.test_tables import MAZES, scores

ROOT = Path(__file__).resolve().parents[1]
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def styled() -> Iterator[None]:
    plots.style()
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return redraw(ROOT / "figures" / "data", tmp_path_factory.mktemp("figures"))


def test_committed_files_are_what_the_committed_data_give(redrawn: list[Path]) -> None:
    """Text and SVG byte for byte; PNG up to what rasterizers differ in."""
    for path in redrawn:
        committed = ROOT / "figures" / path.name
        assert committed.exists(), f"{path.name} is not committed: run `make figures`"
        if path.suffix != ".png":
            assert path.read_bytes() == committed.read_bytes(), f"run `make figures`: {path.name}"
            continue
        one, other = plt.imread(path), plt.imread(committed)
        assert one.shape == other.shape, path.name
        assert np.abs(one - other).mean() < 0.01, f"run `make figures`: {path.name}"


def test_nothing_stale_is_committed(redrawn: list[Path]) -> None:
    drawn = {path.name for path in redrawn}
    kinds = (".png", ".svg", ".md", ".tex", ".csv")
    committed = {p.name for p in (ROOT / "figures").iterdir() if p.suffix in kinds}
    assert committed <= drawn | {"README.md"}


def marks(figure: Figure, panel: int = 0) -> int:
    """Points that are drawn with a marker and no line."""
    lines = figure.axes[panel].lines
    return sum(len(x.get_xdata()) for x in lines if x.get_linestyle() == "None")  # type: ignore[arg-type]


def smallest_text(figure: Figure) -> float:
    figure.canvas.draw()
    return min(
        text.get_fontsize()
        for text in figure.findobj(plt.Text)
        if text.get_text()  # type: ignore[attr-defined]
    )


def test_ablation_shows_every_seed_twice() -> None:
    table = scores(MAZES, dict.fromkeys(AUGMENTATIONS, 0.0), seeds=4)
    last = table[table["checkpoint"] == "last"].assign(family="mazes")
    plans = pd.DataFrame(
        [{"task": t, "method": m, "seed": s, "imagined_gain": s, "replayed_gain": -s}
         for t in MAZES for m in ("ipd", "ipd-greedy") for s in range(4)]
    )  # fmt: skip
    figure = plots.ablation(last, plans, AUGMENTATIONS)
    assert marks(figure, 0) == len(last) == 2 * 5 * 4
    assert marks(figure, 1) == len(plans)
    assert figure.get_figwidth() <= plots.COLUMN and smallest_text(figure) >= 6
    empty = pd.DataFrame(columns=["method"])
    assert marks(plots.ablation(last, empty, AUGMENTATIONS), 1) == 0


def test_families_of_tasks_have_score_axes_of_their_own() -> None:
    table = scores(MAZES, dict.fromkeys(AUGMENTATIONS, 0.0), seeds=4)
    last = table[table["checkpoint"] == "last"]
    robots = last.assign(family="locomotion", task="hopper-medium", score=20.0)
    both = pd.concat([last.assign(family="mazes"), robots])
    figure = plots.ablation(both, pd.DataFrame(columns=["method"]), AUGMENTATIONS)
    mazes, locomotion = (axes for axes in figure.axes if axes.get_legend())
    assert marks(figure, figure.axes.index(mazes)) == len(last)
    assert marks(figure, figure.axes.index(locomotion)) == len(last)
    assert figure.get_figwidth() <= plots.PAGE and smallest_text(figure) >= 6
    amount = pd.DataFrame(
        [{"task": t, "family": t[:6], "seed": s, "amount": a, "score": a}
         for t in (*MAZES, "hopper-medium") for s in range(3) for a in (0.0, 1.0)]
    )  # fmt: skip
    figure = plots.amount_curve(amount)
    assert (marks(figure, 0), marks(figure, 1)) == (12, 6)


def test_a_family_may_have_more_tasks_than_there_are_markers() -> None:
    """Every task of a panel is drawn, and each panel begins with the first colour."""
    many = [(f"task-{i}", "mazes") for i in range(len(plots.MARKERS) + 2)]
    rows = pd.DataFrame(
        [{"task": t, "family": f, "method": m, "seed": s, "amount": a, "score": s + a}
         for t, f in (*many, ("door-human", "hands")) for s in range(2)
         for m, a in (("ipd-noaug", 0.0), ("ipd", 1.0))]
    )  # fmt: skip
    for figure in (
        plots.ablation(rows, pd.DataFrame(columns=["method"]), AUGMENTATIONS),
        plots.amount_curve(rows),
    ):
        assert (marks(figure, 0), marks(figure, 1)) == (4 * len(many), 4)
        first, second = (figure.axes[i].lines[0].get_color() for i in (0, 1))
        assert first == second


def test_targets_show_every_seed_and_the_spread() -> None:
    found = pd.DataFrame(
        [{"task": t, "method": m, "seed": s, "level": v, "score": base + 10 * s + v}
         for t in MAZES for m, base in (("ipd-rtg", 80.0), ("qt", 80.0), ("dt", 0.0))
         for s in range(3) for v in (0.0, 0.5, 1.0)]
    )  # fmt: skip
    reference = pd.DataFrame([{"task": t, "seed": s, "score": 90.0 + s} for t in MAZES
                              for s in range(3)])  # fmt: skip
    found = found[(found["task"] != next(iter(MAZES))) | (found["method"] != "qt")]
    figure = plots.target_sweep(found, reference, TARGETED)
    assert (marks(figure, 0), marks(figure, 1)) == (2 * 3 * 3, 3 * 3 * 3)
    assert (marks(figure, 2), marks(figure, 3)) == (3 * 3, 2 * 3 * 3), "dt is far from IPD"
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named == {*TARGETED.values(), "IPD: V(s), no target"}
    spread = figure.axes[4].lines[0].get_ydata()
    np.testing.assert_allclose(spread, 10.0)  # type: ignore[arg-type]
    assert smallest_text(figure) >= 6


def test_amounts_are_in_order_and_every_seed_is_there() -> None:
    found = pd.DataFrame(
        [{"task": t, "family": "mazes", "seed": s, "amount": a, "score": 10 * a + s}
         for t in MAZES for s in range(3) for a in (4.0, 0.0, 0.125, 1.0)]
    )  # fmt: skip
    figure = plots.amount_curve(found)
    assert marks(figure) == len(found)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["none", "1/8", "1", "4"]
    means = figure.axes[0].lines[1].get_ydata()
    np.testing.assert_allclose(means, [1.0, 2.25, 11.0, 41.0])  # type: ignore[arg-type]


def test_alphas_show_every_seed_with_and_without_imagined_data() -> None:
    found = pd.DataFrame(
        [{"task": t, "method": m, "seed": s, "alpha": a, "score": 10 * a + s}
         for t in MAZES for m in WEIGHTED for s in range(3) for a in (3.0, 0.0, 0.3)]
    )  # fmt: skip
    figure = plots.alpha_curve(found, WEIGHTED)
    assert marks(figure, 0) == marks(figure, 1) == 2 * 3 * 3
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["0", "0.3", "3"]
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), [1.0, 4.0, 31.0])  # type: ignore[arg-type]
    assert smallest_text(figure) >= 6


def test_uncertainty_panels_count_what_the_gate_rejects() -> None:
    doubt, on_data = np.linspace(0.1, 2.0, 40), np.arange(40) < 20
    figure = plots.uncertainty_panels(
        doubt, doubt**2, on_data, doubt, doubt, RANDOM.normal(size=(5_000, 4)), 1.05
    )
    assert marks(figure, 0) == 40 and marks(figure, 1) == 40
    assert "rank correlation 1.00" in figure.axes[0].get_title()
    legend = figure.axes[3].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["passes (50%)", "rejected (50%)"]
    for line in figure.axes[2].lines[:4]:  # true Gaussians lie on the diagonal
        np.testing.assert_allclose(line.get_ydata(), line.get_xdata(), atol=0.03)  # type: ignore[arg-type]


def test_method_diagram_draws_real_arrays_and_five_arrows() -> None:
    maze, paths = geometry("umaze"), [RANDOM.normal(size=(n, 2)) for n in (3, 4, 5)]
    figure = plots.method_diagram(
        maze.walls, maze.goal, paths, np.array([1.0, 2.0, 3.0]), maze.centres,
        np.arange(len(maze.centres)), RANDOM.normal(size=(30, 4)), np.linspace(0, 1, 30), 0.5,
        paths[:2], paths[:1],
    )  # fmt: skip
    figure.canvas.draw()
    assert len(figure.axes) == 6 and len(figure.patches + figure.artists) == 5
    inside, beyond = figure.axes[2].collections
    assert len(inside.get_offsets()) == len(beyond.get_offsets()) == 15
    assert figure.get_figwidth() <= plots.PAGE


def test_profiles_and_costs() -> None:
    thresholds = np.linspace(0, 100, 5)
    share = np.array([1.0, 1.0, 0.5, 0.5, 0.0])
    figure = plots.profiles(thresholds, {"iql": (share, share, share),
                                               "ipd": (share, share, share)})  # fmt: skip
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), share)  # type: ignore[arg-type]
    table = pd.DataFrame(
        [{"family": t, "stage": stage, "seconds": 3.0, "process_mb": memory}
         for t in MAZES for stage, memory in (("values", 400.0), ("policy", np.nan))]
    )  # fmt: skip
    figure = plots.costs(table)
    assert len(figure.axes) == 2 and marks(figure, 0) == 4
    assert len(plots.costs(table.assign(process_mb=np.nan)).axes) == 1


def test_variants_stay_out_of_table_1(tmp_path: Path) -> None:
    table = pd.concat([scores(MAZES, {"ipd": 20}), scores(MAZES, {"ipd": 3}, variant="short")])
    paths = table1(table, summarize(table), tmp_path, tmp_path)
    assert len(paths) == 3
    for path in paths:
        assert "ipd" in path.read_text() and "short" not in path.read_text(), path.name


def test_figures_appear_with_their_data(tmp_path: Path) -> None:
    names = [name for name, _ in paper_figures(scores(MAZES, {"iql": 0.0}), tmp_path)]
    assert names == []
    table = pd.concat(
        [
            scores(MAZES, {"iql": 0, "ipd-noaug": 1, "ipd-greedy": 1, "ipd-x2": 3, "ipd": 2}),
            scores(MAZES, {"ipd-rtg": 0}, variant="target_level=0.25"),
            scores(MAZES, {"ipd": 0}, variant="alpha=0.3"),
            scores(MAZES, {"ipd": 0}, variant="alpha=3.0"),
        ]
    )
    costs = pd.DataFrame([{"seed": 0, "stage": "values", "seconds": 2.0, "process_mb": 300.0}])
    costs.to_csv(tmp_path / "costs-pointmaze-umaze.csv", index=False)
    names = [name for name, _ in paper_figures(table, tmp_path)]
    assert names == [
        "figure3-ablation", "figure4-targets", "figure5-amount", "figure7-profile", "figure8-cost",
        "figure9-alpha",
    ]  # fmt: skip


def test_tasks_come_in_the_order_of_the_registry(tmp_path: Path) -> None:
    names = ["pointmaze-umaze", "pointmaze-medium-slow", "hopper-medium", "door-human", "my-robot"]
    for name in sorted(names):
        (tmp_path / f"scores-{name}.csv").touch()
    assert [file.stem for file in by_task(tmp_path, "scores")] == [f"scores-{n}" for n in names]
