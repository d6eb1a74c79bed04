"""What to ask for at inference: V(s), or as much more as the data or the model can support.

A policy that was trained on returns follows the token beyond the usual returns, for a while: asking
for a little more than V(s) helps until it leads where nothing is known. How much is "a little"
differs between data sets, and a number set by hand is what the method promises to abolish. Two ways
find it in data alone.

*quantile*: the least that the best tenth of the recorded steps is above V(s). V is learned with a
bias of its own (a minimum of two networks lowers it, an expectile lifts it), so that V(s) may ask
for less than the recordings' mean; the quantile of (bootstrapped return - V(s)) corrects that, too.

*model*: for every offset the policy is rolled out in the ensemble from recorded states. A rollout
that leaves either gate (all but a hundredth of held-out recordings pass) is cut and keeps what it
has earned; one that stays inside adds V at its end. The offset with the greatest mean return wins;
V(s) itself (offset 0) is replaced only by one that is better beyond the standard error of the
paired difference. Offsets are in deviations of (bootstrapped return - V(s)).

PAPER SILENT. Offline policy selection by model: Voloshin et al. (2019) and Zhang et al. (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ipd_lite.paper.acting import TransformerActor
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.imagination import Assessment
from ipd_lite.paper.support import Gate, passes
from ipd_lite.paper.transformer import TransformerPolicy
from ipd_lite.paper.values import Values
from ipd_lite.paper.world_model import WorldModel

OFFSETS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Tried by :func:`ask_by_model`, in deviations of the excess."""
ROLLOUTS, STEPS, LOOSE = 150, 100, 0.99
"""Imagined rollouts per offset (rounded up to a multiple of the elites), their length, and the
quantile of both gates: a rollout may do what all but a hundredth of the recordings do."""


def excess_of(assessment: Assessment) -> Tensor:
    """How much the recorded bootstrapped returns are above V(s), (N,)."""
    return assessment.bootstrapped - assessment.values


def quantile_of(values: Tensor, quantile: float) -> Tensor:
    """`torch.quantile` of values (N,), which alone accepts at most 2^24 numbers.

    Raises:
        ValueError: the quantile is not inside [0, 1].
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"evaluation.ask_quantile = {quantile}: expected a number in [0, 1]")
    ranked = values.sort().values
    place = quantile * (len(ranked) - 1)
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    return torch.lerp(ranked[low], ranked[high], place - low)


@dataclass(frozen=True)
class Outcomes:
    """B policy rollouts in the ensemble: returns (B,) discounted, steps (B,) inside both gates,
    inside (B,) bool: never cut."""

    returns: Tensor
    steps: Tensor
    inside: Tensor


@torch.no_grad()
def imagine_policy(
    actor: TransformerActor,
    states: Tensor,
    values: Values,
    world_model: WorldModel,
    *,
    threshold: Tensor,
    gate: Gate | None,
    steps: int,
    discount: float,
) -> Outcomes:
    """Roll `actor` out from recorded states (B, O), row by row in one elite (B a multiple of E).

    Nothing is earned beyond the first step whose U or whose following state fails its gate.
    """
    count, device = len(states), states.device
    rows = torch.arange(count, device=device)
    actor.begin(count)
    actor.reset(rows)
    total, weight = torch.zeros(count, device=device), torch.ones(count, device=device)
    length = torch.zeros(count, dtype=torch.long, device=device)
    inside = torch.ones(count, dtype=torch.bool, device=device)
    reward = torch.zeros(count, device=device)
    for _ in range(steps):
        action = actor.act(states, reward, rows)
        doubt = world_model.uncertainty(states, action)
        following, reward, ended = world_model.step(states, action)
        known = (doubt <= threshold) & (ended | passes(gate, following)) & reward.isfinite()
        alive = weight > 0
        inside &= known | ~alive
        weight = torch.where(known, weight, 0.0)
        total = torch.where(weight > 0, total + weight * reward, total)
        length += (weight > 0).long()
        weight = weight * discount * (~ended).float()
        # A row that is over stays where it was: its numbers must not spread.
        states = torch.where((weight > 0)[:, None], following, states)
        if not bool((weight > 0).any()):
            break
    ends = torch.where(weight > 0, weight * values.v(states), 0.0)
    return Outcomes(total + ends, length, inside)


def choose(returns: Sequence[Tensor], most: float = 1.0) -> int:
    """Index of the returns (B,) with the greatest mean; 0 unless the paired difference to the first
    is above `most` standard errors."""
    first = returns[0]
    best = max(range(len(returns)), key=lambda i: float(returns[i].nan_to_num(-torch.inf).mean()))
    difference = returns[best] - first
    error = difference.std() / len(first) ** 0.5
    return best if float(difference.mean()) > most * float(error) else 0


@torch.no_grad()
def ask_by_model(
    policy: TransformerPolicy,
    values: Values,
    world_model: WorldModel,
    dataset: OfflineDataset,
    excess: Tensor,
    *,
    threshold: Tensor,
    gate: Gate | None,
    timestep: str,
    discount: float,
    seed: int,
) -> float:
    """The offset, in units of return, with which `policy` does best in the model.

    Args:
        excess: (N,) of the recorded steps, see :func:`excess_of`; its deviation is the unit.
        threshold, gate: of U and of support, at the `LOOSE` quantile of held-out recordings.
    """
    members = len(world_model.elites)
    count = -(-ROLLOUTS // members) * members
    generator = torch.Generator(dataset.device).manual_seed(seed)
    drawn = torch.randint(len(dataset), (count,), generator=generator, device=dataset.device)
    offsets = [offset * float(excess.std()) for offset in OFFSETS]
    returns = []
    for more in offsets:
        actor = TransformerActor(policy, values=values, more=more, timestep=timestep)
        outcomes = imagine_policy(
            actor, dataset.observations[drawn], values, world_model,
            threshold=threshold, gate=gate, steps=STEPS, discount=discount,
        )  # fmt: skip
        returns.append(outcomes.returns)
    return offsets[choose(returns)]
