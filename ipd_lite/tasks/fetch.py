"""Data from elsewhere: Minari's server, and D4RL's own HDF5 files.

Everything is fetched and checked beside its place and moved there in one step: an interrupted
download or an offline machine leaves nothing half-written.

D4RL's files are one long log. An episode ends where `terminals` (the task ended) or `timeouts` (the
recording ended) says so. Some files do not mark every timeout: an episode also ends where the next
row does not begin with the observation that this row ended with. The last episode may be
unfinished; it is kept.
"""

from __future__ import annotations

import contextlib
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ipd_lite.data.episodes import from_arrays, one_line
from ipd_lite.data.minari_files import (
    datasets_folder,
    load_minari,
    local_path,
    put_in_place,
    save_minari,
)
from ipd_lite.paper.dataset import DataError, OfflineDataset
from ipd_lite.tasks.own_data import check_fit
from ipd_lite.tasks.registry import size
from ipd_lite.tasks.task import Task

D4RL_FIELDS = ("observations", "actions", "rewards", "next_observations", "terminals")


def download(task: Task, replace_existing: bool = False) -> OfflineDataset:
    """Fetch the task's dataset from Minari's server, check it, and put it in its place.

    Raises:
        DataError: it is not on the server, is here already, does not fit the task's environment,
            or the server cannot be reached; what was there before stays.
    """
    if not task.remote_dataset:
        how = task.command or "there is nothing to fetch"
        raise DataError(f"task {task.name} is not on Minari's server; use `{how}`")
    target = local_path(task.dataset).parent
    if target.exists() and not replace_existing:
        raise DataError(f"dataset {task.dataset} exists already; pass --replace to fetch it again")
    if task.warning:
        warnings.warn(f"{task.dataset}: {task.warning}", stacklevel=2)
    root = Path(minari.storage.get_dataset_path())
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as partial:
        try:
            with datasets_folder(partial):
                minari.download_dataset(task.remote_dataset)
                data = load_minari(task.remote_dataset)
            check_fit(task, data)
        except DataError:
            raise
        except Exception as error:  # every way in which a network can fail
            raise DataError(
                f"{task.remote_dataset} ({size(task)}) cannot be fetched "
                f"({one_line(error)}); is this machine online? Nothing was written. `--task "
                f"{task.alternative}` needs no download"
            ) from error
        put_in_place(Path(partial) / task.remote_dataset, target)
    return data


def import_d4rl(source: str, task: Task, replace_existing: bool = False) -> OfflineDataset:
    """Turn one of D4RL's v2 HDF5 files into the task's Minari dataset.

    Args:
        source: a path, or an address that starts with http://, https:// or file://.
        task: whose dataset id, environment and reference scores the file gets.

    Raises:
        DataError: the file cannot be fetched or read, lacks a field, holds bad numbers, or has
            observations or actions of another width than the task; what was there before stays.
    """
    if local_path(task.dataset).is_dir() and not replace_existing:
        raise DataError(f"dataset {task.dataset} exists already; pass --replace to import it again")
    with _local_file(source) as path:
        arrays = _read_d4rl(path, source)
    count = len(arrays["rewards"])
    data = from_arrays(
        arrays["observations"],
        arrays["actions"],
        arrays["rewards"],
        arrays["next_observations"],
        arrays["terminals"],
        arrays.get("timeouts"),
        name=source,
    )
    if len(data) != count:
        raise DataError(f"{source}: {count} transitions went in, {len(data)} came out")
    check_fit(task, data)
    save_minari(
        data,
        task.dataset,
        environment=task.environment,
        reference_scores=(task.reference_min, task.reference_max),
        algorithm="D4RL",
        description=f"{task.description}; imported from {Path(source).name}",
        replace_existing=replace_existing,
    )
    return data


def _read_d4rl(path: Path, source: str) -> dict[str, NDArray[Any]]:
    """The fields of one file that we use."""
    if not path.is_file():
        raise DataError(f"{source}: no such file; expected one of D4RL's HDF5 files")
    try:
        with h5py.File(path) as file:
            found = set(file)
            wanted = [name for name in (*D4RL_FIELDS, "timeouts") if name in found]
            arrays = {name: np.asarray(file[name]) for name in wanted}
    except Exception as error:  # h5py raises OSError, KeyError or RuntimeError on damage
        raise DataError(
            f"{source}: cannot be read as HDF5 ({one_line(error)}); fetch it again"
        ) from error
    for name in D4RL_FIELDS:
        if name not in arrays:
            raise DataError(
                f"{source}: has no {name}, expected in every v2 file of D4RL; it has "
                f"{', '.join(sorted(found)) or 'nothing'}"
            )
    return arrays


@contextlib.contextmanager
def _local_file(source: str) -> Iterator[Path]:
    """The file itself, or a temporary copy of what an address holds."""
    if not source.startswith(("http://", "https://", "file://")):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="ipd-lite-") as folder:
        path = Path(folder) / "download.hdf5"
        try:
            with urllib.request.urlopen(source, timeout=60) as answer, path.open("wb") as file:
                total = int(answer.headers.get("Content-Length") or 0)
                with tqdm(total=total or None, unit="B", unit_scale=True, desc="download") as bar:
                    while block := answer.read(1 << 20):
                        file.write(block)
                        bar.update(len(block))
        except OSError as error:
            raise DataError(
                f"{source}: cannot be fetched ({one_line(error)}); is this machine online? Nothing "
                "was written"
            ) from error
        if total and path.stat().st_size != total:
            raise DataError(
                f"{source}: the download broke off after {path.stat().st_size} of {total} bytes; "
                "nothing was written, try again"
            )
        yield path
