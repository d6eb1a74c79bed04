"""Stages trained with the reader's own functions, and compared with the package's."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from IPython.display import Code, display
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ipd_lite.paper.acting import Actor
from ipd_lite.paper.imagination import Bookkeeping, ImaginationConfig, Paths, accept
from ipd_lite.paper.transformer import Block
from ipd_lite.paper.world_model import WorldModel
from ipd_lite.report import diagnostics
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.mazes import Geometry, touches_wall
from ipd_lite.tasks.rollout import rollout

T = TypeVar("T")
CountedPaths = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Imagined paths: observations (B, T + 1, O), actions (B, T, A), rewards and terminated (B, T), and
how many steps of each are kept (B,)."""


def lines_of(function: Callable[..., Any]) -> None:
    """Show the package's own lines of a function."""
    display(Code(inspect.getsource(function), language="python"))


def use(train: Callable[[], T]) -> T | None:
    """What `train` makes with the reader's functions; None, and a line that says why, where they
    are not written yet or do not work."""
    try:
        return train()
    except NotImplementedError:
        message = "not yet: the notebook goes on with the package's version"
    except Exception as error:  # the reader's code may fail in any way
        message = f"not right: training stopped with {type(error).__name__}: {error}"
    gc.collect()  # the exception is gone; now the bar of the training closes, before the message
    print(message)
    return None


def score(pipeline: Pipeline, actor: Actor, episodes: int = 100) -> float:
    """Normalized score of a policy over the evaluation's first episodes."""
    most = min(episodes, pipeline.config.evaluation.episodes)
    config = replace(pipeline.config.evaluation, episodes=most)
    returns = rollout(pipeline.task, actor, config, device=pipeline.device).returns
    return float(pipeline.task.normalized_score(returns.mean()))


@contextlib.contextmanager
def attending(forward: Callable[[Block, Tensor], Tensor]) -> Iterator[None]:
    """Every transformer block computes `forward(block, x)` until the context ends."""
    before = Block.forward
    Block.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Block.forward = before  # type: ignore[method-assign]


def small_values(seed: int = 0) -> Any:
    """Untrained values of a task with two observations and one action, for the checks."""
    from ipd_lite.paper.values import ValueConfig, Values

    config = ValueConfig(width=8, q_networks=2, v_networks=2, discount=0.9, expectile=0.8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        values = Values(config, 2, 1)
        with torch.no_grad():  # else the target network would be the same as the online one
            for parameter in values.q_target.parameters():
                parameter.mul_(1.3)
    return values, config


@dataclass(frozen=True)
class Bounces:
    """A world model against the simulator, step by step.

    auroc: how well U finds the worst tenth of the errors. distance: of the ball from touching a
    wall, metres, in steps of 0.05. error: of the members' mean. claimed: the deviation that the
    members predict (both Euclidean, in deviations of a usual change). All but auroc are (B,).
    """

    auroc: float
    distance: NDArray[np.float64]
    error: NDArray[np.float64]
    claimed: NDArray[np.float64]

    def medians(self, metres: float = 0.1) -> dict[str, float]:
        """The AUROC, and medians within `metres` of a wall and elsewhere."""
        near = self.distance <= metres
        parts = {"error": self.error, "claimed": self.claimed}
        table = {"AUROC of U": self.auroc}
        for name, numbers in parts.items():
            table[f"{name} at walls"] = float(np.median(numbers[near]))
            table[f"{name} elsewhere"] = float(np.median(numbers[~near]))
        return table


def bounces(
    pipeline: Pipeline, model: WorldModel, disagreement: Callable[[Tensor, Tensor], Tensor]
) -> Bounces:
    """Compare the model with the simulator, U being `disagreement` of the members' means and
    variances (M, B, O) -> (B,), without a floor under the variances."""
    claimed: list[NDArray[np.float64]] = []

    def doubt(states: Tensor, actions: Tensor) -> Tensor:
        means, variances = model.predict(states, actions)
        scale = model.target_deviation[: states.shape[1]]
        deviation = (variances.mean(0) / scale.square()).sum(-1).sqrt()
        claimed.append(deviation.cpu().numpy().astype(np.float64))
        return disagreement(means, variances)

    judged = copy.copy(model)
    judged.uncertainty = doubt  # type: ignore[assignment]
    found = diagnostics.model_report(pipeline.task, judged, pipeline.holdout, seed=0)
    distance = wall_distance(diagnostics.maze_of(pipeline.task), found.observations[:, :2])
    return Bounces(found.auroc, distance, found.error, claimed[0])


def wall_distance(maze: Geometry, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far (metres, in steps of 0.05, at most 0.5) the ball at each position (N, 2) may move
    along an axis before it touches a wall."""
    axes = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
    free = np.ones(len(positions), dtype=bool)
    distance = np.zeros(len(positions))
    for step in range(1, 11):
        free &= ~np.any([touches_wall(maze, positions + 0.05 * step * axis) for axis in axes], 0)
        distance[free] = 0.05 * step
    return distance


def imagine_with(pipeline: Pipeline, paths: Callable[..., CountedPaths]) -> Bookkeeping:
    """What is accepted when `paths(start, plan, step, threshold, length)` is Algorithm 1's loop.

    Starts, planner, world model, threshold and random numbers are the package's.
    """

    def loop(
        states: Tensor, plan: Any, step: Any, threshold: Tensor, config: ImaginationConfig, *_: Any
    ) -> Paths:
        with tqdm(total=config.length, desc="imagine", delay=1) as bar:

            def planned(states: Tensor) -> Tensor:
                bar.update()
                return plan(states)

            *found, known = paths(states, planned, step, threshold, config.length)
        steps = torch.arange(config.length, device=states.device)
        # The gate and the acceptance count what passed: U itself is the function's own affair.
        doubt = torch.where(steps < known[:, None], 0.0, torch.inf)
        return (*found, doubt)  # type: ignore[return-value]

    mine = pipeline.attempt(
        pipeline.config.imagination, pipeline.threshold, pipeline.gate, loop=loop
    )
    return accept(mine, pipeline.config.imagination, pipeline.threshold)[1]


def small_model() -> tuple[WorldModel, Any, Tensor]:
    """An untrained ensemble of three for the checks, its settings, and a batch of its rows."""
    from ipd_lite.paper.world_model import Known, WorldModelConfig

    config = WorldModelConfig(members=3, elites=3, width=8, depth=2, fourier_features=0)
    known = Known(reward=lambda s, a, n: s[..., 0], terminated=lambda n: n[..., 0] > 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WorldModel(config, 2, 1, known)
        with torch.no_grad():  # else all variances are nearly the same
            for parameter in model.net.mlp.parameters():
                parameter.mul_(2)
            model.net.lowest.fill_(-1.0)  # else the lower bound would hardly be felt
        return model, config, torch.randn(3, 6, 2 + 1 + 2 + 1)
