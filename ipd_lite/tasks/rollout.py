"""Rollouts in the real environment, normalized scores, intervals. Reports, never trains.

Episode i starts from seed `evaluation.seed + i` whatever the policy, so that methods and seeds are
compared on the same starts. Several environments run side by side under one batched policy; a slot
whose episode ended takes the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ipd_lite.data.spaces import flatten_observation, from_unit_range
from ipd_lite.paper.acting import Actor
from ipd_lite.settings import EvaluationConfig
from ipd_lite.tasks.task import Task


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
    pool = _environments.setdefault(f"{task.spec or task.environment}, {task.horizon} steps", [])
    while len(pool) < slots:
        pool.append(flat(task.make()))
    return pool[:slots]


def flat(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment with observations as its dataset has them here: Dicts become vectors."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Dict):
        return env
    width = flatten_observation(space.sample(), space).shape
    box = gym.spaces.Box(-np.inf, np.inf, width, np.float64)
    return gym.wrappers.TransformObservation(env, lambda o: flatten_observation(o, space), box)


def rollout(
    task: Task,
    actor: Actor,
    config: EvaluationConfig,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Rollouts:
    """Run `config.episodes` episodes; deterministic for a deterministic actor."""
    slots = min(config.slots, config.episodes)
    environments = _pool(task, slots)
    space = environments[0].action_space
    assert isinstance(space, gym.spaces.Box)
    returns = np.zeros(config.episodes)
    steps = np.zeros(config.episodes, dtype=np.int64)
    success = np.full(config.episodes, np.nan)
    episode = list(range(slots))
    waiting = iter(range(slots, config.episodes))
    observations = np.stack(
        [np.asarray(env.reset(seed=config.seed + i)[0]) for i, env in enumerate(environments)]
    ).astype(np.float32)
    rewards = np.zeros(slots, dtype=np.float32)
    actor.begin(slots)
    actor.reset(torch.arange(slots, device=device))
    active = list(range(slots))
    with tqdm(total=config.episodes, desc="evaluate", unit="episode", disable=not progress) as bar:
        while active:
            actions = actor.act(
                torch.as_tensor(observations[active], device=device),
                torch.as_tensor(rewards[active], device=device),
                torch.tensor(active, device=device),
            )
            actions_host = from_unit_range(actions.clamp(-1, 1).cpu().numpy(), space)
            begun = []
            for slot, action in zip(list(active), actions_host, strict=True):
                observation, reward, terminated, truncated, info = environments[slot].step(action)
                reward = _number(reward)
                observations[slot], rewards[slot] = observation, reward
                number = episode[slot]
                returns[number] += reward
                steps[number] += 1
                if "success" in info:
                    success[number] = np.fmax(success[number], _number(info["success"]))
                if not (terminated or truncated):
                    continue
                bar.update()
                following = next(waiting, None)
                if following is None:
                    active.remove(slot)
                    continue
                episode[slot] = following
                observations[slot] = environments[slot].reset(seed=config.seed + following)[0]
                rewards[slot] = 0.0
                begun.append(slot)
            if begun:
                actor.reset(torch.tensor(begun, device=device))
    return Rollouts(returns, steps, success)


def _number(value: Any) -> float:
    """Some environments return arrays of one entry."""
    return float(np.asarray(value).item())
