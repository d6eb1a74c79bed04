"""The race that opens the course: four policies, eight balls, the same starts.

The policies come from figures/data/race.safetensors, which `python -m ipd_lite.course.race --train`
makes: the lesson's pipeline on the running example with seed 0, last checkpoints, weights rounded
to half precision. Without `--train` the same command draws figures/race.gif and race.png and writes
the arrivals to figures/data/race.csv, and the exact optimum's score to optimum.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipd_lite import plots
from ipd_lite.course.example import RUNNING_EXAMPLE, repository, running_example
from ipd_lite.files import load_tensors, save_tensors, write_atomically, write_csv
from ipd_lite.paper.acting import Actor, FunctionActor, TransformerActor
from ipd_lite.paper.distillation import make_policy
from ipd_lite.paper.values import Values
from ipd_lite.report.oracle import solve_time_to_goal
from ipd_lite.rivals.cloning import ClonedPolicy
from ipd_lite.settings import Config
from ipd_lite.study.actors import target_return
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.study.run import configured
from ipd_lite.tasks.mazes import GOAL_RADIUS, MAX_SPEED, Array, Geometry, geometry
from ipd_lite.tasks.registry import get_task

RACERS = {"bc": "cloning", "dt": "Decision Transformer", "iql": "IQL", "ipd": "IPD"}
"""Methods in the order of the panels, with the names that the panels show."""

BALLS = 8
SEED = 0
CHECKPOINT = Path("figures/data/race.safetensors")


def _config(method: str) -> Config:
    return configured(get_task(RUNNING_EXAMPLE).config("lesson"), method)


def trained(out: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The racers' weights, parameters in half precision, and what else acting needs.

    Trains what is missing in `out` (about five minutes). The seed is fixed: it was not chosen by
    its result.
    """
    base = running_example("lesson", seed=SEED, out=out)
    tensors: dict[str, Tensor] = {}

    def keep(name: str, module: torch.nn.Module, *parts: str) -> None:
        parameters = {key for key, _ in module.named_parameters()}
        for key, tensor in module.state_dict().items():
            if key.startswith(parts or ""):
                half = key in parameters
                tensors[f"{name}/{key}"] = tensor.half() if half else tensor

    def variant(method: str) -> Pipeline:
        return base.variant(_config(method))

    keep("bc", variant("bc").cloned[0])
    decision_transformer = variant("dt")
    keep("dt", decision_transformer.policy[0])
    keep("ipd", variant("ipd").policy[0])
    keep("iql", base.values, "features", "plain_features", "v_net", "actor")
    seen = decision_transformer.dataset.returns_to_go().aminmax()
    return tensors, {
        "task": RUNNING_EXAMPLE,
        "seed": SEED,
        "target": target_return(decision_transformer),
        "seen": [float(bound) for bound in seen],
    }


def racers(path: Path | None = None) -> dict[str, Actor]:
    """Method -> policy, from the committed checkpoint.

    Raises:
        FileNotFoundError: there is no checkpoint; `python -m ipd_lite.course.race --train`.
    """
    tensors, meta = load_tensors(path or repository() / CHECKPOINT)

    def restore(module: torch.nn.Module, name: str) -> None:
        prefix = f"{name}/"
        own = {
            k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)
        }
        missing, unexpected = module.load_state_dict(own, strict=False)
        assert not unexpected, unexpected
        assert all(key.startswith(("q_", "log_", "snapshots")) for key in missing), missing
        module.eval().requires_grad_(False)

    task, config = get_task(meta["task"]), _config("ipd")
    cloned = ClonedPolicy(config.values, 4, 2)
    values = Values(config.values, 4, 2, task.position_dimensions)
    transformers = {
        name: make_policy(4, 2, _config(name).distillation, task.horizon) for name in ("dt", "ipd")
    }
    for name, module in {"bc": cloned, "iql": values, **transformers}.items():
        restore(module, name)
    seen = (meta["seen"][0], meta["seen"][1])
    return {
        "bc": FunctionActor(cloned),
        "dt": TransformerActor(transformers["dt"], target=meta["target"], seen=seen),
        "iql": FunctionActor(values.policy),
        "ipd": TransformerActor(transformers["ipd"], values=values),
    }


def evaluation_starts(count: int = BALLS) -> Array:
    """Positions (B, 2) of the first episodes of every evaluation of the running example."""
    environment = get_task(RUNNING_EXAMPLE).make()
    seed = _config("ipd").evaluation.seed
    starts = [environment.reset(seed=seed + ball)[0][:2] for ball in range(count)]
    environment.close()
    return np.array(starts)


def starts_around(cell: int, maze: Geometry, count: int = BALLS) -> Array:
    """Positions (B, 2) in one free cell, scattered as the environment scatters its starts."""
    noise = np.random.default_rng(cell).uniform(-0.25, 0.25, (count, 2))
    return maze.centres[cell] + noise


def steps_to_goal(maze: Geometry) -> NDArray[np.int64]:
    """Cells (C,) on the shortest way from every free cell to the goal's, 0 there."""
    goal = int(maze.cell_of(maze.goal))
    steps = np.zeros(len(maze.cells), dtype=np.int64)
    here = np.arange(len(maze.cells))
    while (here != goal).any():
        steps += here != goal
        here = maze.next_cell[here, goal]
    return steps


def race(actors: Mapping[str, Actor], starts: Array) -> dict[str, plots.Lane]:
    """Every policy's balls from the same starts (B, 2), at rest, in MuJoCo.

    A ball that has arrived stays where it is.
    """
    limit, goal = get_task(RUNNING_EXAMPLE).horizon, geometry("medium").goal
    return {name: _run(actor, starts, goal, limit) for name, actor in actors.items()}


@lru_cache
def _simulator() -> Any:
    """The task's MuJoCo model, stepped without the Gymnasium wrappers, which take most of the time
    (a test compares the two)."""
    environment: Any = get_task(RUNNING_EXAMPLE).make().unwrapped
    return environment.point_env.model


def _run(actor: Actor, starts: Array, goal: Array, limit: int) -> plots.Lane:
    model = _simulator()
    balls = [mujoco.MjData(model) for _ in starts]
    for ball, start in zip(balls, starts, strict=True):
        ball.qpos[:2] = start
        mujoco.mj_forward(model, ball)
    states = np.array([np.concatenate([ball.qpos, ball.qvel]) for ball in balls])
    arrivals = np.zeros(len(starts), dtype=np.int64)
    path = [states[:, :2].copy()]
    actor.begin(len(starts))
    actor.reset(torch.arange(len(starts)))
    rewards = torch.zeros(len(starts))
    for decision in range(1, limit + 1):
        (active,) = np.nonzero(arrivals == 0)
        if len(active):
            observations = torch.as_tensor(states[active], dtype=torch.float32)
            actions = actor.act(observations, rewards[active], torch.as_tensor(active))
            for index, action in zip(active, actions.clamp(-1, 1).numpy(), strict=True):
                states[index] = _decide(model, balls[index], action)
        near = np.linalg.norm(states[:, :2] - goal, axis=1) <= GOAL_RADIUS
        arrivals[near & (arrivals == 0)] = decision
        rewards[:] = -1.0
        path.append(states[:, :2].copy())
    return plots.Lane(np.stack(path, axis=1), arrivals)


def _decide(model: Any, ball: Any, action: Any, repeat: int = 5) -> Array:
    """One decision of one ball, as the environment takes it; its state (4,) afterwards."""
    velocity = ball.qvel
    for _ in range(repeat):
        velocity.clip(-MAX_SPEED, MAX_SPEED, out=velocity)
        ball.ctrl[:] = action
        mujoco.mj_step(model, ball)
    return np.concatenate([ball.qpos, velocity])


def optimal_scores(episodes: int = 100) -> Array:
    """Exact optimum of every evaluation episode (E,), in points of the normalized score.

    From value iteration on a grid (`report.oracle`), which is about half a decision too fast or too
    slow: half a point. Takes ten seconds.
    """
    task = get_task(RUNNING_EXAMPLE)
    starts = evaluation_starts(episodes)
    at_rest = np.concatenate([starts, np.zeros_like(starts)], axis=1)
    scores: Array = task.normalized_score(-solve_time_to_goal("medium")(at_rest))
    return scores


def arrivals_table(lanes: Mapping[str, plots.Lane]) -> pd.DataFrame:
    """One row per method and ball: the decision of its arrival, 0 = never."""
    return pd.DataFrame(
        [
            {"method": method, "ball": ball, "arrival": int(decision)}
            for method, lane in lanes.items()
            for ball, decision in enumerate(lane.arrivals)
        ]
    )


def titled(lanes: Mapping[str, plots.Lane]) -> dict[str, plots.Lane]:
    """The lanes under the names that figures show."""
    return {RACERS[name]: lane for name, lane in lanes.items()}


def main() -> None:
    """Draw the race from the committed checkpoint, or train the checkpoint first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--train", action="store_true", help="make the checkpoint again")
    parser.add_argument("--out", type=Path, default=Path("runs/course"), help="runs to reuse")
    parser.add_argument("--root", type=Path, default=repository(), help="where figures/ lies")
    arguments = parser.parse_args()
    checkpoint = arguments.root / CHECKPOINT
    if arguments.train:
        save_tensors(checkpoint, *trained(arguments.out))
    figures, maze = arguments.root / "figures", geometry("medium")
    lanes = race(racers(checkpoint), evaluation_starts())
    write_csv(figures / "data" / "race.csv", arrivals_table(lanes))
    optimum = {"task": RUNNING_EXAMPLE, "score": round(float(optimal_scores().mean()), 2)}
    write_csv(figures / "data" / "optimum.csv", [optimum])
    shown = maze.walls, maze.goal, titled(lanes)
    plots.style()
    plots.race_finish(*shown).savefig(figures / "race.png", metadata={"Software": None})
    write_atomically(figures / "race.gif", plots.race_animation(*shown, kind="gif", dpi=90))
    for name, lane in titled(lanes).items():
        print(f"{name:22} {(lane.arrivals > 0).sum()} of {len(lane.arrivals)} arrived")


if __name__ == "__main__":
    main()
