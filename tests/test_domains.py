"""The pipeline on data that is not a maze: robots, other people's recordings, no environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ipd_lite.report.demo import demo
from ipd_lite.study.run import run
from ipd_lite.tasks.collect import collect
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import TASKS, get_task


@pytest.fixture(scope="module", autouse=True)
def hopper_recording() -> None:
    """A short `hopper-medium` in the session's datasets folder."""
    task = get_task("hopper-medium")
    collect(replace(task, recipe=replace(task.recipe, steps=200, copies=3)), False)


def test_behaviour_without_a_controller_is_the_score_of_the_data(tmp_path: Path) -> None:
    task = get_task("hopper-medium")
    scores = run(task.name, "behaviour", 0, task.config("smoke"), out=tmp_path, device="cpu")
    returns = load_task(task).episode_returns
    last = scores[scores["checkpoint"] == "last"].iloc[0]
    assert last["return_mean"] == pytest.approx(float(returns.mean()), rel=1e-5)
    assert last["score"] == pytest.approx(float(task.normalized_score(returns.mean())), abs=1e-3)
    assert last["episodes"] == len(returns)
    episodes = pd.read_csv(tmp_path / task.name / "behaviour" / "seed-0" / "episodes.csv")
    assert episodes["steps"].sum() == 600


def test_every_method_of_the_demo_runs_on_a_robot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Learned reward, known termination, and none of the figures that need a maze."""
    task = replace(get_task("hopper-medium"), horizon=30)
    monkeypatch.setitem(TASKS, task.name, task)
    scores = demo(
        task.name, 0, task.config("smoke"), out=tmp_path, device="cpu", workers=1, progress=False
    )
    assert {"behaviour", "bc", "dt", "iql", "mpc", "ipd", "ipd-noaug"} <= set(scores["method"])
    rolled_out = scores[scores["method"] != "behaviour"]
    # A hopper that stands still for 30 steps earns about 30; nothing here can earn a thousand.
    assert rolled_out["return_mean"].between(-50, 200).all()
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"scores-hopper-medium.png"}
    assert "Hopper-v5" in capsys.readouterr().out
