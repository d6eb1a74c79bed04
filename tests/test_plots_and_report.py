"""Figures that show every seed, tables against sums by hand, and the demo that makes both."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from ipd_lite import plots
from ipd_lite.files import load_tensors, write_csv
from ipd_lite.report.demo import DEMO_METHODS, demo
from ipd_lite.report.gather import gather_scores
from ipd_lite.report.inside import episode_paths
from ipd_lite.report.redraw import redraw, save_figure, score_figures
from ipd_lite.report.results import summarize
from ipd_lite.report.tables import format_table
from ipd_lite.settings import Config
from ipd_lite.study.methods import METHODS
from ipd_lite.study.spec import Unit
from ipd_lite.study.storage import Stage
from ipd_lite.tasks.mazes import geometry
from tests.recorded import TASK, smoke, umaze_data

MAZE = geometry("umaze")
PATHS = [np.cumsum(np.full((n, 2), 0.1), axis=0) for n in (2, 5, 3)]
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def styled_figures() -> Any:
    """Our own style, which lays figures out strictly, whichever test ran before."""
    with plt.rc_context():
        plots.style()
        yield
    plt.close("all")


def drawn(figure: Figure) -> Figure:
    """Lay out and render: what is wrong with a figure often shows only then."""
    figure.canvas.draw()
    return figure


def dots(figure: Figure, marker: str = "o") -> list[tuple[float, float]]:
    """Every point that is drawn with a marker."""
    return [
        (float(x), float(y))
        for ax in figure.axes
        for line in ax.lines
        if line.get_marker() == marker
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)  # type: ignore[arg-type]
    ]


def test_plots_import_no_training_code() -> None:
    code = "import sys, ipd_lite.plots; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_shown_figures_carry_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    plots.show(plots.histogram({"a": RANDOM.normal(size=9)}, "x", ""), "a histogram")
    (picture,) = shown
    data, metadata = picture._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == "a histogram"
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert not plt.get_fignums(), "nothing is left for the notebook to draw twice"
    plots.show(b"\x89PNG", "drawn before")
    assert shown[1] == plots.Picture(b"\x89PNG", "drawn before")


def test_video_is_an_animated_png() -> None:
    data = plots.animation(MAZE.walls, MAZE.goal, {"a": PATHS, "b": PATHS[:1]})
    assert data.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(data)) as video:
        assert video.n_frames == max(len(path) for path in PATHS)


# -- one test per figure ---------------------------------------------------------------------------


@pytest.mark.parametrize("arrived", [[True, False, True], [False] * 3, [True] * 3])
def test_data_figure_shows_every_episode_once(arrived: list[bool]) -> None:
    terminated, returns = np.array(arrived), np.array([-2.0, -5.0, -3.0])
    figure = drawn(plots.data_by_return(MAZE.walls, MAZE.goal, PATHS, returns, terminated))
    lines = [c for ax in figure.axes for c in ax.collections if isinstance(c, LineCollection)]
    shown = [len(c.get_segments()) for c in lines[:2]]
    assert shown == [sum(not a for a in arrived), sum(arrived)]
    assert lines[0].norm is lines[1].norm
    titles = [ax.get_title() for ax in figure.axes[:2]]
    assert titles[0].startswith(f"{shown[0]} ") and titles[1].startswith(f"{shown[1]} ")


def test_value_maps_share_one_colour_scale() -> None:
    learned, exact = np.array([-3.0, -1.0, 0.0]), np.array([-9.0, -2.0, 0.5])
    figure = drawn(plots.value_maps(MAZE.walls, MAZE.goal, MAZE.centres[:3], learned, exact, 0.5))
    maps = [ax.collections[0] for ax in figure.axes[:2]]
    assert [m.get_clim() for m in maps] == [(-9.0, 0.5)] * 2
    for drawn_map, values in zip(maps, (learned, exact), strict=True):
        grid = np.ma.compressed(drawn_map.get_array())
        np.testing.assert_array_equal(np.sort(grid), np.sort(values))


def test_uncertainty_figure_averages_per_square_and_shows_every_state() -> None:
    observations, doubt = np.tile([0.5, -0.5, 0.0, 0.0], (20, 1)), RANDOM.random(20)
    observations[10:, 0] = -0.5
    error = np.where(np.arange(20) < 2, 0.0, doubt)  # a perfect prediction has no logarithm
    figure = drawn(
        plots.uncertainty_maps(MAZE.walls, MAZE.goal, observations, doubt, error, 0.9, 0.5)
    )
    shown = np.ma.masked_invalid(figure.axes[0].collections[0].get_array()).compressed()
    means = [np.exp(np.log(doubt[part]).mean()) for part in (slice(10), slice(10, 20))]
    np.testing.assert_allclose(np.sort(shown), np.sort(means))
    assert len(figure.axes[2].lines[0].get_xdata()) == 20  # type: ignore[arg-type]
    assert any(list(line.get_xdata()) == [0.5, 0.5] for line in figure.axes[2].lines)  # type: ignore[arg-type]


def test_calibration_of_true_gaussians_lies_on_the_diagonal() -> None:
    figure = drawn(plots.calibration(RANDOM.normal(size=(20_000, 4))))
    curves = figure.axes[0].lines
    assert len(curves) == 5
    for curve in curves[:4]:
        np.testing.assert_allclose(curve.get_ydata(), curve.get_xdata(), atol=0.02)  # type: ignore[arg-type]
    timid = drawn(plots.calibration(0.3 * RANDOM.normal(size=(1_000, 4))))
    assert (timid.axes[0].lines[0].get_ydata() >= timid.axes[0].lines[0].get_xdata()).all()  # type: ignore


def test_continuations_are_drawn_three_times() -> None:
    figure = drawn(plots.continuations(MAZE.walls, MAZE.goal, PATHS, PATHS[:2], PATHS[:1]))
    assert [len(ax.lines) - 1 for ax in figure.axes] == [4, 3, 2]  # paths, their starts; the goal
    assert len(dots(figure)) == 6


def test_gain_figure_counts_its_continuations() -> None:
    quantiles = np.array([0.5, 0.9])
    imagined, real = np.array([np.nan, 3.0]), np.array([np.nan, 2.0])
    figure = drawn(plots.gain_by_threshold(quantiles, imagined, real, np.array([0, 7]), 0.8))
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == ["0", "7"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), imagined)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), real)


def test_overview_shows_every_path_place_and_state() -> None:
    observations, doubt = RANDOM.normal(size=(20, 4)), RANDOM.random(20)
    figure = drawn(
        plots.overview(
            MAZE.walls,
            MAZE.goal,
            PATHS,
            np.array([-2.0, -5.0, -3.0]),
            MAZE.centres[:3],
            np.arange(3.0),
            observations,
            doubt,
            PATHS[:2],
            PATHS[:1],
        )
    )
    lines = figure.axes[0].collections[0]
    assert isinstance(lines, LineCollection) and len(lines.get_segments()) == 3
    places, squares = (
        np.ma.masked_invalid(ax.collections[0].get_array()).compressed() for ax in figure.axes[1:3]
    )
    np.testing.assert_array_equal(np.sort(places), np.arange(3.0))
    assert 1 <= len(squares) <= 20
    assert len(figure.axes) == 4 + 3, "data, V and U have colour bars"
    assert len(figure.axes[3].lines) - 1 == 2 + 1 + 1  # recorded, imagined, the starts; the goal


def score_table(seeds: int = 3, task: str = "task") -> pd.DataFrame:
    generator = np.random.default_rng(1)
    return pd.DataFrame(
        [
            {
                "task": task,
                "method": method,
                "variant": "",
                "seed": seed,
                "checkpoint": label,
                "episodes": 4,
                "return_mean": -1.0,
                "score": base + 10 * generator.random(),
                "success": 0.5,
                "wall_seconds": 1.0,
            }
            for method, base in (("iql", 40.0), ("ipd", 70.0))
            for seed in range(seeds)
            for label in ("last", "best")
        ]
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_score_chart_shows_every_seed(seeds: int) -> None:
    table = score_table(seeds)
    last = table[table["checkpoint"] == "last"]
    figure = drawn(plots.score_chart(last, ["iql", "ipd"], "title", lambda x: (40.0, 50.0)))
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["IQL", "IPD"]
    marks = [c.get_offsets() for c in ax.collections]
    found = sorted((["iql", "ipd"][round(y)], x) for points in marks for x, y in points)
    assert found == sorted(zip(last["method"], last["score"], strict=True))
    means = [last.loc[last["method"] == method, "score"].mean() for method in ("iql", "ipd")]
    assert [text.get_text() for text in ax.texts] == [f"{mean:.1f}" for mean in means]
    drawn_lines = [list(line.get_xdata()) for line in ax.lines]  # type: ignore[arg-type]
    assert drawn_lines.count([40.0, 50.0]) == (2 if seeds > 1 else 0)
    assert any(np.allclose(line, means) for line in drawn_lines if len(line) == 2)


def test_score_chart_enlarges_what_lies_near_the_best() -> None:
    rows = pd.DataFrame(
        [
            {"method": m, "seed": s, "score": base + s}
            for m, base in (("bc", 10), ("iql", 100), ("qt", 101), ("ipd", 103))
            for s in range(3)
        ]
    )
    whole, near = drawn(plots.score_chart(rows, ["bc", "iql", "qt", "ipd"], "title")).axes
    assert whole.get_xlim()[0] < 10 and whole.get_xlim()[1] > 105
    assert 99 < near.get_xlim()[0] < 100 and 105 < near.get_xlim()[1] < 106


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_saved_figures_repeat_byte_for_byte(suffix: str, tmp_path: Path) -> None:
    plots.style()
    saved = []
    for name in ("one", "two"):
        last = score_table().query("checkpoint == 'last'")
        figure = plots.score_chart(last, ["iql", "ipd"], "title")
        saved.append(save_figure(figure, tmp_path / name / f"chart{suffix}").read_bytes())
    assert saved[0] == saved[1] and len(saved[0]) > 1_000
    assert not plt.get_fignums()


# -- tables ----------------------------------------------------------------------------------------


def test_summary_against_pandas() -> None:
    table = pd.concat([score_table(), score_table(task="other")])
    # A seed that IPD did not run has no partner.
    table = table[~((table["method"] == "ipd") & (table["seed"] == 2))]
    summary = summarize(table).set_index(["task", "method"])
    assert list(summary.index) == [(t, m) for t in ("task", "other") for m in ("iql", "ipd")]
    pivot = table.pivot_table(
        index=["task", "seed"], columns=["checkpoint", "method"], values="score"
    )
    for (task, method), row in summary.iterrows():  # type: ignore[misc]
        last, best = pivot.loc[task]["last"][method], pivot.loc[task]["best"][method]
        assert row["seeds"] == last.notna().sum()
        assert row["last"].mean == pytest.approx(last.mean())
        assert row["best"].mean == pytest.approx(best.mean())
        assert last.min() <= row["last"].low < row["last"].mean < row["last"].high <= last.max()
    for task in ("task", "other"):
        last = pivot.loc[task]["last"]
        difference = (last["ipd"] - last["iql"]).dropna()
        row = summary.loc[(task, "iql")]
        assert len(difference) == 2
        found = row["ipd_minus"]
        assert found.mean == pytest.approx(difference.mean())
        assert difference.min() <= found.low <= found.high
        assert np.isnan(summary.loc[(task, "ipd"), "ipd_minus"].mean)


def test_table_of_one_seed_has_no_interval() -> None:
    text = format_table(summarize(score_table(seeds=1)))
    assert "[" not in text.split("\n", 1)[1]
    header, rule, iql, ipd = text.splitlines()
    assert {line.count("|") for line in (header, rule, iql, ipd)} == {10}
    table = score_table(seeds=1).set_index(["method", "checkpoint"])["score"]
    minus = table["ipd", "last"] - table["iql", "last"]
    last, best = table["iql", "last"], table["iql", "best"]
    assert iql == (
        f"| task | iql | 1 | {last:.1f} | {last:.1f} | {best:.1f} | 50% | {minus:+.1f} |  |"
    )
    assert ipd.endswith("| 50% |  |  |")


def test_scores_are_gathered_in_the_registrys_order(tmp_path: Path) -> None:
    name = "pointmaze-umaze"
    table = score_table(seeds=2, task=name).assign(variant="")
    units = []
    for (method, seed), rows in table.groupby(["method", "seed"]):
        unit = Unit(name, str(method), int(seed), Config())
        write_csv(unit.folder(tmp_path) / "scores.csv", rows)
        units.append(unit)
    found = gather_scores(units, tmp_path)
    assert len(found) == len(table)
    assert list(dict.fromkeys(found["method"])) == [m for m in METHODS if m in ("iql", "ipd")]
    assert found.groupby("method")["seed"].apply(list).tolist() == [[0, 0, 1, 1]] * 2
    assert set(found["source"]) == {"ipd-lite"}


def test_score_figures_draw_one_chart_per_task(tmp_path: Path) -> None:
    scores = pd.concat([score_table(), score_table(seeds=1, task="other")])
    paths = score_figures(scores, tmp_path, (".png", ".svg"))
    names = [f"scores-{task}{suffix}" for task in ("task", "other") for suffix in (".png", ".svg")]
    assert [path.name for path in paths] == names
    svg = (tmp_path / "scores-other.svg").read_text()
    assert "<svg" in svg


def test_redraw_needs_result_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no scores-\*\.csv"):
        redraw(tmp_path, tmp_path)


def test_episode_paths_hold_every_position() -> None:
    data = umaze_data()
    paths = episode_paths(data)
    assert [len(path) for path in paths] == (data.lengths + 1).tolist()
    joined = np.concatenate([path[:-1] for path in paths])
    np.testing.assert_array_equal(joined, data.observations[:, :2].numpy())
    ends = data.starts + data.lengths - 1
    np.testing.assert_array_equal(
        np.stack([path[-1] for path in paths]), data.next_observations[ends, :2].numpy()
    )


# -- the demo --------------------------------------------------------------------------------------


def test_demo_runs_every_method_and_called_again_only_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = umaze_data()

    def show() -> pd.DataFrame:
        return demo(TASK, 0, smoke(), out=tmp_path, device="cpu", workers=1, progress=False)

    scores = show()
    printed = capsys.readouterr()
    assert set(scores["method"]) == set(DEMO_METHODS) and len(scores) == 2 * len(DEMO_METHODS)
    assert f"{data.episodes} episodes, {len(data)} transitions" in printed.err
    assert format_table(summarize(scores)) in printed.out
    files = [Path(line) for line in printed.out.splitlines() if line.startswith(str(tmp_path))]
    assert all(path.stat().st_size > 0 for path in files)
    assert {path.stem for path in files} >= {
        "scores",
        "data",
        "values",
        "uncertainty",
        "calibration",
        "continuations",
        "gain",
        f"scores-{TASK}",
    }
    # Whatever figure exists is announced, too.
    assert {path for path in files if path.suffix == ".png"} == set(tmp_path.rglob("*.png"))
    before = (tmp_path / "scores.csv").read_bytes()

    def trained(self: Stage, *args: Any) -> None:
        raise AssertionError(f"{self.name} was trained again")

    monkeypatch.setattr(Stage, "store", trained)
    monkeypatch.setattr("ipd_lite.report.demo._figures", lambda *_: [])  # slow, and seen already
    show()
    assert (tmp_path / "scores.csv").read_bytes() == before
    inside = load_tensors(tmp_path / "inside.safetensors")[0]
    assert -1 <= float(inside["values/spearman"]) <= 1 and 0 <= float(inside["model/auroc"]) <= 1
    assert int(inside["data/paths/lengths"].sum()) == len(data) + data.episodes
    assert (inside["gain/counts"].diff() >= 0).all() and int(inside["gain/counts"][-1]) > 0
    assert torch.get_num_threads() == 1
