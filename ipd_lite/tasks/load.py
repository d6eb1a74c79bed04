"""A task's dataset, from Minari's folder onto a device."""

from __future__ import annotations

import difflib
import re
import warnings
from functools import lru_cache
from pathlib import Path

import minari
import numpy as np
import torch
from gymnasium.spaces import Box

from ipd_lite.data.minari_files import load_with_bounds, local_path, one_name, spaces_of
from ipd_lite.paper.dataset import DataError, OfflineDataset
from ipd_lite.tasks.registry import TASKS, size
from ipd_lite.tasks.task import Task


def load_task(task: Task, device: torch.device | str = "cpu") -> OfflineDataset:
    """The task's dataset on `device`.

    Raises:
        DataError: it is not on this machine; the message says how to get it.
    """
    if not local_path(task.dataset).is_dir():
        raise DataError(missing(task))
    if task.warning:
        warnings.warn(f"{task.dataset}: {task.warning}", stacklevel=2)
    return load_once(task.dataset, str(device), task.actions)[0]


def load_once(
    dataset: str, device: str = "cpu", actions: Box | None = None
) -> tuple[OfflineDataset, Box]:
    """A dataset and its action bounds; one process reads the same files once."""
    metadata = local_path(dataset) / "metadata.json"
    written = metadata.stat().st_mtime_ns if metadata.exists() else 0
    space = None
    if actions is not None and actions != spaces_of(dataset)[1]:
        space = (*actions.low.tolist(), *actions.high.tolist(), str(actions.dtype))
    return _load_once(dataset, device, str(metadata), written, space)


@lru_cache(maxsize=4)
def _load_once(
    dataset: str, device: str, metadata: str, written: int, space: tuple[float | str, ...] | None
) -> tuple[OfflineDataset, Box]:
    """`written` notices when the files are made again, `metadata` other files of the same id."""
    if space is None:
        return load_with_bounds(dataset, device)
    kind = np.dtype(str(space[-1]))
    low, high = np.array(space[:-1], dtype=kind).reshape(2, -1)
    return load_with_bounds(dataset, device, Box(low, high, dtype=kind.type))


def missing(task: Task) -> str:
    """One line: what is not here, how large it is, how to get it, what works without it."""
    text = f"{task.dataset} is not on this machine"
    if not task.command:
        return f"{text}; check the path"
    large = size(task) + (f", about {task.steps:,} steps" if task.steps else "")
    text += f" ({large}); use `{task.command}`"
    return text if task.recipe else f"{text}, or `--task {task.alternative}` without a download"


def find(dataset: str) -> str:
    """The one name of a dataset on this machine, whatever its spelling.

    Raises:
        DataError: it is not here; the message says what was meant, or how to get it.
    """
    if not dataset.strip():
        raise DataError(f"dataset = {dataset!r}: expected an id or a path (an unset variable?)")
    if local_path(dataset).is_dir():
        return one_name(dataset)
    for task in TASKS.values():
        if dataset == task.dataset:
            raise DataError(missing(task))
    if dataset in TASKS:
        raise DataError(f"{dataset} is a task, not a dataset: use `--task {dataset}`")
    if Path(dataset).is_file():
        raise DataError(
            f"{dataset} is a file, expected the id or the folder of a Minari dataset; `ipd-lite "
            "import-d4rl FILE --task TASK` reads D4RL's files"
        )
    root = Path(minari.storage.get_dataset_path())
    here = [
        one_name(f.parent)
        for d in ("*", "*/*", "*/*/*")
        for f in root.glob(f"{d}/data/metadata.json")
    ]
    near = difflib.get_close_matches(dataset, here, n=1)
    remedy = f"did you mean {near[0]}?" if near else "check the path"
    if not near and re.fullmatch(r"\w[\w/-]*-v\d+", dataset):
        remedy = f"is it a path from another folder? If it is an id: `minari download {dataset}`"
    raise DataError(f"dataset {dataset} is not on this machine (nor in {root}); {remedy}")
