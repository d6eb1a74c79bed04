"""A task from any Minari dataset, with no entry in the registry.

The environment comes from the dataset, the reference scores from its metadata. Where those are
missing they are measured (a random policy; the best recorded episode), and `score_definition` says
so. Where the environment cannot be made, training works and evaluation says why it does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from ipd_lite.data.episodes import one_line
from ipd_lite.data.minari_files import read_metadata, spaces_of
from ipd_lite.data.spaces import canonical
from ipd_lite.files import write_json
from ipd_lite.paper.acting import FunctionActor
from ipd_lite.paper.dataset import DataError, OfflineDataset
from ipd_lite.settings import EvaluationConfig, check_number
from ipd_lite.tasks.load import find, load_once
from ipd_lite.tasks.overrides import OWN_DATA
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.rollout import ANYTHING, EnvironmentFault, not_made, rollout
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
        DataError: the dataset is missing, cannot be used, or does not fit the task.
        ValueError: the horizon is no positive number.
    """
    if horizon is not None:
        check_number("horizon", horizon, 1)
    if task is None and dataset is None:
        raise DataError("name a task or a dataset")
    dataset = None if dataset is None else find(dataset)
    opened = {"task": task, "dataset": dataset, "horizon": horizon}
    if task is None:
        return replace(_from_dataset(str(dataset), horizon), opened=opened)
    found = get_task(task)
    if dataset is None and horizon is None:
        return found
    found = replace(found, horizon=horizon or found.horizon, opened=opened)
    if dataset is None:
        return found
    source = read_metadata(dataset)["dataset_id"]
    found = replace(found, dataset=dataset, source=source)
    check_fit(found)
    try:
        env = gym.make(found.spec or found.environment)
    except ANYTHING as error:
        return _without_environment(found, not_made(found, error))
    found = replace(found, actions=load_once(dataset, actions=_box(env.action_space))[1])
    env.close()
    return found


def _from_dataset(dataset: str, horizon: int | None) -> Task:
    metadata = read_metadata(dataset)
    spec, space, why = _environment(metadata, _widths(dataset))
    data, bounds = load_once(dataset, actions=space)
    limit = horizon or (spec and spec.max_episode_steps) or int(data.lengths.max())
    identifier = str(metadata["dataset_id"])
    task = Task(
        name=re.sub(r"[^\w.-]+", "-", identifier).strip("-.") or "own-data",
        description=f"{data.episodes} episodes of {identifier}",
        environment=spec.id if spec else "",
        dataset=dataset,
        reference_min=0.0,
        reference_max=100.0,
        score_definition="",
        horizon=int(limit),
        source=identifier,
        spec=spec,
        actions=bounds,
        no_environment=why,
        overrides=OWN_DATA["overrides"],
        lesson=OWN_DATA["lesson"],
    )
    if spec:
        task = _tried(task)
    return _with_references(task, metadata, data)


def _environment(
    metadata: Mapping[str, Any], widths: tuple[int, int]
) -> tuple[EnvSpec | None, gym.spaces.Box | None, str]:
    """The evaluation environment that the dataset names and its action space, or the reason."""
    name = metadata["dataset_id"]
    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if not text:
        return None, None, f"{name} names no environment; record the dataset with one"
    try:
        spec = _without_windows(_specification(text))
        env = gym.make(spec, disable_env_checker=True)
        space = _box(env.action_space)
        why = _misfit(canonical(env), spec.id, str(name), *widths)
        env.close()
    except ANYTHING as error:
        needs = ", ".join(metadata.get("requirements") or ())
        return (
            None,
            None,
            (
                f"the environment of {name} cannot be made here ({one_line(error)}); install "
                f"{needs or 'the package that has it'}"
            ),
        )
    return (None, None, why) if why else (spec, space, "")


def _specification(text: str) -> EnvSpec:
    """Gymnasium's own reading, without the fields that its earlier versions had."""
    known = {field.name for field in fields(EnvSpec)} - {"namespace", "name", "version"}
    found = {"additional_wrappers": [], **json.loads(text)}
    return EnvSpec.from_json(json.dumps({k: v for k, v in found.items() if k in known}))


def _without_windows(spec: EnvSpec) -> EnvSpec:
    """Nothing is drawn during evaluation, whatever was drawn during the recording."""
    windows = {"render", "gui", "GUI", "has_renderer"}
    kwargs = {k: False if k in windows else v for k, v in spec.kwargs.items() if k != "render_mode"}
    drawing = {"HumanRendering", "RenderCollection", "RecordVideo"}
    wrappers = tuple(w for w in spec.additional_wrappers if w.name not in drawing)
    return replace(spec, kwargs=kwargs, additional_wrappers=wrappers)


def _box(space: gym.Space[Any]) -> gym.spaces.Box | None:
    return space if isinstance(space, gym.spaces.Box) else None


def _widths(dataset: str) -> tuple[int, int]:
    observations, actions = spaces_of(dataset)
    return observations, actions.shape[0]


def _misfit(
    env: gym.Env[Any, Any], environment: str, dataset: str, observations: int, actions: int
) -> str:
    """In which width an environment and data differ; "" if in none."""
    for field, space, width in (
        ("observation", env.observation_space, observations),
        ("action", env.action_space, actions),
    ):
        if space.shape != (width,):
            return (
                f"{environment} has {field}s of shape {space.shape}, {dataset} has {(width,)}; "
                "do they belong together?"
            )
    return ""


def check_fit(task: Task, data: OfflineDataset | None = None) -> None:
    """Compare data (None = the task's own) with the task's environment, before any training.

    An environment that cannot be made here has no say: data may be fetched and trained on without.

    Raises:
        DataError: observations or actions have another width.
    """
    widths = (data.observations.shape[1], data.actions.shape[1]) if data else _widths(task.dataset)
    try:
        env = task.make()
    except ANYTHING:
        return
    why = _misfit(env, task.environment, data.name if data else task.dataset, *widths)
    env.close()
    if why:
        raise DataError(why)


def _tried(task: Task) -> Task:
    """The task, without its environment if one step of it fails: better known before training."""
    try:
        _random_rollout(replace(task, horizon=1), 1)
    except EnvironmentFault as fault:
        return _without_environment(task, fault)
    return task


def _without_environment(task: Task, fault: EnvironmentFault) -> Task:
    return replace(task, environment="", spec=None, no_environment=str(fault))


def _with_references(task: Task, metadata: Mapping[str, Any], data: OfflineDataset) -> Task:
    """References from the metadata, else measured; the definition of the score tells which."""
    low, high = (_reference(task, metadata, f"ref_{end}_score") for end in ("min", "max"))
    low_text = high_text = "the dataset's own reference"
    if low is None and task.environment:
        try:
            low, low_text = random_return(task), f"a random policy, {RANDOM_EPISODES} episodes"
        except EnvironmentFault as fault:
            task = _without_environment(task, fault)
    if low is None:
        low, low_text = float(data.episode_returns.min()), "the worst recorded episode"
    if high is None:
        best = int(data.episode_returns.argmax())
        high, high_text = float(data.episode_returns[best]), "the best recorded episode"
        if (steps := int(data.lengths[best])) != task.horizon and task.environment:
            high_text += f", of {steps} steps; evaluations last up to {task.horizon}"
    definition = f"0 = {low:.6g} ({low_text}), 100 = {high:.6g} ({high_text})"
    if not high > low:
        definition = (
            f"the plain return: {high_text} ({high:.6g}) is not above {low_text} ({low:.6g})"
        )
        low, high = 0.0, 100.0
    return replace(
        task, reference_min=float(low), reference_max=float(high), score_definition=definition
    )


def _reference(task: Task, metadata: Mapping[str, Any], field: str) -> float | None:
    """A reference return in the dataset's metadata, None where there is none.

    Raises:
        DataError: it is no finite number.
    """
    value = metadata.get(field)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and math.isfinite(value)):
        raise DataError(f"{task.dataset}: {field} = {value!r} in its metadata, expected a number")
    return value


def random_return(task: Task) -> float:
    """Mean return of uniformly random actions in the task's environment, measured once.

    The result is kept in the user's cache folder, where it can always be deleted.
    """
    what = (task.spec, task.horizon, task.actions, _last_change(task.spec))
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = cache / "ipd-lite" / f"random-{key}.json"
    try:
        known = json.loads(file.read_text())
        if type(known) is float and math.isfinite(known):
            return known
    except (OSError, ValueError):  # not there, or not readable
        pass
    print(
        f"{task.name}: measuring a random policy, {RANDOM_EPISODES} episodes of "
        f"{task.environment} (once; it becomes score 0 and is kept in {file})",
        file=sys.stderr,
    )
    result = _random_rollout(task, RANDOM_EPISODES)
    with contextlib.suppress(OSError):  # a home that cannot be written to
        write_json(file, result)
    return result


def _last_change(spec: EnvSpec | None) -> int:
    """When the file that makes the environment was written last: after that its rewards may be
    others. 0 where it cannot be found."""
    with contextlib.suppress(Exception):
        entry = spec.entry_point if spec is not None else None
        module = entry.split(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
        found = importlib.util.find_spec(module)
        if found is not None and found.origin:
            return os.stat(found.origin).st_mtime_ns
    return 0


def _random_rollout(task: Task, episodes: int) -> float:
    generator = np.random.default_rng(0)
    assert task.actions is not None  # own data has bounds
    (width,) = task.actions.shape

    def act(observations: Tensor) -> Tensor:
        return observations.new_tensor(generator.uniform(-1, 1, (len(observations), width)))

    config = EvaluationConfig(episodes=episodes, slots=episodes)
    return float(rollout(task, FunctionActor(act), config).returns.mean())
