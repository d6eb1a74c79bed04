"""Collecting maze data: the same bytes for a seed, and honest labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipd_lite.collect import behaviour_action, collect, label_stream, record_stream
from ipd_lite.data import DataError, load_task
from ipd_lite.mazes import GOAL_RADIUS, geometry, waypoint_action
from ipd_lite.tasks import MazeRecipe, Task, get_task

RECIPE = MazeRecipe(maze="umaze", decisions=300, episode_length=20, seed=3)


def tiny_task(recipe: MazeRecipe | None = RECIPE) -> Task:
    return replace(get_task("pointmaze-umaze"), dataset="test/tiny-v0", recipe=recipe)


def test_stream_repeats_for_a_seed_and_changes_with_it() -> None:
    one, again, other = (
        record_stream(replace(RECIPE, decisions=60, seed=seed), progress=False)
        for seed in (3, 3, 4)
    )
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(one[1], other[1])
    assert [array.shape for array in one] == [(61, 4), (60, 2)]


def test_stored_dataset_is_what_was_collected(datasets: Path) -> None:
    task = tiny_task()
    collected = collect(task, progress=False)
    assert load_task(task).fingerprint() == collected.fingerprint()
    with pytest.raises(DataError, match="exists already"):
        collect(task, progress=False)
    assert collect(task, progress=False, replace_existing=True).fingerprint() == (
        collected.fingerprint()
    )


def test_task_without_recipe_says_how_to_get_its_data(datasets: Path) -> None:
    with pytest.raises(DataError, match="minari download test/tiny-v0"):
        collect(tiny_task(recipe=None))


streams = st.lists(st.sampled_from([0.0, 0.3, 0.6, 2.0]), min_size=2, max_size=40)


@given(distances=streams, length=st.integers(1, 7))
def test_labels_of_any_stream(distances: list[float], length: int) -> None:
    """Positions at these distances from the goal; the second entry numbers the steps."""
    goal = np.array([5.0, 0.0])
    observations = np.array([[5.0 + d, 0.0, t, 0.0] for t, d in enumerate(distances)])
    actions = np.arange(len(distances) - 1, dtype=float)[:, None]
    inside = [d <= GOAL_RADIUS for d in distances]
    used: list[int] = []
    for episode in label_stream(observations, actions, goal, length):
        steps = episode.observations[:, 2].astype(int).tolist()
        assert steps == list(range(steps[0], steps[-1] + 1))
        assert episode.actions[:, 0].tolist() == steps[:-1]
        assert len(episode.rewards) <= length
        assert (episode.rewards == -1).all()
        assert not any(inside[step] for step in steps[:-1])
        assert episode.terminated == inside[steps[-1]]
        used += steps[:-1]
    # Every step that begins outside the goal is used exactly once, none that begins inside.
    assert used == [step for step in range(len(actions)) if not inside[step]]


def test_behaviour_is_the_controller_plus_noise() -> None:
    maze, generator = geometry("umaze"), np.random.default_rng(0)
    observations = np.zeros((20_000, 4))
    observations[:, :2] = maze.centres[0] + [0.02, -0.03]
    goals = np.broadcast_to(maze.centres[0], (20_000, 2))
    recipe = MazeRecipe("umaze", speed=0.4, noise=0.2)
    clean = waypoint_action(maze, observations, goals, 0.4)
    noise = behaviour_action(maze, observations, goals, recipe, generator) - clean
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(noise.std(0), 0.2, atol=0.01)
    wild = replace(recipe, noise=5.0)
    assert np.abs(behaviour_action(maze, observations, goals, wild, generator)).max() == 1
    calm = replace(recipe, noise=0.0)
    np.testing.assert_array_equal(
        behaviour_action(maze, observations, goals, calm, generator), clean
    )


def test_stream_wanders_through_the_whole_maze() -> None:
    observations, actions = record_stream(replace(RECIPE, decisions=1500), progress=False)
    maze = geometry("umaze")
    assert set(maze.cell_of(observations[:, :2]).tolist()) == set(range(len(maze.cells)))
    assert np.abs(actions).max() <= 1
    # One walk: no jump that the ball could not make.
    assert np.abs(np.diff(observations[:, :2], axis=0)).max() < 0.3
