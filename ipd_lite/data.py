"""Offline data on one device: transitions that never cross an episode, windows, returns.

Minari stores T + 1 observations per episode of T actions; every transition (s, a, r, s') here is
built from neighbours inside one episode. *Terminated* (the task ended: no value after it) and
*truncated* (the recording ended: the value goes on) are kept apart everywhere.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class DataError(ValueError):
    """Data that cannot be used; the message names dataset, episode, field and remedy."""


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


class Batch(NamedTuple):
    """Transitions: observations (B, O), actions (B, A), rewards (B,), next observations (B, O),
    continues (B,) = 1 - terminated as float."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    continues: Tensor


@dataclass(frozen=True)
class Episode:
    """T steps: observations (T + 1, O), actions (T, A), rewards (T,); at most one of `terminated`
    and `truncated` describes the end; imagined (T,) flags imagined steps."""

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminated: bool
    imagined: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class OfflineDataset:
    """N transitions of E episodes, episode after episode, all tensors on one device.

    observations, next_observations: (N, O) float32, unnormalized. actions: (N, A) float32 in
    [-1, 1]. rewards: (N,) float32. terminated: (N,) bool, true only where the task ended.
    imagined: (N,) bool. starts, lengths: (E,) int64, first transition and length of each episode.
    name: dataset id. A step that ends an episode without `terminated` is truncated.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor
    imagined: Tensor
    starts: Tensor
    lengths: Tensor
    name: str = "unnamed"

    def __post_init__(self) -> None:
        count = self.observations.shape[0]
        assert self.observations.shape == self.next_observations.shape
        assert self.actions.shape[0] == count
        for tensor in (self.rewards, self.terminated, self.imagined):
            assert tensor.shape == (count,), tensor.shape
        assert self.starts.shape == self.lengths.shape

    def __len__(self) -> int:
        return self.observations.shape[0]

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""
        return self.observations.device

    @property
    def episodes(self) -> int:
        """E, the number of episodes."""
        return self.starts.shape[0]

    @cached_property
    def episode(self) -> Tensor:
        """(N,) int64: the episode of each transition."""
        index = torch.arange(self.episodes, device=self.device)
        return torch.repeat_interleave(index, self.lengths, output_size=len(self))

    @cached_property
    def step(self) -> Tensor:
        """(N,) int64: how many steps of the episode come before this one."""
        return torch.arange(len(self), device=self.device) - self.starts[self.episode]

    @cached_property
    def remaining(self) -> Tensor:
        """(N,) int64: steps to the end of the episode, this one included (at least 1)."""
        return self.lengths[self.episode] - self.step

    @cached_property
    def last(self) -> Tensor:
        """(N,) bool: the final step of an episode, terminated or truncated."""
        return self.remaining == 1

    @cached_property
    def truncated(self) -> Tensor:
        """(N,) bool: the recording stops here although the task goes on."""
        return self.last & ~self.terminated

    @cached_property
    def episode_returns(self) -> Tensor:
        """(E,) undiscounted sums of rewards."""
        total = torch.zeros(self.episodes, device=self.device, dtype=self.rewards.dtype)
        return total.index_add(0, self.episode, self.rewards)

    @cached_property
    def _packed(self) -> Tensor:
        """(N, 2 O + A + 2): one gather per batch instead of five."""
        columns = (
            self.observations,
            self.next_observations,
            self.actions,
            self.rewards[:, None],
            (~self.terminated).float()[:, None],
        )
        return torch.cat(columns, dim=1).contiguous()

    def returns_to_go(self, discount: float = 1.0) -> Tensor:
        """(N,) discounted sum of the rewards from each step to the end of its episode."""
        result = self.rewards.clone()
        # From the episodes' ends backwards, all episodes at once.
        for distance in range(2, int(self.lengths.max()) + 1):
            index = (self.starts + self.lengths - distance)[self.lengths >= distance]
            result[index] += discount * result[index + 1]
        return result

    def sample(self, size: int, generator: torch.Generator) -> Batch:
        """`size` transitions drawn uniformly with replacement."""
        index = torch.randint(len(self), (size,), generator=generator, device=self.device)
        return self.batch(index)

    def batch(self, index: Tensor) -> Batch:
        """The transitions at `index` (B,)."""
        width, actions = self.observations.shape[1], self.actions.shape[1]
        rows = self._packed[index]
        s, n, a, r, c = rows.split([width, width, actions, 1, 1], dim=1)
        return Batch(s, a, r.squeeze(1), n, c.squeeze(1))

    def windows(self, first: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Indices (B, length) of the windows that begin at transitions `first` (B,), and a mask
        (B, length), true inside the episode. Indices past the end repeat the last step."""
        offset = torch.arange(length, device=self.device)
        remaining = self.remaining[first][:, None]
        return first[:, None] + torch.minimum(offset, remaining - 1), offset < remaining

    def to(self, device: torch.device | str) -> OfflineDataset:
        """The same dataset with every tensor on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name in self.__dataclass_fields__
        }
        return replace(self, **moved)

    def select_episodes(self, keep: Tensor, name: str | None = None) -> OfflineDataset:
        """Only the episodes whose index is in `keep` (any order, int64)."""
        index, _ = _episode_rows(self.starts[keep], self.lengths[keep])
        return self._rows(index, self.lengths[keep], name or self.name)

    def split_episodes(
        self, fraction: float, generator: torch.Generator
    ) -> tuple[OfflineDataset, OfflineDataset]:
        """(rest, holdout): about `fraction` of the episodes, at least one, go to the holdout."""
        if self.episodes < 2:
            raise DataError(
                f"{self.name}: one episode cannot be split into training and holdout data; "
                "record at least two"
            )
        order = torch.randperm(self.episodes, generator=generator, device=self.device)
        count = min(max(1, round(fraction * self.episodes)), self.episodes - 1)
        return self.select_episodes(order[count:]), self.select_episodes(order[:count])

    def _rows(self, index: Tensor, lengths: Tensor, name: str) -> OfflineDataset:
        return OfflineDataset(
            observations=self.observations[index],
            actions=self.actions[index],
            rewards=self.rewards[index],
            next_observations=self.next_observations[index],
            terminated=self.terminated[index],
            imagined=self.imagined[index],
            starts=torch.cumsum(lengths, 0) - lengths,
            lengths=lengths,
            name=name,
        )

    def fingerprint(self) -> str:
        """SHA-256 of all arrays: equal exactly when the data is equal."""
        digest = hashlib.sha256()
        for tensor in (self.lengths, self._packed, self.imagined):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _episode_rows(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Transition indices of the given episodes, one after the other, and their episode numbers."""
    episode = torch.repeat_interleave(torch.arange(len(starts), device=starts.device), lengths)
    offset = torch.arange(len(episode), device=starts.device)
    first = torch.cumsum(lengths, 0) - lengths
    return starts[episode] + offset - first[episode], episode


def concatenate(parts: Sequence[OfflineDataset], name: str) -> OfflineDataset:
    """The episodes of all `parts` in order."""
    lengths = torch.cat([part.lengths for part in parts])

    def joined(field: str) -> Tensor:
        return torch.cat([getattr(part, field) for part in parts])

    return OfflineDataset(
        observations=joined("observations"),
        actions=joined("actions"),
        rewards=joined("rewards"),
        next_observations=joined("next_observations"),
        terminated=joined("terminated"),
        imagined=joined("imagined"),
        starts=torch.cumsum(lengths, 0) - lengths,
        lengths=lengths,
        name=name,
    )


def from_episodes(
    episodes: Sequence[Episode], name: str, device: torch.device | str = "cpu"
) -> OfflineDataset:
    """Checked episodes as one dataset.

    Actions must lie in [-1, 1]; those outside are clipped with a warning that counts them.

    Raises:
        DataError: no episodes, an episode whose shapes or number types are not those of the first
            one, whole-numbered actions, or a number that is not finite.
    """
    if not episodes:
        raise DataError(f"{name}: the dataset has no episodes; check the path or collect it again")
    for number, episode in enumerate(episodes):
        _check_episode(episode, f"{name}, episode {number}", episodes[0])
    actions = np.concatenate([e.actions for e in episodes]).astype(np.float32)
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

    def tensor(arrays: Sequence[NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays).astype(np.float32)).to(device)

    lengths = torch.from_numpy(steps).to(device)
    return OfflineDataset(
        observations=tensor([e.observations[:-1] for e in episodes]),
        actions=torch.from_numpy(np.clip(actions, -1.0, 1.0)).to(device),
        rewards=tensor([e.rewards for e in episodes]),
        next_observations=tensor([e.observations[1:] for e in episodes]),
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
        "truncated": np.zeros(len(rewards), bool) if truncated is None else truncated,
    }
    arrays = {field: _array(value, f"{name}: {field}") for field, value in fields.items()}
    steps = len(arrays["rewards"])
    if steps == 0:
        raise DataError(f"{name}: there are no transitions; check where the file comes from")
    for field, array in arrays.items():
        wanted = 2 if field in ("observations", "next_observations", "actions") else 1
        if array.ndim != wanted or len(array) != steps:
            shape = f"({steps}, width)" if wanted == 2 else f"({steps},)"
            raise DataError(f"{name}: {field} has shape {array.shape}, expected {shape}")
    before, after = arrays["observations"], arrays["next_observations"]
    # Rounded in only one of them, every row would seem to begin a new episode.
    for what, one, other in (
        ("shape", before.shape, after.shape), ("type", before.dtype, after.dtype)
    ):  # fmt: skip
        if one != other:
            raise DataError(f"{name}: next_observations has {what} {other}, observations {one}")
    over = arrays["terminated"].astype(bool)
    jump = (before[1:] != after[:-1]).any(1)
    last = over | arrays["truncated"].astype(bool) | np.append(jump, True)
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


def _array(values: Any, where: str) -> NDArray[Any]:
    """`values` as one array.

    Raises:
        DataError: rows of different lengths.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"{where} is no array of numbers ({one_line(error)})") from error


def _check_episode(episode: Episode, where: str, first: Episode) -> None:
    """One episode by itself and against the first one of its dataset."""
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
        array, model = getattr(episode, field), getattr(first, field)
        if array.dtype.kind not in "fiub":
            raise DataError(f"{where}: {field} has type {array.dtype}, expected real numbers")
        if array.shape != shape:
            raise DataError(f"{where}: {field} has shape {array.shape}, expected {shape}")
        if model is not None:
            check_type(array.dtype, model.dtype, f"{where}: {field}")
        # Numbers that float32 cannot hold count as infinite, which is what they would become.
        finite = np.abs(array, dtype=np.float64) <= np.finfo(np.float32).max
        if not finite.all():
            step = int(np.argwhere(~finite)[0][0])
            raise DataError(f"{where}: {field} is not finite at step {step}; repair or drop it")
    if episode.actions.dtype.kind != "f":
        raise DataError(
            f"{where}: actions has type {episode.actions.dtype}, expected floating-point numbers; "
            "discrete actions are not supported"
        )


def check_type(found: np.dtype[Any], first: np.dtype[Any], what: str) -> None:
    """Episodes of several programs, or with several roundings, do not belong together unnoticed."""
    if found != first:
        raise DataError(
            f"{what} has type {found}, episode 0 has {first}; write all episodes with one type"
        )
