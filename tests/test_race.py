"""The race: the committed checkpoint gives the committed arrivals, as the simulator counts."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ipd_lite import plots
from ipd_lite.course import race
from ipd_lite.course.example import RUNNING_EXAMPLE
from ipd_lite.settings import EvaluationConfig
from ipd_lite.study.names import read_scores
from ipd_lite.tasks.mazes import geometry
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.rollout import rollout

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "figures"
MAZE = geometry("medium")


@pytest.fixture(scope="module")
def lanes() -> dict[str, plots.Lane]:
    return race.race(race.racers(ROOT / race.CHECKPOINT), race.evaluation_starts())


def test_the_committed_arrivals_come_from_the_committed_checkpoint(
    lanes: dict[str, plots.Lane],
) -> None:
    committed = pd.read_csv(FIGURES / "data" / "race.csv")
    pd.testing.assert_frame_equal(race.arrivals_table(lanes), committed)
    assert (ROOT / race.CHECKPOINT).stat().st_size <= 400_000


def test_the_race_is_the_evaluation(lanes: dict[str, plots.Lane]) -> None:
    """The environment with all its wrappers counts the same decisions for the same policies."""
    task = get_task(RUNNING_EXAMPLE)
    config = replace(EvaluationConfig(), episodes=race.BALLS)
    for name, actor in race.racers(ROOT / race.CHECKPOINT).items():
        found = rollout(task, actor, config)
        arrivals = np.where(found.success > 0, found.steps, 0)
        assert arrivals.tolist() == lanes[name].arrivals.tolist(), name


def test_a_ball_that_has_arrived_stays(lanes: dict[str, plots.Lane]) -> None:
    for lane in lanes.values():
        for path, arrival in zip(lane.paths, lane.arrivals, strict=True):
            assert path.shape == (get_task(RUNNING_EXAMPLE).horizon + 1, 2)
            near = np.linalg.norm(path - MAZE.goal, axis=1) <= 0.45
            assert near.argmax() == arrival
            if arrival:
                assert (path[arrival:] == path[arrival]).all()


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_the_animation_ends_as_the_still(lanes: dict[str, plots.Lane], kind: str) -> None:
    shown = MAZE.walls, MAZE.goal, race.titled(lanes)
    data = plots.race_animation(*shown, kind=kind, every=40)  # type: ignore[arg-type]
    assert data == plots.race_animation(*shown, kind=kind, every=40)  # type: ignore[arg-type]
    film = Image.open(io.BytesIO(data))
    assert film.n_frames == 4  # type: ignore[attr-defined]
    pictures = []
    for number in range(4):
        film.seek(number)
        pictures.append(np.asarray(film.convert("RGB")).astype(int))
    green = (np.abs(pictures[-1] - (0, 158, 115)).sum(-1) < 30).sum(0)
    width = green.size // 4
    by_panel = [green[i * width : (i + 1) * width].sum() for i in range(4)]
    assert by_panel[1] == 0 < by_panel[0] < min(by_panel[2:])
    figure = plots.race_finish(*shown)
    plt.close(figure)
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    for lane, text in zip(lanes.values(), texts, strict=True):
        assert text.startswith(f"arrived {(lane.arrivals > 0).sum()} of {race.BALLS}")


def test_the_committed_animation_is_light() -> None:
    with Image.open(FIGURES / "race.gif") as film:
        assert film.n_frames == 61  # type: ignore[attr-defined]
        assert film.info["duration"] == 100, "two decisions in the ball's own time"
    assert (FIGURES / "race.gif").stat().st_size <= 1_500_000


def test_starts_around_a_cell_are_free_places_in_it() -> None:
    for cell in range(len(MAZE.cells)):
        starts = race.starts_around(cell, MAZE)
        assert (MAZE.cell_of(starts) == cell).all()
    steps = race.steps_to_goal(MAZE)
    goal = int(MAZE.cell_of(MAZE.goal))
    assert steps[goal] == 0 and (np.delete(steps, goal) > 0).all()
    manhattan = np.abs(MAZE.cells - MAZE.cells[goal]).sum(1)
    assert (steps >= manhattan).all() and ((steps - manhattan) % 2 == 0).all()


def test_the_committed_optimum_is_the_grid_s() -> None:
    (committed,) = pd.read_csv(FIGURES / "data" / "optimum.csv").score
    assert committed == pytest.approx(race.optimal_scores().mean(), abs=0.01)


def test_the_ladder_s_sentences_are_the_committed_results() -> None:
    """Notebook 00 says them; here they are computed without the notebook."""
    cells = json.loads((ROOT / "notebooks" / "00_map_of_the_paper.ipynb").read_text())["cells"]
    printed = "".join(
        "".join(output["text"])
        for cell in cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream"
    )
    scores = read_scores(FIGURES / "data" / f"scores-{RUNNING_EXAMPLE}.csv")
    mean = scores.query("checkpoint == 'last' and variant == ''").groupby("method").score.mean()
    (optimum,) = pd.read_csv(FIGURES / "data" / "optimum.csv").score
    said = re.search(r"IPD closes (\d+)% of what IQL leaves", printed)
    alone = re.search(r"Imagination closes (\d+)% of what is left", printed)
    assert said and alone, "the ladder's cell prints both sentences"
    for found, below in ((said, mean["iql"]), (alone, mean["ipd-noaug"])):
        share = 100 * (mean["ipd"] - below) / (optimum - below)
        assert int(found[1]) == round(share)
    assert mean[["behaviour", "bc", "dt"]].max() < 30 < 100 < mean["iql"] < mean["ipd"] < optimum
