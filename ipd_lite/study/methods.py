"""What can be run by name: each method's actors, its source, and how it differs from IPD.

`Method.evaluate` trains what is missing and returns what acts in the environment, one actor per
snapshot, the last one last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ipd_lite.paper.acting import Actor, FunctionActor, PlanningActor, TransformerActor
from ipd_lite.paper.training import Snapshots
from ipd_lite.settings import Config, override
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.collect import MazeBehaviour
from ipd_lite.tasks.task import MazeRecipe

IPD_PAPER = "IPD, arXiv 2603.04289"


@dataclass(frozen=True)
class Method:
    """How a method differs from IPD: config fields, and which function evaluates it.

    `evaluate` returns one actor per checkpoint, or none: then the score is the data's own.
    source: where the method comes from. deviations: what we do otherwise than the source; for all
    of them sizes, learning rates and updates follow IPD's stages instead of the publication.
    amount: imagined data in multiples of the configured amount (the scaling curve).
    """

    description: str
    evaluate: Callable[[Pipeline], list[Actor]]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    source: str = IPD_PAPER
    deviations: str = ""
    amount: float = 1.0

    def configure(self, config: Config) -> Config:
        """The configuration with which this method runs.

        With another amount, starts and the odds of drawing an imagined window change by the same
        factor: every imagined window stays as likely as before, there are only more or fewer.
        """
        config = override(config, dict(self.overrides))
        share = config.distillation.imagined_share
        if self.amount == 1.0 or share == 1.0:
            return config
        odds = self.amount * share / (1 - share)
        return override(
            config,
            {
                "imagination.starts": round(self.amount * config.imagination.starts),
                "distillation.imagined_share": odds / (1 + odds),
            },
        )


def _behaviour(pipeline: Pipeline) -> list[Actor]:
    """The maze controller; data from anywhere else speaks for itself (no actor)."""
    recipe = pipeline.task.recipe
    return [MazeBehaviour(recipe, pipeline.seed)] if isinstance(recipe, MazeRecipe) else []


def _iql(pipeline: Pipeline) -> list[Actor]:
    values = pipeline.values
    count = values.snapshots.count
    return [_SnapshotActor(values.snapshots, i, values.actor, values.policy) for i in range(count)]


def _bc(pipeline: Pipeline) -> list[Actor]:
    return _checkpoints(*pipeline.cloned)


def _td3bc(pipeline: Pipeline) -> list[Actor]:
    return _checkpoints(*pipeline.td3bc)


def _cql(pipeline: Pipeline) -> list[Actor]:
    return _checkpoints(*pipeline.cql)


def _checkpoints(policy: torch.nn.Module, snapshots: Snapshots) -> list[Actor]:
    """One actor per snapshot of a policy without memory."""
    return [_SnapshotActor(snapshots, i, policy, policy) for i in range(snapshots.count)]


class _SnapshotActor(FunctionActor):
    """Restores its snapshot into the shared network before it acts."""

    def __init__(
        self,
        snapshots: Snapshots,
        index: int,
        network: torch.nn.Module,
        function: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(function)
        self.snapshots, self.index, self.network = snapshots, index, network

    def begin(self, slots: int) -> None:
        self.snapshots.restore(self.index, self.network)


def _mpc(pipeline: Pipeline) -> list[Actor]:
    return [
        PlanningActor(
            pipeline.values, pipeline.world_model, pipeline.config.planner, pipeline.discount,
            pipeline.seed, pipeline.compute(pipeline.config.world_model),
        )
    ]  # fmt: skip


class _TransformerSnapshot(TransformerActor):
    def __init__(self, snapshots: Snapshots, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshots, self.index = snapshots, index

    def begin(self, slots: int) -> None:
        self.snapshots.restore(self.index, self.policy)
        super().begin(slots)


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
        condition = {"values": pipeline.values}
    policy, snapshots = pipeline.policy  # last: what acts is the last stage that a run used
    return [
        _TransformerSnapshot(snapshots, index, policy=policy, timestep=config.timestep, **condition)
        for index in range(snapshots.count)
    ]


def target_return(pipeline: Pipeline) -> float:
    """The hand-set target: the configured return, else its level between the data's worst (0) and
    best (1) return."""
    config, data = pipeline.config.evaluation, pipeline.recorded
    if config.target is not None:
        return config.target
    returns = data.episode_returns + pipeline.task.reward_shift * data.lengths
    return float(returns.min() + config.target_level * (returns.max() - returns.min()))


RETURN_TO_GO = {"distillation.condition": "return-to-go"}


NO_IMAGINATION = {"distillation.imagined_share": 0.0}


EVERY_ACTION = {"distillation.filter_suboptimal": False}


METHODS: dict[str, Method] = {
    "behaviour": Method(
        "the policy that collected the data", _behaviour,
        source="Fu et al. 2020, D4RL",
        deviations="runs from the evaluation's starts for one episode each, not as one stream",
    ),
    "bc": Method(
        "behaviour cloning of every recorded action", _bc,
        source="Pomerleau 1988, ALVINN; as in Chen et al. 2021, Decision Transformer",
        deviations="deterministic policy, squared error",
    ),
    "bc-10": Method(
        "behaviour cloning of the episodes with the greatest returns, a tenth of the steps", _bc,
        {"cloning.fraction": 0.1},
        source="Chen et al. 2021, Decision Transformer, section 5.2 (10%BC)",
        deviations="deterministic policy, squared error; the share is fixed, not chosen per task",
    ),
    "td3bc": Method(
        "TD3+BC: squared error to the data's action minus lambda Q(s, pi(s))", _td3bc,
        source="Fujimoto & Gu 2021, A minimalist approach to offline reinforcement learning",
        deviations="LayerNorm and Fourier features in Q, cosine rate, clipped targets, as our IQL",
    ),
    "cql": Method(
        "CQL(H): soft actor-critic whose Q is lowered outside the data", _cql,
        source="Kumar et al. 2020, Conservative Q-learning for offline reinforcement learning",
        deviations="as td3bc; no cloning warm-up, one rate for all parts, fixed penalty weight",
    ),
    "dt": Method(
        "Decision Transformer: return-to-go token with a hand-set target, no Q term",
        _transformer,
        {**RETURN_TO_GO, **NO_IMAGINATION, **EVERY_ACTION, "distillation.alpha": 0.0},
        source="Chen et al. 2021, Decision Transformer",
        deviations=(
            "the transformer of IPD (one fused token per step); the target is the best return in "
            "the data, not chosen per task, and what is left of it stays in the data's range"
        ),
    ),
    "qt": Method(
        "QT: return-to-go token and the value-guided term, no imagined data",
        _transformer,
        {**RETURN_TO_GO, **NO_IMAGINATION, **EVERY_ACTION},
        source="Hu et al. 2024, Q-value regularized transformer, arXiv 2405.17098",
        deviations=(
            "Q is IQL's, trained before and frozen, and divided by mean |Q - V| as in IPD; one "
            "alpha for all tasks; acts with dt's target instead of the best of 50 candidates by Q"
        ),
    ),
    "iql": Method(
        "IQL's advantage-weighted policy (the same values that IPD uses)", _iql,
        source="Kostrikov et al. 2021, Offline reinforcement learning with implicit Q-learning",
        deviations="five Q and V networks and their means in the lesson preset; see iql.py",
    ),
    "mpc": Method(
        "the planner acting directly in the environment", _mpc,
        source="Sikchi et al. 2020, LOOP; Zhan et al. 2021, MOPP (the nearest relatives)",
        deviations="IPD's planner, values and ensemble; no behaviour-cloned proposals",
    ),
    "ipd-noaug": Method("IPD without imagined data, all else equal", _transformer, NO_IMAGINATION),
    "ipd-greedy": Method(
        "IPD with greedy-Q rollouts instead of MPC", _transformer, {"planner.kind": "greedy-q"}
    ),
    "ipd-random": Method(
        "IPD with uniformly random imagined actions instead of MPC", _transformer,
        {"planner.kind": "random"},
    ),
    "ipd-nogate": Method(
        "IPD without the uncertainty gate: every imagined step is kept", _transformer,
        {"imagination.quantile": None},
    ),
    "ipd-noq": Method(
        "IPD without the value-guided term (alpha = 0)", _transformer, {"distillation.alpha": 0.0}
    ),
    "ipd-rtg": Method(
        "IPD with return-to-go tokens and a hand-set target instead of V(s), all else equal",
        _transformer, RETURN_TO_GO,
        deviations="set the target with evaluation.target_level or evaluation.target",
    ),
    **{
        f"ipd-x{amount:g}": Method(
            f"IPD with {amount:g} times the imagined data (0 is ipd-noaug, 1 is ipd)",
            _transformer, amount=amount,
            deviations="the paper's amounts are unknown; see Method.configure",  # PAPER SILENT
        )
        for amount in (0.125, 0.25, 0.5, 2.0, 4.0)
    },
    "ipd": Method("the paper's method", _transformer),
}  # fmt: skip


def get_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        KeyError: no such method; the message lists those that exist.
    """
    if name not in METHODS:
        raise KeyError(f"unknown method {name!r}: expected one of {', '.join(METHODS)}")
    return METHODS[name]
