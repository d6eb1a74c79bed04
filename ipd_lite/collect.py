"""Make the teaching datasets: D4RL's recipe for mazes.

A proportional-derivative controller follows waypoints to a random cell; on arrival it gets another
one, with no reset in between. The stream is *undirected*: it knows nothing of the task's goal.
Afterwards it is labelled with the task (reward -1 per decision, terminated at the goal) and cut
into short episodes, so that no single one leads from a far start to the goal.
"""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from ipd_lite.data import DataError, Episode, OfflineDataset, from_episodes, local_path, save_minari
from ipd_lite.mazes import GOAL_RADIUS, Array, Geometry, geometry, make_point_maze, waypoint_action
from ipd_lite.tasks import MazeRecipe, Task


def record_stream(recipe: MazeRecipe, progress: bool = True) -> tuple[Array, Array]:
    """Observations (D + 1, 4) and actions (D, 2) of one undirected walk of D decisions."""
    maze = geometry(recipe.maze)
    generator = np.random.default_rng(recipe.seed)
    env = make_point_maze(recipe.maze, goal=False)
    observation = env.reset(seed=recipe.seed)[0]["observation"]
    goal = random_position(maze, generator)
    observations, actions = [observation], []
    for _ in tqdm(range(recipe.decisions), desc="collect", unit="decision", disable=not progress):
        while np.linalg.norm(observation[:2] - goal) <= GOAL_RADIUS:
            goal = random_position(maze, generator)
        action = behaviour_action(maze, observation, goal, recipe, generator)
        observation = env.step(action)[0]["observation"]
        observations.append(observation)
        actions.append(action)
    env.close()
    return np.stack(observations), np.stack(actions)


def behaviour_action(
    maze: Geometry,
    observations: Array,
    goals: Array,
    recipe: MazeRecipe,
    generator: np.random.Generator,
) -> Array:
    """The data's policy: waypoint control at the recipe's speed, plus its noise, in [-1, 1]."""
    action = waypoint_action(maze, observations, goals, recipe.speed)
    return np.clip(action + recipe.noise * generator.standard_normal(action.shape), -1.0, 1.0)


def random_position(maze: Geometry, generator: np.random.Generator) -> Array:
    """A point in a random free cell, with Gymnasium-Robotics' noise of 0.25 around the centre."""
    centre = maze.centres[generator.integers(len(maze.centres))]
    position: Array = centre + generator.uniform(-0.25, 0.25, 2)
    return position


def label_stream(observations: Array, actions: Array, goal: Array, length: int) -> list[Episode]:
    """Cut a stream into episodes that end at the goal (terminated) or after `length` (truncated).

    Steps that begin inside the goal belong to no episode: the task is over there.
    """
    arrived = np.linalg.norm(observations[:, :2] - goal, axis=1) <= GOAL_RADIUS
    episodes, start = [], 0
    for step in range(len(actions)):
        if arrived[start]:
            start = step + 1
            continue
        end = step + 1
        if arrived[end] or end - start == length or end == len(actions):
            rewards = np.full(end - start, -1.0)
            episodes.append(
                Episode(
                    observations[start : end + 1], actions[start:end], rewards, bool(arrived[end])
                )
            )
            start = end
    return episodes


def collect(task: Task, progress: bool = True, replace_existing: bool = False) -> OfflineDataset:
    """Collect the task's dataset and store it in Minari's folder (about half a minute).

    The same recipe gives the same bytes on the same machine.

    Raises:
        DataError: the task has no recipe, or its dataset exists (unless `replace_existing`).
    """
    if task.recipe is None:
        raise DataError(
            f"task {task.name} has no recipe; download it: minari download {task.dataset}"
        )
    if local_path(task.dataset).is_dir() and not replace_existing:
        raise DataError(f"dataset {task.dataset} exists already; pass --replace to make it again")
    observations, actions = record_stream(task.recipe, progress)
    goal = geometry(task.recipe.maze).goal
    episodes = label_stream(observations, actions, goal, task.recipe.episode_length)
    dataset = from_episodes(episodes, task.dataset)
    save_minari(
        dataset,
        task.dataset,
        environment=task.environment,
        reference_scores=(task.reference_min, task.reference_max),
        algorithm=f"waypoint controller, speed {task.recipe.speed}, noise {task.recipe.noise}",
        description=task.description,
        replace_existing=replace_existing,
    )
    return dataset
