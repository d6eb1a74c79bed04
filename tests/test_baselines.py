"""Behaviour cloning on a policy that is known, and the data's own policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.values import ValueConfig
from ipd_lite.rivals.cloning import ClonedPolicy, best_episodes, train_cloning
from ipd_lite.settings import EvaluationConfig
from ipd_lite.tasks.collect import MazeBehaviour
from ipd_lite.tasks.mazes import GOAL_RADIUS, geometry, waypoint_action
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.rollout import rollout
from ipd_lite.tasks.task import MazeRecipe
from tests.helpers import Killed, KilledCheckpoint, same_bits, small_dataset

SMALL = ValueConfig(updates=30, batch_size=32, width=16)


def taught_dataset(noise: float) -> OfflineDataset:
    """Recorded actions are a fixed function of the observation, plus noise."""
    dataset = small_dataset(episodes=40)
    generator = torch.Generator().manual_seed(0)
    disturbance = noise * torch.randn(dataset.actions.shape, generator=generator)
    return replace(dataset, actions=0.5 * dataset.observations.flip(1).clamp(-1, 1) + disturbance)


def test_cloning_finds_the_mean_of_the_recorded_actions() -> None:
    dataset, truth = taught_dataset(noise=0.2), taught_dataset(noise=0.0).actions
    policy, _ = train_cloning(dataset, replace(SMALL, updates=600, width=32), seed=0)
    error = (policy(dataset.observations) - truth).square().mean().sqrt()
    assert float(error) < 0.08
    assert not any(p.requires_grad for p in policy.parameters())


def test_cloning_repeats_for_a_seed_and_keeps_snapshots() -> None:
    dataset = small_dataset()
    first, snapshots = train_cloning(dataset, SMALL, seed=1, evaluations=2)
    again, _ = train_cloning(dataset, SMALL, seed=1, evaluations=2)
    other, _ = train_cloning(dataset, SMALL, seed=2, evaluations=2)
    assert same_bits(first, again) and not same_bits(first, other)
    halfway = train_cloning(dataset, SMALL, seed=1)[0]
    snapshots.restore(0, halfway)
    assert not same_bits(halfway, first)
    snapshots.restore(1, halfway)
    assert same_bits(halfway, first)


@pytest.mark.parametrize("kill_at", [9, 29])
def test_killed_cloning_ends_in_the_same_bits(tmp_path: Path, kill_at: int) -> None:
    dataset, path = small_dataset(), tmp_path / "partial.safetensors"
    expected, expected_snapshots = train_cloning(dataset, SMALL, seed=1, evaluations=2)

    def attempt(kill_at: int) -> tuple[torch.nn.Module, torch.nn.Module]:
        checkpoint = KilledCheckpoint(path, every=4, kill_at=kill_at)
        return train_cloning(dataset, SMALL, seed=1, evaluations=2, checkpoint=checkpoint)

    with pytest.raises(Killed):
        attempt(kill_at)
    assert path.exists()
    found, snapshots = attempt(-1)
    assert same_bits(found, expected) and same_bits(snapshots, expected_snapshots)


def test_cloned_actions_lie_inside_the_bounds() -> None:
    policy = ClonedPolicy(SMALL, 3, 2)
    actions = policy(1e6 * torch.randn(50, 3))
    assert actions.shape == (50, 2) and (actions.abs() <= 1).all()


def test_behaviour_without_noise_walks_to_each_slots_own_goal() -> None:
    recipe = MazeRecipe("umaze", noise=0.0, speed=0.4)
    maze = geometry("umaze")
    actor = MazeBehaviour(recipe, seed=0)
    actor.begin(4)
    actor.reset(torch.arange(4))
    goals = actor.goals.copy()
    assert len(np.unique(goals, axis=0)) == 4
    states = np.zeros((4, 4))
    states[:, :2] = maze.centres[0] + [0.02, -0.03]
    far = np.linalg.norm(states[:, :2] - goals, axis=1) > GOAL_RADIUS
    rows = torch.tensor([3, 1])
    actions = actor.act(torch.tensor(states[[3, 1]]), torch.zeros(2), rows)
    for action, slot in zip(actions.numpy(), [3, 1], strict=True):
        if far[slot]:
            expected = waypoint_action(maze, states[slot], goals[slot], 0.4)
            np.testing.assert_allclose(action, expected, atol=1e-6)
    # Slots that did not act keep their goals.
    np.testing.assert_array_equal(actor.goals[[0, 2]], goals[[0, 2]])


def test_behaviour_takes_a_new_goal_on_arrival() -> None:
    actor = MazeBehaviour(MazeRecipe("umaze"), seed=0)
    actor.begin(1)
    actor.reset(torch.tensor([0]))
    for _ in range(20):
        arrived = np.concatenate([actor.goals[0], [0.0, 0.0]])
        actor.act(torch.tensor(arrived)[None], torch.zeros(1), torch.tensor([0]))
        assert np.linalg.norm(actor.goals[0] - arrived[:2]) > GOAL_RADIUS


def test_behaviour_rollouts_repeat_and_wander() -> None:
    task = get_task("pointmaze-umaze")
    assert task.recipe is not None
    config = EvaluationConfig(episodes=4, slots=4)
    one, again, other = (
        rollout(task, MazeBehaviour(task.recipe, seed), config) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.returns, again.returns)
    assert not np.array_equal(one.returns, other.returns)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    fraction=st.floats(0.01, 1.0),
    seed=st.integers(0, 1_000),
)
def test_best_episodes_are_the_fewest_that_hold_the_share(
    lengths: list[int], fraction: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    data = from_episodes(
        [
            Episode(np.zeros((n + 1, 1)), np.zeros((n, 1)), generator.normal(size=n), False)
            for n in lengths
        ],
        "random",
    )
    chosen = best_episodes(data, fraction)
    ranked = sorted(data.episode_returns.tolist(), reverse=True)
    assert sorted(chosen.episode_returns.tolist(), reverse=True) == ranked[: chosen.episodes]
    worst = chosen.episode_returns.argmin()
    assert len(chosen) >= fraction * len(data) > len(chosen) - int(chosen.lengths[worst])
