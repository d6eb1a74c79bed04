"""Pack a choice of trained actors into the package and measure them: the step after training.

    python tools/train_behaviour.py --env hopper --algorithm tqc --out runs/behaviour/hopper-tqc-0
    python tools/pack_behaviours.py --runs runs/behaviour

Reads `<runs>/<training>/snapshots/<step>.safetensors` for every training named in `PACKED` (or one
file `<runs>/<training>.safetensors` with tensors `<step>/<name>`) and writes
`ipd_lite/tasks/snapshot_files/<training>.safetensors` and `snapshots.csv` there. Measuring takes
about a
quarter of an hour: twenty episodes of every packed actor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from safetensors.numpy import load_file, save_file

from ipd_lite.tasks.snapshots import (
    ENVIRONMENTS,
    FOLDER,
    TABLE_FIELDS,
    load_snapshots,
    measure,
    read_table,
    robot_of,
    write_table,
)


@dataclass(frozen=True)
class Packing:
    """Which snapshots of a training go into the package."""

    training: str
    dense_until: int
    """Every snapshot up to this training step: `medium-replay` is logged by these."""
    every: int = 0
    """After that every how manieth snapshot; 0 = none."""
    also: tuple[int, ...] = ()
    """Steps that are kept in any case: the expert."""


PACKED = (
    Packing("hopper-tqc-0", dense_until=230_016, every=3, also=(940_032,)),
    Packing("walker2d-tqc-0", dense_until=310_016, every=2, also=(840_000,)),
    Packing("halfcheetah-tqc-0", dense_until=110_016, every=3, also=(1_060_032,)),
    Packing("halfcheetah-sac-0", dense_until=130_048),
)


def choose(steps: list[int], packing: Packing) -> list[int]:
    """The training steps to keep, in order; the training's last snapshot among them.

    Raises:
        ValueError: a step of `also` is not there.
    """
    if missing := set(packing.also) - set(steps):
        raise ValueError(f"{packing.training} has no snapshot at steps {sorted(missing)}")
    later = [step for step in steps if step > packing.dense_until]
    # Counted from the end, so that the last actor of a training is always there.
    thinned = later[::-1][:: packing.every] if packing.every else []
    return sorted(
        {step for step in steps if step <= packing.dense_until}.union(thinned, packing.also)
    )


def read_run(runs: Path, training: str) -> dict[int, dict[str, np.ndarray]]:
    """All actors of a run: training step -> weights, in training order."""
    actors: dict[int, dict[str, np.ndarray]] = {}
    if (bundle := runs / f"{training}.safetensors").exists():
        for name, array in load_file(bundle).items():
            step, tensor = name.split("/", 1)
            actors.setdefault(int(step), {})[tensor] = array
    else:
        for path in (runs / training / "snapshots").glob("*.safetensors"):
            actors[int(path.stem)] = load_file(path)
    return dict(sorted(actors.items()))


def pack(runs: Path, packing: Packing) -> None:
    """Store the chosen actors of one training in half precision."""
    actors = read_run(runs, packing.training)
    tensors = {
        f"{step}/{name}": array.astype(np.float16)
        for step in choose(list(actors), packing)
        for name, array in actors[step].items()
    }
    FOLDER.mkdir(exist_ok=True)
    target = FOLDER / f"{packing.training}.safetensors"
    environment = ENVIRONMENTS[robot_of(packing.training)]
    metadata = {"environment": environment, "activation": "relu", "layout": "torch.nn.Linear"}
    save_file(tensors, target, metadata)
    target.chmod(0o644)


def tabulate(training: str, episodes: int) -> None:
    """Measure the packed actors of one training, as stored, and put the rows into the table."""
    robot, algorithm, seed = training.split("-")
    table = FOLDER / "snapshots.csv"
    others = [row for row in read_table(table) if row["training"] != training]
    rows = []
    for step, weights in load_snapshots(training).items():
        row = {"training": training, "algorithm": algorithm.upper(), "training_seed": seed}
        measured = measure(robot, weights, episodes)
        row |= {"step": str(step), "episodes": str(episodes)}
        row |= {name: f"{value:.2f}" for name, value in measured.items()}
        rows.append(row)
        print(f"{training} {step:>8}: score {row['normalized_score']}", flush=True)
    ordered = sorted([*others, *rows], key=lambda row: (row["training"], int(row["step"])))
    write_table(table, TABLE_FIELDS, ordered)


def main(runs: Path | None = None, episodes: int = 20, measured: bool = True) -> None:
    """Pack every training of `PACKED` from the folder `runs`, then measure.

    Args:
        runs: where the trainings are; without it the packed actors are only measured again.
        episodes: noise-free episodes per actor.
        measured: False packs and leaves the table as it is.
    """
    for packing in PACKED:
        if runs is not None:
            pack(runs, packing)
        if measured:
            tabulate(packing.training, episodes)


if __name__ == "__main__":
    tyro.cli(main)
