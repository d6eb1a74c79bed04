"""Offline data on one device: transitions that never cross an episode, windows, returns.

Minari stores T + 1 observations per episode of T actions; every transition (s, a, r, s') here is
built from neighbours inside one episode. *Terminated* (the task ended: no value after it) and
*truncated* (the recording ended: the value goes on) are kept apart everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import MinariDataset
from numpy.typing import NDArray
from torch import Tensor

from ipd_lite.tasks import Task, size


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
        DataError: no episodes, or an episode with a wrong shape or a non-finite number.
    """
    if not episodes:
        raise DataError(f"{name}: the dataset has no episodes; check the path or collect it again")
    width, action_width = episodes[0].observations.shape[-1:], episodes[0].actions.shape[-1:]
    for number, episode in enumerate(episodes):
        _check_episode(episode, f"{name}, episode {number}", width, action_width)
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
        DataError: no rows, shapes that do not fit, or a number that is not finite.
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
    arrays = {field: np.asarray(value) for field, value in fields.items()}
    steps = len(arrays["rewards"])
    if steps == 0:
        raise DataError(f"{name}: there are no transitions; check where the file comes from")
    for field, array in arrays.items():
        wanted = 2 if field in ("observations", "next_observations", "actions") else 1
        if array.ndim != wanted or len(array) != steps:
            shape = f"({steps}, ...)" if wanted == 2 else f"({steps},)"
            raise DataError(f"{name}: {field} has shape {array.shape}, expected {shape}")
    before, after = arrays["observations"], arrays["next_observations"]
    if before.shape != after.shape:
        raise DataError(
            f"{name}: next_observations has shape {after.shape}, observations {before.shape}"
        )
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


def _check_episode(
    episode: Episode, where: str, width: tuple[int, ...], action_width: tuple[int, ...]
) -> None:
    steps = len(episode.rewards)
    if steps == 0:
        raise DataError(f"{where}: no steps; remove the episode")
    expected = {
        "observations": (episode.observations, (steps + 1, *width)),
        "actions": (episode.actions, (steps, *action_width)),
        "rewards": (episode.rewards, (steps,)),
    }
    if episode.imagined is not None:
        expected["imagined"] = (episode.imagined, (steps,))
    for field, (array, shape) in expected.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"{where}: {field} has type {array.dtype}, expected real numbers")
        if array.shape != shape:
            raise DataError(f"{where}: {field} has shape {array.shape}, expected {shape}")
        # Numbers that float32 cannot hold count as infinite, which is what they would become.
        finite = np.abs(array, dtype=np.float64) <= np.finfo(np.float32).max
        if not finite.all():
            step = int(np.argwhere(~finite)[0][0])
            raise DataError(f"{where}: {field} is not finite at step {step}; repair or drop it")


def local_path(dataset: str | os.PathLike[str]) -> Path:
    """Folder of a Minari dataset: an existing path, or an id below Minari's datasets folder."""
    path = Path(dataset)
    if path.is_dir():
        return path / "data" if (path / "data").is_dir() else path
    return Path(minari.storage.get_dataset_path(str(dataset))) / "data"


def load_minari(
    dataset: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> OfflineDataset:
    """Read a Minari dataset (an id on this machine, or a path) into tensors on `device`.

    Dict observations are flattened key by key in sorted order. Actions are rescaled from the
    dataset's bounds to [-1, 1].

    Raises:
        DataError: missing, unreadable or incomplete; discrete actions; images; bad numbers.
    """
    path = local_path(dataset)
    if not path.is_dir():
        raise DataError(
            f"dataset {dataset} is not on this machine (looked in {path}); collect it with "
            "`ipd-lite collect TASK` or fetch it with `minari download ID`"
        )
    try:
        stored = MinariDataset(str(path))
        action_space = _box(stored.action_space, f"{dataset}: action space")
        _check_space(stored.observation_space, f"{dataset}: observation space")
        episodes = [
            _read_episode(
                episode, stored.observation_space, action_space, f"{dataset}, episode {number}"
            )
            for number, episode in enumerate(stored.iterate_episodes())
        ]
    except DataError:
        raise
    except Exception as error:  # whatever HDF5, JSON and Minari make of a damaged file
        raise DataError(
            f"{dataset}: cannot be read as a Minari dataset ({error}); delete {path.parent} and "
            "collect or download it again"
        ) from error
    total = sum(len(e.rewards) for e in episodes)
    if len(episodes) != stored.total_episodes or total != stored.total_steps:
        raise DataError(
            f"{dataset}: holds {len(episodes)} episodes and {total} steps, its metadata says "
            f"{stored.total_episodes} and {stored.total_steps}; collect or download it again"
        )
    return from_episodes(episodes, str(dataset), device)


def _box(space: gym.Space[Any], what: str) -> gym.spaces.Box:
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise DataError(f"{what} is {space}, expected a one-dimensional Box of real numbers")
    return space


def _check_space(space: gym.Space[Any], what: str) -> None:
    """Refuse observations that are not (Dicts of) vectors of numbers."""
    if isinstance(space, gym.spaces.Dict):
        for key in space:
            _check_space(space[key], f"{what}, {key!r}")
    else:
        _box(space, what)


def _read_episode(
    stored: Any, observation_space: gym.Space[Any], action_space: gym.spaces.Box, where: str
) -> Episode:
    """One stored episode; it may say that it is over only at its last step."""
    actions = to_unit_range(np.asarray(stored.actions), action_space)
    infos = stored.infos or {}
    steps = len(stored.rewards)
    for field in ("terminations", "truncations"):
        flags = np.asarray(getattr(stored, field))
        if flags.shape != (steps,):
            raise DataError(f"{where}: {field} has shape {flags.shape}, expected {(steps,)}")
        if flags[:-1].any():
            raise DataError(
                f"{where}: {field} is set at step {int(flags.argmax())} of {steps}, before the "
                "last one; split the episode there"
            )
    return Episode(
        observations=_flatten(stored.observations, observation_space),
        actions=actions,
        rewards=np.asarray(stored.rewards),
        terminated=bool(stored.terminations[-1]) if steps else False,
        imagined=np.asarray(infos["imagined"][:steps], dtype=bool) if "imagined" in infos else None,
    )


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
    return np.asarray(observation).reshape(_box(space, "observation space").shape)


def _flatten(observations: Any, space: gym.Space[Any]) -> NDArray[Any]:
    """Observations of a (nested) Dict of Boxes as (T + 1, O)."""
    if isinstance(space, gym.spaces.Dict):
        parts = [_flatten(observations[key], space[key]) for key in sorted(space.keys())]
        return np.concatenate(parts, axis=1)
    return np.asarray(observations).reshape(len(observations), *_box(space, "").shape)


def save_minari(
    dataset: OfflineDataset,
    dataset_id: str,
    *,
    environment: str | None = None,
    reference_scores: tuple[float, float] | None = None,
    algorithm: str | None = None,
    description: str | None = None,
    replace_existing: bool = False,
) -> Path:
    """Write a dataset as Minari HDF5 and return its folder; imagined steps are flagged in infos.

    Atomic: the files are written beside their place and then renamed.

    Raises:
        DataError: the id exists already (unless `replace_existing`).
    """
    target = Path(minari.storage.get_dataset_path(dataset_id))
    if target.exists() and not replace_existing:
        raise DataError(f"dataset {dataset_id} exists already in {target}; choose another id")
    env = gym.make(environment) if environment else None
    box = gym.spaces.Box
    action_space: Any = box(-1, 1, dataset.actions.shape[1:])
    if env:
        action_space = _box(env.action_space, f"{environment}: action space")
    host = dataset.to("cpu")
    actions = from_unit_range(host.actions.numpy(), action_space)
    any_imagined = bool(host.imagined.any())
    buffers = []
    for start, length in zip(host.starts.tolist(), host.lengths.tolist(), strict=True):
        end = start + length
        buffers.append(
            EpisodeBuffer(
                observations=torch.cat(
                    [host.observations[start:end], host.next_observations[end - 1 : end]]
                ).numpy(),
                actions=actions[start:end],
                rewards=host.rewards[start:end].numpy(),
                terminations=host.terminated[start:end].numpy(),
                truncations=host.truncated[start:end].numpy(),
                infos={"imagined": host.imagined[start:end].numpy()} if any_imagined else None,
            )
        )
    root = Path(minari.storage.get_dataset_path())
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as partial:
        with datasets_folder(partial), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Minari asks for author and code link
            minari.create_dataset_from_buffers(
                dataset_id=dataset_id,
                buffer=buffers,
                env=env,
                observation_space=box(-np.inf, np.inf, dataset.observations.shape[1:], np.float32),
                action_space=action_space,
                algorithm_name=algorithm,
                description=description,
            )
        if reference_scores:
            _add_metadata(
                Path(partial) / dataset_id / "data",
                ref_min_score=reference_scores[0],
                ref_max_score=reference_scores[1],
            )
        if target.exists():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(Path(partial) / dataset_id, target)
    return target


def _add_metadata(folder: Path, **values: Any) -> None:
    """Minari itself keeps reference scores only beside an environment."""
    file = folder / "metadata.json"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps({**metadata, **values}))


@contextlib.contextmanager
def datasets_folder(path: str) -> Iterator[None]:
    """Point Minari at another datasets folder for a while."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def missing(task: Task) -> str:
    """One line: what is not here, how large it is, how to get it, what works without it."""
    text = f"dataset {task.dataset} of task {task.name} is not on this machine"
    if not task.command:
        return f"{text}; check the path"
    large = size(task) + (f", about {task.steps:,} steps" if task.steps else "")
    text += f" ({large}); `{task.command}` gets it"
    return text if task.recipe else f"{text}; `--task {task.alternative}` needs no download"


def load_task(task: Task, device: torch.device | str = "cpu") -> OfflineDataset:
    """The task's dataset on `device`.

    Raises:
        DataError: it is not on this machine; the message says how to get it.
    """
    if not local_path(task.dataset).is_dir():
        raise DataError(missing(task))
    if task.warning:
        warnings.warn(f"{task.dataset}: {task.warning}", stacklevel=2)
    metadata = local_path(task.dataset) / "metadata.json"
    written = metadata.stat().st_mtime_ns if metadata.exists() else 0
    return _load_once(task.dataset, str(device), str(metadata), written)


@lru_cache(maxsize=4)
def _load_once(dataset: str, device: str, metadata: str, written: int) -> OfflineDataset:
    """A sweep in one process reads each dataset once; `written` notices when it is made again."""
    return load_minari(dataset, device)
