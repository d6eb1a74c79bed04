"""Offline data on one device: transitions that never cross an episode, windows, returns.

Minari stores T + 1 observations per episode of T actions; every transition (s, a, r, s') here is
built from neighbours inside one episode. *Terminated* (the task ended: no value after it) and
*truncated* (the recording ended: the value goes on) are kept apart everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class DataConfig:
    """How rewards and observations enter the networks (both change IQL's results)."""

    normalize_observations: bool = True
    """Of Q, V and IQL's policy; every other network always normalizes its inputs."""
    reward_scale: Literal["none", "return range", "discounted range"] = "none"
    """"return range": multiply rewards by 1000 / (best - worst episode return), as IQL on Gym.
    "discounted range": so that discounted returns span `DISCOUNTED_RANGE`, for data of any unit."""


DISCOUNTED_RANGE = 100.0
"""Between the spans of the mazes (rewards of -1: 30) and of locomotion as IQL scales it (300). On a
pendulum with default settings IQL scored -326 with 100, -545 with 30, -717 unscaled (680)."""


class DataError(ValueError):
    """Data that cannot be used; the message names dataset, episode, field and remedy."""


class Batch(NamedTuple):
    """Transitions: observations (B, O), actions (B, A), rewards (B,), next observations (B, O),
    continues (B,) = 1 - terminated as float."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    continues: Tensor


@dataclass(frozen=True)
class OfflineDataset:
    """N transitions of E episodes, episode after episode, all tensors on one device.

    observations, next_observations: (N, O) float32, unnormalized. actions: (N, A) float32 in
    [-1, 1]. rewards: (N,) float32. terminated: (N,) bool, true only where the task ended.
    imagined: (N,) bool. starts, lengths: (E,) int64, first transition and length of each episode.
    name: dataset id. earlier: (E,) int64, steps of the task before an episode's first one here (a
    splice begins in the middle); None = none. A step that ends an episode without `terminated` is
    truncated.
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
    earlier: Tensor | None = None

    def __post_init__(self) -> None:
        count = self.observations.shape[0]
        assert self.observations.shape == self.next_observations.shape
        assert self.actions.shape[0] == count
        for tensor in (self.rewards, self.terminated, self.imagined):
            assert tensor.shape == (count,), tensor.shape
        assert self.starts.shape == self.lengths.shape
        assert self.earlier is None or self.earlier.shape == self.starts.shape

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

    @property
    def widths(self) -> tuple[int, int]:
        """O and A, entries of an observation and of an action."""
        return self.observations.shape[1], self.actions.shape[1]

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
    def time(self) -> Tensor:
        """(N,) int64: how many steps of the task came before this one, recorded here or not."""
        return self.step if self.earlier is None else self.step + self.earlier[self.episode]

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
        lengths = self.lengths[keep]
        return OfflineDataset(
            observations=self.observations[index],
            actions=self.actions[index],
            rewards=self.rewards[index],
            next_observations=self.next_observations[index],
            terminated=self.terminated[index],
            imagined=self.imagined[index],
            starts=torch.cumsum(lengths, 0) - lengths,
            lengths=lengths,
            name=name or self.name,
            earlier=None if self.earlier is None else self.earlier[keep],
        )

    def split_episodes(
        self, fraction: float, generator: torch.Generator
    ) -> tuple[OfflineDataset, OfflineDataset]:
        """(rest, holdout): about `fraction` of the episodes, at least one, go to the holdout.

        `generator` is one of the CPU, so that the split is the same on every device.
        """
        if self.episodes < 2:
            raise DataError(
                f"{self.name}: one episode cannot be split into training and holdout data; "
                "record at least two"
            )
        order = torch.randperm(self.episodes, generator=generator).to(self.device)
        count = min(max(1, round(fraction * self.episodes)), self.episodes - 1)
        return self.select_episodes(order[count:]), self.select_episodes(order[:count])

    def fingerprint(self) -> str:
        """SHA-256 of all arrays: equal exactly when the data is equal."""
        digest = hashlib.sha256()
        for tensor in (self.lengths, self._packed, self.imagined):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def reward_scale(dataset: OfflineDataset, mode: str, discount: float) -> float:
    """What every reward is multiplied by before learning, see :class:`DataConfig`.

    "discounted range" makes what is learned independent of a positive scale of the rewards; where
    all discounted returns are the same there is nothing to scale, and it is 1.

    Raises:
        DataError: mode "return range", and all episodes have the same return.
    """
    if mode == "none":
        return 1.0
    whole = mode == "return range"
    returns = dataset.episode_returns if whole else dataset.returns_to_go(discount)
    spread = float(returns.max() - returns.min())
    if whole and spread == 0:
        raise DataError(
            f"{dataset.name}: every episode has the same return; use data.reward_scale none"
        )
    wanted = 1000.0 if whole else DISCOUNTED_RANGE
    return wanted / spread if spread else 1.0


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

    before = [torch.zeros_like(p.lengths) if p.earlier is None else p.earlier for p in parts]
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
        earlier=torch.cat(before),
    )
