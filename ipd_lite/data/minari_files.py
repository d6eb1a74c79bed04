"""Datasets on this machine: Minari's files in and out, checked on the way.

Minari stores T + 1 observations per episode and says at its last step whether the task terminated
or the recording was truncated. Nothing is silently repaired: what cannot be used is refused with a
message that names dataset, episode, field and remedy.
"""

from __future__ import annotations

import contextlib
import itertools
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
from minari.dataset.minari_dataset import MinariDataset

from ipd_lite.data.episodes import Episode, check_type, from_episodes, one_line
from ipd_lite.data.spaces import box_of, check_shape, flatten_rows, from_unit_range, to_unit_range
from ipd_lite.paper.dataset import DataError, OfflineDataset
from ipd_lite.tasks.registry import TASKS, size
from ipd_lite.tasks.task import Task

MAIN_FILE = "main_data.hdf5"
"""Where Minari keeps a dataset's arrays."""


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
    read_metadata(dataset)
    try:
        stored = MinariDataset(str(path))
        action_space = box_of(stored.action_space, f"{dataset}: action space")
        if action_space.dtype is not None and action_space.dtype.kind != "f":
            raise DataError(
                f"{dataset}: action space is {action_space}, expected real numbers; discrete "
                "actions are not supported"
            )
        _check_space(stored.observation_space, f"{dataset}: observation space")
        if (file := path / MAIN_FILE).exists():
            h5py.File(file).close()  # damage to the file as a whole belongs to no episode
    except DataError:
        raise
    except Exception as error:  # whatever HDF5, JSON and Minari make of a damaged file
        raise _unreadable(str(dataset), error) from error
    episodes: list[Episode] = []
    types: dict[str, np.dtype[Any]] = {}
    for where, episode in _stored_episodes(stored, str(dataset)):
        found = _types(episode)
        for field, kind in found.items():
            check_type(kind, types.setdefault(field, kind), f"{where}: {field}")
        try:
            episodes.append(_read_episode(episode, stored.observation_space, action_space, where))
        except DataError:
            raise
        except Exception as error:
            raise _unreadable(where, error) from error
    data = from_episodes(episodes, str(dataset), device)
    if (data.episodes, len(data)) != (stored.total_episodes, stored.total_steps):
        raise DataError(
            f"{dataset}: holds {data.episodes} episodes and {len(data)} steps, its metadata says "
            f"{stored.total_episodes} and {stored.total_steps}; collect or download it again"
        )
    return data


def _unreadable(where: str, error: Exception) -> DataError:
    """The error for whatever HDF5, JSON and Minari make of a damaged file."""
    return DataError(
        f"{where}: cannot be read as a Minari dataset ({one_line(error)}); collect, copy or "
        "download it again"
    )


def read_metadata(dataset: str | os.PathLike[str]) -> dict[str, Any]:
    """What a Minari dataset says about itself; its id is the folder's name if it has none.

    Raises:
        DataError: there is no such dataset, or its metadata cannot be read.
    """
    folder = local_path(dataset).resolve()
    if not folder.is_dir():
        raise DataError(_not_here(dataset))
    try:
        found = json.loads((folder / "metadata.json").read_text())
        if not isinstance(found, dict):
            raise ValueError(f"metadata.json holds a {type(found).__name__}, expected a dictionary")
    except (OSError, ValueError) as error:
        raise _unreadable(str(dataset), error) from error
    name = folder.parent.name if folder.name == "data" else folder.name
    return {"dataset_id": name, **found}


def _not_here(dataset: str | os.PathLike[str]) -> str:
    """One line about a dataset that is not on this machine."""
    text = str(dataset)
    for task in TASKS.values():
        if text == task.dataset:
            return missing(task)
    if text in TASKS:
        return f"{text} is a task, not a dataset: use `--task {text}`"
    if Path(text).is_file():
        return (
            f"{text} is a file, expected the id or the folder of a Minari dataset; `ipd-lite "
            "import-d4rl FILE --task TASK` reads D4RL's files"
        )
    where = f"dataset {text} is not on this machine (looked in {local_path(dataset)})"
    if not re.fullmatch(r"\w[\w/.-]*-v\d+", text):
        return f"{where}; check the path"
    return (
        f"{where}; `minari download {text}` fetches it if Minari's server has it (its size is "
        "unknown here), `--task pointmaze-medium` needs no download"
    )


def _stored_episodes(stored: MinariDataset, name: str) -> Iterator[tuple[str, Any]]:
    """(place for messages, episode) of every stored episode.

    Raises:
        DataError: one cannot be read; the message says which.
    """
    episodes = stored.iterate_episodes()
    for number in itertools.count():
        where = f"{name}, episode {number}"
        try:
            episode = next(episodes, None)
        except Exception as error:
            raise _unreadable(where, error) from error
        if episode is None:
            return
        yield where, episode


def _types(episode: Any) -> dict[str, np.dtype[Any]]:
    """Number type of every array of a stored episode, those inside Dict observations included."""

    def inside(value: Any, name: str) -> Iterator[tuple[str, np.dtype[Any]]]:
        if isinstance(value, dict):
            for key, part in value.items():
                yield from inside(part, f"{name}[{key!r}]")
        else:
            yield name, np.asarray(value).dtype

    fields = ("observations", "actions", "rewards")
    return dict(pair for field in fields for pair in inside(getattr(episode, field), field))


def _check_space(space: gym.Space[Any], what: str) -> None:
    """Refuse observations that are not (Dicts of) vectors of numbers."""
    if isinstance(space, gym.spaces.Dict):
        for key in space:
            _check_space(space[key], f"{what}, {key!r}")
    else:
        box_of(space, what)


def _read_episode(
    stored: Any, observation_space: gym.Space[Any], action_space: gym.spaces.Box, where: str
) -> Episode:
    """One stored episode; it may say that it is over only at its last step."""
    infos = stored.infos or {}
    actions = np.asarray(stored.actions)
    steps = sorted([len(actions), len(stored.rewards), len(stored.terminations)])[1]
    # Rescaling by bounds of another width would repeat the numbers instead of failing.
    check_shape(actions, (steps, *action_space.shape), f"{where}: actions")
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
        observations=flatten_rows(
            stored.observations, observation_space, steps + 1, f"{where}: observations"
        ),
        actions=to_unit_range(actions, action_space),
        rewards=np.asarray(stored.rewards),
        terminated=bool(stored.terminations[-1]) if steps else False,
        imagined=np.asarray(infos["imagined"][:steps], dtype=bool) if "imagined" in infos else None,
    )


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

    Atomic: the files are written beside their place and then renamed. Compressed: the same data
    gives the same bytes.

    Args:
        environment: id with which Gymnasium makes the environment; its action bounds are the unit
            in which the actions, here in [-1, 1], are stored.
        reference_scores: returns that score 0 and 100; they need no environment.

    Raises:
        DataError: the id exists already (unless `replace_existing`), or the environment's actions
            have another width.
    """
    target = Path(minari.storage.get_dataset_path(dataset_id))
    if target.exists() and not replace_existing:
        raise DataError(f"dataset {dataset_id} exists already in {target}; choose another id")
    env = gym.make(environment) if environment else None
    box = gym.spaces.Box
    action_space: Any = box(-1, 1, dataset.actions.shape[1:])
    if env:
        action_space = box_of(env.action_space, f"{environment}: action space")
        if action_space.shape != dataset.actions.shape[1:]:
            raise DataError(
                f"{dataset.name}: actions has shape {tuple(dataset.actions.shape)}, but "
                f"{environment} takes {action_space.shape}"
            )
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
        folder = Path(partial) / dataset_id / "data"
        _compress(folder / MAIN_FILE)
        added = {"dataset_size": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e6, 1)}
        if reference_scores:
            added |= {"ref_min_score": reference_scores[0], "ref_max_score": reference_scores[1]}
        _add_metadata(folder, **added)
        put_in_place(folder.parent, target)
    return target


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
                name, data=item[()], chunks=item.shape, maxshape=item.maxshape,
                compression="gzip", shuffle=True,
            )  # fmt: skip
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


def missing(task: Task) -> str:
    """One line: what is not here, how large it is, how to get it, what works without it."""
    text = f"dataset {task.dataset} of task {task.name} is not on this machine"
    if not task.command:
        return f"{text}; check the path"
    large = size(task) + (f", about {task.steps:,} steps" if task.steps else "")
    text += f" ({large}); `{task.command}` gets it"
    return text if task.recipe else f"{text}; `--task {task.alternative}` needs no download"
