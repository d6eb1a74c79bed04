"""What the notebooks share: the running example, where its results are kept, and score sweeps.

Every notebook meets the same maze, the same seed and the same cached stages, so that what one
notebook trained the next one only loads. The sweeps of notebook 05 take half an hour, so their
results are committed; `python -m ipd_lite.course.example` makes them again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from joblib import parallel_config
from numpy.typing import NDArray

from ipd_lite.files import load_tensors, save_tensors, write_csv
from ipd_lite.paper.acting import Actor
from ipd_lite.report.results import last_of
from ipd_lite.report.statistics import Interval, paired_interval
from ipd_lite.study.actors import actors
from ipd_lite.study.names import read_scores
from ipd_lite.study.pipeline import Pipeline, choose_device
from ipd_lite.study.run import reopen
from ipd_lite.study.spec import Unit, expand, read_spec
from ipd_lite.study.sweep import run_units
from ipd_lite.tasks.collect import collect_missing
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.task import MazeRecipe, Task

RUNNING_EXAMPLE = "pointmaze-medium-slow"


GYM_EXAMPLE = "hopper-medium-replay"
"""The locomotion task of notebooks 04 to 06."""


def repository() -> Path:
    """Where the notebooks' results live: the repository's root, else the working folder (Colab)."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "ipd_lite").is_dir():
            return folder
    return here


def running_example(
    preset: str, task_name: str = RUNNING_EXAMPLE, seed: int = 0, out: Path | None = None
) -> Pipeline:
    """The stages of one task and seed, cached in `runs/course` of the repository.

    Collects the dataset if this machine does not have it (about half a minute, with a bar).
    The cache can be put elsewhere with the environment variable IPD_RUNS.

    Raises:
        KeyError: no such task.
        ValueError: no such preset.
    """
    task = get_task(task_name)
    config = task.config(preset)
    torch.set_num_threads(1)  # the networks are small: more threads only wait for each other
    collect_missing(task)
    if out is None:
        out = Path(os.environ.get("IPD_RUNS", repository() / "runs" / "course"))
    return Pipeline(task, seed, config, out, choose_device("auto"), progress=True)


@dataclass(frozen=True)
class Walk:
    """One episode in the real maze: observations (T + 1, O), rewards (T,)."""

    observations: NDArray[np.float64]
    rewards: NDArray[np.float64]


class Seen(NamedTuple):
    """What an environment showed: after its reset, then after every step."""

    observation: NDArray[np.float64]
    reward: float
    terminated: bool


def episode(
    environment: gym.Env[Any, Any], actor: Actor, seed: int, device: torch.device | str
) -> Iterator[Seen]:
    """One episode of a policy, step by step, up to its end; `device` is the actor's."""
    observation, _ = environment.reset(seed=seed)
    row = torch.zeros(1, dtype=torch.long, device=device)
    actor.begin(1)
    actor.reset(row)
    reward, terminated, truncated = 0.0, False, False
    yield Seen(observation, reward, terminated)
    while not (terminated or truncated):
        action = actor.act(
            torch.as_tensor(observation, dtype=torch.float32, device=device)[None],
            torch.tensor([reward], dtype=torch.float32, device=device),
            row,
        )
        observation, given, terminated, truncated, _ = environment.step(
            action[0].clamp(-1, 1).cpu().numpy()
        )
        reward = float(given)
        yield Seen(observation, reward, terminated)


def walks(task: Task, actor: Actor, seeds: Sequence[int], device: torch.device) -> list[Walk]:
    """Whole paths of a policy, one episode per environment seed (figures, never scores)."""
    environment = task.make()
    result = []
    for seed in seeds:
        path, rewards, _ = zip(*episode(environment, actor, seed, device), strict=True)
        result.append(Walk(np.stack(path), np.array(rewards[1:])))
    environment.close()
    return result


CLAIMS = {
    "IPD beats IQL": "iql",
    "IPD beats QT": "qt",
    "IPD beats its planner acting directly": "mpc",
    "imagined data helps": "ipd-noaug",
    "MPC imagines better than greedy Q": "ipd-greedy",
    "the gate helps": "ipd-nogate",
}
"""The claims that notebook 06 reviews, and the method that IPD is compared with for each."""


def reviewed(folder: Path | None = None, task: str = RUNNING_EXAMPLE) -> dict[str, Interval]:
    """Claim -> IPD minus its rival, paired by seed, from the committed scores in `folder`."""
    folder = folder or repository() / "figures" / "data"
    last = last_of(read_scores(folder / f"scores-{task}.csv"))
    table = last.pivot_table(index="seed", columns="method", values="score")
    pairs = {claim: table[["ipd", rival]].dropna() for claim, rival in CLAIMS.items()}
    return {claim: paired_interval(*pair.to_numpy(float).T) for claim, pair in pairs.items()}


def sweep_file(folder: Path, setting: str, task: str = RUNNING_EXAMPLE) -> Path:
    """Where the sweep over `setting` ("alpha" or "target") lies: the maze's name is left out."""
    suffix = "" if task == RUNNING_EXAMPLE else f"-{task}"
    return folder / f"course-{setting}{suffix}.csv"


def saved_paths(folder: Path) -> dict[float, list[NDArray[np.float64]]]:
    """alpha -> positions (T + 1, 2) of eight episodes, from `folder`/course-alpha.safetensors."""
    arrays, _ = load_tensors(folder / "course-alpha.safetensors")
    return {
        alpha: [
            part.numpy().astype(np.float64)
            for part in arrays[f"{alpha:g}"].split(arrays[f"{alpha:g}/lengths"].tolist())
        ]
        for alpha in sorted(float(name) for name in arrays if "/" not in name)
    }


def write_sweeps(units: Sequence[Unit], out: Path, data: Path, device: str = "auto") -> list[Path]:
    """Write the finished units of figures/course.toml as course-alpha*.csv and course-target.csv,
    and the paths of the first seed's policies in the maze as course-alpha.safetensors."""
    rows: dict[Path, list[dict[str, float | None]]] = {}
    arrays: dict[str, torch.Tensor] = {}
    for unit in (unit for unit in units if unit.done(out)):
        config, setting = unit.configured(), "target" if unit.method == "dt" else "alpha"
        value = config.evaluation.target if setting == "target" else config.distillation.alpha
        score = read_scores(unit.folder(out) / "scores.csv").set_index("checkpoint")["score"]
        row = {setting: value, "seed": unit.seed, "score": float(score["last"])}
        rows.setdefault(sweep_file(data, setting, unit.task), []).append(row)
        maze = isinstance(get_task(unit.task).recipe, MazeRecipe)
        if maze and setting == "alpha" and unit.seed == 0:
            positions = _positions(unit, out, device)
            arrays[f"{value:g}"] = torch.cat(positions)
            arrays[f"{value:g}/lengths"] = torch.tensor([len(part) for part in positions])
    for file, table in rows.items():
        write_csv(file, table)
    if not arrays:
        return list(rows)
    save_tensors(data / "course-alpha.safetensors", arrays)
    return [*rows, data / "course-alpha.safetensors"]


def _positions(unit: Unit, out: Path, device: str) -> list[torch.Tensor]:
    """Positions (T + 1, 2) of a finished unit's last policy from the evaluation's first starts."""
    pipeline = reopen(unit.folder(out), device=device)
    first = pipeline.config.evaluation.seed
    actor = actors(pipeline, unit.method)[-1]
    paths = walks(pipeline.task, actor, range(first, first + 8), pipeline.device)
    return [torch.as_tensor(path.observations[:, :2]).float() for path in paths]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the committed sweeps of notebook 05 again (three seeds, about an hour)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--spec", type=Path, default=Path("figures/course.toml"))
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="run folder to reuse")
    parser.add_argument("--data", type=Path, default=Path("figures/data"), help="where to write")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    units = expand(read_spec(chosen.spec))
    with parallel_config("loky", n_jobs=chosen.workers):
        failed = run_units(units, out=chosen.out, device=chosen.device, threads=1)
    for path in write_sweeps(units, chosen.out, chosen.data, chosen.device):
        print(path)
    if failed:
        raise SystemExit("failed, the rest is done:\n  " + "\n  ".join(failed))


if __name__ == "__main__":
    main()
