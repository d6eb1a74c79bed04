"""A first look at many tasks: a few methods on each, one table, and what their data looks like.

Every task whose data is on this machine gets the same treatment (one seed, the `lesson` preset), so
that the rows show that the pipeline works there and how long it takes. One seed shows no order
between methods; `ipd-lite sweep` does.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ipd_lite.data.minari_files import local_path
from ipd_lite.files import write_csv
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.report.gather import gather_scores, in_order, with_earlier
from ipd_lite.study.names import label_of
from ipd_lite.study.sweep import Unit, opened_task, other_data, run_units
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.own_data import open_task
from ipd_lite.tasks.registry import TASKS, get_task
from ipd_lite.tasks.task import Task

BINS = 40


def here() -> list[str]:
    """Names of all registered tasks whose data is on this machine."""
    return [name for name, task in TASKS.items() if local_path(task.dataset).is_dir()]


def survey(
    tasks: Sequence[str],
    datasets: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    preset: str,
    out: Path,
    results: Path,
    device: str = "auto",
    workers: int = 2,
    progress: bool = True,
) -> list[str]:
    """Run what is missing and write `results/tasks.csv` and `results/returns.csv`.

    Runs and stages that a study left below `out` are used, not repeated. Rows of other tasks stay.

    Args:
        tasks: registered names.
        datasets: other data for registered tasks, each as TASK=ID_OR_PATH.

    Returns:
        one line for every unit that failed.
    """
    others = other_data(datasets)
    names = dict.fromkeys([*tasks, *others])
    units = [
        Unit(name, method, seed, get_task(name).config(preset), dataset=others.get(name, ""))
        for seed in seeds for name in names for method in methods
    ]  # fmt: skip
    failed = run_units(units, out=out, device=device, workers=workers, threads=1, progress=progress)
    if len(failed) == len(units):
        return failed
    path = results / "tasks.csv"
    write_csv(path, in_order(with_earlier(path, survey_table(out, units))))
    histograms = []
    for name in names:
        task = open_task(name, others.get(name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the runs have said it already
            histograms.append(return_histogram(task, load_task(task)))
    path = results / "returns.csv"
    write_csv(path, with_earlier(path, pd.concat(histograms), ["task"]))
    return failed


def survey_table(out: Path, units: Sequence[Unit]) -> pd.DataFrame:
    """The last checkpoints of `units`, with the source of the data and the environment.

    Other runs below `out`, a study's for instance, are left out.
    """
    scores = gather_scores(out)
    scores = scores[scores["checkpoint"] == "last"].drop(columns="checkpoint")
    wanted = {(unit.task, unit.label, unit.seed) for unit in units}
    rows = []
    for row in scores.to_dict("records"):
        label = label_of(str(row["method"]), str(row["variant"]))
        if (row["task"], label, row["seed"]) not in wanted:
            continue
        task = opened_task(out, row)
        rows.append(
            {
                "task": row["task"],
                "source": task.source,
                "environment": task.environment,
                **{str(key): value for key, value in row.items() if key != "task"},
            }
        )
    return pd.DataFrame(rows)


def return_histogram(task: Task, data: OfflineDataset) -> pd.DataFrame:
    """Rows (task, source, transitions, mean, left, right, episodes): how many recorded episodes
    have an undiscounted return between `left` and `right`.

    Not normalized: many recordings are cut long before the time limit that a score assumes.
    """
    returns = data.episode_returns.cpu().numpy().astype(np.float64)
    counts, edges = np.histogram(returns, bins=BINS)
    return pd.DataFrame(
        {
            "task": task.name,
            "source": task.source,
            "transitions": len(data),
            "mean": round(float(returns.mean()), 2),
            "left": edges[:-1].round(3),
            "right": edges[1:].round(3),
            "episodes": counts,
        }
    )
