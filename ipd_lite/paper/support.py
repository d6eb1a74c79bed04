"""A gate on support: may the value of the state where a plan ends be trusted?

The ensemble's disagreement (section 3.2) asks whether the *dynamics* of a step are known. It says
nothing about V at the end of a plan: all V networks of an ensemble extrapolate alike outside the
data, so that neither their spread nor their minimum warns. What does warn is the distance to the
recorded states: a plan may end only where recordings are as near as recordings are to each other.

PAPER SILENT about any such gate. Nearest relatives: DiffStitch (Li et al. 2024), whose imagined
bridge must land on a recorded state, and PLAS or BCQ, which keep actions (not states) inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.nets import in_chunks

REFERENCES = 5_000
"""Recorded states that stand for all: twice as many take twice as long, and the threshold is
measured with the same ones. One core: 30 microseconds a state (SciPy's k-d tree: 130 with 11
entries, 350 with 17)."""


class Gate(Protocol):
    """What the planner asks about a state: a distance, and up to which distance it may go."""

    @property
    def threshold(self) -> Tensor:
        """Largest distance that passes, scalar."""

    def distance(self, states: Tensor) -> Tensor:
        """How far states (B, O) are from where values can be trusted, (B,)."""


def passes(gate: Gate, states: Tensor) -> Tensor:
    """Which states (B, O) are inside the gate, (B,) bool; a distance that is not finite is not."""
    distance = gate.distance(states)
    return (distance <= gate.threshold) & distance.isfinite()


@dataclass(frozen=True)
class NearestStates:
    """Mean Euclidean distance to the nearest recorded states, in deviations of the data.

    reference: (R, O) recorded states, standardized. mean, inverse: (O,), to standardize with.
    neighbours: how many of the nearest count. threshold: scalar, see :func:`calibrate`.
    """

    reference: Tensor
    mean: Tensor
    inverse: Tensor
    neighbours: int
    threshold: Tensor

    def distance(self, states: Tensor) -> Tensor:
        """Mean distance (B,) of states (B, O) to their nearest references."""
        return in_chunks(self._distance, states, size=256)  # fits the cache

    def _distance(self, states: Tensor) -> Tensor:
        scaled = (states - self.mean) * self.inverse
        # |x - y|^2 = |x|^2 - 2 xy + |y|^2 in one product; |x|^2 does not change who is nearest.
        square = torch.addmm(self.reference.square().sum(1), scaled, self.reference.T, alpha=-2)
        nearest = square.topk(self.neighbours, dim=1, largest=False, sorted=False).indices
        # Those few again by differences: the product cancels where a state lies on a reference.
        return (scaled[:, None] - self.reference[nearest]).square().sum(-1).sqrt().mean(1)


@torch.no_grad()
def nearest_states(
    recorded: OfflineDataset,
    holdout: OfflineDataset,
    quantile: float,
    *,
    neighbours: int = 5,
    references: int = REFERENCES,
    seed: int = 0,
) -> NearestStates:
    """The gate for `recorded`: its threshold is `quantile` of the distances of held-out states.

    Held out by episodes, because the steps before and after a state are always near to it.

    Raises:
        ValueError: `recorded` has fewer states than neighbours are asked for.
    """
    if len(recorded) < neighbours:
        raise ValueError(
            f"{recorded.name}: {len(recorded)} recorded states, fewer than the {neighbours} "
            "neighbours that imagination.neighbours asks for; record more, or ask for fewer"
        )
    states = recorded.observations
    generator = torch.Generator(states.device).manual_seed(seed)
    drawn = torch.randperm(len(states), generator=generator, device=states.device)[:references]
    deviation = states.std(0, correction=0)
    mean, inverse = states.mean(0), torch.where(deviation > 1e-6, 1 / deviation, 1.0)
    unbounded = torch.tensor(torch.inf, device=states.device)
    gate = NearestStates((states[drawn] - mean) * inverse, mean, inverse, neighbours, unbounded)
    return calibrate(gate, holdout, quantile, generator)


def calibrate(
    gate: NearestStates, holdout: OfflineDataset, quantile: float, generator: torch.Generator
) -> NearestStates:
    """The same gate with the threshold at `quantile` of the distances of real held-out states."""
    states = holdout.next_observations[~holdout.terminated]
    rows = torch.randperm(len(states), generator=generator, device=states.device)[:REFERENCES]
    # Where every step ends its episode there is nothing to compare with: nothing is near enough.
    nothing = torch.full_like(gate.threshold, -torch.inf)
    threshold = torch.quantile(gate.distance(states[rows]), quantile) if len(rows) else nothing
    return NearestStates(gate.reference, gate.mean, gate.inverse, gate.neighbours, threshold)
