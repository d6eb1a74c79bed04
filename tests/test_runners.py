"""Stick figures of robots: limbs are rigid, and a replay stands as the robot stood."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ipd_lite import plots
from ipd_lite.course import runners
from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.paper.acting import FunctionActor
from ipd_lite.tasks.registry import get_task

LIMBS = {"hopper": 4, "walker2d": 7, "halfcheetah": 8}


class Watched:
    """An actor that pushes alike at every step, and remembers what it saw."""

    def __init__(self, actions: int) -> None:
        self.seen: list[Tensor] = []
        self.inner = FunctionActor(lambda s: self.push(s, actions))

    def push(self, states: Tensor, actions: int) -> Tensor:
        self.seen.append(states[0])
        return 0.3 * torch.ones(len(states), actions)


@pytest.mark.parametrize("robot", LIMBS)
def test_limbs_are_rigid_and_a_replay_stands_as_the_robot_stood(robot: str) -> None:
    task = get_task(f"{robot}-medium-replay")
    watched = Watched(task.make().action_space.shape[0])  # type: ignore[index]
    run = runners.run_policy(task, watched.inner, steps=12)
    assert run.limbs.shape == (len(run.distance), LIMBS[robot], 2, 2)
    lengths = np.linalg.norm(run.limbs[:, :, 0] - run.limbs[:, :, 1], axis=-1)
    assert np.allclose(lengths, lengths[0], atol=1e-9)
    assert run.distance[0] == pytest.approx(0, abs=1e-12)
    again = runners.replay(task, torch.stack(watched.seen).numpy(), fell=False)
    one, other = run.limbs[: len(again.limbs)], again.limbs
    for limbs in (one, other):
        limbs[..., 0] -= limbs[:, :1, :1, 0]  # where it is was summed up, how it stands was seen
    assert np.allclose(one, other, atol=1e-5)


def test_an_episode_that_terminates_fell_and_stays_where_it_lies() -> None:
    task = get_task("hopper-medium-replay")
    run = runners.run_policy(task, Watched(3).inner, steps=400)
    assert run.fell and len(run.limbs) < 400
    assert run.at(399)[2] and np.array_equal(run.at(399)[0], run.limbs[-1])
    assert not run.at(1)[2]


def test_the_median_recording_is_shown() -> None:
    task, generator = get_task("hopper-medium-replay"), np.random.default_rng(0)
    episodes = [
        Episode(generator.normal(0, 0.1, (5, 11)), np.zeros((4, 3)), np.full(4, reward), False)
        for reward in (5.0, 1.0, 3.0)
    ]
    shown = runners.run_recorded(task, from_episodes(episodes, "three"))
    expected = runners.replay(task, episodes[2].observations.astype(np.float32), fell=False)
    assert np.allclose(shown.limbs, expected.limbs, atol=1e-6)


def test_animation_has_a_frame_for_every_few_steps() -> None:
    limbs = np.zeros((17, 2, 2, 2)) + np.arange(17)[:, None, None, None] / 10
    runner = plots.Runner(limbs, np.arange(17) / 10, fell=True)
    picture = plots.runners_animation({"one": runner, "two": runner}, 0.008, every=4)
    with Image.open(io.BytesIO(picture)) as image:
        assert getattr(image, "n_frames", 1) == 5
    with pytest.raises(ValueError, match="0 robots; expected one to four"):
        plots.runners_animation({}, 0.008)
