"""Recorded episodes, checked in one place, as an offline dataset."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from ipd_lite.data.spaces import to_unit_range
from ipd_lite.paper.dataset import DataError, OfflineDataset

MOST_BREAKS = 0.25
"""Share of rows that may end an episode without a mark: more are a recording in another order."""


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks and not at length."""
    text = " ".join(str(error).split()).strip('"') or type(error).__name__
    return textwrap.shorten(text, 65, placeholder=" ...")


@dataclass(frozen=True)
class Episode:
    """T steps: observations (T + 1, O), actions (T, A), rewards (T,); at most one of `terminated`
    and `truncated` describes the end; imagined (T,) flags imagined steps."""

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminated: bool
    imagined: NDArray[np.bool_] | None = None


def from_episodes(
    episodes: Sequence[Episode],
    name: str,
    device: torch.device | str = "cpu",
    bounds: Box | None = None,
) -> OfflineDataset:
    """Checked episodes as one dataset.

    Args:
        bounds: of the recorded actions, finite; they become -1 and 1. None = that is what they are.
            Actions outside are clipped, with a warning that counts them.

    Raises:
        DataError: no episodes, an episode whose shapes or number types are not those of the first
            one, whole-numbered actions, or a number that is not finite.
    """
    if not episodes:
        raise DataError(f"{name}: the dataset has no episodes; check the path or collect it again")
    types: dict[str, np.dtype[Any]] = {}
    for number, episode in enumerate(episodes):
        _check_episode(episode, f"{name}, episode {number}", episodes[0], types)
    if types["actions"].kind != "f":
        raise DataError(
            f"{name}: actions has type {types['actions']}, expected floating-point numbers; "
            "discrete actions are not supported"
        )
    recorded = np.concatenate([e.actions for e in episodes])
    actions = (recorded if bounds is None else to_unit_range(recorded, bounds)).astype(np.float32)
    outside = int((np.abs(actions) > 1 + 1e-6).sum())
    if outside:
        warnings.warn(
            f"{name}: {outside} of {actions.size} action entries lie outside the action bounds "
            "and were clipped",
            stacklevel=2,
        )
    steps = np.array([len(e.rewards) for e in episodes])
    terminated = np.zeros(steps.sum(), dtype=bool)
    terminated[np.cumsum(steps) - 1] = [e.terminated for e in episodes]
    imagined = [
        np.zeros(len(e.rewards), bool) if e.imagined is None else e.imagined for e in episodes
    ]

    def tensor(field: str, rows: slice) -> Tensor:
        exact = np.concatenate([getattr(e, field)[rows] for e in episodes])
        if rows.start is None:
            warn_if_rounded(exact, f"{name}: {field}")
        return torch.from_numpy(exact.astype(np.float32)).to(device)

    lengths = torch.from_numpy(steps).to(device)
    return OfflineDataset(
        observations=tensor("observations", slice(None, -1)),
        actions=torch.from_numpy(np.clip(actions, -1.0, 1.0)).to(device),
        rewards=tensor("rewards", slice(None)),
        next_observations=tensor("observations", slice(1, None)),
        terminated=torch.from_numpy(terminated).to(device),
        imagined=torch.from_numpy(np.concatenate(imagined)).to(device),
        starts=torch.cumsum(lengths, 0) - lengths,
        lengths=lengths,
        name=name,
    )


def from_arrays(
    observations: NDArray[Any],
    actions: NDArray[Any],
    rewards: NDArray[Any],
    next_observations: NDArray[Any],
    terminated: NDArray[Any],
    truncated: NDArray[Any] | None = None,
    *,
    name: str = "arrays",
    device: torch.device | str = "cpu",
) -> OfflineDataset:
    """A dataset from plain logs, one row per transition, episode after episode.

    An episode ends where `terminated` or `truncated` says so, where the next row does not begin
    with the observation that this one ended with (an unmarked truncation), and at the last row.

    Args:
        observations, next_observations: (N, O). actions: (N, A) in [-1, 1]. rewards, terminated,
            truncated: (N,).

    Raises:
        DataError: no rows, shapes or types that do not fit, or a number that is not finite.
    """
    episodes = split_transitions(
        observations, actions, rewards, next_observations, terminated, truncated, name
    )
    return from_episodes(episodes, name, device)


def split_transitions(
    observations: NDArray[Any],
    actions: NDArray[Any],
    rewards: NDArray[Any],
    next_observations: NDArray[Any],
    terminated: NDArray[Any],
    truncated: NDArray[Any] | None,
    name: str,
) -> list[Episode]:
    """Flat logs as episodes of T + 1 observations, see :func:`from_arrays`."""
    fields = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "next_observations": next_observations,
        "terminated": terminated,
    }
    if truncated is not None:
        fields["truncated"] = truncated
    arrays = {field: _array(value, f"{name}: {field}") for field, value in fields.items()}
    steps = arrays["rewards"].size
    arrays.setdefault("truncated", np.zeros(steps, bool))
    if steps == 0:
        raise DataError(f"{name}: there are no transitions; check where the file comes from")
    for field, array in arrays.items():
        wanted = 2 if field in ("observations", "next_observations", "actions") else 1
        if array.ndim != wanted or len(array) != steps:
            shape = f"({steps}, width)" if wanted == 2 else f"({steps},)"
            raise DataError(f"{name}: {field} has shape {array.shape}, expected {shape}")
    before, after = arrays["observations"], arrays["next_observations"]
    for field in ("terminated", "truncated"):
        _check_flags(arrays[field], f"{name}: {field}")
    for field in ("observations", "next_observations"):
        # A NaN equals nothing: every one would seem to begin a new episode.
        if arrays[field].dtype.kind == "f" and not np.isfinite(arrays[field]).all():
            row = int(np.argwhere(~np.isfinite(arrays[field]))[0][0])
            raise DataError(f"{name}: {field} is not finite in row {row}; repair or drop it")
    # Rounded in only one of them, every row would seem to begin a new episode.
    for what, one, other in (
        ("shape", before.shape, after.shape),
        ("type", before.dtype, after.dtype),
    ):
        if one != other:
            raise DataError(f"{name}: next_observations has {what} {other}, observations {one}")
    over = arrays["terminated"].astype(bool)
    marked = over | arrays["truncated"].astype(bool)
    jump = (before[1:] != after[:-1]).any(1)
    broken = int((jump & ~marked[:-1]).sum())
    if broken > max(MOST_BREAKS * steps, 20):
        raise DataError(
            f"{name}: {broken:,} of {steps:,} next_observations are not the next row's "
            "observations, expected this at ends of episodes alone; sort the rows by time"
        )
    last = marked | np.append(jump, True)
    ends = np.flatnonzero(last) + 1
    starts = np.concatenate([[0], ends[:-1]])
    return [
        Episode(
            np.concatenate([before[start:end], after[end - 1 : end]]),
            arrays["actions"][start:end],
            arrays["rewards"][start:end],
            bool(over[end - 1]),
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def _check_flags(flags: NDArray[Any], where: str) -> None:
    """Refuse what is neither true nor false: any text, even "False", would count as true.

    Raises:
        DataError: names the field and the first such row.
    """
    if flags.dtype.kind not in "biuf":
        raise DataError(f"{where} has type {flags.dtype}; expected true, false, 1 or 0")
    neither = np.flatnonzero((flags != 0) & (flags != 1))
    if len(neither):
        row = int(neither[0])
        raise DataError(f"{where} is {flags[row]} in row {row}; expected true, false, 1 or 0")


def _array(values: Any, where: str) -> NDArray[Any]:
    """`values` as one array.

    Raises:
        DataError: rows of different lengths.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"{where} is no array of numbers ({one_line(error)})") from error


def _check_episode(
    episode: Episode, where: str, first: Episode, types: dict[str, np.dtype[Any]]
) -> None:
    """One episode by itself and against those before it, whose number types are in `types`."""
    # Where the lengths disagree, the field to name is the one that stands alone.
    steps = sorted([len(episode.observations) - 1, len(episode.actions), len(episode.rewards)])[1]
    if steps == 0:
        raise DataError(f"{where}: no steps; remove the episode")
    expected = {
        "observations": (steps + 1, *first.observations.shape[-1:]),
        "actions": (steps, *first.actions.shape[-1:]),
        "rewards": (steps,),
    }
    if episode.imagined is not None:
        expected["imagined"] = (steps,)
    for field, shape in expected.items():
        array = getattr(episode, field)
        if array.dtype.kind not in "fiub":
            raise DataError(f"{where}: {field} has type {array.dtype}, expected real numbers")
        if array.shape != shape:
            raise DataError(f"{where}: {field} has shape {array.shape}, expected {shape}")
        check_type(array.dtype, types, field, where)
        # Numbers that float32 cannot hold count as infinite, which is what they would become.
        finite = np.abs(array, dtype=np.float64) <= np.finfo(np.float32).max
        if not finite.all():
            step = int(np.argwhere(~finite)[0][0])
            raise DataError(f"{where}: {field} is not finite at step {step}; repair or drop it")


def check_type(
    found: np.dtype[Any], types: dict[str, np.dtype[Any]], field: str, where: str
) -> None:
    """Compare an episode's number type with those before it, and note it in `types`.

    Whole numbers among real ones are such (a reward of 0 in a sparse task), and rewards may be of
    any type. But observations and actions of two roundings do not belong together unnoticed.

    Raises:
        DataError: they are of two roundings.
    """
    before = types.setdefault(field, found)
    if before.kind != "f":
        types[field] = found if found.kind == "f" else before
    elif found.kind == "f" and found != before and field != "rewards":
        raise DataError(
            f"{where}: {field} has type {found}, earlier episodes have {before}; "
            "write all episodes with one type"
        )


def warn_if_rounded(exact: NDArray[Any], what: str) -> None:
    """Warn where float32 keeps less than about a hundred steps of how much a column varies.

    Such are positions far from their origin, time stamps, and numbers too small for float32.
    Columns that vary by the rounding of float64 alone are constant.
    """
    if exact.dtype.kind == "f" and exact.itemsize <= 4:
        return
    columns = exact.reshape(len(exact), -1).astype(np.float64)
    deviation, size = columns.std(0), np.abs(columns).max(0)
    error = np.abs(columns - columns.astype(np.float32)).max(0)
    lost = np.flatnonzero((error > 0.01 * deviation) & (deviation > 1e-12 * size))
    if lost.size:
        i = int(lost[0])
        more = f" and {lost.size - 1} more entries" if lost.size > 1 else ""
        warnings.warn(
            f"{what}: entry {i} (size {size[i]:.3g}, deviation {deviation[i]:.3g}){more} lose "
            "their digits in float32; subtract an offset, or choose other units",
            stacklevel=2,
        )
