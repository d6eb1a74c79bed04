"""Episodes as they lie in Minari's files, in all three of its formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from minari.dataset.minari_storage import MinariStorage

from ipd_lite.data.episodes import Episode, one_line
from ipd_lite.data.spaces import box_of, check_shape, flatten_rows
from ipd_lite.paper.dataset import DataError


def unreadable(where: str, error: Exception) -> DataError:
    """The error for whatever HDF5, JSON and Minari make of a damaged file."""
    remedy = "collect, copy or download it again"
    if isinstance(error, ImportError):
        remedy = "install what is missing"
    return DataError(f"{where}: cannot be read as Minari data ({one_line(error)}); {remedy}")


def stored_episodes(stored: MinariStorage, name: str) -> Iterator[tuple[str, Any]]:
    """(place for messages, fields) of every stored episode.

    Raises:
        DataError: one cannot be read; the message says which.
    """
    numbers = range(stored.total_episodes)
    # Arrow's files are read one by one: together they would be cast to the types of the first.
    groups = [numbers] if stored.FORMAT == "hdf5" else [[number] for number in numbers]
    episodes = (episode for group in groups for episode in stored.get_episodes(group))
    for number in numbers:
        where = f"{name}, episode {number}"
        try:
            yield where, next(episodes)
        except Exception as error:
            raise unreadable(where, error) from error


def types_of(episode: Mapping[str, Any]) -> Iterator[tuple[str, np.dtype[Any]]]:
    """Number type of every array of a stored episode, those inside Dict observations included."""

    def inside(value: Any, name: str) -> Iterator[tuple[str, np.dtype[Any]]]:
        if isinstance(value, dict):
            for key, part in value.items():
                yield from inside(part, f"{name}[{key!r}]")
        else:
            yield name, np.asarray(value).dtype

    for field in ("observations", "actions", "rewards"):
        yield from inside(episode[field], field)


def check_space(space: gym.Space[Any], what: str) -> None:
    """Refuse observations that are not (Dicts of) vectors of numbers."""
    if isinstance(space, gym.spaces.Dict):
        for key in space:
            check_space(space[key], f"{what}, {key!r}")
    else:
        box_of(space, what)


def read_episode(
    stored: Mapping[str, Any],
    observation_space: gym.Space[Any],
    action_space: gym.spaces.Box,
    where: str,
) -> Episode:
    """One stored episode, actions as recorded; it may say that it is over only at its last step."""
    infos = stored["infos"] or {}
    actions = np.asarray(stored["actions"])
    steps = sorted([len(actions), len(stored["rewards"]), len(stored["terminations"])])[1]
    # Rescaling by bounds of another width would repeat the numbers instead of failing.
    check_shape(actions, (steps, *action_space.shape), f"{where}: actions")
    for field in ("terminations", "truncations"):
        flags = np.asarray(stored[field])
        check_shape(flags, (steps,), f"{where}: {field}")
        if flags[:-1].any():
            raise DataError(
                f"{where}: {field} is set at step {int(flags.argmax())} of {steps}, before the "
                "last one; split the episode there"
            )
    return Episode(
        observations=flatten_rows(
            stored["observations"], observation_space, steps + 1, f"{where}: observations"
        ),
        actions=actions,
        rewards=np.asarray(stored["rewards"]),
        terminated=bool(stored["terminations"][-1]) if steps else False,
        imagined=np.asarray(infos["imagined"][:steps], dtype=bool) if "imagined" in infos else None,
    )
