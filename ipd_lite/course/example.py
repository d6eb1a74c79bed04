"""What the notebooks share: the running example, where its results are kept, and score sweeps.

Every notebook meets the same maze, the same seed and the same cached stages, so that what one
notebook trained the next one only loads. The sweeps of notebook 05 take half an hour, so their
results are committed; `python -m ipd_lite.course --out runs/study` makes them again, and with
`--task hopper-medium-replay` those of the gym task.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ipd_lite.files import load_tensors, save_tensors, write_csv
from ipd_lite.paper.acting import Actor
from ipd_lite.settings import override
from ipd_lite.study.methods import METHODS
from ipd_lite.study.pipeline import Pipeline, choose_device
from ipd_lite.tasks.collect import collect_missing
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.rollout import rollout
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


def walks(task: Task, actor: Actor, seeds: Sequence[int], device: torch.device) -> list[Walk]:
    """Whole paths of a policy, one episode per environment seed (figures, never scores)."""
    environment = task.make()
    result = []
    for seed in seeds:
        observation, _ = environment.reset(seed=seed)
        row = torch.zeros(1, dtype=torch.long, device=device)
        actor.begin(1)
        actor.reset(row)
        path, rewards, reward, over = [observation], [], 0.0, False
        while not over:
            action = actor.act(
                torch.as_tensor(observation, dtype=torch.float32, device=device)[None],
                torch.tensor([reward], dtype=torch.float32, device=device),
                row,
            )
            observation, given, terminated, truncated, _ = environment.step(
                action[0].clamp(-1, 1).cpu().numpy()
            )
            reward, over = float(given), terminated or truncated
            path.append(observation)
            rewards.append(reward)
        result.append(Walk(np.stack(path), np.array(rewards)))
    environment.close()
    return result


ALPHAS = (0.0, 0.1, 0.3, 1.0, 3.0)


SWEEP = {
    "distillation.updates": 1_000,
    "distillation.imagined_share": 0.0,
    "evaluation.episodes": 50,
}
"""A third of the lesson's updates and half its episodes: fifteen policies in a coffee break."""


TARGETS = (-120.0, -60.0, -30.0, -20.0, -10.0, -5.0)


def alpha_sweep(pipeline: Pipeline) -> tuple[pd.DataFrame, dict[float, list[Walk]]]:
    """Score of the transformer over alpha, real data alone; in mazes also paths from eight starts.

    Without imagined data the sweep shows what the value-guided term does and nothing else.
    """
    rows, paths = [], {}
    for alpha in ALPHAS:
        config = override(pipeline.config, {**SWEEP, "distillation.alpha": alpha})
        actor, score = _last(pipeline.variant(config), "ipd")
        rows.append({"alpha": alpha, "seed": pipeline.seed, "score": score})
        if isinstance(pipeline.task.recipe, MazeRecipe):
            seeds = range(config.evaluation.seed, config.evaluation.seed + 8)
            paths[alpha] = walks(pipeline.task, actor, seeds, pipeline.device)
    return pd.DataFrame(rows), paths


def target_sweep(pipeline: Pipeline) -> pd.DataFrame:
    """Score of one Decision Transformer over the hand-set target return."""
    changes = {**METHODS["dt"].overrides, "evaluation.episodes": SWEEP["evaluation.episodes"]}
    rows = []
    for target in TARGETS:
        config = override(pipeline.config, {**changes, "evaluation.target": target})
        _, score = _last(pipeline.variant(config), "dt")
        rows.append({"target": target, "seed": pipeline.seed, "score": score})
    return pd.DataFrame(rows)


def _last(pipeline: Pipeline, method: str) -> tuple[Actor, float]:
    """A method's last checkpoint and its score."""
    actor = METHODS[method].evaluate(pipeline)[-1]
    returns = rollout(
        pipeline.task, actor, pipeline.config.evaluation, device=pipeline.device
    ).returns
    return actor, round(float(pipeline.task.normalized_score(returns.mean())), 3)


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
        for alpha in ALPHAS
    }


def main() -> None:
    """Make the committed sweeps of notebook 05 again (three seeds, about half an hour)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--task", default=RUNNING_EXAMPLE, help=f"or {GYM_EXAMPLE}: alpha alone")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="run folder to reuse")
    parser.add_argument("--data", type=Path, default=Path("figures/data"), help="where to write")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="lesson")
    arguments = parser.parse_args()
    scores, targets = [], []
    for seed in range(arguments.seeds):
        pipeline = running_example(arguments.preset, arguments.task, seed, arguments.out)
        found, paths = alpha_sweep(pipeline)
        scores.append(found)
        if arguments.task == RUNNING_EXAMPLE:  # the targets are returns of this maze
            targets.append(target_sweep(pipeline))
        if seed or not paths:
            continue
        arrays = {}
        for alpha, group in paths.items():
            positions = [torch.as_tensor(walk.observations[:, :2]).float() for walk in group]
            arrays[f"{alpha:g}"] = torch.cat(positions)
            arrays[f"{alpha:g}/lengths"] = torch.tensor([len(p) for p in positions])
        save_tensors(arguments.data / "course-alpha.safetensors", arrays)
    write_csv(sweep_file(arguments.data, "alpha", arguments.task), pd.concat(scores))
    if targets:
        write_csv(sweep_file(arguments.data, "target", arguments.task), pd.concat(targets))


if __name__ == "__main__":
    main()
