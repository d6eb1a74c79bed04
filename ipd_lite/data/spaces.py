"""Gymnasium's spaces as vectors, and actions between their bounds and [-1, 1]."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from ipd_lite.paper.dataset import DataError

WIDE = 100.0
"""Bounds this many times as wide as the range that the data uses are not taken as its scale."""


def box_of(space: gym.Space[Any], what: str) -> Box:
    """`space` itself if it is a Box.

    Raises:
        DataError: it is another kind of space; `what` names it.
    """
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise DataError(f"{what} is {space}, expected a one-dimensional Box of real numbers")
    return space


def is_unit(space: Box) -> bool:
    """Whether the bounds are [-1, 1] everywhere: then actions stay as they are, to the bit."""
    return bool((space.low == -1).all() and (space.high == 1).all())


def action_bounds(actions: NDArray[Any], space: Box, name: str) -> Box:
    """Finite bounds that stand for -1 and 1, entry by entry.

    They are those of `space` (the environment's, else the dataset's). Where one is infinite, where
    they are more than `WIDE` times as wide as what the data uses (-1 and 1 themselves are never too
    wide), or where no action lies inside, the data's own range stands in, and a warning says so.

    Args:
        actions: (N, A), as recorded. space: (A,). name: of the dataset, for the warning.
    """
    least, most = actions.min(0).astype(np.float64), actions.max(0).astype(np.float64)
    low = np.where(np.isfinite(space.low), space.low, least).astype(np.float64)
    high = np.where(np.isfinite(space.high), space.high, most).astype(np.float64)
    unit = (low == -1) & (high == 1)
    used = np.where(most > least, most - least, np.maximum(np.abs(most), 1.0))
    with np.errstate(over="ignore"):
        wide = ~unit & (high - low > WIDE * used)
    outside = (least > high) | (most < low) | (low > high)
    own = wide | outside
    low, high = np.where(own, least, low), np.where(own, most, high)
    changed = np.flatnonzero((low != space.low) | (high != space.high))
    if not changed.size:
        return space
    i = changed[0]
    more = f" (and of {changed.size - 1} more)" if changed.size > 1 else ""
    warnings.warn(
        f"{name}: bounds [{space.low[i]:g}, {space.high[i]:g}] of action entry {i}{more} give no "
        f"scale; the data's own range stands in, [{low[i]:.4g}, {high[i]:.4g}]",
        stacklevel=2,
    )
    return Box(low, high, dtype=np.float64)


def to_unit_range(actions: NDArray[Any], space: Box) -> NDArray[Any]:
    """Actions from the bounds of `space` to [-1, 1]; untouched where those are the bounds.

    Where both ends are equal, that one action becomes 0 (any other lies outside); entries without
    finite bounds stay as they are.
    """
    if is_unit(space):
        return actions
    low, width = _low_and_width(space)
    offset = np.asarray(actions, dtype=np.float64) - low
    scaled = 2.0 * offset / np.where(width > 0, width, 1.0) - 1.0
    return np.where(np.isfinite(width), np.where(width > 0, scaled, 2 * np.sign(offset)), actions)


def from_unit_range(actions: NDArray[Any], space: Box) -> NDArray[Any]:
    """The inverse of :func:`to_unit_range`: inside the bounds, in the type of `space`."""
    if is_unit(space):
        return actions
    low, width = _low_and_width(space)
    bounded = low + (np.asarray(actions, dtype=np.float64) + 1.0) * 0.5 * width
    clipped = np.clip(np.where(np.isfinite(width), bounded, actions), space.low, space.high)
    return clipped.astype(space.dtype)


def _low_and_width(space: Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower bounds (0 where unbounded) and widths (infinite where unbounded), shape (A,)."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    with np.errstate(over="ignore"):
        width = high - low
    return np.where(np.isfinite(width), low, 0.0), width


def in_order(space: gym.Space[Any]) -> gym.Space[Any]:
    """The space with the keys of its Dicts sorted at every level, as datasets have them here."""
    if not isinstance(space, Dict):
        return space
    return Dict([(key, in_order(space[key])) for key in sorted(space.keys())])


def canonical(env: gym.Env[Any, Any], bounds: Box | None = None) -> gym.Env[Any, Any]:
    """The environment as every dataset here has it: vectors in, actions in [-1, 1] out.

    Gymnasium's own wrappers: Dict observations are flattened in the dataset's order, and [-1, 1]
    becomes `bounds` (the environment's own, if None), by the inverse of what the data went through.
    `RescaleAction` has no inverse where both ends are equal and rounds past the bounds.
    """
    if isinstance(env.observation_space, Dict):
        ordered = in_order(env.observation_space)
        env = gym.wrappers.TransformObservation(env, lambda observation: observation, ordered)
        env = gym.wrappers.FlattenObservation(env)
    fits = bounds is not None and bounds.shape == env.action_space.shape
    space = bounds if fits else env.action_space
    if not isinstance(space, Box) or is_unit(space):
        return env
    kind = env.action_space.dtype
    unit = Box(-1.0, 1.0, space.shape, np.float32)
    return gym.wrappers.TransformAction(
        env, lambda action: from_unit_range(action, space).astype(kind), unit
    )


def flatten_rows(observations: Any, space: gym.Space[Any], rows: int, what: str) -> NDArray[Any]:
    """Observations of a (nested) Dict of Boxes as (rows, O), keys in sorted order.

    Raises:
        DataError: a part is missing or has another shape than its space; `what` is its name.
    """
    if isinstance(space, Dict):
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
