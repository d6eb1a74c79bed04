"""One run: a method on a task with a seed, trained, evaluated, and kept in a folder of its own.

Files in `runs/<task>/<method>/seed-<n>/`: config.json, log.csv, scores.csv ("last" and "best"
rows), episodes.csv, record.json, and policy.safetensors: the stage that acts (of IQL all values; a
planner has none).
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ipd_lite.files import write_atomically, write_csv, write_json
from ipd_lite.paper.acting import Actor
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.values import diagnose, warn_if_values_do_not_fit
from ipd_lite.settings import (
    NOTHING,
    Config,
    as_dict,
    check_number,
    configuration,
    from_dict,
)
from ipd_lite.study.actors import actors
from ipd_lite.study.methods import get_method
from ipd_lite.study.names import (
    Damaged,
    delete_and_run,
    label_of,
    read_json,
    read_run,
    read_scores,
    read_table,
    run_folder,
    same,
)
from ipd_lite.study.pipeline import FORMAT, Pipeline, choose_device
from ipd_lite.study.storage import Stage, exclusive, peak_memory, provenance, reset_peak_memory
from ipd_lite.tasks.own_data import open_task
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.rollout import EnvironmentFault, Rollouts, rollout
from ipd_lite.tasks.task import Task


def configured(config: Config, method: str, user: Mapping[str, Any] = NOTHING) -> Config:
    """The configuration of a method on top of the preset and task in `config`.

    Raises:
        ValueError: the user set a field otherwise than the method needs it.
    """
    found = get_method(method)
    return configuration(
        config,
        method=found.overrides,
        user=user,
        needs=found.needs,
        borrowed=found.borrowed,
        amount=found.amount,
        name=method,
    )


def run(
    task: str | Task,
    method: str,
    seed: int,
    config: Config,
    *,
    out: Path,
    user: Mapping[str, Any] = NOTHING,
    variant: str = "",
    device: str = "auto",
    progress: bool = False,
    data: OfflineDataset | None = None,
) -> pd.DataFrame:
    """Train what is missing, evaluate, and return the rows of scores.csv.

    Two processes that want the same run take turns, and the second finds it done.

    Args:
        task: a registered name, or a task such as `own_data.open_task` makes. Where it has no
            environment, the method is trained, a warning says why there are no scores, and the
            returned frame is empty.
        config: preset and task; what the method changes comes on top, then `user`.
        user: dotted fields that the user sets.
        variant: name of changed fields, for a folder of its own: `<method>@<variant>`.

    Raises:
        ValueError: the folder holds a run with another configuration, or the user set a field
            otherwise than the method needs it.
        Damaged: the run is finished, but one of its files is damaged.
    """
    check_number("seed", seed, 0, 2**32 - 1)
    config = configured(config, method, user)
    task = get_task(task) if isinstance(task, str) else task
    folder = run_folder(out, task.name, label_of(method, variant), seed)
    pipeline = Pipeline(task, seed, config, out, choose_device(device), progress, data)
    identity = _identity(pipeline, method, variant)
    # A finished run is only read, without a lock, from a disk of any kind.
    finished = (folder / "scores.csv").exists()
    with contextlib.nullcontext() if finished else exclusive(folder):
        if (scores := _earlier(folder, identity)) is not None:
            return _on_present_scale(scores, task, folder)
        begun = time.perf_counter()
        write_json(folder / "config.json", {**identity, **provenance()})
        scores, rollouts = _train_and_evaluate(pipeline, identity, folder)
        record = {**identity, **provenance(), **_record(pipeline, scores, rollouts)}
        record["unit_seconds"] = round(time.perf_counter() - begun, 3)
        write_json(folder / "record.json", record)
        if not rollouts:
            return scores
        write_csv(folder / "scores.csv", scores)  # last: only now the run counts as finished
        return read_scores(folder / "scores.csv")


def _identity(pipeline: Pipeline, method: str, variant: str) -> dict[str, Any]:
    """What makes a run this very one."""
    task = pipeline.task
    opened = {"opened": dict(task.opened)} if task.opened else {}
    return {
        "task": task.name,
        "method": method,
        "variant": variant,
        "seed": pipeline.seed,
        "config": as_dict(pipeline.config),
        "dataset": pipeline.fingerprint,
        "environment": _environment_of(task),
        "format": FORMAT,
        **opened,
    }


def _environment_of(task: Task) -> str:
    """The environment with the arguments that its dataset gives it: others make another task."""
    given = {} if task.spec is None else task.spec.kwargs
    return task.environment + (f" {given}" if given and task.environment else "")


def _on_present_scale(scores: pd.DataFrame, task: Task, folder: Path) -> pd.DataFrame:
    """The stored scores; from their returns again if the task's references are others by now."""
    present = task.normalized_score(scores["return_mean"]).round(3)
    if np.allclose(present, scores["score"], atol=0.01):
        return scores
    scores = scores.assign(score=present)
    warnings.warn(f"{folder}: its scores are now on the present scale", stacklevel=2)
    write_csv(folder / "scores.csv", scores)
    return scores


def _earlier(folder: Path, identity: Mapping[str, Any]) -> pd.DataFrame | None:
    """The scores that are there already; None where this run is still to be done."""
    if finished := (folder / "scores.csv").exists():
        found, scores = read_run(folder)
    elif (folder / "policy.safetensors").exists():
        # Trained without an environment, or stopped before its evaluation.
        with delete_and_run(folder):
            found, scores = read_json(folder / "config.json"), None
        identity = {**identity, "environment": found.get("environment")}
    else:
        return None
    if not same(found, identity, moved=True):
        what = "run" if finished else "policy"
        raise ValueError(
            f"{folder} holds a {what} with another configuration or other data; "
            "choose another --out, or delete that folder"
        )
    return scores


def _train_and_evaluate(
    pipeline: Pipeline, identity: Mapping[str, Any], folder: Path
) -> tuple[pd.DataFrame, list[Rollouts]]:
    """Scores and episodes (none without an environment), and the files that hold them."""
    acting = actors(pipeline, identity["method"])
    if pipeline.used:
        write_csv(folder / "log.csv", _logs(pipeline.used))
        if (stage := pipeline.used[-1]).name != "world-model":  # a planner has no policy
            write_atomically(folder / "policy.safetensors", stage.result.read_bytes())
    started = time.perf_counter()
    reset_peak_memory()
    rollouts = _evaluated(pipeline, acting)
    pipeline.seconds["evaluation"] = round(time.perf_counter() - started, 3)
    pipeline.memory["evaluation"] = peak_memory()
    if not rollouts:
        return pd.DataFrame(), []
    write_csv(folder / "episodes.csv", _episode_rows(rollouts))
    return _score_rows(identity, pipeline.task, rollouts, sum(pipeline.seconds.values())), rollouts


def evaluate_again(
    folder: Path, episodes: int, *, device: str = "auto", progress: bool = False
) -> pd.DataFrame:
    """Roll a finished run's checkpoints out again; nothing is trained, nothing is overwritten.

    Raises:
        FileNotFoundError: the folder holds no finished run.
    """
    folder = folder.resolve()
    if not (folder / "scores.csv").exists():
        if (folder / "policy.safetensors").exists():
            raise FileNotFoundError(
                f"{folder} was trained, not evaluated; the same `ipd-lite run` evaluates it now"
            )
        raise FileNotFoundError(
            f"{folder} holds no finished run; expected config.json and scores.csv, "
            "as `ipd-lite run` leaves them in runs/TASK/METHOD/seed-N"
        )
    identity, _ = read_run(folder)
    pipeline = reopen(folder, device=device, progress=progress)
    config = pipeline.config
    pipeline.config = replace(config, evaluation=replace(config.evaluation, episodes=episodes))
    try:
        acting = actors(pipeline, identity["method"])
    except (FileNotFoundError, ValueError) as error:
        advice = f"a finished run is not repeated: delete {folder} too, before you run again"
        raise type(error)(f"{error}; {advice}") from error
    rollouts = _rollouts(pipeline, acting)
    return _score_rows(identity, pipeline.task, rollouts, sum(pipeline.seconds.values()))


def task_of(identity: Mapping[str, Any]) -> Task:
    """The task of a run's config.json, with the data that the run used."""
    return open_task(**identity.get("opened", {"task": identity["task"]}))


def reopen(folder: Path, *, device: str = "auto", progress: bool = False) -> Pipeline:
    """The stages of a run from its folder, as they were trained; nothing is trained anew."""
    identity = read_json(folder / "config.json")
    return Pipeline(
        task_of(identity),
        identity["seed"],
        from_dict(identity["config"]),
        folder.resolve().parents[2],
        choose_device(device),
        progress,
        read_only=True,
    )


def recorded_episodes(data: OfflineDataset) -> Rollouts:
    """The data's own episodes in place of rollouts (nothing is known of their success)."""
    returns = data.episode_returns.cpu().numpy().astype(np.float64)
    return Rollouts(returns, data.lengths.cpu().numpy(), np.full(len(returns), np.nan))


def _evaluated(pipeline: Pipeline, actors: Sequence[Actor]) -> list[Rollouts]:
    """The rollouts; none, and a warning, where something is wrong with the environment."""
    fault = pipeline.task.no_environment if actors and not pipeline.task.environment else ""
    try:
        if not fault:
            return _rollouts(pipeline, actors)
    except EnvironmentFault as error:
        fault = str(error)
    warnings.warn(f"{pipeline.task.name}: trained, but not evaluated: {fault}", stacklevel=2)
    return []


def _rollouts(pipeline: Pipeline, actors: Sequence[Actor]) -> list[Rollouts]:
    """Every checkpoint in the environment; without one, the recorded episodes."""
    if not actors:
        return [recorded_episodes(pipeline.recorded)]
    return [
        rollout(
            pipeline.task,
            actor,
            pipeline.config.evaluation,
            device=pipeline.device,
            progress=pipeline.progress,
        )
        for actor in actors
    ]


def _logs(stages: Sequence[Stage]) -> pd.DataFrame:
    """The training logs of all stages that a run used, one after the other."""
    try:
        logs = [(stage, stage.log) for stage in stages if stage.log.exists()]
        parts = [read_table(log, ("step",)).assign(stage=stage.name) for stage, log in logs]
    except Damaged as error:
        advice = f"; delete the folder {error.file.parent} and run again"
        raise Damaged(error.file, error.why, advice) from error
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
            "last": rollouts[-1].returns.tolist(),
            "best": rollouts[best].returns.tolist(),
        }
    if "values" in used:
        found = diagnose(pipeline.values, pipeline.dataset, pipeline.discount)
        if pipeline.config.preset != "smoke":  # which trains nothing to its end
            warn_if_values_do_not_fit(found)
        record["values"] = vars(found)
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
                "variant": identity["variant"],
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
