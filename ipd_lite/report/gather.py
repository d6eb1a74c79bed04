"""From the folders of finished runs to the result files that `ipd-lite figures` draws."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from ipd_lite.files import save_tensors, write_csv, write_json
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.report.catalogue import write_catalogue
from ipd_lite.report.inside import inside_arrays, inside_numbers
from ipd_lite.study.methods import METHODS
from ipd_lite.study.names import Damaged, read_json, read_scores, read_table, run_folder
from ipd_lite.study.run import reopen
from ipd_lite.study.spec import Unit
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.task import MazeRecipe, Task

BINS = 40
"""Of the histograms of returns."""
SHOWN = ("pointmaze-medium-slow", "ipd", 0)
"""Task, method and seed of the run that the figures look into."""
INSIDE_METHODS = ("ipd", "ipd-greedy", "ipd-random", "ipd-nogate")
"""Methods whose imagined plans are replayed in the simulator (mazes only)."""


def write_results(units: Sequence[Unit], out: Path, results: Path, *, device: str) -> list[Path]:
    """Write what `ipd-lite figures` draws, from the finished ones of these units.

    Per task: scores-<task>.csv (with the source of each run's data), costs-<task>.csv (seconds and
    memory per stage), and for mazes inside-<task>.csv (diagnostics and replayed plans of every
    seed). Rows of other runs stay as they are. Once: inside.safetensors, the arrays of the run that
    the figures show (`SHOWN`).
    """
    paths = []
    finished = readable(units, out)
    names = list(dict.fromkeys(unit.task for unit in finished))
    for name in names:
        own = [unit for unit in finished if unit.task == name]
        tables = {
            "scores": gather_scores(own, out),
            "costs": gather_costs(own, out),
            "inside": gather_inside(own, out, device),
        }
        for kind, table in tables.items():
            if len(table):
                paths.append(_merge(results / f"{kind}-{name}.csv", table))
    if names:
        paths.append(write_catalogue(results, names))
    if SHOWN in [(unit.task, unit.label, unit.seed) for unit in finished]:
        arrays = inside_arrays(reopen(run_folder(out, *SHOWN), device=device))
        save_tensors(results / "inside.safetensors", arrays)
        paths.append(results / "inside.safetensors")
    return paths


def write_survey(units: Sequence[Unit], out: Path, results: Path, *, device: str) -> list[Path]:
    """Write tasks.csv, the last checkpoints of the finished ones of these units with the source of
    the data, and returns.csv, what their tasks' data looks like. Rows of other tasks stay."""
    finished = readable(units, out)
    if not finished:
        return []
    scores = gather_scores(finished, out)
    scores = scores[scores["checkpoint"] == "last"].drop(columns="checkpoint")
    scores.insert(1, "source", scores.pop("source"))
    scores.insert(2, "environment", [get_task(name).environment for name in scores["task"]])
    histograms = []
    for task in {unit.task: unit.open() for unit in finished}.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the runs have said it already
            histograms.append(return_histogram(task, load_task(task)))
    path = results / "returns.csv"
    write_csv(path, with_earlier(path, pd.concat(histograms), ["task"]))
    return [_merge(results / "tasks.csv", scores), path]


def readable(units: Sequence[Unit], out: Path) -> list[Unit]:
    """Those that are finished and whole (the sweep has named the others)."""
    found = []
    for unit in units:
        with contextlib.suppress(Damaged):
            found += [unit] * unit.done(out)
    return found


def _merge(path: Path, table: pd.DataFrame) -> Path:
    write_csv(path, in_order(with_earlier(path, table)))
    return path


def gather_inside(units: Sequence[Unit], out: Path, device: str) -> pd.DataFrame:
    """Diagnostics and replayed plans of maze runs, a row per run that imagined something."""
    folders = [
        unit.folder(out)
        for unit in units
        if unit.label in INSIDE_METHODS and isinstance(get_task(unit.task).recipe, MazeRecipe)
    ]
    rows = Parallel()(delayed(_inside)(folder, device) for folder in folders)
    return pd.DataFrame([row for row in rows if row])


def _inside(folder: Path, device: str) -> dict[str, Any]:
    """One row of inside-<task>.csv, computed once per run and kept beside it."""
    torch.set_num_threads(1)
    file = folder / "inside.json"
    if not file.exists():
        pipeline = reopen(folder, device=device)
        if not len(pipeline.continuations):
            return {}
        method = read_json(folder / "config.json")["method"]
        write_json(file, {"method": method, **inside_numbers(pipeline)})
    return read_json(file)


def gather_costs(units: Sequence[Unit], out: Path) -> pd.DataFrame:
    """Seconds and peak memory (MB) per stage of every run: columns task, method, variant, seed,
    stage, seconds, process_mb, gpu_mb (NaN where unknown), device."""
    rows = []
    for unit in units:
        record = read_json(unit.folder(out) / "record.json")
        for stage, seconds in record["seconds"].items():
            memory = record.get("memory", {}).get(stage, {})
            rows.append(
                {
                    "task": unit.task,
                    "method": unit.method,
                    "variant": unit.variant,
                    "seed": unit.seed,
                    "stage": stage,
                    "seconds": seconds,
                    "process_mb": memory.get("process", float("nan")),
                    "gpu_mb": memory.get("gpu", float("nan")),
                    "device": record.get("device", ""),
                }
            )
    return pd.DataFrame(rows)


def gather_scores(units: Sequence[Unit], out: Path) -> pd.DataFrame:
    """All rows of the units' scores.csv with the source of their data, sorted by task, method (in
    the registry's order), seed."""
    tables = [
        read_scores(unit.folder(out) / "scores.csv").assign(source=unit.open().source)
        for unit in units
    ]
    return in_order(pd.concat(tables), ["checkpoint"])


def in_order(rows: pd.DataFrame, last: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of runs sorted by task, method (as in the registry), variant, seed, then `last`; rows
    that are equal in all of them keep their order."""
    order = {name: i for i, name in enumerate(METHODS)}
    key = rows["method"].map(lambda m: order.get(m, len(order)))
    ranks = [name for name in ("task", "_order", "variant", "seed") if name in [*rows, "_order"]]
    ordered = rows.assign(_order=key).sort_values([*ranks, *last], kind="stable")
    return ordered.drop(columns="_order").reset_index(drop=True)


def with_earlier(
    path: Path, rows: pd.DataFrame, keys: Sequence[str] = ("task", "method", "variant", "seed")
) -> pd.DataFrame:
    """`rows`, and those of the file `path` that `rows` has no counterpart of, first.

    A study is run in slices, on several machines even: a slice replaces its own rows only.
    """
    if not path.exists():
        return rows
    earlier = read_table(path, ()).fillna({"variant": ""})
    shared = [key for key in keys if key in rows and key in earlier]
    here = set(rows[shared].itertuples(index=False, name=None))
    kept = [row not in here for row in earlier[shared].itertuples(index=False, name=None)]
    if any(kept):
        print(f"{path}: kept {sum(kept)} rows of earlier runs", file=sys.stderr)
    return pd.concat([earlier[kept], rows], ignore_index=True) if any(kept) else rows


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
