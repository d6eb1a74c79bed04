"""The registry: what is known about a task must be what its environment does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ipd_lite.settings import PRESETS
from ipd_lite.tasks.mazes import geometry, waypoint_action
from ipd_lite.tasks.registry import TASKS, get_task
from ipd_lite.tasks.snapshots import ENVIRONMENTS as ENVIRONMENT_IDS
from ipd_lite.tasks.snapshots import act, load_snapshots
from ipd_lite.tasks.task import MazeRecipe, Task

MAZE_TASKS = [task for task in TASKS.values() if isinstance(task.recipe, MazeRecipe)]
ENVIRONMENTS = {task.environment: task for task in MAZE_TASKS}


@pytest.mark.parametrize("task", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_reference_is_the_controllers_mean_return(task: Task) -> None:
    """Noise-free waypoint controller from the hundred evaluation starts."""
    assert isinstance(task.recipe, MazeRecipe)
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
    assert isinstance(task.recipe, MazeRecipe)
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


@pytest.mark.parametrize("robot", ENVIRONMENT_IDS)
def test_known_locomotion_termination_agrees_with_every_step(robot: str) -> None:
    """Under random actions, which soon end in a fall, and under a trained actor."""
    task = get_task(f"{robot}-medium")
    assert task.terminated
    snapshots = load_snapshots(f"{robot}-tqc-0")
    env, generator = task.make(), np.random.default_rng(0)
    ends = steps = 0
    for seed, weights in enumerate([None] * 6 + [snapshots[max(snapshots)]]):
        observation, _ = env.reset(seed=seed)
        over = False
        for _ in range(300):
            action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            if weights is not None:
                action = act(weights, observation[None])[0]
            observation, _, terminated, truncated, _ = env.step(action)
            assert task.terminated(torch.tensor(observation)[None]).tolist() == [terminated]
            ends, steps, over = ends + terminated, steps + 1, terminated or truncated
            if over:
                break
    env.close()
    assert steps > 300
    assert ends == 0 if robot == "halfcheetah" else ends >= 6


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
    assert task.normalized_score(task.reference_max) == pytest.approx(100)
    scores = task.normalized_score(np.array([task.reference_min, task.reference_max]))
    np.testing.assert_allclose(scores, [0, 100])
    assert task.description
    assert task.score_definition
    for name in PRESETS:
        assert task.config(name).preset == name


def test_unknown_task_names_its_neighbours() -> None:
    with pytest.raises(KeyError, match=r"did you mean pointmaze-umaze or .*`ipd-lite tasks` lists"):
        get_task("pointmaze-huge")
