"""What the notebooks share: the running example, where its results are kept, and score sweeps.

Every notebook meets the same maze, the same seed and the same cached stages, so that what one
notebook trained the next one only loads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ipd_lite.collect import collect
from ipd_lite.data import local_path
from ipd_lite.evaluate import Actor
from ipd_lite.pipeline import Pipeline, choose_device
from ipd_lite.tasks import Task, get_task

RUNNING_EXAMPLE = "pointmaze-medium-slow"


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
    if task.recipe is not None and not local_path(task.dataset).is_dir():
        collect(task)
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
