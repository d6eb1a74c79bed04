"""The paper's figures: every seed is a mark, and the committed files are what the data give."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from ipd_lite import plots
from ipd_lite.files import write_csv
from ipd_lite.report.catalogue import FIELDS, catalogue, write_catalogue
from ipd_lite.report.redraw import (
    AUGMENTATIONS,
    by_task,
    paper_figures,
    read_catalogue,
    redraw,
    write_tables,
)
from ipd_lite.report.results import aggregates, last_of, summarize
from ipd_lite.study.methods import METHODS
from ipd_lite.tasks.mazes import geometry
from ipd_lite.tasks.registry import TASKS
from tests.test_tables import MAZES, scores

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "figures" / "data"
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
    assert committed <= drawn | {"README.md", "race.png"}  # the race: test_race.py


def marks(ax: Axes) -> int:
    """Seeds that are drawn as marks (seaborn draws them as collections)."""
    return sum(len(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection))


def lines(ax: Axes) -> dict[str, np.ndarray]:
    """What the named lines of a panel show, by label."""
    return {
        str(line.get_label()): np.asarray(line.get_ydata())
        for line in ax.lines
        if not str(line.get_label()).startswith("_")
    }


def smallest_text(figure: Figure) -> float:
    figure.canvas.draw()
    return min(
        text.get_fontsize()
        for text in figure.findobj(plt.Text)
        if text.get_text()  # type: ignore[attr-defined]
    )


def test_every_method_and_task_has_a_name_of_its_own() -> None:
    names = [plots.method_name(method) for method in METHODS]
    assert len(set(names)) == len(names) and not set(names) & set(METHODS)
    assert plots.method_name("ipd@alpha=3.0") == "IPD (alpha=3.0)"
    assert plots.method_name("mine") == "mine"
    assert len({plots.task_name(task) for task in TASKS}) == len(TASKS)


def test_ablation_shows_every_seed_and_every_plan_twice() -> None:
    """A panel per task, more tasks than there are markers; plans where there are any."""
    many = dict.fromkeys([*MAZES, *(f"task-{i}" for i in range(9))], 0.0)
    table = last_of(scores(many, dict.fromkeys(AUGMENTATIONS, 0.0), seeds=2))
    plans = pd.DataFrame(
        [
            {"task": t, "method": m, "seed": s, "imagined_gain": s, "replayed_gain": -s}
            for t in MAZES
            for m in ("ipd", "ipd-greedy")
            for s in range(4)
        ]
    )
    figure = plots.ablation(table, plans, AUGMENTATIONS)
    top, bottom = figure.axes[: len(many)], figure.axes[len(many) :]
    assert [marks(ax) for ax in top] == [2 * len(AUGMENTATIONS)] * len(many)
    assert [ax.get_visible() for ax in bottom] == [True, True] + [False] * 9
    for ax in bottom[:2]:
        promised, true = (np.asarray(line.get_xdata()) for line in ax.lines[:2])
        np.testing.assert_array_equal(promised, -true)
        assert sorted(promised) == [0, 0, 1, 1, 2, 2, 3, 3]
    few = plots.ablation(table[table["task"].isin(MAZES)], pd.DataFrame(), AUGMENTATIONS)
    assert len(few.axes) == len(MAZES) and few.get_figwidth() <= plots.PAGE
    assert smallest_text(few) >= 6


def test_targets_show_every_seed_and_name_what_is_far_away() -> None:
    found = pd.DataFrame(
        [
            {"task": t, "method": m, "seed": s, "level": v, "score": base + 10 * s + v}
            for t in MAZES
            for m, base in (("ipd-rtg", 80.0), ("qt", 80.0), ("dt", 0.0))
            for s in range(3)
            for v in (0.0, 0.5, 1.0)
        ]
    )
    reference = pd.DataFrame(
        [{"task": t, "seed": s, "score": 90.0 + s} for t in MAZES for s in range(3)]
    )
    found = found[(found["task"] != next(iter(MAZES))) | (found["method"] != "qt")]
    figure = plots.target_sweep(found, reference)
    assert [marks(ax) for ax in figure.axes] == [3 * 3, 2 * 3 * 3]
    assert all("Decision Transformer: 10 to 11" in ax.get_title() for ax in figure.axes)
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named == {"IPD, hand-set target", "QT", "IPD with V(s), no target", "range of its seeds"}
    for ax in figure.axes:
        np.testing.assert_allclose(lines(ax)["IPD with V(s), no target"], 91.0)
        np.testing.assert_allclose(lines(ax)["IPD, hand-set target"], [90.0, 90.5, 91.0])
    assert smallest_text(figure) >= 6


def test_amounts_are_in_order_and_every_seed_is_there() -> None:
    found = pd.DataFrame(
        [
            {"task": t, "seed": s, "amount": a, "score": 10 * a + s}
            for t in MAZES
            for s in range(3)
            for a in (4.0, 0.0, 0.125, 1.0)
        ]
    )
    figure = plots.amount_curve(found)
    assert [marks(ax) for ax in figure.axes] == [12, 12]
    for ax in figure.axes:
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1/8", "1", "4"]
        np.testing.assert_allclose(lines(ax)["IPD"], [1.0, 2.25, 11.0, 41.0])


def test_alphas_show_every_seed_with_and_without_imagined_data() -> None:
    found = pd.DataFrame(
        [
            {"task": t, "method": m, "seed": s, "alpha": a, "score": 10 * a + s}
            for t in MAZES
            for m in ("ipd", "ipd-noaug")
            for s in range(3)
            for a in (3.0, 0.0, 0.3)
        ]
    )
    figure = plots.alpha_curve(found)
    for ax in figure.axes:
        assert marks(ax) == 2 * 3 * 3
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.3", "3"]
        for name in ("IPD", "IPD, no imagined data"):
            np.testing.assert_allclose(lines(ax)[name], [1.0, 4.0, 31.0])
    assert smallest_text(figure) >= 6


def test_intervals_are_those_that_one_asks_for() -> None:
    found = pd.DataFrame([{"x": x, "score": 10 * x + s} for x in (1.0, 2.0) for s in range(3)])
    figure = plots.amount_curve(
        found.assign(task="task", amount=found["x"]), lambda seeds: (seeds.min() - 1, 99.0)
    )
    bars = next(c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[9, 99], [19, 99]]


def test_uncertainty_panels_count_what_the_gate_rejects() -> None:
    doubt, on_data = np.linspace(0.1, 2.0, 40), np.arange(40) < 20
    figure = plots.uncertainty_panels(doubt, doubt**2, on_data, doubt, doubt, 1.05)
    drawn = [sum(len(line.get_xdata()) for line in ax.lines[::2]) for ax in figure.axes[:2]]  # type: ignore[arg-type]
    assert drawn == [40 + 2, 40 + 2], "every state a dot; the threshold has two ends"
    assert "rank correlation 1.00" in figure.axes[0].get_title()
    medians = lines(figure.axes[1])["held-out data"]
    np.testing.assert_allclose(medians, doubt.reshape(10, 4).mean(1))
    legend = figure.axes[2].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["passes (50%)", "rejected (50%)"]


def test_method_diagram_draws_real_arrays_and_a_transformer() -> None:
    maze, paths = geometry("umaze"), [RANDOM.normal(size=(n, 2)) for n in (3, 4, 5)]
    figure = plots.method_diagram(
        maze.walls,
        maze.goal,
        paths,
        np.array([1.0, 2.0, 3.0]),
        maze.centres,
        np.arange(len(maze.centres)),
        RANDOM.normal(size=(30, 4)),
        np.linspace(0, 1, 30),
        paths[:2],
        paths[:1],
    )
    figure.canvas.draw()
    assert len(figure.axes) == 6 + 3 and len(figure.patches + figure.artists) == 4
    words = {text.get_text().strip() for text in figure.axes[5].texts}
    assert "causal transformer" in words and any("V(s)" in word for word in words)
    assert figure.get_figwidth() <= plots.PAGE and smallest_text(figure) >= 6


def test_profiles_and_costs() -> None:
    thresholds = np.linspace(0, 100, 5)
    share = np.array([1.0, 1.0, 0.5, 0.5, 0.0])
    curves = {"iql": (share, share, share), "ipd": (share / 2, share, share)}
    figure = plots.profiles({"mazes": (thresholds, curves)})
    np.testing.assert_array_equal(lines(figure.axes[0])["IQL"], share)
    np.testing.assert_array_equal(lines(figure.axes[0])["IPD"], share / 2)
    more = {"dt": (share, share, share), **curves}
    first, second = plots.profiles({"a": (thresholds, more), "b": (thresholds, curves)}).axes
    looks = [
        {one.get_label(): (one.get_color(), one.get_linestyle()) for one in ax.get_lines()}
        for ax in (first, second)
    ]
    assert looks[0]["IQL"] == looks[1]["IQL"] != looks[0]["Decision Transformer"]
    table = pd.DataFrame(
        [
            {"family": t, "stage": stage, "seconds": seconds, "process_mb": memory}
            for t in MAZES
            for stage, memory in (("policy", np.nan), ("values", 400.0))
            for seconds in (1.0, 3.0, 100.0)
        ]
    )
    figure = plots.costs(table)
    assert len(figure.axes) == 2
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["values (3.1)", "transformer (3.4)"], "the paper's order"
    spans = [sorted(np.round(line.get_xdata(), 6).tolist()) for line in figure.axes[0].lines]
    assert spans.count([1.0, 100.0]) == 4 and spans.count([3.0, 3.0]) == 2
    assert len(plots.costs(table.assign(process_mb=np.nan)).axes) == 1


def test_variants_stay_out_of_table_1(tmp_path: Path) -> None:
    table = pd.concat([scores(MAZES, {"ipd": 20}), scores(MAZES, {"ipd": 3}, variant="short")])
    paths = write_tables(table, summarize(table), aggregates(table), tmp_path, tmp_path)
    tables = [path for path in paths if path.stem == "table1"]
    assert len(tables) == 3
    for path in tables:
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
    costs = pd.DataFrame(
        [{"method": "ipd", "seed": 0, "stage": "values", "seconds": 2.0, "process_mb": 300.0}]
    )
    costs.to_csv(tmp_path / "costs-pointmaze-umaze.csv", index=False)
    names = [name for name, _ in paper_figures(table, tmp_path)]
    assert names == [
        "figure3-ablation",
        "figure4-targets",
        "figure5-amount",
        "figure7-profile",
        "figure8-cost",
        "figure9-alpha",
    ]


def test_tasks_come_in_the_order_of_the_catalogue(tmp_path: Path) -> None:
    names = ["pointmaze-umaze", "pointmaze-medium-slow", "hopper-medium", "door-human", "my-robot"]
    write_catalogue(tmp_path, reversed(names[1:-1]))
    write_catalogue(tmp_path, names[:1])
    for name in sorted(names):
        (tmp_path / f"scores-{name}.csv").touch()
    assert [file.stem for file in by_task(tmp_path, "scores")] == [f"scores-{n}" for n in names]


def test_the_committed_catalogue_describes_the_registrys_tasks() -> None:
    """Up to the version of a dataset: results keep the one that they were made with."""
    committed = read_catalogue(DATA)
    expected = catalogue(committed.index).set_index("task")
    for table in (committed, expected):
        table["dataset"] = table["dataset"].str.replace(r"-v\d+$", "", regex=True)
    pd.testing.assert_frame_equal(committed, expected)
    results = {path.stem.removeprefix("scores-") for path in DATA.glob("scores-*.csv")}
    assert set(committed.index) == results


def test_a_catalogue_keeps_what_was_said_of_other_results(tmp_path: Path) -> None:
    old = catalogue(["pointmaze-umaze"]).assign(dataset="ipd-lite/pointmaze-umaze-v9")
    write_csv(tmp_path / "catalogue.csv", old)
    table = pd.read_csv(write_catalogue(tmp_path, ["hopper-medium"]))
    assert table["task"].tolist() == ["pointmaze-umaze", "hopper-medium"]
    assert table["dataset"].iloc[0] == "ipd-lite/pointmaze-umaze-v9"
    assert list(table.columns) == ["task", *FIELDS] and table.notna().all().all()


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "mujoco", "gymnasium", "gymnasium_robotics", "minari"):
            raise ImportError(f"figures must not import {name}")

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize(
    "code",
    [
        "from pathlib import Path; from ipd_lite.report.redraw import redraw\n"
        "redraw(Path(sys.argv[1]), Path(sys.argv[2]))",
        "from ipd_lite.cli import main\n"
        "sys.exit(main(['figures', '--data', sys.argv[1], '--out', sys.argv[2]]))",
    ],
    ids=["redraw", "command"],
)
def test_figures_need_neither_torch_nor_a_simulator(code: str, tmp_path: Path) -> None:
    table = scores({"pointmaze-umaze": 10.0}, {"iql": 5, "ipd": 20})
    write_csv(tmp_path / "scores-pointmaze-umaze.csv", table)
    command = [sys.executable, "-c", BLOCKED + code, str(tmp_path), str(tmp_path / "out")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "out" / "table1.md").exists()
