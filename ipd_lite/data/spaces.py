"""Gymnasium's spaces as vectors, and actions between their bounds and [-1, 1]."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ipd_lite.paper.dataset import DataError


def box_of(space: gym.Space[Any], what: str) -> gym.spaces.Box:
    """`space` itself if it is a Box.

    Raises:
        DataError: it is another kind of space; `what` names it.
    """
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise DataError(f"{what} is {space}, expected a one-dimensional Box of real numbers")
    return space


def _keeps_unit_range(space: gym.spaces.Box) -> bool:
    """Whether actions stay as they are: bounds of [-1, 1] already, or none to scale by."""
    return bool((space.low == -1).all() and (space.high == 1).all()) or not space.is_bounded()


def to_unit_range(actions: NDArray[Any], space: gym.spaces.Box) -> NDArray[Any]:
    """Actions from the bounds of `space` to [-1, 1]; untouched where those are the bounds."""
    if _keeps_unit_range(space):
        return actions
    return 2.0 * (actions - space.low) / (space.high - space.low) - 1.0


def from_unit_range(actions: NDArray[Any], space: gym.spaces.Box) -> NDArray[Any]:
    """The inverse of :func:`to_unit_range`."""
    if _keeps_unit_range(space):
        return actions
    return space.low + (actions + 1.0) * 0.5 * (space.high - space.low)


def flatten_observation(observation: Any, space: gym.Space[Any]) -> NDArray[Any]:
    """One observation of a (nested) Dict of Boxes as (O,), keys in sorted order.

    Raises:
        DataError: the space holds anything else, for instance an image.
    """
    if isinstance(space, gym.spaces.Dict):
        parts = [flatten_observation(observation[k], space[k]) for k in sorted(space.keys())]
        return np.concatenate(parts)
    return np.asarray(observation).reshape(box_of(space, "observation space").shape)


def flatten_rows(observations: Any, space: gym.Space[Any], rows: int, what: str) -> NDArray[Any]:
    """Observations of a (nested) Dict of Boxes as (rows, O).

    Raises:
        DataError: a part is missing or has another shape than its space; `what` is its name.
    """
    if isinstance(space, gym.spaces.Dict):
        for key in space:
            if key not in observations:
                raise DataError(f"{what}[{key!r}] is missing")
        parts = [
            flatten_rows(observations[key], space[key], rows, f"{what}[{key!r}]")
            for key in sorted(space.keys())
        ]
        return np.concatenate(parts, axis=1)
    array = np.asarray(observations)
    check_shape(array, (rows, *box_of(space, what).shape), what)
    return array


def check_shape(array: NDArray[Any], expected: tuple[int, ...], what: str) -> None:
    """Raise a DataError that names `what` if the array has another shape."""
    if array.shape != expected:
        raise DataError(f"{what} has shape {array.shape}, expected {expected}")
