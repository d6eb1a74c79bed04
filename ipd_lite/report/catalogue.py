"""What the tables say of a task, written beside its results: figures need no registry."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ipd_lite.files import write_csv
from ipd_lite.tasks.registry import TASKS

FIELDS = ("dataset", "source", "environment", "score_definition")


def catalogue(names: Iterable[str]) -> pd.DataFrame:
    """What the registry says of those tasks that it has: columns task and :data:`FIELDS`."""
    known = [TASKS[name] for name in names if name in TASKS]
    rows = [{"task": t.name, **{field: getattr(t, field) for field in FIELDS}} for t in known]
    return pd.DataFrame(rows, columns=["task", *FIELDS])


def write_catalogue(results: Path, names: Iterable[str]) -> Path:
    """Write these tasks into `results/catalogue.csv`, in the registry's order.

    Others stay as they were when their results were made: a dataset may have a new version since.
    """
    path, rows = results / "catalogue.csv", catalogue(names)
    if path.exists():
        earlier = pd.read_csv(path)
        rows = pd.concat([earlier[~earlier["task"].isin(rows["task"])], rows])
    order = {name: place for place, name in enumerate(TASKS)}
    write_csv(path, rows.sort_values("task", key=lambda task: task.map(order), kind="stable"))
    return path
