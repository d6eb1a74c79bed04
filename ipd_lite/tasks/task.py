"""What a task is: dataset, environment, scores, and how its data is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from ipd_lite.data.spaces import canonical
from ipd_lite.paper.world_model import Known, RewardFunction, TerminationFunction
from ipd_lite.settings import Config, override, preset


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


Mixture = Literal["medium", "medium-replay", "full-replay", "medium-expert"]


@dataclass(frozen=True)
class SnapshotRecipe:
    """How a locomotion dataset is logged by packaged snapshots (see `collect.py`)."""

    mixture: Mixture
    training: str
    """Which training's snapshots act: a file of `snapshot_files/`."""
    medium: int = 0
    """Training step of the snapshot that is `medium`; `full-replay` has none."""
    expert: int = 0
    """Training step of the expert, of `medium-expert` alone."""
    noise: float = 1.0
    """Factor of the exploration noise; 1 is the noise of the training."""
    steps: int = 20_000
    """Steps of each environment copy, all actors together."""
    copies: int = 10
    """Environments side by side under one batched actor."""
    seed: int = 0

    @property
    def named_steps(self) -> tuple[int, ...]:
        """Training steps that must be packaged for this recipe."""
        return {
            "medium": (self.medium,),
            "medium-replay": (self.medium,),
            "full-replay": (),
            "medium-expert": (self.medium, self.expert),
        }[self.mixture]


def with_overrides(
    preset_name: str, overrides: Mapping[str, Any], lesson: Mapping[str, Any]
) -> Config:
    """A preset with what a task asks for in all of them, and on top what in `lesson` alone."""
    config = override(preset(preset_name), dict(overrides))
    return override(config, dict(lesson)) if preset_name == "lesson" else config


@dataclass(frozen=True)
class Task:
    """One offline-RL problem.

    Args:
        environment: id of the evaluation environment; "" = none, and `no_environment` says why.
        dataset: Minari id of the data on this machine, or the path of a folder.
        source: who recorded the data, named beside every score.
        reference_min, reference_max: undiscounted returns that score 0 and 100.
        horizon: time limit of an evaluation episode, in decisions.
        termination: the rule in words; `terminated` is the same as a function, where one is known.
        recipe: how the data is made here. remote_dataset: id at Minari's server. file: address of
            the HDF5 file that `ipd-lite import-d4rl` turns into the dataset.
        steps, megabytes: size of data that is not made here, about; megabytes count what we read.
        alternative: a task of the same kind whose data is made without a download.
        warning: printed whenever the data is fetched or loaded.
        position_dimensions: observation entries that Fourier features may encode.
        reward, terminated: known functions for the planner, None where they must be learned.
        reward_shift: added to every reward before learning (AntMaze: -1); scores stay as recorded.
        spec: the environment as its dataset describes it (own data).
        actions: finite bounds that stand for -1 and 1; None = the environment's own.
        opened: arguments of `own_data.open_task` that made this task, {} for a registered one.
    """

    name: str
    description: str
    environment: str
    dataset: str
    reference_min: float
    reference_max: float
    score_definition: str
    horizon: int = 1_000
    termination: str = "learned from the data"
    source: str = "ipd-lite"
    recipe: MazeRecipe | SnapshotRecipe | None = None
    remote_dataset: str | None = None
    file: str | None = None
    steps: int = 0
    megabytes: float = 0.0
    alternative: str = "pointmaze-medium"
    warning: str = ""
    position_dimensions: tuple[int, ...] = ()
    reward: RewardFunction | None = None
    terminated: TerminationFunction | None = None
    spec: EnvSpec | None = None
    actions: gym.spaces.Box | None = None
    no_environment: str = ""
    reward_shift: float = 0.0
    opened: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What the task itself asks for, in every preset."""
    lesson: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of the `lesson` preset alone, and what only these sizes need."""

    def config(self, preset_name: str) -> Config:
        """The preset with this task's overrides."""
        return with_overrides(preset_name, self.overrides, self.lesson)

    @property
    def discount(self) -> float:
        """Gamma per decision, in every preset."""
        return self.config("lesson").values.discount

    @property
    def known(self) -> Known:
        """What the method may know besides the data."""
        return Known(self.position_dimensions, self.reward, self.terminated, self.reward_shift)

    @property
    def command(self) -> str:
        """The shell command that brings the data to this machine; "" where none can."""
        if self.recipe:
            return f"ipd-lite collect {self.name}"
        if self.file:
            return f"ipd-lite import-d4rl {self.file} --task {self.name}"
        return f"ipd-lite download {self.name}" if self.remote_dataset else ""

    def make(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """A new evaluation environment (keyword arguments go to `gymnasium.make`): observations are
        vectors in the dataset's order, actions lie in [-1, 1], no window opens unless asked for.

        Raises:
            ValueError: the task has none; the message says why.
        """
        if not self.environment:
            raise ValueError(f"{self.name} cannot be evaluated: {self.no_environment}")
        options = {"max_episode_steps": self.horizon, "disable_env_checker": True, **kwargs}
        return canonical(gym.make(self.spec or self.environment, **options), self.actions)

    def normalized_score(self, returns: Any) -> Any:
        """100 * (return - reference_min) / (reference_max - reference_min)."""
        return 100.0 * (returns - self.reference_min) / (self.reference_max - self.reference_min)
