"""What runs are called, where their files lie, and how they are read again: whole, or refused by
name. Nothing here needs torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

SCORES = (
    "task",
    "method",
    "variant",
    "seed",
    "checkpoint",
    "episodes",
    "return_mean",
    "score",
    "success",
    "wall_seconds",
)
"""Columns of scores.csv."""


class Damaged(ValueError):
    """A file of a run is missing, empty, cut, or holds something else."""

    def __init__(self, file: Path, why: object, advice: str = "") -> None:
        super().__init__(f"{file} is damaged ({str(why).splitlines()[0]}){advice}")
        self.file, self.why = file, why


def label_of(method: str, variant: str = "") -> str:
    """How a method with changed fields is called in folders, tables and figures."""
    return f"{method}@{variant}" if variant else method


def run_folder(out: Path, task: str, label: str, seed: int) -> Path:
    """Where a run's files lie.

    Raises:
        ValueError: a name that would be a path of its own.
    """
    for name in (task, label):
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} cannot name a folder: expected a name without slashes")
    return out / task / label / f"seed-{seed}"


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a run's file.

    Raises:
        Damaged: there is none.
    """
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Damaged(file, error) from error
    if not isinstance(found, dict):
        raise Damaged(file, f"holds {type(found).__name__}, expected an object")
    return found


def read_table(file: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """The table in a run's CSV file, which has at least these columns.

    Raises:
        Damaged: it is empty, cut or another one.
    """
    try:
        if not file.read_bytes().endswith(b"\n"):
            raise ValueError("it does not end with a line")
        # As text: a column of empty cells would become NaN.
        table = pd.read_csv(file, dtype={"variant": str})
    except (OSError, ValueError) as error:
        raise Damaged(file, error) from error
    if missing := [name for name in columns if name not in table]:
        raise Damaged(file, f"column {missing[0]} is missing")
    return table


def read_scores(file: Path) -> pd.DataFrame:
    """A scores file, of one run or of many.

    Raises:
        Damaged: it is none.
    """
    return read_table(file, SCORES).fillna({"variant": ""})


@contextlib.contextmanager
def delete_and_run(folder: Path) -> Iterator[None]:
    """Say of every damaged file of a run what to do about it."""
    try:
        yield
    except Damaged as error:
        advice = f"; delete the folder {folder} and run again (trained stages are kept elsewhere)"
        raise Damaged(error.file, error.why, advice) from error


def read_run(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """config.json and scores.csv of a finished run, every file of it looked at.

    Raises:
        Damaged: one of its files is; the message says what to do.
    """
    with delete_and_run(folder):
        identity, record = read_json(folder / "config.json"), read_json(folder / "record.json")
        scores = read_scores(folder / "scores.csv")
        _agree(folder, identity, record, scores)
    return identity, scores


def _agree(
    folder: Path, identity: Mapping[str, Any], record: Mapping[str, Any], scores: pd.DataFrame
) -> None:
    if scores["checkpoint"].tolist() != ["last", "best"]:
        raise Damaged(folder / "scores.csv", "expected one row last and one row best")
    for name in ("task", "method", "variant", "seed", "config"):
        if name not in identity or record.get(name) != identity[name]:
            raise Damaged(folder / "config.json", f"its {name} is not that of record.json")
        if name != "config" and not (scores[name] == identity[name]).all():
            raise Damaged(folder / "scores.csv", f"its {name} is not that of config.json")
    for name in ("return_mean", "score", "episodes"):
        if scores[name].dtype.kind not in "fi":
            raise Damaged(folder / "scores.csv", f"{name} holds no numbers")
    if (scores["episodes"] < 1).any():
        raise Damaged(folder / "scores.csv", "episodes is less than 1")
    if "seconds" not in record:
        raise Damaged(folder / "record.json", "seconds is missing")
    episodes = read_table(folder / "episodes.csv", ("checkpoint", "episode", "return", "steps"))
    if len(episodes) == 0 or len(episodes) % int(scores["episodes"][0]):
        raise Damaged(folder / "episodes.csv", f"{len(episodes)} rows")
    if (folder / "log.csv").exists():
        read_table(folder / "log.csv", ("stage", "step"))
    if (policy := folder / "policy.safetensors").exists():
        try:
            with safe_open(str(policy), framework="numpy"):
                pass
        except Exception as error:  # safetensors has one class of its own for everything
            raise Damaged(policy, error) from error


def same(found: Mapping[str, Any], wanted: Mapping[str, Any], moved: bool = False) -> bool:
    """Whether `found`, read from JSON, has these entries (others are not looked at).

    `moved`: the data may have been opened from another place; its fingerprint decides, and of how
    the task was opened only the time limit counts.
    """
    entries = json.loads(json.dumps(dict(wanted)))
    if moved:
        limits = [(run.get("opened") or {}).get("horizon") for run in (found, entries)]
        entries.pop("opened", None)
        if limits[0] != limits[1]:
            return False
    return all(found.get(k) == v for k, v in entries.items())
