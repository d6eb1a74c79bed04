"""What can be run by name: what acts, how its settings differ from IPD's, where it comes from.

Nothing here trains or needs torch; :mod:`ipd_lite.study.actors` says what acts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ipd_lite.suggestions import unknown

IPD_PAPER = "IPD, arXiv 2603.04289"

Acting = Literal[
    "behaviour", "values", "cloned", "td3bc", "cql", "rebrac", "planner", "transformer"
]


@dataclass(frozen=True)
class Method:
    """How a method differs from IPD.

    Args:
        acts: which stage acts in the environment.
        overrides: the config fields that differ.
        source: where the method comes from.
        deviations: what we do otherwise than the source; for all of them sizes, learning rates and
            updates follow IPD's stages instead of the publication.
        amount: imagined data in multiples of the configured amount (the scaling curve).
        needs: those of `overrides` that define the method, so that a user who sets them otherwise
            is refused; None = all of them.
        borrowed: config fields that take the value of another one: a rival's own setting per task.
    """

    description: str
    acts: Acting
    overrides: Mapping[str, Any] = field(default_factory=dict)
    source: str = IPD_PAPER
    deviations: str = ""
    amount: float = 1.0
    needs: Collection[str] | None = None
    borrowed: Mapping[str, str] = field(default_factory=dict)


RETURN_TO_GO = {"distillation.condition": "return-to-go"}
NO_IMAGINATION = {"distillation.imagined_share": 0.0}
NO_VALUES = {"distillation.alpha": 0.0}
EVERY_ACTION = {"distillation.filter_suboptimal": False}


METHODS: dict[str, Method] = {
    "behaviour": Method(
        "the policy that collected the data",
        "behaviour",
        source="Fu et al. 2020, D4RL",
        deviations="runs from the evaluation's starts for one episode each, not as one stream",
    ),
    "bc": Method(
        "behaviour cloning of every recorded action",
        "cloned",
        source="Pomerleau 1988, ALVINN; as in Chen et al. 2021, Decision Transformer",
        deviations="deterministic policy, squared error",
    ),
    "bc-10": Method(
        "behaviour cloning of the episodes with the greatest returns, a tenth of the steps",
        "cloned",
        {"cloning.fraction": 0.1},
        source="Chen et al. 2021, Decision Transformer, section 5.2 (10%BC)",
        deviations="deterministic policy, squared error; the share is fixed, not chosen per task",
    ),
    "td3bc": Method(
        "TD3+BC: squared error to the data's action minus lambda Q(s, pi(s))",
        "td3bc",
        source="Fujimoto & Gu 2021, A minimalist approach to offline reinforcement learning",
        deviations="LayerNorm and Fourier features in Q, cosine rate, clipped targets, as our IQL",
    ),
    "cql": Method(
        "CQL(H): soft actor-critic whose Q is lowered outside the data",
        "cql",
        source="Kumar et al. 2020, Conservative Q-learning for offline reinforcement learning",
        deviations="as td3bc; no cloning warm-up, one rate for all parts, fixed penalty weight",
    ),
    "rebrac": Method(
        "ReBRAC: TD3+BC whose critic, too, pays for actions away from the data",
        "rebrac",
        source="Tarasov et al. 2023, Revisiting the minimalist approach to offline RL",
        deviations=(
            "as td3bc; two hidden layers and the values' batch size instead of three and 1,024, "
            "one pair of weights instead of one per data set"
        ),
    ),
    "dt": Method(
        "Decision Transformer: return-to-go token with a hand-set target, no Q term",
        "transformer",
        {**RETURN_TO_GO, **NO_IMAGINATION, **EVERY_ACTION, **NO_VALUES},
        needs=(*RETURN_TO_GO, *NO_IMAGINATION, *NO_VALUES),
        source="Chen et al. 2021, Decision Transformer",
        deviations=(
            "the transformer of IPD (one fused token per step); the target is the best return in "
            "the data, not chosen per task, and what is left of it stays in the data's range"
        ),
    ),
    "qt": Method(
        "QT: return-to-go token and the value-guided term, no imagined data",
        "transformer",
        {**RETURN_TO_GO, **NO_IMAGINATION, **EVERY_ACTION},
        needs=(*RETURN_TO_GO, *NO_IMAGINATION),
        source="Hu et al. 2024, Q-value regularized transformer, arXiv 2405.17098",
        deviations=(
            "Q is IQL's, trained before and frozen, and divided by mean |Q - V| as in IPD; one "
            "alpha per kind of task; acts with dt's target instead of the best of 50 candidates "
            "by Q"
        ),
        borrowed={"distillation.alpha": "qt.alpha"},
    ),
    "iql": Method(
        "IQL's advantage-weighted policy (the same values that IPD uses)",
        "values",
        source="Kostrikov et al. 2021, Offline reinforcement learning with implicit Q-learning",
        deviations="five Q and V networks and their means in the lesson preset",
    ),
    "mpc": Method(
        "the planner acting directly in the environment",
        "planner",
        source="Sikchi et al. 2020, LOOP; Zhan et al. 2021, MOPP (the nearest relatives)",
        deviations="IPD's planner, values and ensemble; no behaviour-cloned proposals",
    ),
    "ipd-noaug": Method("IPD without imagined data, all else equal", "transformer", NO_IMAGINATION),
    "ipd-greedy": Method(
        "IPD with greedy-Q rollouts instead of MPC", "transformer", {"planner.kind": "greedy-q"}
    ),
    "ipd-random": Method(
        "IPD with uniformly random imagined actions instead of MPC",
        "transformer",
        {"planner.kind": "random"},
    ),
    "ipd-nogate": Method(
        "IPD without the uncertainty gate: every imagined step is kept",
        "transformer",
        {"imagination.quantile": None},
    ),
    "ipd-nosupport": Method(
        "IPD without the support gate: a plan may end anywhere",
        "transformer",
        {"imagination.support_quantile": None},
    ),
    "ipd-ask-v": Method(
        "IPD that asks for V(s) alone at inference, all else equal",
        "transformer",
        {"evaluation.ask": "value"},
    ),
    "ipd-noq": Method("IPD without the value-guided term (alpha = 0)", "transformer", NO_VALUES),
    "ipd-rtg": Method(
        "IPD with return-to-go tokens and a hand-set target instead of V(s), all else equal",
        "transformer",
        RETURN_TO_GO,
        deviations="set the target with evaluation.target_level or evaluation.target",
    ),
    **{
        f"ipd-x{amount:g}": Method(
            f"IPD with {amount:g} times the imagined data (0 is ipd-noaug, 1 is ipd)",
            "transformer",
            amount=amount,
            deviations="the paper names no amounts",  # PAPER SILENT
        )
        for amount in (0.125, 0.25, 0.5, 2.0, 4.0)
    },
    "ipd": Method("the paper's method", "transformer"),
}


def get_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        KeyError: no such method; the message names the nearest ones.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS, "ipd-lite methods")
    return METHODS[name]
