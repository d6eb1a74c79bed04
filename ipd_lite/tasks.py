"""The one registry: what `--task NAME` means.

A task names its environment, its dataset, the two reference returns that define its normalized
score, what is known about its reward and termination, and the few config fields that it overrides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import minari
import torch
from torch import Tensor

from ipd_lite import mazes
from ipd_lite.config import Config, override, preset
from ipd_lite.train_behaviour import ENVIRONMENTS, REFERENCE_RETURNS

RewardFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(observations (..., O), actions (..., A), next observations (..., O)) -> rewards (...)."""
TerminationFunction = Callable[[Tensor], Tensor]
"""next observations (..., O) -> terminated (...), bool."""


@dataclass(frozen=True)
class MazeRecipe:
    """How a maze dataset is collected (D4RL's maze2d recipe, see `collect.py`)."""

    maze: str
    decisions: int = 40_000
    episode_length: int = 20
    """The undirected stream is cut (truncated) into episodes of this many decisions."""
    speed: float = 1.0
    """Scale of the controller's action; below 1 the ball hesitates."""
    noise: float = 0.5
    """Standard deviation of the Gaussian noise on every action."""
    seed: int = 0


@dataclass(frozen=True)
class SnapshotRecipe:
    """How a locomotion dataset is logged by the packaged SAC snapshots (see `collect.py`)."""

    robot: Literal["hopper", "halfcheetah", "walker2d"]
    mixture: Literal["medium", "medium-replay", "medium-expert"]
    steps: int = 10_000
    """Steps of each environment copy; `medium-expert` logs this many twice."""
    copies: int = 10
    """Environments side by side under one batched actor."""
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """One offline-RL problem.

    reference_min, reference_max: undiscounted returns that score 0 and 100. position_dimensions:
    observation entries that Fourier features may encode. reward, terminated: known functions for
    the planner, None where they must be learned.
    """

    name: str
    description: str
    environment: str
    dataset: str
    reference_min: float
    reference_max: float
    score_definition: str
    recipe: MazeRecipe | SnapshotRecipe | None = None
    remote_dataset: str | None = None
    position_dimensions: tuple[int, ...] = ()
    reward: RewardFunction | None = None
    terminated: TerminationFunction | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What the task itself asks for, in every preset."""
    lesson: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of the `lesson` preset alone."""

    def config(self, preset_name: str) -> Config:
        """The preset with this task's overrides."""
        config = override(preset(preset_name), dict(self.overrides))
        return override(config, dict(self.lesson)) if preset_name == "lesson" else config

    def make(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """A new evaluation environment (keyword arguments go to `gymnasium.make`)."""
        return gym.make(self.environment, **kwargs)

    def normalized_score(self, returns: Any) -> Any:
        """100 * (return - reference_min) / (reference_max - reference_min)."""
        return 100.0 * (returns - self.reference_min) / (self.reference_max - self.reference_min)


def reach_goal_reward(observations: Tensor, actions: Tensor, next_observations: Tensor) -> Tensor:
    """-1 for every decision, shape (...)."""
    return torch.full_like(next_observations[..., 0], -1.0)


def reach_goal_termination(maze: str) -> TerminationFunction:
    """Terminated within `mazes.GOAL_RADIUS` of the maze's goal."""
    x, y = (float(v) for v in mazes.geometry(maze).goal)

    def terminated(next_observations: Tensor) -> Tensor:
        dx, dy = next_observations[..., 0] - x, next_observations[..., 1] - y
        return dx * dx + dy * dy <= mazes.GOAL_RADIUS**2

    return terminated


def _maze_task(name: str, maze: str, description: str, controller: float, **recipe: Any) -> Task:
    limit = mazes.DECISION_LIMITS[maze]
    return Task(
        name=name,
        description=description,
        environment=f"ipd_lite/PointMaze-{maze.capitalize()}-v0",
        dataset=f"ipd-lite/{name}-v0",
        reference_min=-float(limit),
        reference_max=controller,
        score_definition=(
            f"0 = never arrives (return {-limit}), 100 = the noise-free waypoint controller "
            f"(mean return {controller:.2f} over the same 100 starts); planning can exceed 100"
        ),
        recipe=MazeRecipe(maze=maze, **recipe),
        position_dimensions=(0, 1),
        reward=reach_goal_reward,
        terminated=reach_goal_termination(maze),
    )


def hopper_termination(next_observations: Tensor) -> Tensor:
    """Terminated when the hopper is too low, leans too far, or a coordinate leaves (-100, 100).

    Hopper-v5's health condition. Velocities are clipped to 10 in the observation, so that the last
    part can only be seen in the joint angles.
    """
    height, angle = next_observations[..., 0], next_observations[..., 1]
    sane = (next_observations[..., 1:].abs() < 100).all(-1)
    return ~(sane & (height > 0.7) & (angle.abs() < 0.2))


def walker2d_termination(next_observations: Tensor) -> Tensor:
    """Terminated when the torso leaves heights 0.8 to 2 m or tilts by more than 1 rad."""
    height, angle = next_observations[..., 0], next_observations[..., 1]
    return ~((height > 0.8) & (height < 2.0) & (angle.abs() < 1.0))


def never_terminates(next_observations: Tensor) -> Tensor:
    """False for every state: episodes end by the time limit alone."""
    return torch.zeros_like(next_observations[..., 0], dtype=torch.bool)


LOCOMOTION_TERMINATION: dict[str, TerminationFunction] = {
    "hopper": hopper_termination,
    "halfcheetah": never_terminates,
    "walker2d": walker2d_termination,
}


def _locomotion_task(robot: Any, mixture: Any, what: str) -> Task:
    low, high = REFERENCE_RETURNS[robot]
    environment = ENVIRONMENTS[robot]
    return Task(
        name=f"{robot}-{mixture}",
        description=what,
        environment=environment,
        dataset=f"ipd-lite/{robot}/{mixture}-v0",
        reference_min=low,
        reference_max=high,
        score_definition=(
            f"0 = D4RL's random policy, 100 = D4RL's expert; returns are measured in {environment}"
        ),
        recipe=SnapshotRecipe(robot, mixture),
        terminated=LOCOMOTION_TERMINATION[robot],
        overrides=LOCOMOTION_OVERRIDES,
        lesson=LOCOMOTION_LESSON,
    )


LOCOMOTION_OVERRIDES: dict[str, Any] = {
    "data.reward_scale": "return range",
    "values.fourier_features": 0,
    "world_model.fourier_features": 0,
    "values.expectile": 0.7,
    "values.temperature": 3.0,
}
# PAPER SILENT: expectile, temperature and reward scale are those of IQL on the same tasks.
LOCOMOTION_LESSON: dict[str, Any] = {"evaluation.episodes": 20, "evaluation.slots": 20}

_MIXTURES = {
    "medium": "one actor, the snapshot nearest a third of the expert's score",
    "medium-replay": "every snapshot up to medium, in training order",
    "medium-expert": "half medium, half the best snapshot",
}

# The controllers' mean returns over evaluation starts 12345..12444; a test measures them again.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _maze_task(
            "pointmaze-umaze",
            "umaze",
            "U-shaped maze, undirected data at full speed: the smallest stitching problem",
            controller=-14.75,
            decisions=20_000,
        ),
        _maze_task(
            "pointmaze-medium",
            "medium",
            "medium maze, undirected data at full speed in pieces of 20 decisions",
            controller=-29.69,
        ),
        _maze_task(
            "pointmaze-medium-slow",
            "medium",
            "medium maze, hesitant data: better actions exist than the data's usual ones",
            controller=-29.69,
            speed=0.4,
        ),
        _maze_task(
            "pointmaze-large",
            "large",
            "large maze, undirected data at full speed in pieces of 20 decisions",
            controller=-41.35,
            decisions=80_000,
        ),
        *(
            _locomotion_task(robot, mixture, what)
            for robot in ENVIRONMENTS
            for mixture, what in _MIXTURES.items()
        ),
    )
}


def get_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        KeyError: no such task; the message lists those that exist.
    """
    if name not in TASKS:
        raise KeyError(f"unknown task {name!r}: expected one of {', '.join(TASKS)}")
    return TASKS[name]


def describe(task: Task) -> dict[str, str]:
    """One row of `ipd-lite tasks`."""
    here = Path(minari.storage.get_dataset_path(task.dataset)).is_dir()
    return {
        "task": task.name,
        "environment": task.environment,
        "dataset": task.dataset,
        "here": "yes" if here else f"no: ipd-lite collect {task.name}",
        "score 0 / 100": f"{task.reference_min:g} / {task.reference_max:g}",
        "what": task.description,
    }
