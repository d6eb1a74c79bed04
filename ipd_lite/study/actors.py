"""What acts in the environment: for every method its actors, one per snapshot, the last one last.

Each actor has networks of its own, so that actors of one run can be used in turn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ipd_lite.paper.acting import Actor, FunctionActor, PlanningActor, TransformerActor
from ipd_lite.paper.training import Snapshots
from ipd_lite.study.methods import Acting, get_method
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.collect import MazeBehaviour
from ipd_lite.tasks.task import MazeRecipe

Network = TypeVar("Network", bound=nn.Module)


def actors(pipeline: Pipeline, method: str) -> list[Actor]:
    """Train what is missing and return what acts; none where the score is the data's own."""
    return ACTORS[get_method(method).acts](pipeline)


def copies(network: Network, snapshots: Snapshots, acting: str = "") -> list[Network]:
    """One copy of `network` per snapshot, which goes into its part `acting` (all of it)."""
    found = [copy.deepcopy(network) for _ in range(snapshots.count)]
    for index, own in enumerate(found):
        snapshots.restore(index, own.get_submodule(acting))
    return found


def _behaviour(pipeline: Pipeline) -> list[Actor]:
    """The maze controller; data from anywhere else speaks for itself (no actor)."""
    recipe = pipeline.task.recipe
    return [MazeBehaviour(recipe, pipeline.seed)] if isinstance(recipe, MazeRecipe) else []


def _values(pipeline: Pipeline) -> list[Actor]:
    values = pipeline.values
    return [FunctionActor(own.policy) for own in copies(values, values.snapshots, "actor")]


def _without_memory(
    stage: Callable[[Pipeline], tuple[nn.Module, Snapshots]],
) -> Callable[[Pipeline], list[Actor]]:
    return lambda pipeline: [FunctionActor(policy) for policy in copies(*stage(pipeline))]


def _planner(pipeline: Pipeline) -> list[Actor]:
    config = pipeline.config
    return [
        PlanningActor(
            pipeline.values,
            pipeline.world_model,
            config.planner,
            pipeline.discount,
            pipeline.seed,
            pipeline.compute(config.world_model),
        )
    ]


def _transformer(pipeline: Pipeline) -> list[Actor]:
    config = pipeline.config.distillation
    condition: dict[str, Any]
    if config.condition == "return-to-go":
        lowest, highest = pipeline.dataset.returns_to_go().aminmax()
        condition = {
            "target": target_return(pipeline),
            "reward_scale": pipeline.reward_scale,
            "reward_shift": pipeline.task.reward_shift,
            "seen": (float(lowest), float(highest)),
        }
    else:
        condition = {"values": pipeline.values, "more": pipeline.more}
    policies = copies(*pipeline.policy)  # last: what acts is the last stage that a run used
    return [TransformerActor(p, timestep=config.timestep, **condition) for p in policies]


def target_return(pipeline: Pipeline) -> float:
    """The hand-set target: the configured return, else its level between the data's worst (0) and
    best (1) return."""
    config, data = pipeline.config.evaluation, pipeline.recorded
    if config.target is not None:
        return config.target
    returns = data.episode_returns + pipeline.task.reward_shift * data.lengths
    return float(returns.min() + config.target_level * (returns.max() - returns.min()))


ACTORS: dict[Acting, Callable[[Pipeline], list[Actor]]] = {
    "behaviour": _behaviour,
    "values": _values,
    "cloned": _without_memory(lambda pipeline: pipeline.cloned),
    "td3bc": _without_memory(lambda pipeline: pipeline.td3bc),
    "cql": _without_memory(lambda pipeline: pipeline.cql),
    "rebrac": _without_memory(lambda pipeline: pipeline.rebrac),
    "planner": _planner,
    "transformer": _transformer,
}
