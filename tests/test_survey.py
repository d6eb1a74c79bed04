"""One table over many tasks: nothing left out, sources named, drawn again from the files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ipd_lite import plots
from ipd_lite.cli import main
from ipd_lite.data.episodes import from_arrays
from ipd_lite.data.minari_files import save_minari
from ipd_lite.report.gather import return_histogram
from ipd_lite.study.spec import here
from ipd_lite.tasks.collect import collect
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import get_task
from tests.test_fetch import d4rl_arrays

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def hopper(datasets: Path) -> str:
    """A short `hopper-medium` and somebody else's data for the same robot."""
    task = get_task("hopper-medium")
    collect(replace(task, recipe=replace(task.recipe, steps=60, copies=2)), False)
    arrays = d4rl_arrays(["terminal", "timeout"])

    del arrays["timeouts"]
    other = from_arrays(
        **{("terminated" if k == "terminals" else k): v for k, v in arrays.items()}, name="other"
    )
    save_minari(other, "other/hopper-v0")
    return "hopper-medium"


def test_survey_writes_one_row_per_run_and_names_its_sources(
    hopper: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here() == (hopper,)
    spec = tmp_path / "survey.toml"
    text = (ROOT / "figures" / "survey.toml").read_text().replace('"lesson"', '"smoke"')
    spec.write_text(text)
    arguments = [
        "sweep",
        str(spec),
        "--methods",
        "behaviour",
        "bc",
        "--workers",
        "1",
        "--device",
        "cpu",
        "--quiet",
        "--results",
        str(tmp_path / "results"),
    ]
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0, capsys.readouterr().err
    table = pd.read_csv(tmp_path / "results" / "tasks.csv")
    assert list(table.columns) == list(pd.read_csv(ROOT / "figures/data/tasks.csv").columns)
    assert table[["task", "source", "environment", "method"]].to_numpy().tolist() == [
        [hopper, "ipd-lite", "Hopper-v5", method] for method in ("behaviour", "bc")
    ]
    assert (table["wall_seconds"] >= 0).all()
    data = load_task(get_task(hopper))
    score = get_task(hopper).normalized_score(float(data.episode_returns.mean()))
    assert table["score"].iloc[0] == pytest.approx(score, abs=1e-2)
    assert not list((tmp_path / "results").glob("scores-*"))

    second = [*arguments, "--out", str(tmp_path / "two"), "--datasets", f"{hopper}=other/hopper-v0"]
    assert main(second) == 0, capsys.readouterr().err
    table = pd.read_csv(tmp_path / "results" / "tasks.csv")
    assert table["source"].tolist() == ["other/hopper-v0"] * 2
    returns = pd.read_csv(tmp_path / "results" / "returns.csv")
    assert set(returns["source"]) == {"other/hopper-v0"} and returns["episodes"].sum() == 2
    assert main([*arguments, "--datasets", "hopper-medium"]) == 1
    assert "expected TASK=ID_OR_PATH" in capsys.readouterr().err


def test_histogram_counts_every_episode_where_it_belongs(hopper: str) -> None:
    task = get_task(hopper)
    data = load_task(task)
    table = return_histogram(task, data)
    assert table["episodes"].sum() == data.episodes
    found = data.episode_returns.numpy()
    for row in table.to_dict("records"):
        inside = (found > row["left"] + 1e-3) & (found < row["right"] - 1e-3)
        near = (found > row["left"] - 1e-3) & (found < row["right"] + 1e-3)
        assert inside.sum() <= row["episodes"] <= near.sum()
    assert table["mean"].iloc[0] == pytest.approx(found.mean(), abs=0.01)


def test_histograms_show_one_panel_per_task() -> None:
    def rows(name: str, counts: list[int]) -> pd.DataFrame:
        left = np.arange(len(counts), dtype=float)
        return pd.DataFrame(
            {
                "task": name,
                "source": "D4RL",
                "transitions": 1200,
                "mean": 1.5,
                "left": left,
                "right": left + 1,
                "episodes": counts,
            }
        )

    figure = plots.return_histograms(pd.concat([rows("b", [1, 4]), rows("a", [0, 2, 3])]))
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in panels] == ["B\nD4RL, 1,200 steps", "A\nD4RL, 1,200 steps"]
    assert [[bar.get_height() for bar in ax.patches] for ax in panels] == [[1, 4], [0, 2, 3]]
    plt.close(figure)
