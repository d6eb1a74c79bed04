"""A short recording of the smallest maze, made once and stored where its task looks for it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.settings import Config
from ipd_lite.tasks.collect import collect
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import get_task

TASK = "pointmaze-umaze"


@lru_cache
def umaze_data() -> OfflineDataset:
    """Recorded into the session's datasets: not for tests with a folder of their own."""
    task = get_task(TASK)
    assert task.recipe is not None
    collect(replace(task, recipe=replace(task.recipe, decisions=1_500)), progress=False)
    return load_task(task)


def smoke() -> Config:
    """The smallest configuration of that task."""
    return get_task(TASK).config("smoke")
