"""Imagined stitching in pictures: pieces come from recordings, walls are seen, rules choose."""

from __future__ import annotations

import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from ipd_lite import plots
from ipd_lite.course import stitching
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.mazes import geometry
from ipd_lite.tasks.registry import get_task
from tests.recorded import TASK, smoke, umaze_data

MAZE = geometry("umaze")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("runs")
    return Pipeline(get_task(TASK), 0, smoke(), out, torch.device("cpu"), data=umaze_data())


def made(imagined: np.ndarray, replayed: np.ndarray, stop: int, gain: float) -> plots.Stitch:
    doubt = np.linspace(0, 1, len(imagined) - 1)
    return plots.Stitch(
        imagined[:1], replayed, imagined, doubt, stop, replayed, gain, np.r_[imagined[stop], 0, 0]
    )


def test_stitches_are_the_attempts_and_their_replays(pipeline: Pipeline) -> None:
    found = stitching.stitches(pipeline, count=20)
    loose = pipeline.attempt_without_gate(starts=20)
    assert len(found) == 20
    for number, one in enumerate(found):
        place = pipeline.dataset.observations[loose.start[number], :2].numpy()
        for path in (one.rest, one.imagined, one.replayed):
            assert np.allclose(path[0], place, atol=1e-5)
        assert np.allclose(one.prefix[-1], place)
        assert len(one.imagined) == len(one.replayed) == len(one.doubt) + 1
        assert (one.doubt[: one.stop] <= float(pipeline.threshold)).all()
        if one.stop < len(one.doubt):
            assert one.doubt[one.stop] > float(pipeline.threshold)
        assert np.allclose(one.end[:2], one.imagined[one.stop])


def test_what_leads_on_is_recorded_and_ever_better(pipeline: Pipeline) -> None:
    data, values = pipeline.dataset, pipeline.values
    every = torch.cat([data.observations, data.next_observations])[:, :2].numpy()
    best, until = stitching._best_ahead(data, values)
    ends = torch.where(data.terminated, 0.0, values.v(data.next_observations))
    for row in (0, len(data) // 2, len(data) - 1):
        last = int(data.starts[data.episode[row]] + data.lengths[data.episode[row]])
        assert best[row] == ends[row:last].max() == ends[until[row]]
    for piece in stitching.onward(data, values, data.observations[3]):
        assert len(piece) >= 2
        for place in piece:
            assert np.abs(every - place).sum(1).min() < 1e-6


def test_a_path_through_a_wall_is_seen() -> None:
    inside, outside = MAZE.centres[0], MAZE.centres[-1]
    there = np.linspace(0, 1, 4)[:, None]
    assert not stitching.through_wall(np.repeat(inside[None], 3, 0), MAZE)
    assert stitching.through_wall(inside + there * (outside - inside), MAZE)


def test_good_plans_keep_their_promise_and_bad_ones_pass_walls() -> None:
    steps = np.linspace(0, 1, 12)[:, None]
    free = MAZE.centres[0] + steps * (MAZE.centres[1] - MAZE.centres[0])
    wall = MAZE.centres[0] + steps * (0.0, 2.0)
    good, poor = made(free, free + 0.05, 10, 2.0), made(free, free, 10, 1.0)
    bad, lying = made(wall, free, 1, 9.0), made(free, free + 3.0, 10, 8.0)
    chosen = stitching.good_and_bad([poor, lying, bad, good], MAZE, each=1)
    assert chosen[0] is good and chosen[1] is bad
    figure = plots.stitch_gallery(MAZE.walls, MAZE.goal, chosen)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0].startswith("gate: 10 of 11 steps")
    plt.close(figure)
    places = MAZE.centres, np.arange(len(MAZE.centres), dtype=float)
    plt.close(plots.stitch_to_goal(MAZE.walls, MAZE.goal, good, [free, wall], places))


def test_planned_steps_follow_one_another_up_to_the_gate(pipeline: Pipeline) -> None:
    start = pipeline.dataset.observations[3]
    steps = stitching.planned_steps(pipeline, start, limit=4)
    threshold, top = float(pipeline.threshold), pipeline.config.planner.top
    assert np.allclose(steps[0].here, start[:2]) and 1 <= len(steps) <= 4
    for step, following in itertools.pairwise(steps):
        assert step.passes and np.allclose(step.there, following.here)
    for step in steps:
        assert step.passes == (step.doubt <= threshold) and len(set(step.best)) == top
        assert np.allclose(step.candidates[:, 0], step.here, atol=1e-6)
    picture = plots.planning_animation(MAZE.walls, MAZE.goal, steps, threshold)
    with Image.open(io.BytesIO(picture)) as image:
        assert getattr(image, "n_frames", 1) == 3 * len(steps)
    with pytest.raises(ValueError, match="no planned steps"):
        plots.planning_animation(MAZE.walls, MAZE.goal, [], threshold)
