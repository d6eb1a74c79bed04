"""Make the teaching datasets: D4RL's recipes for mazes and for locomotion.

**Mazes.** A proportional-derivative controller follows waypoints to a random cell; on arrival it
gets another one, with no reset in between. The stream is *undirected*: it knows nothing of the
task's goal. Afterwards it is labelled with the task (reward -1 per decision, terminated at the
goal) and cut into short episodes, so that no single one leads from a far start to the goal.

**Locomotion.** Packaged snapshots of a training (`snapshots.py`) act with their exploration noise.
Which training, and which of its snapshots is `medium` and which the expert, is written in the
task's recipe: medium is the one whose noisy episodes come nearest to the mean and the spread of
D4RL's set, the expert the one with the best measured return (so its score flatters a little: the
best of about fifty). `medium` is logged by that actor alone, `medium-replay` by every packaged
snapshot up to it as the training went by, `full-replay` by all of them, `medium-expert` is half
`medium` and half expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.data.minari_files import local_path, save_minari
from ipd_lite.paper.dataset import DataError, OfflineDataset
from ipd_lite.tasks.mazes import (
    GOAL_RADIUS,
    Array,
    Geometry,
    geometry,
    make_point_maze,
    waypoint_action,
)
from ipd_lite.tasks.snapshots import ENVIRONMENTS, Actor, act, load_snapshots, robot_of
from ipd_lite.tasks.task import MazeRecipe, SnapshotRecipe, Task


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


def training_shares(steps: Sequence[int], total: int) -> list[int]:
    """How many of `total` logged steps each snapshot contributes to a replay, shape of `steps`.

    Every step of the training, from 0 to the last snapshot, is logged by the snapshot nearest to
    it: snapshots that stand alone log more than those that stand close together.
    """
    at = np.asarray(steps, dtype=np.float64)
    borders = np.concatenate([[0.0], (at[1:] + at[:-1]) / 2, at[-1:]])
    counts = np.diff(np.round(total * borders / at[-1]).astype(np.int64))
    return [int(count) for count in counts]


def plan_streams(recipe: SnapshotRecipe) -> list[list[tuple[int, int]]]:
    """Independent streams of (training step of the actor, steps per environment copy).

    A stream is logged by one set of environment copies from start to end. The counts of all streams
    sum to `recipe.steps`.

    Raises:
        DataError: the recipe names a snapshot that is not packaged.
    """
    packaged = list(load_snapshots(recipe.training))
    for step in recipe.named_steps:
        if step not in packaged:
            raise DataError(f"{recipe.training} has no packaged snapshot at step {step}")
    if recipe.mixture == "medium":
        return [[(recipe.medium, recipe.steps)]]
    if recipe.mixture == "medium-expert":
        half = recipe.steps // 2
        return [[(recipe.medium, half)], [(recipe.expert, recipe.steps - half)]]
    last = recipe.medium if recipe.mixture == "medium-replay" else packaged[-1]
    logged = [step for step in packaged if step <= last]
    return [list(zip(logged, training_shares(logged, recipe.steps), strict=True))]


def record_actors(
    environment: str,
    stream: Sequence[tuple[Actor, int]],
    copies: int,
    seed: int,
    noise: float = 1.0,
    progress: bool = True,
) -> list[Episode]:
    """Episodes in the order in which they began; every copy steps under the same actor.

    An actor takes over from the one before in the middle of an episode, as in training. The last
    episode of each copy may be unfinished: it is kept and counts as truncated.
    """
    generator = np.random.default_rng(seed)
    environments = [gym.make(environment, disable_env_checker=True) for _ in range(copies)]
    observation = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(environments)])
    logs = [_Log(0, i, observation[i]) for i in range(copies)]
    finished: list[_Log] = []
    total = sum(steps for _, steps in stream)
    bar = tqdm(total=total * copies, desc="collect", unit="step", disable=not progress)
    for clock, actor in enumerate(_each_step(stream), start=1):
        actions = act(actor, observation, generator, noise)
        for i, env in enumerate(environments):
            following, reward, terminated, truncated, _ = env.step(actions[i])
            logs[i].add(following, actions[i], float(reward), terminated)
            if terminated or truncated:
                finished.append(logs[i])
                following, _ = env.reset()
                logs[i] = _Log(clock, i, following)
            observation[i] = following
        bar.update(copies)
    bar.close()
    for env in environments:
        env.close()
    finished += [log for log in logs if log.rewards]
    return [log.episode() for log in sorted(finished, key=lambda log: (log.began, log.copy))]


def _each_step(stream: Sequence[tuple[Actor, int]]) -> Iterator[Actor]:
    for actor, steps in stream:
        for _ in range(steps):
            yield actor


class _Log:
    """One episode while it is being recorded."""

    def __init__(self, began: int, copy: int, observation: NDArray[np.float64]) -> None:
        self.began, self.copy = began, copy
        self.observations = [observation.copy()]
        self.actions: list[NDArray[np.float32]] = []
        self.rewards: list[float] = []
        self.terminated = False

    def add(
        self,
        observation: NDArray[np.float64],
        action: NDArray[np.float32],
        reward: float,
        terminated: bool,
    ) -> None:
        self.observations.append(observation.copy())
        self.actions.append(action.copy())
        self.rewards.append(reward)
        self.terminated = terminated

    def episode(self) -> Episode:
        return Episode(
            np.stack(self.observations),
            np.stack(self.actions),
            np.array(self.rewards),
            self.terminated,
        )


def record_maze(recipe: MazeRecipe, progress: bool = True) -> list[Episode]:
    """The maze recipe from start to end: one undirected stream, labelled and cut."""
    observations, actions = record_stream(recipe, progress)
    return label_stream(observations, actions, geometry(recipe.maze).goal, recipe.episode_length)


def record_locomotion(recipe: SnapshotRecipe, progress: bool = True) -> list[Episode]:
    """The locomotion recipe from start to end."""
    actors = load_snapshots(recipe.training)
    return [
        episode
        for number, stream in enumerate(plan_streams(recipe))
        for episode in record_actors(
            ENVIRONMENTS[robot_of(recipe.training)],
            [(actors[step], steps) for step, steps in stream],
            recipe.copies,
            recipe.seed + number * recipe.copies,
            recipe.noise,
            progress,
        )
    ]


def _algorithm(recipe: MazeRecipe | SnapshotRecipe) -> str:
    if isinstance(recipe, MazeRecipe):
        return f"waypoint controller, speed {recipe.speed}, noise {recipe.noise}"
    steps = {
        "medium": f"snapshot at step {recipe.medium}",
        "medium-replay": f"snapshots up to step {recipe.medium}",
        "full-replay": "all packaged snapshots",
        "medium-expert": f"snapshots at steps {recipe.medium} and {recipe.expert}",
    }
    return f"{recipe.training}: {steps[recipe.mixture]}, {recipe.noise:g} x exploration noise"


def collect_missing(task: Task, progress: bool = True) -> None:
    """Collect the task's dataset if it has a recipe and is not on this machine."""
    if task.recipe is not None and not local_path(task.dataset).is_dir():
        collect(task, progress)


def collect(task: Task, progress: bool = True, replace_existing: bool = False) -> OfflineDataset:
    """Collect the task's dataset and store it in Minari's folder (a minute or two).

    The same recipe gives the same bytes on the same machine.

    Raises:
        DataError: the task has no recipe, or its dataset exists (unless `replace_existing`).
    """
    recipe = task.recipe
    if recipe is None:
        raise DataError(f"task {task.name} has no recipe; `{task.command}` gets its data")
    if local_path(task.dataset).is_dir() and not replace_existing:
        raise DataError(f"dataset {task.dataset} exists already; pass --replace to make it again")
    if isinstance(recipe, MazeRecipe):
        episodes = record_maze(recipe, progress)
    else:
        episodes = record_locomotion(recipe, progress)
    dataset = from_episodes(episodes, task.dataset)
    save_minari(
        dataset,
        task.dataset,
        environment=task.environment,
        reference_scores=(task.reference_min, task.reference_max),
        algorithm=_algorithm(recipe),
        description=task.description,
        replace_existing=replace_existing,
    )
    return dataset


class MazeBehaviour:
    """The policy that collected a maze's data: undirected, noisy, one goal after another."""

    def __init__(self, recipe: MazeRecipe, seed: int) -> None:
        self.recipe, self.maze, self.seed = recipe, geometry(recipe.maze), seed

    def begin(self, slots: int) -> None:
        """No goals yet."""
        self.generator = np.random.default_rng(self.seed)
        self.goals = np.zeros((slots, 2))

    def reset(self, rows: Tensor) -> None:
        """A new random goal for every new episode."""
        for row in rows.tolist():
            self.goals[row] = random_position(self.maze, self.generator)

    def act(self, observations: Tensor, rewards: Tensor, rows: Tensor) -> Tensor:
        """Noisy waypoint control to each slot's current goal."""
        states, slots = observations.cpu().numpy().astype(np.float64), rows.cpu().numpy()
        for i, slot in enumerate(slots):
            while np.linalg.norm(states[i, :2] - self.goals[slot]) <= GOAL_RADIUS:
                self.goals[slot] = random_position(self.maze, self.generator)
        action = behaviour_action(self.maze, states, self.goals[slots], self.recipe, self.generator)
        return torch.as_tensor(action, dtype=torch.float32, device=observations.device)
