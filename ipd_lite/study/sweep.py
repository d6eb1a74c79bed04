"""`ipd-lite sweep`: tasks x methods x seeds x overrides, in slices, over many sittings.

A *unit* is one `experiments.run`. It is done when its scores.csv exists, so a sweep that is killed
loses at most the units in flight, and those continue from their stages' last checkpoints. Stages
that several units need are trained once: units of one task and seed are started one after the
other while other tasks and seeds fill the other workers, and should two of them still meet, the
stage's lock lets the second wait for the first.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
import tomllib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from ipd_lite.files import write_json
from ipd_lite.settings import PRESETS, Config, as_dict, override
from ipd_lite.study.methods import get_method
from ipd_lite.study.names import label_of
from ipd_lite.study.pipeline import FORMAT
from ipd_lite.study.run import run, run_folder, same_run, task_of
from ipd_lite.study.storage import in_use
from ipd_lite.tasks.collect import collect_missing
from ipd_lite.tasks.own_data import check_fit, open_task
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.task import Task

SHOWN = ("pointmaze-medium-slow", "ipd", 0)
"""Task, method and seed of the run that the figures look into."""


@dataclass(frozen=True)
class Block:
    """One `[[runs]]` table of a spec: every task with every method and seed.

    overrides: config fields that differ from the preset, "stage.field" -> value; they need a
    `variant`, the name that folders and tables show behind the method. vary: fields with a list of
    values each; every combination is a variant of its own, named after its values.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    variant: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def variants(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, config changes) of every combination."""
        for values in itertools.product(*self.vary.values()):
            varied = dict(zip(self.vary, values, strict=True))
            parts = [self.variant] if self.variant else []
            parts += [f"{name.split('.')[-1]}={value}" for name, value in varied.items()]
            yield ",".join(parts), {**self.overrides, **varied}


@dataclass(frozen=True)
class Spec:
    """A whole study."""

    runs: tuple[Block, ...]
    preset: str = "lesson"


@dataclass(frozen=True)
class Unit:
    """One run.

    dataset: other data for the registered task, a Minari id or a folder's path; "" = its own.
    """

    task: str
    method: str
    seed: int
    config: Config
    variant: str = ""
    dataset: str = ""

    @property
    def label(self) -> str:
        """The method with its variant."""
        return label_of(self.method, self.variant)

    def __str__(self) -> str:
        return f"{self.task} {self.label} seed {self.seed}"

    def open(self) -> Task:
        """The task with this unit's data.

        Raises:
            DataError: the other data is not on this machine.
        """
        return open_task(self.task, self.dataset or None)

    def folder(self, out: Path) -> Path:
        """Where its files lie."""
        return run_folder(out, self.task, self.label, self.seed)

    def done(self, out: Path) -> bool:
        """Whether it has finished with this very configuration and data."""
        folder = self.folder(out)
        if not (folder / "scores.csv").exists():
            return False
        config = as_dict(get_method(self.method).configure(self.config))
        wanted: dict[str, Any] = {"config": config, "format": FORMAT}
        wanted["opened"] = dict(self.open().opened) if self.dataset else None
        return same_run(folder, wanted)


def read_spec(path: Path) -> Spec:
    """A spec from its TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, or a key is unknown or missing; the message names the place.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no spec file {path}; figures/study.toml is an example")
    try:
        content = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    known = [f.name for f in fields(Block)]
    blocks = []
    for number, table in enumerate(content.pop("runs", []), 1):
        unknown = sorted(set(table) - set(known))
        missing = [name for name in ("tasks", "methods", "seeds") if not table.get(name)]
        if unknown or missing:
            raise ValueError(
                f"{path}, [[runs]] number {number}: "
                + (f"unknown key {unknown[0]!r}, expected one of {', '.join(known)}" if unknown
                   else f"{missing[0]} is missing or empty")
            )  # fmt: skip
        lists = {name: tuple(table[name]) for name in ("tasks", "methods", "seeds")}
        vary = {name: tuple(values) for name, values in table.get("vary", {}).items()}
        blocks.append(Block(**{**table, **lists, "vary": vary}))
    chosen = content.pop("preset", "lesson")
    if content:
        raise ValueError(f"{path}: unknown key {min(content)!r}, expected preset or [[runs]]")
    if chosen not in PRESETS:
        raise ValueError(f"{path}: preset = {chosen!r}, expected one of {', '.join(PRESETS)}")
    if not blocks:
        raise ValueError(f"{path} has no [[runs]] table")
    return Spec(tuple(blocks), chosen)


def expand(
    spec: Spec,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    datasets: Mapping[str, str] | None = None,
) -> list[Unit]:
    """The units of a spec, or of a slice of it, each once; seed after seed, then task by task.

    Args:
        datasets: other data for some of the tasks, see :func:`other_data`.

    Raises:
        KeyError: an unknown task, method or config field.
        ValueError: overrides without a variant's name, data for a task that the spec does not
            have, or nothing is left of the slice.
    """
    datasets = datasets or {}
    named = dict.fromkeys(task for block in spec.runs for task in block.tasks)
    if strangers := [task for task in datasets if task not in named]:
        raise ValueError(
            f"--datasets names {strangers[0]}, but the spec has only {', '.join(named)}"
        )
    found: dict[tuple[str, str, int], Unit] = {}
    for block in spec.runs:
        if block.overrides and not block.variant:
            raise ValueError(
                f"overrides of {', '.join(block.overrides)} need a name: give the [[runs]] table a "
                "`variant`"
            )
        for seed, task, (variant, changes), method in itertools.product(
            block.seeds, block.tasks, list(block.variants()), block.methods
        ):
            wanted = ((task, tasks), (method, methods), (seed, seeds))
            get_method(method)
            config = override(get_task(task).config(spec.preset), changes)
            if all(not allowed or value in allowed for value, allowed in wanted):
                unit = Unit(task, method, seed, config, variant, datasets.get(task, ""))
                if found.setdefault((task, unit.label, seed), unit) != unit:
                    raise ValueError(
                        f"{unit} stands twice in the spec with different settings; give one of "
                        "them another variant"
                    )
    if not found:
        raise ValueError("no unit of the spec is in this slice; see --tasks, --methods, --seeds")
    order = {name: i for i, name in enumerate(named)}
    return sorted(found.values(), key=lambda unit: (unit.seed, order[unit.task]))


def other_data(pairs: Sequence[str]) -> dict[str, str]:
    """Task -> data in place of its own, from arguments of the form TASK=ID_OR_PATH.

    Raises:
        KeyError: an unknown task.
        ValueError: another form, or the same task twice.
        DataError: the data is not on this machine, or not of the task's widths.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        task, equals, dataset = pair.partition("=")
        if not (task and equals and dataset):
            raise ValueError(f"--datasets {pair!r}: expected TASK=ID_OR_PATH")
        if task in found:
            raise ValueError(f"--datasets names {task} twice")
        check_fit(open_task(task, dataset))  # a mistake is better known now than in every unit
        found[task] = dataset
    return found


def interleave(units: Sequence[Unit], workers: int) -> list[Unit]:
    """An order in which neighbours belong to different tasks or seeds, `workers` of them at a time.

    Whoever trains the values of one (task, seed) is then rarely waited for.
    """
    groups = [
        list(group) for _, group in itertools.groupby(units, lambda unit: (unit.task, unit.seed))
    ]
    result: list[Unit] = []
    for first in range(0, len(groups), workers):
        rounds = itertools.zip_longest(*groups[first : first + workers])
        result += [unit for one_round in rounds for unit in one_round if unit is not None]
    return result


def run_units(
    units: Sequence[Unit],
    *,
    out: Path,
    device: str = "auto",
    workers: int = 2,
    threads: int = 0,
    dask: str | None = None,
    progress: bool = True,
) -> list[str]:
    """Run what is not done yet; a failure stops nothing else.

    Args:
        threads: CPU threads of each process (0 = this machine's cores divided by `workers`).
        dask: address of a Dask scheduler instead of local processes. Its workers need one thread
            each (`dask worker --nthreads 1`), this package, and the same `out` and datasets.

    Returns:
        one line for every unit that failed.
    """
    for name in dict.fromkeys(unit.task for unit in units if not unit.dataset):
        collect_missing(get_task(name), progress)
    waiting = [unit for unit in units if not unit.done(out)]
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    failed: list[str] = []
    with _backend(workers, dask) as count:
        jobs = [delayed(_attempt)(u, out, device, threads) for u in interleave(waiting, count)]
        parallel = Parallel(n_jobs=count, return_as="generator_unordered", batch_size=1)
        bar = tqdm(
            parallel(jobs), initial=len(units) - len(waiting), total=len(units), desc="sweep",
            unit="unit", disable=not progress, smoothing=0.1,
        )  # fmt: skip
        for problem in bar:
            if problem:
                failed.append(problem)
                bar.set_postfix(failed=len(failed))
    return failed


@contextlib.contextmanager
def _backend(workers: int, dask: str | None) -> Iterator[int]:
    """joblib's own processes, or an existing Dask cluster; yields how many run side by side."""
    if dask is None:
        with parallel_config("loky"):
            yield max(1, workers)
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError('--dask needs Dask: pip install "ipd-lite[dask]"') from error
    with Client(dask, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        client.wait_for_workers(1, timeout=60)
        if set(client.nthreads().values()) != {1}:
            raise ValueError(
                "a Dask worker has several threads, but our environments and random numbers are "
                "one per process; start workers with --nthreads 1 (and several --nworkers)"
            )
        with parallel_config("dask", client=client):
            yield len(client.nthreads())


def _attempt(unit: Unit, out: Path, device: str, threads: int) -> str:
    """Run one unit in a worker; what went wrong, or nothing."""
    torch.set_num_threads(threads)
    problem = unit.folder(out) / "error.json"
    try:
        run(
            unit.open(), unit.method, unit.seed, unit.config,
            out=out, variant=unit.variant, device=device,
        )  # fmt: skip
    except Exception as error:  # one failed unit must not stop a study of days
        text = f"{type(error).__name__}: {error}"
        details = {"error": text, "traceback": traceback.format_exc(), "time": time.time()}
        write_json(problem, details)
        return f"{unit}: {text}"
    problem.unlink(missing_ok=True)
    return ""


def status(units: Sequence[Unit], out: Path) -> pd.DataFrame:
    """Per unit: task, method (with variant), seed, state, seconds (done) and error (failed).

    State: "done", "running" (a living process holds its lock), "failed" or "to do".
    """
    rows = []
    for unit in units:
        folder = unit.folder(out)
        row: dict[str, Any] = {"task": unit.task, "method": unit.label, "seed": unit.seed}
        row |= {"state": "to do", "seconds": float("nan"), "error": ""}
        if unit.done(out):
            row["state"] = "done"
            with contextlib.suppress(FileNotFoundError):
                record = json.loads((folder / "record.json").read_text())
                row["seconds"] = record.get("unit_seconds", sum(record["seconds"].values()))
        elif in_use(folder):
            row["state"] = "running"
        elif (folder / "error.json").exists():
            row["state"] = "failed"
            row["error"] = json.loads((folder / "error.json").read_text())["error"]
        rows.append(row)
    return pd.DataFrame(rows)


def seconds_left(found: pd.DataFrame, workers: int) -> float:
    """Expected wall seconds until everything is done; NaN before anything is.

    A unit takes as long as the finished ones of its task and method did on average, else of its
    method, else of all; a running one is taken to be half done.
    """
    done = found[found["state"] == "done"]
    if done["seconds"].notna().sum() == 0:
        return float("nan")
    by_both = done.groupby(["task", "method"])["seconds"].mean().to_dict()
    by_method = done.groupby("method")["seconds"].mean().to_dict()
    overall = float(done["seconds"].mean())
    total = 0.0
    for row in found[found["state"] != "done"].to_dict("records"):
        guess = by_both.get((row["task"], row["method"]), by_method.get(row["method"], overall))
        guess = overall if guess != guess else guess
        total += guess / 2 if row["state"] == "running" else guess
    return total / max(1, workers)


def format_status(found: pd.DataFrame, workers: int) -> str:
    """Counts per task and method, the errors, and the time left, as text."""
    states = ["done", "running", "failed", "to do"]
    counts = pd.crosstab([found["task"], found["method"]], found["state"])
    counts = counts.reindex(columns=states, fill_value=0)
    order = list(dict.fromkeys(zip(found["task"], found["method"], strict=True)))
    lines = [counts.loc[order].to_string(), ""]
    failures = found[found["state"] == "failed"]
    lines += [
        f"failed: {r.task} {r.method} seed {r.seed}: {r.error}" for r in failures.itertuples()
    ]
    total = ", ".join(f"{int((found['state'] == s).sum())} {s}" for s in states)
    left = seconds_left(found, workers)
    text = "unknown until a unit is done" if left != left else f"{_duration(left)}"
    return "\n".join([*lines, f"{total}; time left with {workers} workers: {text}"])


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def opened_task(out: Path, row: Mapping[Any, Any]) -> Task:
    """The task of one row of `gather_scores(out)`, with the data that the run used."""
    label = label_of(str(row["method"]), str(row["variant"]))
    file = run_folder(out, str(row["task"]), label, int(row["seed"])) / "config.json"
    return task_of(json.loads(file.read_text()))
