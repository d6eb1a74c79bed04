"""Our locomotion sets beside D4RL's of the same name: figures/data/datasets.csv.

    ipd-lite collect hopper-medium        # and the other sets; missing ones are collected here
    python tools/describe_datasets.py

Every statistic is one over episodes, unfinished last ones included; means, spreads and bests are in
normalized points, so that both halves of a row are on one scale. Takes a minute where all sets are
on this machine, twenty to collect them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ipd_lite.paper.dataset import DataError, OfflineDataset
from ipd_lite.tasks.collect import collect_missing
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import TASKS
from ipd_lite.tasks.snapshots import normalized_score, robot_of, write_table
from ipd_lite.tasks.task import SnapshotRecipe


@dataclass(frozen=True)
class Published:
    """A D4RL set (version 2), undiscounted returns; None where we know no published number."""

    transitions: int
    episodes: int | None = None
    mean: float | None = None
    deviation: float | None = None
    best: float | None = None
    terminated: float | None = None
    """Share of episodes that ended in a fall."""


# Returns and episode counts are those that Decision Transformer's code (Chen et al., 2021) prints
# about each file before training on it, as its users have quoted them. Those of medium-expert are
# the two files that it joins taken together; its deviation on Walker2d and HalfCheetah follows from
# theirs. Transitions are rounded. No such print-out of full-replay was at hand.
D4RL = {
    "hopper-medium": Published(1_000_000, 2186, 1422.06, 378.95, 3222.36),
    "hopper-medium-replay": Published(402_000, 2041, 467.30, 511.03, 3192.93),
    "hopper-full-replay": Published(1_000_000),
    "hopper-medium-expert": Published(2_000_000, 3213, 2089.88, 1039.96, 3759.08),
    "halfcheetah-medium": Published(1_000_000, 1000, 4770.33, 355.75, 5309.38, 0.0),
    "halfcheetah-medium-replay": Published(202_000, 202, 3093.29, 1680.69, 4985.14, 0.0),
    "halfcheetah-full-replay": Published(1_000_000, 1000, terminated=0.0),
    "halfcheetah-medium-expert": Published(2_000_000, 2000, 7713.38, 2970.24, 11252.04, 0.0),
    "walker2d-medium": Published(1_000_000, 1190, 2852.09, 1095.44, 4226.94),
    "walker2d-medium-replay": Published(302_000, 1093, 682.70, 895.96, 4132.00),
    "walker2d-full-replay": Published(1_000_000),
    "walker2d-medium-expert": Published(2_000_000, 2190, 3796.57, 1312.28, 5011.69),
}

COMPARED = ("mean", "deviation", "best", "episodes", "transitions", "terminated")
FIELDS = (
    *("task", "training", "medium", "expert", "noise"),
    *(f"{name}_{whose}" for name in COMPARED for whose in ("ours", "d4rl")),
)


def ours(robot: str, dataset: OfflineDataset) -> dict[str, str]:
    """Our half of a row."""
    scores = normalized_score(robot, dataset.episode_returns.double().numpy())
    return {
        "mean_ours": f"{scores.mean():.1f}",
        "deviation_ours": f"{scores.std():.1f}",
        "best_ours": f"{scores.max():.1f}",
        "episodes_ours": str(dataset.episodes),
        "transitions_ours": str(len(dataset)),
        "terminated_ours": f"{dataset.terminated.double().sum() / dataset.episodes:.2f}",
    }


def theirs(robot: str, published: Published) -> dict[str, str]:
    """D4RL's half of a row, empty where nothing is known."""
    low, high = (normalized_score(robot, value) for value in (0.0, 1.0))

    def text(value: float | None, pattern: str) -> str:
        return "" if value is None else format(value, pattern)

    def points(value: float | None) -> str:
        return "" if value is None else f"{normalized_score(robot, value):.1f}"

    spread = None if published.deviation is None else published.deviation * (high - low)
    return {
        "mean_d4rl": points(published.mean),
        "deviation_d4rl": text(spread, ".1f"),
        "best_d4rl": points(published.best),
        "episodes_d4rl": text(published.episodes, "d"),
        "transitions_d4rl": str(published.transitions),
        "terminated_d4rl": text(published.terminated, ".2f"),
    }


def main(out: Path = Path("figures/data/datasets.csv"), collect: bool = True) -> None:
    """Write the table and print it.

    Args:
        out: the file.
        collect: make the sets that are not on this machine; False leaves their rows out.
    """
    rows = []
    for name, published in D4RL.items():
        task = TASKS[name]
        assert isinstance(task.recipe, SnapshotRecipe)
        if collect:
            collect_missing(task)
        try:
            dataset = load_task(task)
        except DataError:
            continue
        recipe, robot = task.recipe, robot_of(task.recipe.training)
        row = {
            "task": name,
            "training": recipe.training,
            "medium": str(recipe.medium or ""),
            "expert": str(recipe.expert or ""),
            "noise": f"{recipe.noise:g}",
        }
        row |= ours(robot, dataset) | theirs(robot, published)
        rows.append(row)
        print(
            f"{name:27} mean {row['mean_ours']:>5} ({row['mean_d4rl']:>4})  deviation "
            f"{row['deviation_ours']:>4} ({row['deviation_d4rl']:>4})  best {row['best_ours']:>5} "
            f"({row['best_d4rl']:>5})  episodes {row['episodes_ours']:>4}  terminated "
            f"{row['terminated_ours']}",
            flush=True,
        )
    write_table(out, FIELDS, rows)


if __name__ == "__main__":
    tyro.cli(main)
