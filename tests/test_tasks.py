"""The registry: what is known about a task must be what its environment does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ipd_lite.config import PRESETS
from ipd_lite.mazes import geometry, waypoint_action
from ipd_lite.tasks import TASKS, Task, get_task

MAZE_TASKS = [task for task in TASKS.values() if task.recipe]
ENVIRONMENTS = {task.environment: task for task in MAZE_TASKS}


@pytest.mark.parametrize("task", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_reference_is_the_controllers_mean_return(task: Task) -> None:
    """Noise-free waypoint controller from the hundred evaluation starts."""
    assert task.recipe
    maze, env = geometry(task.recipe.maze), task.make()
    returns = []
    for seed in range(12345, 12445):
        observation, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action = waypoint_action(maze, observation, maze.goal)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    env.close()
    sharing = [other for other in MAZE_TASKS if other.environment == task.environment]
    assert {other.reference_max for other in sharing} == {task.reference_max}
    assert task.reference_max == pytest.approx(np.mean(returns), abs=0.01)
    assert f"{task.reference_max:.2f}" in task.score_definition


@pytest.mark.parametrize("task", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_known_reward_and_termination_agree_with_every_step(task: Task) -> None:
    assert task.recipe
    assert task.reward
    assert task.terminated
    maze, env, generator = geometry(task.recipe.maze), task.make(), np.random.default_rng(0)
    arrivals = 0
    for seed in range(8):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            action = waypoint_action(maze, observation, maze.goal)
            action = np.clip(action + 0.5 * generator.normal(size=2), -1, 1).astype(np.float32)
            following, reward, terminated, truncated, _ = env.step(action)
            before, taken, after = (torch.tensor(x)[None] for x in (observation, action, following))
            assert task.reward(before, taken, after).tolist() == [reward]
            assert task.terminated(after).tolist() == [terminated]
            observation, over = following, terminated or truncated
            arrivals += terminated
    env.close()
    assert arrivals >= 4


@pytest.mark.parametrize("task", MAZE_TASKS, ids=lambda task: task.name)
def test_reward_and_termination_take_any_leading_shape(task: Task) -> None:
    assert task.reward
    assert task.terminated
    states, actions = torch.zeros(3, 2, 4), torch.zeros(3, 2, 2)
    assert task.reward(states, actions, states).shape == (3, 2)
    assert task.terminated(states).shape == (3, 2)
    assert task.terminated(states).dtype == torch.bool


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_task_is_complete(task: Task) -> None:
    assert get_task(task.name) is task
    assert task.normalized_score(task.reference_min) == 0
    assert task.normalized_score(task.reference_max) == 100
    scores = task.normalized_score(np.array([task.reference_min, task.reference_max]))
    np.testing.assert_allclose(scores, [0, 100])
    assert task.description
    assert task.score_definition
    for name in PRESETS:
        assert task.config(name).preset == name


def test_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="pointmaze-umaze, pointmaze-medium"):
        get_task("pointmaze-huge")
