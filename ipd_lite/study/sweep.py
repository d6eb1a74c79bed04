"""`ipd-lite sweep`: tasks x methods x seeds x overrides, in slices, over many sittings.

A *unit* is one :func:`run`. It is done when its scores.csv exists, so a sweep that is killed loses
at most the units in flight, and those continue from their stages' last checkpoints. Stages that
several units need are trained once: units of one task and seed are started one after the other
while other tasks and seeds fill the other workers, and should two of them still meet, the stage's
lock lets the second wait for the first.

How many run side by side, and where, is joblib's to say: `with joblib.parallel_config(...)`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from joblib import Parallel, delayed, effective_n_jobs
from tqdm import tqdm

from ipd_lite.files import write_json
from ipd_lite.paper.dataset import DataError
from ipd_lite.study.names import Damaged, read_json
from ipd_lite.study.run import run
from ipd_lite.study.spec import Unit
from ipd_lite.study.storage import in_use
from ipd_lite.tasks.collect import collect_missing
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import get_task


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
    threads: int = 0,
    progress: bool = True,
    task_done: Callable[[str], None] = lambda task: None,
) -> list[str]:
    """Run what is not done yet; a failure stops nothing else.

    Args:
        threads: CPU threads of each process (0 = this machine's cores divided by the workers).
        task_done: called with a task's name when no unit of it is left to run.

    Returns:
        one line for every unit that failed.
    """
    for name in dict.fromkeys(unit.task for unit in units if not unit.dataset):
        collect_missing(get_task(name), progress)
    states = [_state(unit, out) for unit in units]
    states = _with_other_data(units, states, out)
    failed = [f"{unit}: {text}" for unit, (_, text) in zip(units, states, strict=True) if text]
    waiting = [unit for unit, state in zip(units, states, strict=True) if state == ("to do", "")]
    workers = effective_n_jobs(None)
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    left = [unit.task for unit in waiting]
    earlier = dict.fromkeys(unit.task for unit in units if unit.task not in left)
    attempts = _attempts(interleave(waiting, workers), (out, device, threads))
    bar = tqdm(
        attempts,
        initial=len(units) - len(waiting),
        total=len(units),
        desc="sweep",
        unit="unit",
        disable=not progress,
        smoothing=0.1,
    )
    for unit, problem in bar:
        if problem:
            failed.append(f"{unit}: {problem}")
            bar.set_postfix(failed=len(failed))
        left.remove(unit.task)
        if unit.task not in left:
            task_done(unit.task)
    for name in earlier:  # finished by another call, perhaps killed before it wrote the results
        task_done(name)
    return failed


Attempts = Iterator[tuple[Unit, str]]


def _attempts(units: Sequence[Unit], where: tuple[Path, str, int]) -> Attempts:
    """Every unit with what went wrong, as they finish.

    When a worker's process dies, joblib ends them all: whoever was running is tried again, each
    alone, so that the one that kills its process costs no other.
    """
    sent: list[Unit] = []

    def jobs() -> Iterator[Any]:
        for unit in units:
            sent.append(unit)
            yield delayed(_attempt)(len(sent) - 1, unit, *where)

    running = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
    returned = set()
    try:
        for index, problem in running(jobs()):
            returned.add(index)
            yield sent[index], problem
    except Exception:  # whatever a backend raises when its workers are gone
        if not sent:
            raise
        for index, unit in enumerate(list(sent)):
            if index not in returned:
                yield unit, _alone(unit, *where)
        yield from _attempts(units[len(sent) :], where)


def _alone(unit: Unit, out: Path, device: str, threads: int) -> str:
    """What went wrong with the one unit in a process of its own."""
    try:
        # Two workers for one job: with a single one it would run in this very process.
        ((_, problem),) = Parallel(n_jobs=2)([delayed(_attempt)(0, unit, out, device, threads)])
    except Exception as error:
        problem = f"its process was killed, often for want of memory ({type(error).__name__})"
        _note(unit, out, problem)
    return problem


_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with `count` threads; a single worker is the caller's own process, so undo it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _attempt(index: int, unit: Unit, out: Path, device: str, threads: int) -> tuple[int, str]:
    """Run one unit in a worker; what went wrong, or nothing."""
    # A Dask worker may have several threads; environments and random numbers are one per process.
    with _one_at_a_time, _threads(threads):
        try:
            task = unit.open()
            scores = run(
                task,
                unit.method,
                unit.seed,
                unit.config,
                out=out,
                user=unit.changes,
                variant=unit.variant,
                device=device,
            )
        except Exception as error:  # one failed unit must not stop a study of days
            text = f"{type(error).__name__}: {error}"
            _note(unit, out, text, traceback.format_exc())
            return index, text
        (unit.folder(out) / "error.json").unlink(missing_ok=True)
        return index, "" if len(scores) else f"trained, not evaluated: {task.no_environment}"


def _note(unit: Unit, out: Path, text: str, trace: str = "") -> None:
    details = {"error": text, "traceback": trace, "time": time.time()}
    write_json(unit.folder(out) / "error.json", details)


def _state(unit: Unit, out: Path) -> tuple[str, str]:
    """ "done" or "to do"; or "failed" with the reason, where one of its files is damaged."""
    try:
        return ("done" if unit.done(out) else "to do"), ""
    except Damaged as error:
        return "failed", str(error)


def _with_other_data(
    units: Sequence[Unit], states: Sequence[tuple[str, str]], out: Path
) -> list[tuple[str, str]]:
    """The states, "failed" where a finished unit was trained on data that is no longer there."""
    present: dict[tuple[str, str], str] = {}
    found = []
    for unit, state in zip(units, states, strict=True):
        if state[0] == "done":
            used = read_json(unit.folder(out) / "config.json")["dataset"]
            source = (unit.task, unit.dataset)
            if source not in present:
                present[source] = ""
                with contextlib.suppress(DataError):  # finished where the data is
                    present[source] = load_task(unit.open()).fingerprint()
            if present[source] and used != present[source]:
                why = f"{unit.folder(out)} was trained on other data; choose another --out"
                state = ("failed", why)
        found.append(state)
    return found


def status(units: Sequence[Unit], out: Path) -> pd.DataFrame:
    """Per unit: task, method (with variant), seed, state, seconds (done) and error (failed).

    State: "done", "running" (a living process holds its lock), "failed" or "to do".
    """
    rows = []
    for unit in units:
        folder = unit.folder(out)
        state, error = _state(unit, out)
        seconds = float("nan")
        if state == "done":
            record = read_json(folder / "record.json")
            seconds = record.get("unit_seconds", sum(record["seconds"].values()))
        elif state == "to do" and in_use(folder):
            state = "running"
        elif state == "to do" and (folder / "error.json").exists():
            state, error = "failed", _reason(folder / "error.json")
        rows.append(
            {
                "task": unit.task,
                "method": unit.label,
                "seed": unit.seed,
                "state": state,
                "seconds": seconds,
                "error": error,
            }
        )
    return pd.DataFrame(rows)


def _reason(file: Path) -> str:
    try:
        return str(read_json(file).get("error", "for an unknown reason"))
    except Damaged as error:
        return f"{error}; the next sweep tries it again"


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
