"""The pipeline on data that is not a maze: robots, other people's recordings, no environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ipd_lite.collect import collect
from ipd_lite.data import load_task
from ipd_lite.pipeline import run
from ipd_lite.tasks import SnapshotRecipe, get_task


@pytest.fixture(scope="module", autouse=True)
def hopper_recording() -> None:
    """A short `hopper-medium` in the session's datasets folder."""
    task = get_task("hopper-medium")
    collect(replace(task, recipe=SnapshotRecipe("hopper", "medium", steps=200, copies=3)), False)


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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that share their stages."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("method", ["bc", "iql", "dt", "mpc", "ipd"])
def test_every_method_runs_on_a_robot(method: str, root: Path) -> None:
    task = get_task("hopper-medium")
    scores = run(task.name, method, 0, task.config("smoke"), out=root, device="cpu")
    assert (scores["return_mean"] > task.reference_min).all()
    assert (scores["return_mean"] < task.reference_max).all()
