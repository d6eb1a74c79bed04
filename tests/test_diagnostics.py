"""The diagnostics against brute force and against the recorded truth."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.imagination import Continuations
from ipd_lite.report.diagnostics import (
    MazeSimulator,
    gain_by_threshold,
    maze_of,
    model_report,
    replay,
    simulator_of,
    stitch,
    value_map,
)
from ipd_lite.report.oracle import solve_time_to_goal
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.collect import record_stream
from ipd_lite.tasks.mazes import geometry
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.task import MazeRecipe
from tests.recorded import TASK, smoke, umaze_data

GAMMA = 0.9


class GoalValues:
    """V falls with the distance to the goal."""

    def v(self, observations: Tensor) -> Tensor:
        goal = torch.as_tensor(geometry("umaze").goal, dtype=torch.float32)
        return -(observations[..., :2] - goal).norm(dim=-1)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("runs")
    return Pipeline(get_task(TASK), 0, smoke(), out, torch.device("cpu"), data=umaze_data())


def test_simulator_repeats_a_recorded_walk() -> None:
    recipe = MazeRecipe("umaze", decisions=200, seed=4)
    observations, actions = record_stream(recipe, progress=False)
    simulator = MazeSimulator("umaze")
    for begin in range(0, 200, 20):
        path, rewards = simulator.follow(observations[begin], actions[begin : begin + 20])
        assert rewards.tolist() == [-1.0] * 20
        np.testing.assert_allclose(path, observations[begin : begin + 21], atol=1e-3)
    # Single steps, in any order.
    order = np.random.default_rng(0).permutation(200)
    following = simulator.step(observations[order], actions[order])
    np.testing.assert_allclose(following, observations[order + 1], atol=1e-3)


def recorded_as_imagined(data: OfflineDataset, most: int = 20) -> Continuations:
    """The recorded episodes, dressed as continuations from their own first steps."""
    rows, valid = data.windows(data.starts, most)
    final = data.next_observations[rows[:, -1:]]
    observations = torch.cat([data.observations[rows], final], dim=1)
    ends = torch.arange(len(data.starts))
    observations[ends, data.lengths] = data.next_observations[data.starts + data.lengths - 1]
    zeros = torch.zeros(len(rows), most)
    return Continuations(
        start=data.starts,
        observations=observations,
        actions=data.actions[rows],
        rewards=torch.where(valid, data.rewards[rows], 0.0),
        terminated=valid & data.terminated[rows],
        uncertainty=torch.where(valid, zeros + 0.25, torch.inf),
        length=data.lengths.clone(),
        gain=zeros[:, 0],
    )


def test_replayed_truth_gains_what_it_promises() -> None:
    data = umaze_data()
    truth = recorded_as_imagined(data)
    found, paths = replay(get_task(TASK), truth, data, GoalValues(), GAMMA, count=30)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.imagined, found.real, atol=2e-3)
    np.testing.assert_allclose(found.distance, 0, atol=2e-3)
    np.testing.assert_array_equal(found.uncertainty, 0.25)
    assert [len(path) for path in paths] == [int(n) + 1 for n in data.lengths[:30]]
    v = GoalValues().v
    for number in range(30):
        rows = range(int(data.starts[number]), int(data.starts[number] + data.lengths[number]))
        gain = sum(-(GAMMA**i) for i in range(len(rows))) - float(v(data.observations[rows[0]]))
        if not data.terminated[rows[-1]]:
            gain += GAMMA ** len(rows) * float(v(data.next_observations[rows[-1]]))
        assert found.real[number] == pytest.approx(gain, abs=2e-3)


def test_replay_exposes_a_model_that_flatters_itself() -> None:
    """The imagined path ends a metre beside the true one and believes to have arrived."""
    data = umaze_data()
    truth = recorded_as_imagined(data).select(~data.terminated[data.starts + data.lengths - 1])
    rows = torch.arange(len(truth))
    dreamed = truth.observations.clone()
    dreamed[rows, truth.length, 0] += 1.0
    ended = truth.terminated.clone()
    ended[rows, truth.length - 1] = True
    dream = replace(truth, observations=dreamed, terminated=ended)
    honest, _ = replay(get_task(TASK), truth, data, GoalValues(), GAMMA, count=20)  # type: ignore[arg-type]
    found, _ = replay(get_task(TASK), dream, data, GoalValues(), GAMMA, count=20)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.distance, 1.0, atol=2e-3)
    np.testing.assert_allclose(found.real, honest.real, atol=1e-6)
    assert (found.imagined > found.real).all()


def test_report_ranks_doubt_against_error_by_brute_force(pipeline: Pipeline) -> None:
    found = model_report(pipeline.task, pipeline.world_model, pipeline.holdout, seed=1, count=200)
    worst = found.error >= np.quantile(found.error, 0.9)
    wins = 0.0
    for doubt in found.uncertainty[worst]:
        for other in found.uncertainty[~worst]:
            wins += 1.0 if doubt > other else 0.5 if doubt == other else 0.0
    assert found.auroc == pytest.approx(wins / (worst.sum() * (~worst).sum()))
    assert found.on_data.sum() == 100 and worst.sum() == 20
    # The first half are recorded steps that no member was trained on; then their observations
    # with made-up actions, then made-up observations.
    held_out = {tuple(row) for row in pipeline.holdout.observations.double().numpy()}
    known = np.array([tuple(row) in held_out for row in found.observations])
    np.testing.assert_array_equal(known, np.arange(200) < 150)
    np.testing.assert_array_equal(found.on_data, np.arange(200) < 100)
    again = model_report(pipeline.task, pipeline.world_model, pipeline.holdout, seed=1, count=200)
    np.testing.assert_array_equal(found.error, again.error)


def test_report_measures_error_in_the_data_deviations(pipeline: Pipeline) -> None:
    model, held_out = pipeline.world_model, pipeline.holdout
    found = model_report(pipeline.task, model, held_out, seed=1, count=60)
    index = torch.as_tensor(np.random.default_rng(1).integers(len(held_out), size=30))
    means, variances = model.predict(held_out.observations[index], held_out.actions[index])
    truth = held_out.next_observations[index]
    training = pipeline.dataset.split_episodes(
        pipeline.config.world_model.holdout, torch.Generator().manual_seed(pipeline.seed + 1)
    )[0]
    scale = (training.next_observations - training.observations).std(0, correction=0)
    expected = ((means.mean(0) - truth) / scale).norm(dim=1)
    np.testing.assert_allclose(found.error[:30], expected, rtol=0.02, atol=0.02)
    standardized = ((truth - means) / variances.sqrt()).reshape(-1, 4)
    np.testing.assert_allclose(found.standardized, standardized, rtol=0.02, atol=0.05)


def test_value_map_compares_with_the_exact_solution(pipeline: Pipeline) -> None:
    exact = solve_time_to_goal("umaze")

    class ExactValues:
        def v(self, observations: Tensor) -> Tensor:
            return torch.as_tensor(3 * exact.value(observations.numpy(), GAMMA) + 1)

    perfect = value_map(pipeline.task, ExactValues(), pipeline.dataset, GAMMA)  # type: ignore[arg-type]
    assert perfect.spearman == pytest.approx(1.0)
    np.testing.assert_allclose(perfect.learned, 3 * perfect.exact + 1, rtol=1e-5)
    learned = value_map(pipeline.task, pipeline.values, pipeline.dataset, GAMMA)
    states = pipeline.dataset.observations
    truth, guess = exact.value(states.double().numpy(), GAMMA), pipeline.values.v(states).numpy()
    rank: Any = pd.DataFrame({"truth": truth, "guess": guess}).rank().corr()
    assert learned.spearman == pytest.approx(rank.loc["truth", "guess"], abs=1e-6)


def test_gain_is_averaged_over_what_each_gate_leaves() -> None:
    """Against replaying, gate by gate, what Algorithm 1 would have kept."""
    data = umaze_data()
    truth = recorded_as_imagined(data).select(slice(0, 30))
    flattering = replace(truth, rewards=truth.rewards + 0.5)
    doubt = torch.rand(truth.uncertainty.shape, generator=torch.Generator().manual_seed(0))
    loose = replace(
        flattering, uncertainty=torch.where(truth.uncertainty.isinf(), torch.inf, doubt)
    )
    task, values, thresholds = get_task(TASK), GoalValues(), np.array([0.0, 0.5, 0.9, 9.0])
    imagined, real, counts = gain_by_threshold(task, loose, data, values, GAMMA, thresholds)  # type: ignore[arg-type]
    assert np.isnan(imagined[0]) and np.isnan(real[0]) and counts[0] == 0
    for index, threshold in enumerate(thresholds[1:], 1):
        lengths = []
        for row, most in zip(loose.uncertainty.tolist(), loose.length.tolist(), strict=True):
            stops = [step for step, u in enumerate(row[:most]) if u > threshold]
            lengths.append(stops[0] if stops else most)
        cut = replace(loose, length=torch.tensor(lengths))
        kept = cut.select(cut.length >= 2)
        found, _ = replay(task, kept, data, values, GAMMA)  # type: ignore[arg-type]
        assert counts[index] == len(kept) > 0
        assert imagined[index] == pytest.approx(found.imagined.mean(), abs=1e-4)
        assert real[index] == pytest.approx(found.real.mean(), abs=1e-4)
        assert imagined[index] > real[index]


@pytest.mark.parametrize("robot", ["hopper", "halfcheetah", "walker2d"])
def test_a_robot_repeats_a_recorded_run(robot: str) -> None:
    """States set from observations, then the same actions: the same states and rewards."""
    task = get_task(f"{robot}-medium-replay")
    environment = gym.make(task.environment)
    observation, _ = environment.reset(seed=3)
    environment.action_space.seed(3)
    path, actions, rewards = [observation], [], []
    for _ in range(40):
        actions.append(0.3 * environment.action_space.sample())
        observation, reward, *_ = environment.step(actions[-1])
        path.append(observation)
        rewards.append(reward)
    simulator = simulator_of(task)
    for begin in (0, 7, 25):
        states, earned = simulator.follow(path[begin], np.array(actions[begin : begin + 5]))
        np.testing.assert_allclose(states, path[begin : begin + 6], atol=1e-2)
        np.testing.assert_allclose(earned, rewards[begin : begin + 5], atol=1e-2)


def test_only_known_simulators_replay() -> None:
    assert isinstance(simulator_of(get_task(TASK)), MazeSimulator)
    with pytest.raises(ValueError, match="no simulator"):
        simulator_of(get_task("pen-human"))


def test_ungated_continuations_that_arrive_take_part_in_the_replay(pipeline: Pipeline) -> None:
    loose = pipeline.attempt_without_gate(200)
    arrived = loose.terminated.any(1)
    assert arrived.any(), "none of the imagined continuations reached the goal"
    found, _ = replay(
        pipeline.task, loose, pipeline.dataset, pipeline.values, GAMMA, count=len(loose)
    )
    assert np.isfinite(found.uncertainty).all()


def test_other_tasks_have_no_maze(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a maze"):
        maze_of(replace(get_task(TASK), recipe=None))
    assert maze_of(get_task(TASK)).name == "umaze"


def corridor(first: int, last: int) -> np.ndarray:
    """A recording along x from `first` to `last`, one metre per step, constant velocity."""
    x = np.arange(first, last + 1.0)
    return np.stack([x, 0 * x, 0 * x + 1, 0 * x], axis=1)


def test_stitching_finds_the_fewest_recordings():
    recordings = [corridor(0, 4), corridor(1, 2), corridor(2, 6), corridor(5, 9), corridor(6, 8)]
    goal, start = np.array([9.0, 0.0]), corridor(0, 0)[0]
    pieces = stitch(recordings, start, goal, radius=0.1)
    assert [(p[0, 0], p[-1, 0]) for p in pieces] == [(0, 2), (2, 5), (5, 9)]
    for before, after in pairwise(pieces):
        assert np.allclose(before[-1], after[0])


def test_stitching_needs_equal_velocities_and_says_when_there_is_no_way():
    goal, start = np.array([4.0, 0.0]), corridor(0, 0)[0]
    second = corridor(2, 4)
    assert len(stitch([corridor(0, 2), second], start, goal, radius=0.1)) == 2
    second[:, 2] = -1.0
    with pytest.raises(ValueError, match="no chain of recordings"):
        stitch([corridor(0, 2), second], start, goal, radius=0.1)
