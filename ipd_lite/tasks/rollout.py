"""Rollouts in the real environment. Reports, never trains.

Episode i starts from seed `evaluation.seed + i` whatever the policy, so that methods and seeds are
compared on the same starts. Several environments run side by side under one batched policy; a slot
whose episode ended takes the next one.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ipd_lite.data.episodes import one_line
from ipd_lite.paper.acting import Actor
from ipd_lite.settings import EvaluationConfig
from ipd_lite.tasks.task import Task

ANYTHING = (Exception, SystemExit)
"""What another package's environment may raise; some leave by `sys.exit`."""


class EnvironmentFault(RuntimeError):
    """An environment that cannot be evaluated; the message names it and what it did."""


def not_made(task: Task, error: BaseException) -> EnvironmentFault:
    """The fault of an environment that cannot be made."""
    return EnvironmentFault(f"{task.environment} cannot be made: {one_line(error)}")


PATIENCE = 60.0
"""Seconds without an answer after which a rollout says whom it waits for."""


class _Watch:
    """Says once, on standard error, that an environment gives no answer: a simulator that hangs
    (a window, a licence server, a socket) looks like a long evaluation otherwise."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        seen = -1
        while not self._over.wait(PATIENCE):
            if seen == self.answers:
                print(
                    f"{self.name} has not answered for {PATIENCE:.0f} s; still waiting. Ctrl+C "
                    "stops: what was trained is stored, and the same command measures it later",
                    file=sys.stderr,
                    flush=True,
                )
                return
            seen = self.answers

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass(frozen=True)
class Rollouts:
    """Per episode (E,): undiscounted return, steps, success (reached the goal; NaN where the
    environment does not say)."""

    returns: NDArray[np.float64]
    steps: NDArray[np.int64]
    success: NDArray[np.float64]


_environments: dict[str, list[gym.Env[Any, Any]]] = {}


def _pool(task: Task, slots: int) -> list[gym.Env[Any, Any]]:
    """Environments of the task, made once per process: building a maze takes 0.1 s."""
    key = f"{task.spec or task.environment}, {task.horizon} steps, {task.actions}"
    pool = _environments.setdefault(key, [])
    while len(pool) < slots:
        pool.append(task.make())
    return pool[:slots]


def rollout(
    task: Task,
    actor: Actor,
    config: EvaluationConfig,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Rollouts:
    """Run `config.episodes` episodes; deterministic for a deterministic actor.

    Raises:
        EnvironmentFault: the environment cannot be made, fails, or returns something that is not a
            finite number.
    """
    slots = min(config.slots, config.episodes)
    try:
        environments = _pool(task, slots)
    except ANYTHING as error:
        raise not_made(task, error) from error
    returns = np.zeros(config.episodes)
    steps = np.zeros(config.episodes, dtype=np.int64)
    success = np.full(config.episodes, np.nan)
    episode = list(range(slots))
    waiting = iter(range(slots, config.episodes))
    name = task.environment
    rewards = np.zeros(slots, dtype=np.float32)
    actor.begin(slots)
    actor.reset(torch.arange(slots, device=device))
    active = list(range(slots))
    bar = tqdm(total=config.episodes, desc="evaluate", unit="episode", disable=not progress)
    with _Watch(name) as watch, bar:
        observations = np.stack(
            [_reset(env, config.seed + i, name) for i, env in enumerate(environments)]
        )
        while active:
            actions = actor.act(
                torch.as_tensor(observations[active], device=device),
                torch.as_tensor(rewards[active], device=device),
                torch.tensor(active, device=device),
            )
            begun = []
            for slot, action in zip(list(active), actions.clamp(-1, 1).cpu().numpy(), strict=True):
                observations[slot], reward, over, arrived = _step(environments[slot], action, name)
                watch.answers += 1
                rewards[slot] = reward
                number = episode[slot]
                returns[number] += reward
                steps[number] += 1
                success[number] = np.fmax(success[number], arrived)
                if not over:
                    continue
                bar.update()
                following = next(waiting, None)
                if following is None:
                    active.remove(slot)
                    continue
                episode[slot] = following
                observations[slot] = _reset(environments[slot], config.seed + following, name)
                rewards[slot] = 0.0
                begun.append(slot)
            if begun:
                actor.reset(torch.tensor(begun, device=device))
    if not np.isfinite(returns).all():
        raise EnvironmentFault(f"{name}: an episode's rewards add up to infinity")
    return Rollouts(returns, steps, success)


def _reset(env: gym.Env[Any, Any], seed: int, name: str) -> NDArray[np.float32]:
    """The first observation (O,) of the episode with this seed."""
    try:
        observation, _ = env.reset(seed=seed)
        return _numbers(observation, env.observation_space.shape, "the observation")
    except ANYTHING as error:
        raise EnvironmentFault(f"{name}: reset(seed={seed}) fails: {one_line(error)}") from error


def _step(
    env: gym.Env[Any, Any], action: NDArray[Any], name: str
) -> tuple[NDArray[np.float32], float, bool, float]:
    """Observation (O,), reward, whether the episode is over, success (NaN = the environment does
    not say)."""
    try:
        observation, reward, terminated, truncated, info = env.step(action)
        # Plain numbers and arrays of one entry are both common.
        number = float(_numbers(np.ravel(np.asarray(reward)), (1,), "the reward", np.float64)[0])
        shape = env.observation_space.shape
        seen = _numbers(observation, shape, "the observation")
        return seen, number, bool(terminated or truncated), _success(info)
    except ANYTHING as error:
        raise EnvironmentFault(f"{name}: step fails: {one_line(error)}") from error


def _numbers(values: Any, shape: tuple[int, ...] | None, what: str, kind: Any = np.float32) -> Any:
    """`values` as finite numbers of this shape."""
    array = np.asarray(values, dtype=kind)
    if array.shape != shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} is not finite")
    return array


def _success(info: Any) -> float:
    """`success` or (Fetch) `is_success` as a number, NaN where neither says."""
    for key in ("success", "is_success"):
        try:
            return float(np.asarray(info[key]).item())
        except (KeyError, TypeError, ValueError):
            continue
    return float("nan")
