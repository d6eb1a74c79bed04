"""Notebook 07's practice material: logs with one planted bug, and small data sets to choose
settings for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.paper.values import ValueConfig, train_values

Array = NDArray[np.float64]

# ---- a log with a planted bug ------------------------------------------------------------------

BUGS = (
    "time limit stored as terminated",
    "rewards one step late",
    "last next observation from the next episode",
    "actions in the environment's units",
)


class Planted(NamedTuple):
    """What is wrong with a log, and from which episode on."""

    kind: str
    first_episode: int


def planted(number: int) -> Planted:
    """What is wrong with log `number`: every four logs in a row have all four bugs."""
    draw = np.random.default_rng(number // len(BUGS))
    order = draw.permutation(len(BUGS))
    first = int(np.random.default_rng(1000 + number).integers(5, 15))
    return Planted(BUGS[order[number % len(BUGS)]], first)


def log_with_bug(
    episodes: Sequence[Episode], number: int, largest_action: float = 2.0
) -> dict[str, NDArray[np.generic]]:
    """Episodes as flat arrays with one bug from some episode on, as `from_arrays` takes them.

    Args:
        episodes: at least 16, with actions in [-1, 1], none of them terminated.
        number: which log, see :func:`planted`.
        largest_action: in the environment's units.

    Returns:
        episode (N,), observations, next_observations (N, O), actions (N, A), rewards, terminated,
        truncated (N,).
    """
    bug = planted(number)
    parts = []
    for index, episode in enumerate(episodes):
        steps, wrong = len(episode.rewards), index >= bug.first_episode
        last = np.arange(steps) == steps - 1
        rewards, actions, after = episode.rewards, episode.actions, episode.observations[1:]
        ended = np.zeros(steps, dtype=bool)
        if wrong and bug.kind == BUGS[0]:
            ended = last
        elif wrong and bug.kind == BUGS[1]:
            rewards = np.concatenate([np.zeros(1), rewards[:-1]])
        elif wrong and bug.kind == BUGS[2]:
            following = episodes[(index + 1) % len(episodes)].observations[0]
            after = np.where(last[:, None], following, after)
        elif wrong:
            actions = largest_action * actions
        parts.append(
            (
                np.full(steps, index),
                episode.observations[:-1],
                actions,
                rewards,
                after,
                ended,
                last & ~ended,
            )
        )
    names = (
        "episode",
        "observations",
        "actions",
        "rewards",
        "next_observations",
        "terminated",
        "truncated",
    )
    columns = zip(*parts, strict=True)
    return {name: np.concatenate(part) for name, part in zip(names, columns, strict=True)}


# ---- settings for small data sets --------------------------------------------------------------


@dataclass(frozen=True)
class Corridor:
    """A corridor from 0 to 1. An action in [-1, 1] moves by `reach` times itself; every decision
    costs `cost`; at 1 the task terminates, after `limit` decisions the recording is cut.

    good: share of the recordings that push forward, the others wander.
    """

    description: str
    reach: float
    cost: float
    limit: int
    good: float


CORRIDORS = {
    "far": Corridor("the goal is 50 decisions away, everybody pushes", 0.02, 1.0, 120, 1.0),
    "cents": Corridor("20 decisions, everybody pushes, costs in cents", 0.05, 400.0, 60, 1.0),
    "crowd": Corridor("20 decisions, most recordings wander", 0.05, 1.0, 60, 0.3),
}


def recordings(name: str, count: int = 150, seed: int = 0) -> list[Episode]:
    """Episodes of one of the :data:`CORRIDORS`, from starts all along it."""
    corridor, draw = CORRIDORS[name], np.random.default_rng(seed)
    result = []
    for _ in range(count):
        pushes, x = draw.uniform() < corridor.good, draw.uniform(0, 0.95)
        places = [x]
        actions: list[float] = []
        while x < 1 and len(actions) < corridor.limit:
            action = np.clip((0.8 if pushes else 0.0) + 0.4 * draw.normal(), -1, 1)
            x = max(0.0, x + corridor.reach * action)
            places.append(x)
            actions.append(action)
        rewards = np.full(len(actions), -corridor.cost)
        result.append(
            Episode(np.array(places)[:, None], np.array(actions)[:, None], rewards, bool(x >= 1))
        )
    return result


class Tried(NamedTuple):
    """At the recordings' starts (E,): place, discounted return of the recording, V in the rewards'
    own unit, and the discounted return of full force. error: mean distance of V from full force, as
    a share of its range."""

    place: Array
    earned: Array
    promised: Array
    best: Array
    error: float


@functools.lru_cache(maxsize=32)
def try_settings(
    name: str, expectile: float, discount: float, reward_scale: float, updates: int = 1000
) -> Tried:
    """Learn V of one of the :data:`CORRIDORS` with these settings, some seconds on a CPU.

    Raises:
        ValueError: a setting is out of its range.
    """
    config = ValueConfig(
        updates=updates,
        batch_size=128,
        learning_rate=3e-3,
        target_rate=0.1,
        width=32,
        fourier_features=0,
        q_networks=1,
        v_networks=1,
        expectile=expectile,
        discount=discount,
    )
    if not reward_scale > 0:
        raise ValueError(f"reward_scale = {reward_scale}, expected above 0")
    data = from_episodes(recordings(name), name)
    scaled = replace(data, rewards=data.rewards * reward_scale)
    values, corridor = train_values(scaled, config, seed=0), CORRIDORS[name]
    starts = data.observations[data.starts]
    with torch.no_grad():
        promised = values.v(starts).double().numpy() / reward_scale
    place = starts[:, 0].double().numpy()
    steps = np.ceil((1 - place) / corridor.reach)
    best = -corridor.cost * (1 - discount**steps) / (1 - discount)
    error = float(np.abs(promised - best).mean() / np.ptp(best))
    earned = data.returns_to_go(discount)[data.starts].double().numpy()
    return Tried(place, earned, promised, best, error)
