"""Datasets on this machine: Minari's files in and out, checked on the way.

Minari stores T + 1 observations per episode and says at its last step whether the task terminated
or the recording was truncated. Nothing is silently repaired: what cannot be used is refused with a
message that names dataset, episode, field and remedy. The environment is never made for reading.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from ipd_lite.data.episodes import Episode, check_type, from_episodes, one_line
from ipd_lite.data.spaces import action_bounds, box_of, from_unit_range
from ipd_lite.data.stored import check_space, read_episode, stored_episodes, types_of, unreadable
from ipd_lite.paper.dataset import DataError, OfflineDataset

MAIN_FILE = "main_data.hdf5"
"""Where Minari keeps a dataset's arrays."""

ROWS_READ = 32_768
"""Of an episode in arrow or parquet files Minari reads one batch, which has at most these rows."""


def local_path(dataset: str | os.PathLike[str]) -> Path:
    """Folder of a Minari dataset: an existing path, or an id below Minari's datasets folder."""
    path = Path(dataset).expanduser()
    if str(dataset).strip() and path.is_dir():
        return path / "data" if (path / "data").is_dir() else path
    try:
        return Path(minari.storage.get_dataset_path(str(dataset))) / "data"
    except OSError as error:
        where = os.environ.get("MINARI_DATASETS_PATH")
        raise DataError(
            f"MINARI_DATASETS_PATH = {where!r} is no folder for datasets ({error.strerror}); name "
            "another, or unset it"
        ) from error


def one_name(dataset: str | os.PathLike[str]) -> str:
    """The one name of a dataset on this machine, however it was spelled: its id if it lies in
    Minari's folder, else the whole path, without links."""
    folder, root = local_path(dataset).resolve(), Path(minari.storage.get_dataset_path()).resolve()
    folder = folder.parent if folder.name == "data" else folder
    return folder.relative_to(root).as_posix() if root in folder.parents else str(folder)


def load_minari(
    dataset: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    actions: gym.spaces.Box | None = None,
) -> OfflineDataset:
    """Read a Minari dataset (an id on this machine, or a path) into tensors on `device`.

    Dict observations are flattened key by key in sorted order. Actions are rescaled to [-1, 1].

    Args:
        actions: the environment's action space, whose bounds become -1 and 1; None = the dataset's.
            See :func:`ipd_lite.data.spaces.action_bounds` for those that cannot.

    Raises:
        DataError: missing, unreadable or incomplete; discrete actions; images; bad numbers.
    """
    return load_with_bounds(dataset, device, actions)[0]


def load_with_bounds(
    dataset: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    actions: gym.spaces.Box | None = None,
) -> tuple[OfflineDataset, gym.spaces.Box]:
    """:func:`load_minari`, and the bounds that stand for -1 and 1."""
    name = str(dataset)
    stored = _open(dataset)
    recorded = box_of(stored.action_space, f"{name}: action space")
    episodes: list[Episode] = []
    types: dict[str, np.dtype[Any]] = {}
    _check_lengths(stored, name)
    if (held := _episodes_held(stored, name)) > stored.total_episodes:
        raise DataError(
            f"{name}: holds {held} episodes, its metadata says {stored.total_episodes}; collect or "
            "download it again"
        )
    for where, episode in stored_episodes(stored, name):
        for field, kind in types_of(episode):
            check_type(kind, types, field, where)
        try:
            episodes.append(read_episode(episode, stored.observation_space, recorded, where))
        except DataError:
            raise
        except Exception as error:
            raise unreadable(where, error) from error
    space = recorded if actions is None or actions.shape != recorded.shape else actions
    taken = np.concatenate([np.zeros((0, *space.shape)), *(e.actions for e in episodes)])
    # Where there is nothing to look at, or it is not finite, `from_episodes` refuses.
    bounds = action_bounds(taken, space, name) if taken.size and np.isfinite(taken).all() else space
    data = from_episodes(episodes, name, device, bounds)
    if (data.episodes, len(data)) != (stored.total_episodes, stored.total_steps):
        raise DataError(
            f"{name}: holds {data.episodes} episodes and {len(data)} steps, its metadata says "
            f"{stored.total_episodes} and {stored.total_steps}; collect or download it again"
        )
    return data, bounds


def spaces_of(dataset: str | os.PathLike[str]) -> tuple[int, gym.spaces.Box]:
    """Width of the observations, and the action space, as the dataset itself declares them."""
    stored = _open(dataset)
    actions = box_of(stored.action_space, f"{dataset}: action space")
    return gym.spaces.flatdim(stored.observation_space), actions


def _open(dataset: str | os.PathLike[str]) -> MinariStorage:
    """A dataset's files and spaces; its environment is not looked at."""
    path = local_path(dataset)
    read_metadata(dataset)
    try:
        stored = MinariStorage.read(str(path))
        actions = box_of(stored.action_space, f"{dataset}: action space")
        if actions.dtype is not None and actions.dtype.kind != "f":
            raise DataError(
                f"{dataset}: action space is {actions}, expected real numbers; discrete actions "
                "are not supported"
            )
        check_space(stored.observation_space, f"{dataset}: observation space")
        if (file := path / MAIN_FILE).exists():
            h5py.File(file).close()  # damage to the file as a whole belongs to no episode
        return stored
    except DataError:
        raise
    except Exception as error:  # whatever HDF5, JSON and Minari make of a damaged file
        raise unreadable(str(dataset), error) from error


def _episodes_held(stored: MinariStorage, name: str) -> int:
    """Episodes in an HDF5 file, whatever its metadata says; 0 for other formats."""
    file = Path(stored.data_path) / MAIN_FILE
    if not file.exists():
        return 0
    try:
        with h5py.File(file) as opened:
            return sum(group.startswith("episode_") for group in opened)
    except Exception as error:  # h5py has no class of its own for damage
        raise unreadable(name, error) from error


def _check_lengths(stored: MinariStorage, name: str) -> None:
    """Refuse an episode of which Minari would read a piece, and not always the first."""
    if stored.FORMAT == "hdf5":
        return
    for number, episode in enumerate(stored.get_episode_metadata(range(stored.total_episodes))):
        if episode.get("total_steps", 0) >= ROWS_READ:  # and one observation more
            raise DataError(
                f"{name}, episode {number}: {episode['total_steps']:,} steps; of {stored.FORMAT} "
                f"files Minari reads {ROWS_READ - 1:,} at most: write it as hdf5, or cut it"
            )


def read_metadata(dataset: str | os.PathLike[str]) -> dict[str, Any]:
    """What a Minari dataset says about itself; its id is the folder's name if it has none.

    Raises:
        DataError: there is no such dataset, or its metadata cannot be read.
    """
    if not str(dataset).strip():
        raise DataError("the dataset's name is empty (a variable that is not set?); name one")
    folder = local_path(dataset).resolve()
    if not folder.is_dir():
        raise DataError(f"dataset {dataset} is not on this machine (looked in {folder})")
    if not (folder / "metadata.json").exists():
        inside = [
            f for depth in ("*", "*/*", "*/*/*") for f in folder.glob(f"{depth}/metadata.json")
        ]
        found = f"; did you mean {one_name(min(inside).parent)}?" if inside else "; check the path"
        raise DataError(f"{dataset}: cannot be read as Minari data: no metadata.json in it{found}")
    try:
        found = json.loads((folder / "metadata.json").read_text())
        if not isinstance(found, dict):
            raise ValueError(f"metadata.json holds a {type(found).__name__}, expected a dictionary")
    except (OSError, ValueError) as error:
        raise unreadable(str(dataset), error) from error
    for field in ("total_episodes", "total_steps"):
        if type(value := found.get(field, 0)) is not int:
            raise DataError(f"{dataset}: {field} = {value!r} in its metadata, expected a number")
    name = folder.parent.name if folder.name == "data" else folder.name
    return {"dataset_id": name, **found}


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

    Atomic: the files are written beside their place, read again, and then renamed. Compressed: the
    same data gives the same bytes.

    Args:
        environment: id with which Gymnasium makes the environment; its action bounds are the unit
            in which the actions, here in [-1, 1], are stored.
        reference_scores: returns that score 0 and 100; they need no environment.

    Raises:
        DataError: the id has no version or exists already (unless `replace_existing`), or the
            environment's actions have another width.
        OSError: the files cannot be written; the message names the folder.
    """
    if not re.fullmatch(r"([-\w]+/)*[-\w]+-v\d+", dataset_id):
        raise DataError(
            f"dataset id {dataset_id!r}: expected NAME-vNUMBER, for instance own/run-v0"
        )
    target = Path(minari.storage.get_dataset_path(dataset_id))
    if target.exists() and not replace_existing:
        raise DataError(
            f"dataset {dataset_id} exists already in {target}; choose another id, or replace it"
        )
    env = gym.make(environment) if environment else None
    action_space: gym.spaces.Box = gym.spaces.Box(-1, 1, dataset.actions.shape[1:])
    if env:
        action_space = box_of(env.action_space, f"{environment}: action space")
        if action_space.shape != dataset.actions.shape[1:]:
            raise DataError(
                f"{dataset.name}: actions has shape {tuple(dataset.actions.shape)}, but "
                f"{environment} takes {action_space.shape}; name the one that was recorded"
            )
    added: dict[str, Any] = {}
    if reference_scores:
        low, high = (float(score) for score in reference_scores)
        added = {"ref_min_score": low, "ref_max_score": high}
    try:
        root = minari.storage.get_dataset_path()  # and makes that folder
        with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as partial:
            with datasets_folder(partial), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Minari asks for author and code link
                minari.create_dataset_from_buffers(
                    dataset_id=dataset_id,
                    buffer=_buffers(dataset.to("cpu"), action_space),
                    env=env,
                    observation_space=gym.spaces.Box(
                        -np.inf, np.inf, dataset.observations.shape[1:], np.float32
                    ),
                    action_space=action_space,
                    algorithm_name=algorithm,
                    description=description,
                )
            folder = Path(partial) / dataset_id / "data"
            _compress(folder / MAIN_FILE)
            size = sum(file.stat().st_size for file in folder.iterdir())
            _add_metadata(folder, dataset_size=round(size / 1e6, 1), **added)
            _check_copy(folder, dataset)
            put_in_place(folder.parent, target)
    except OSError as error:
        raise OSError(
            f"{target}: cannot be written ({one_line(error)}); nothing changed"
        ) from error
    return target


def _buffers(host: OfflineDataset, action_space: gym.spaces.Box) -> list[EpisodeBuffer]:
    """The episodes as Minari takes them, actions in the bounds of `action_space`."""
    actions = from_unit_range(host.actions.numpy(), action_space)
    any_imagined = bool(host.imagined.any())
    buffers = []
    for start, length in zip(host.starts.tolist(), host.lengths.tolist(), strict=True):
        rows = slice(start, start + length)
        last = host.next_observations[start + length - 1 : start + length]
        buffers.append(
            EpisodeBuffer(
                observations=torch.cat([host.observations[rows], last]).numpy(),
                actions=actions[rows],
                rewards=host.rewards[rows].numpy(),
                terminations=host.terminated[rows].numpy(),
                truncations=host.truncated[rows].numpy(),
                infos={"imagined": host.imagined[rows].numpy()} if any_imagined else None,
            )
        )
    return buffers


def _check_copy(folder: Path, dataset: OfflineDataset) -> None:
    """Read what was written, before it takes the place of anything.

    Raises:
        DataError: it is not what went in.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = load_minari(folder)
    if not torch.equal(stored.lengths, dataset.lengths.cpu()):
        raise DataError(
            f"{dataset.name}: {len(dataset)} transitions went in, {len(stored)} came out; try again"
        )


def put_in_place(new: Path, target: Path) -> None:
    """Move a finished dataset to `target`; one that is there goes where the new one came from.

    Two renames: a removal that is stopped halfway would leave half of the old files.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    old = new.with_name(f"{new.name}.old")
    try:
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise


def _compress(file: Path) -> None:
    """Write Minari's HDF5 file again, half as large: the same groups, attributes and numbers, every
    array as one chunk under shuffle and gzip, in the format of HDF5 1.10 (whose index of chunks
    takes bytes where the older one takes kilobytes)."""
    small = file.with_name(f"{file.name}.small")
    versions = ("v110", "v110")
    with h5py.File(file) as old, h5py.File(small, "w", libver=versions, track_order=True) as new:
        _copy_compressed(old, new)
    os.replace(small, file)


def _copy_compressed(old: h5py.Group, new: h5py.Group) -> None:
    new.attrs.update(old.attrs)
    for name, item in old.items():
        if isinstance(item, h5py.Group):
            _copy_compressed(item, new.create_group(name, track_order=True))
        else:
            array = new.create_dataset(
                name,
                data=item[()],
                chunks=item.shape,
                maxshape=item.maxshape,
                compression="gzip",
                shuffle=True,
            )
            array.attrs.update(item.attrs)


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
