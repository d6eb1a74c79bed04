"""A task's dataset, from Minari's folder onto a device."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch

from ipd_lite.data.minari_files import load_minari, local_path, missing
from ipd_lite.paper.dataset import DataError, OfflineDataset
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
    metadata = local_path(task.dataset) / "metadata.json"
    written = metadata.stat().st_mtime_ns if metadata.exists() else 0
    return _load_once(task.dataset, str(device), str(metadata), written)


@lru_cache(maxsize=4)
def _load_once(dataset: str, device: str, metadata: str, written: int) -> OfflineDataset:
    """A sweep in one process reads each dataset once; `written` notices when it is made again."""
    return load_minari(dataset, device)
