"""A task from any Minari dataset, with no entry in the registry.

The environment comes from the dataset, the reference scores from its metadata. Where those are
missing they are measured (a random policy; the best recorded episode), and `score_definition` says
so. Where the environment cannot be made, training works and evaluation says why it does not.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from ipd_lite.data.episodes import one_line
from ipd_lite.data.minari_files import load_minari, read_metadata
from ipd_lite.paper.acting import FunctionActor
from ipd_lite.paper.dataset import DataError, OfflineDataset
from ipd_lite.settings import EvaluationConfig, check_number
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import CAUTIOUS, get_task
from ipd_lite.tasks.rollout import flat, rollout
from ipd_lite.tasks.task import Task

RANDOM_EPISODES = 10
"""Episodes of the random policy that stands for a missing reference."""


def open_task(
    task: str | None = None, dataset: str | None = None, horizon: int | None = None
) -> Task:
    """A registered task, that task with other data, or (without `task`) a task for `dataset`.

    Args:
        task: name in the registry.
        dataset: Minari id on this machine, or the path of a dataset's folder.
        horizon: time limit of evaluation episodes, in decisions; None = the task's own, or the
            environment's, or the longest recorded episode.

    Raises:
        DataError: the dataset is missing or cannot be used.
        ValueError: an impossible horizon.
    """
    if horizon is not None:
        check_number("horizon", horizon, 1)
    if dataset is not None and not dataset.strip():
        raise DataError(f"dataset = {dataset!r}: expected an id or a path (an unset variable?)")
    opened = {"task": task, "dataset": dataset, "horizon": horizon}
    if task is not None:
        found = get_task(task)
        if dataset is None and horizon is None:
            return found
        return replace(
            found,
            dataset=dataset or found.dataset,
            source=read_metadata(dataset)["dataset_id"] if dataset else found.source,
            horizon=horizon or found.horizon,
            opened=opened,
        )
    if dataset is None:
        raise DataError("name a task or a dataset")
    return replace(_from_dataset(dataset, horizon), opened=opened)


def _from_dataset(dataset: str, horizon: int | None) -> Task:
    data = load_minari(dataset)
    metadata = read_metadata(dataset)
    spec, why = _environment(metadata, data)
    limit = horizon or (spec and spec.max_episode_steps) or int(data.lengths.max())
    identifier = metadata["dataset_id"]
    task = Task(
        name=re.sub(r"[^A-Za-z0-9_.-]+", "-", identifier).strip("-."),
        description=f"{data.episodes} episodes of {identifier}",
        environment=spec.id if spec else "",
        dataset=dataset,
        reference_min=0.0,
        reference_max=100.0,
        score_definition="",
        horizon=int(limit),
        source=identifier,
        spec=spec,
        no_environment=why,
        overrides=CAUTIOUS,
    )
    return _with_references(task, metadata, data)


def _environment(metadata: dict[str, Any], data: OfflineDataset) -> tuple[EnvSpec | None, str]:
    """The evaluation environment that the dataset names, or None and the reason."""
    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if not text:
        return None, f"{data.name} names no environment; record the dataset with one"
    try:
        spec = EnvSpec.from_json(text)
        env = flat(gym.make(spec))
    except Exception as error:  # anything that another package's environment may raise
        return None, f"the environment of {data.name} cannot be made here ({one_line(error)})"
    if why := _misfit(env, spec.id, data):
        return None, why
    env.close()
    return spec, ""


def _misfit(env: gym.Env[Any, Any], name: str, data: OfflineDataset) -> str:
    """In which width an environment and the data differ; "" if in none."""
    for field, space, width in (
        ("observation", env.observation_space, data.observations.shape[1]),
        ("action", env.action_space, data.actions.shape[1]),
    ):
        if space.shape != (width,):
            return f"{name} has {field}s of shape {space.shape}, {data.name} has {(width,)}"
    return ""


def check_fit(task: Task) -> None:
    """Compare other data for a registered task with the task's environment, before any training.

    Raises:
        DataError: observations or actions have another width.
    """
    env = flat(task.make())
    if why := _misfit(env, task.environment, load_task(task)):
        raise DataError(why)
    env.close()


def _with_references(task: Task, metadata: dict[str, Any], data: OfflineDataset) -> Task:
    """References from the metadata, else measured; the definition of the score tells which."""
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    low_text = high_text = "the dataset's own reference"
    if low is None and task.environment:
        low, low_text = random_return(task, data), f"a random policy, {RANDOM_EPISODES} episodes"
    if low is None:
        low, low_text = float(data.episode_returns.min()), "the worst recorded episode"
    if high is None:
        high, high_text = float(data.episode_returns.max()), "the best recorded episode"
    definition = f"0 = {low:.6g} ({low_text}), 100 = {high:.6g} ({high_text})"
    if not high > low:
        definition = (
            f"the plain return: {high_text} ({high:.6g}) is not above {low_text} ({low:.6g})"
        )
        low, high = 0.0, 100.0
    return replace(
        task,
        reference_min=float(low),
        reference_max=float(high),
        score_definition=definition,
    )


def random_return(task: Task, data: OfflineDataset) -> float:
    """Mean return of uniformly random actions in the task's environment."""
    generator = np.random.default_rng(0)
    width = data.actions.shape[1]

    def act(observations: Tensor) -> Tensor:
        actions = generator.uniform(-1, 1, (len(observations), width))
        return observations.new_tensor(actions)

    config = EvaluationConfig(episodes=RANDOM_EPISODES, slots=RANDOM_EPISODES)
    return float(rollout(task, FunctionActor(act), config).returns.mean())
