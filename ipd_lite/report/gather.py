"""report.gather."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from joblib import Parallel, delayed

from ipd_lite.files import save_tensors, write_csv, write_json
from ipd_lite.report.catalogue import write_catalogue
from ipd_lite.report.inside import inside_arrays, inside_numbers
from ipd_lite.study.methods import METHODS
from ipd_lite.study.names import read_scores
from ipd_lite.study.run import reopen, run_folder
from ipd_lite.study.sweep import SHOWN, Unit, opened_task
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.task import MazeRecipe

INSIDE_METHODS = ("ipd", "ipd-greedy", "ipd-random", "ipd-nogate")
"""Methods whose imagined plans are replayed in the simulator (mazes only)."""


def write_results(
    units: Sequence[Unit], out: Path, results: Path, *, workers: int = 2, device: str = "auto"
) -> list[Path]:
    """Write what `ipd-lite figures` draws, from every finished run of these units' tasks.

    Per task: scores-<task>.csv (with the source of each run's data), costs-<task>.csv (seconds and
    memory per stage), and for mazes inside-<task>.csv (diagnostics and replayed plans of every
    seed). Rows of runs that are not below `out` stay as they are. Once: inside.safetensors, the
    arrays of the run that the figures show (`SHOWN`).
    """
    names = list(dict.fromkeys(unit.task for unit in units))
    try:
        every = gather_scores(out)
    except FileNotFoundError:
        return []
    paths = []
    for name in names:
        scores = every[every["task"] == name]
        if scores.empty:
            continue
        sources = [opened_task(out, row).source for row in scores.to_dict("records")]
        scores = scores.assign(source=sources)
        tables = {"scores": scores, "costs": gather_costs(out, name)}
        if isinstance(get_task(name).recipe, MazeRecipe):
            folders = [
                run_folder(out, name, row["method"], row["seed"])
                for row in scores[scores["checkpoint"] == "last"].to_dict("records")
                if row["method"] in INSIDE_METHODS and not row["variant"]
            ]
            rows = Parallel(n_jobs=workers)(delayed(_inside)(f, device) for f in folders)
            tables["inside"] = pd.DataFrame([row for row in rows if row])
        for kind, table in tables.items():
            if not len(table):
                continue
            path = results / f"{kind}-{name}.csv"
            write_csv(path, in_order(with_earlier(path, table)))
            paths.append(path)
    paths.append(write_catalogue(results, names))
    if SHOWN[0] in names and (run_folder(out, *SHOWN) / "scores.csv").exists():
        arrays = inside_arrays(reopen(run_folder(out, *SHOWN), device=device))
        save_tensors(results / "inside.safetensors", arrays)
        paths.append(results / "inside.safetensors")
    return paths


def _inside(folder: Path, device: str) -> dict[str, Any]:
    """One row of inside-<task>.csv, computed once per run and kept beside it."""
    torch.set_num_threads(1)
    file = folder / "inside.json"
    if not file.exists():
        pipeline = reopen(folder, device=device)
        if not len(pipeline.continuations):
            return {}
        method = json.loads((folder / "config.json").read_text())["method"]
        write_json(file, {"method": method, **inside_numbers(pipeline)})
    row: dict[str, Any] = json.loads(file.read_text())
    return row


def gather_costs(out: Path, task: str) -> pd.DataFrame:
    """Seconds and peak memory (MB) per stage of every finished run: columns method, variant, seed,
    stage, seconds, process_mb, gpu_mb (NaN where unknown), device."""
    rows = []
    for file in sorted(out.glob(f"{task}/*/seed-*/record.json")):
        if not (file.parent / "scores.csv").exists():
            continue
        record = json.loads(file.read_text())
        identity = json.loads((file.parent / "config.json").read_text())
        for stage, seconds in record["seconds"].items():
            memory = record.get("memory", {}).get(stage, {})
            rows.append(
                {
                    "task": task,
                    "method": identity["method"],
                    "variant": identity.get("variant", ""),
                    "seed": identity["seed"],
                    "stage": stage,
                    "seconds": seconds,
                    "process_mb": memory.get("process", float("nan")),
                    "gpu_mb": memory.get("gpu", float("nan")),
                    "device": record.get("device", ""),
                }
            )
    return pd.DataFrame(rows)


def gather_scores(root: Path) -> pd.DataFrame:
    """All scores.csv rows below `root`, sorted by task, method (in the registry's order), seed.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(root.glob("*/*/seed-*/scores.csv"))
    if not files:
        raise FileNotFoundError(f"no scores below {root}; run `ipd-lite run` or `ipd-lite demo`")
    return in_order(pd.concat([read_scores(file) for file in files]), ["checkpoint"])


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
    earlier = read_scores(path) if "variant" in rows else pd.read_csv(path)
    shared = [key for key in keys if key in rows and key in earlier]
    here = set(rows[shared].itertuples(index=False, name=None))
    kept = [row not in here for row in earlier[shared].itertuples(index=False, name=None)]
    if any(kept):
        print(f"{path}: kept {sum(kept)} rows of earlier runs", file=sys.stderr)
    return pd.concat([earlier[kept], rows], ignore_index=True) if any(kept) else rows
