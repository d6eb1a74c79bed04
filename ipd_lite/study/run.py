"""One run: a method on a task with a seed, trained, evaluated, and kept in a folder of its own.

Files in `runs/<task>/<method>/seed-<n>/`: config.json, log.csv, scores.csv ("last" and "best"
rows), episodes.csv, record.json, and policy.safetensors: the stage that acts (of IQL all values; a
planner has none).
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ipd_lite.files import write_csv, write_json
from ipd_lite.paper.acting import Actor
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.values import diagnose
from ipd_lite.settings import Config, as_dict, from_dict
from ipd_lite.study.methods import get_method
from ipd_lite.study.names import label_of, read_scores
from ipd_lite.study.pipeline import FORMAT, Pipeline, choose_device
from ipd_lite.study.storage import Stage, exclusive, peak_memory, provenance, reset_peak_memory
from ipd_lite.tasks.own_data import open_task
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.rollout import Rollouts, rollout
from ipd_lite.tasks.task import Task


def run_folder(out: Path, task: str, label: str, seed: int) -> Path:
    """Where a run's files lie."""
    return out / task / label / f"seed-{seed}"


def run(
    task: str | Task,
    method_name: str,
    seed: int,
    config: Config,
    *,
    out: Path,
    variant: str = "",
    device: str = "auto",
    progress: bool = False,
    data: OfflineDataset | None = None,
) -> pd.DataFrame:
    """Train what is missing, evaluate, and return the rows of scores.csv.

    Files in `out/<task>/<method>/seed-<n>/`: config.json, scores.csv ("last" and "best" rows),
    episodes.csv (every episode of every checkpoint), record.json (everything about the unit). Two
    processes that want the same run take turns, and the second finds it done.

    Args:
        variant: name of changed fields, for a folder of its own: `<method>@<variant>`.
        task: a registered name, or a task such as `own_data.open_task` makes. Where it has no
            environment, the method is trained, a warning says why there are no scores, and the
            returned frame is empty.

    Raises:
        ValueError: the folder holds a run with another configuration.
    """
    if isinstance(task, str):
        task = get_task(task)
    method = get_method(method_name)
    config = method.configure(config)
    check(config)
    where = choose_device(device)
    folder = run_folder(out, task.name, label_of(method_name, variant), seed)
    pipeline = Pipeline(task, seed, config, out, where, progress, data)
    identity = {
        "task": task.name,
        "method": method_name,
        "variant": variant,
        "seed": seed,
        "config": as_dict(config),
        "dataset": pipeline.fingerprint,
        "environment": task.environment,
        "format": FORMAT,
    }
    if task.opened:
        identity["opened"] = dict(task.opened)
    with exclusive(folder):
        if (folder / "scores.csv").exists():
            if same_run(folder, identity):
                return read_scores(folder / "scores.csv")
            raise ValueError(
                f"{folder} holds a run with another configuration or other data; "
                "choose another --out, or delete that folder"
            )
        begun = time.perf_counter()
        write_json(folder / "config.json", {**identity, **provenance()})
        actors = method.evaluate(pipeline)
        started = time.perf_counter()
        reset_peak_memory()
        rollouts = [] if actors and not task.environment else _rollouts(pipeline, actors)
        pipeline.seconds["evaluation"] = round(time.perf_counter() - started, 3)
        pipeline.memory["evaluation"] = peak_memory()
        if pipeline.used:
            write_csv(folder / "log.csv", _logs(pipeline.used))
            if (acting := pipeline.used[-1]).name != "world-model":  # a planner has no policy
                shutil.copyfile(acting.result, folder / "policy.safetensors")
        scores = pd.DataFrame()
        if rollouts:
            write_csv(folder / "episodes.csv", _episode_rows(rollouts))
            scores = _score_rows(identity, task, rollouts, sum(pipeline.seconds.values()))
        record = {**identity, **provenance(), **_record(pipeline, scores, rollouts)}
        record["unit_seconds"] = round(time.perf_counter() - begun, 3)
        write_json(folder / "record.json", record)
        if not rollouts:
            warnings.warn(
                f"{task.name}: trained, but not evaluated: {task.no_environment}", stacklevel=2
            )
            return scores
        write_csv(folder / "scores.csv", scores)
        return read_scores(folder / "scores.csv")


def same_run(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the folder's run has this identity (its entries alone are compared).

    Fields that did not exist yet when it ran count as having their defaults.
    """
    found = {"variant": "", **json.loads((folder / "config.json").read_text())}
    found["config"] = as_dict(from_dict(Config, found["config"]))
    wanted = json.loads(json.dumps(dict(identity)))
    return all(found.get(name) == value for name, value in wanted.items())


def evaluate_again(
    folder: Path, episodes: int, *, device: str = "auto", progress: bool = False
) -> pd.DataFrame:
    """Roll a finished run's checkpoints out again; nothing is trained, nothing is overwritten.

    Raises:
        FileNotFoundError: the folder holds no finished run.
    """
    if not (folder / "scores.csv").exists():
        raise FileNotFoundError(
            f"{folder} holds no finished run; expected config.json and scores.csv, "
            "as `ipd-lite run` leaves them in runs/TASK/METHOD/seed-N"
        )
    identity = json.loads((folder / "config.json").read_text())
    pipeline = reopen(folder, device=device, progress=progress)
    config = pipeline.config
    pipeline.config = replace(config, evaluation=replace(config.evaluation, episodes=episodes))
    task, method = pipeline.task, get_method(identity["method"])
    rollouts = _rollouts(pipeline, method.evaluate(pipeline))
    return _score_rows(identity, task, rollouts, sum(pipeline.seconds.values()))


def task_of(identity: Mapping[str, Any]) -> Task:
    """The task of a run's config.json, with the data that the run used."""
    return open_task(**identity.get("opened", {"task": identity["task"]}))


def reopen(folder: Path, *, device: str = "auto", progress: bool = False) -> Pipeline:
    """The stages of a run from its folder, as they were trained; nothing is trained anew."""
    identity = json.loads((folder / "config.json").read_text())
    config: Config = from_dict(Config, identity["config"])
    task = task_of(identity)
    where = choose_device(device)
    return Pipeline(
        task, identity["seed"], config, folder.parents[2], where, progress, read_only=True
    )


def recorded_episodes(data: OfflineDataset) -> Rollouts:
    """The data's own episodes in place of rollouts (nothing is known of their success)."""
    returns = data.episode_returns.cpu().numpy().astype(np.float64)
    return Rollouts(returns, data.lengths.cpu().numpy(), np.full(len(returns), np.nan))


def _rollouts(pipeline: Pipeline, actors: Sequence[Actor]) -> list[Rollouts]:
    """Every checkpoint in the environment; without one, the recorded episodes."""
    if not actors:
        return [recorded_episodes(pipeline.recorded)]
    return [
        rollout(
            pipeline.task, actor, pipeline.config.evaluation,
            device=pipeline.device, progress=pipeline.progress,
        )
        for actor in actors
    ]  # fmt: skip


def check(config: Config) -> None:
    """Rules between stages.

    Raises:
        ValueError: the planner's candidates cannot be split evenly over the elites.
    """
    candidates, elites = config.planner.candidates, config.world_model.elites
    if candidates % elites:
        raise ValueError(
            f"planner.candidates = {candidates} must be a multiple of world_model.elites = {elites}"
        )


def _logs(stages: Sequence[Stage]) -> pd.DataFrame:
    """The training logs of all stages that a run used, one after the other."""
    parts = [
        pd.read_csv(stage.log).assign(stage=stage.name) for stage in stages if stage.log.exists()
    ]
    return pd.concat(parts) if parts else pd.DataFrame(columns=["stage", "step"])


def _record(pipeline: Pipeline, scores: pd.DataFrame, rollouts: list[Rollouts]) -> dict[str, Any]:
    """Scores, per-episode returns, seconds and memory per stage, diagnostics of the stages."""
    used = set(pipeline.seconds)
    record: dict[str, Any] = {
        "seconds": pipeline.seconds,
        "device": str(pipeline.device),
        "horizon": pipeline.config.planner.horizon,
    }
    if rollouts:
        best = int(np.argmax([r.returns.mean() for r in rollouts]))
        record["scores"] = dict(zip(scores["checkpoint"], scores["score"], strict=True))
        record["returns"] = {
            "last": rollouts[-1].returns.tolist(), "best": rollouts[best].returns.tolist()
        }  # fmt: skip
    if "values" in used:
        record["values"] = vars(diagnose(pipeline.values, pipeline.dataset, pipeline.discount))
    if "world-model" in used:
        record["world model"] = {
            "holdout error per member": pipeline.world_model.holdout_error.tolist(),
            "elites": pipeline.world_model.elites.tolist(),
        }
    if "imagination" in used:
        record["imagination"] = pipeline.bookkeeping
    record["stages"] = [stage.folder.name for stage in pipeline.used]
    record["memory"] = pipeline.memory
    return record


def _episode_rows(rollouts: list[Rollouts]) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "checkpoint": index + 1,
                "episode": np.arange(len(r.returns)),
                "return": r.returns,
                "steps": r.steps,
                "success": r.success,
            }
        )
        for index, r in enumerate(rollouts)
    ]
    return pd.concat(parts)


def _score_rows(
    identity: Mapping[str, Any], task: Task, rollouts: list[Rollouts], seconds: float
) -> pd.DataFrame:
    means = [float(r.returns.mean()) for r in rollouts]
    rows = []
    for label, index in (("last", len(means) - 1), ("best", int(np.argmax(means)))):
        success = rollouts[index].success
        rows.append(
            {
                "task": identity["task"],
                "method": identity["method"],
                "variant": identity.get("variant", ""),
                "seed": identity["seed"],
                "checkpoint": label,
                "episodes": len(rollouts[index].returns),
                "return_mean": round(means[index], 4),
                "score": round(float(task.normalized_score(means[index])), 3),
                "success": float("nan") if np.isnan(success).all() else float(np.nanmean(success)),
                "wall_seconds": round(seconds, 1),
            }
        )
    return pd.DataFrame(rows)
