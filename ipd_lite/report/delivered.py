"""Promised against delivered gain of imagined continuations, by distance from the data.

A figure's and a report's business, as all of `diagnostics.py`: training never sees it. A gate on
support earns its place where the difference between both gains grows with the distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.imagination import Continuations
from ipd_lite.paper.support import Gate
from ipd_lite.paper.values import Values
from ipd_lite.report.diagnostics import replay
from ipd_lite.tasks.mazes import Array
from ipd_lite.tasks.task import Task


@dataclass(frozen=True)
class Delivery:
    """B continuations: distance (B,) of the imagined end from recorded states, the gain over V(s)
    that was promised and that the simulator delivered (B,), in units of return, and the largest
    distance that the gate lets pass."""

    distance: Array
    promised: Array
    delivered: Array
    threshold: float


@torch.no_grad()
def delivery(
    task: Task,
    continuations: Continuations,
    dataset: OfflineDataset,
    values: Values,
    gate: Gate,
    discount: float,
    count: int = 300,
    reward_scale: float = 1.0,
) -> Delivery:
    """Replay the first `count` continuations open-loop in the simulator (see `replay`)."""
    played, _ = replay(task, continuations, dataset, values, discount, count, reward_scale)
    chosen = continuations.select(slice(0, count))
    rows = torch.arange(len(chosen), device=chosen.start.device)
    distance = gate.distance(chosen.observations[rows, chosen.length])
    return Delivery(
        distance.cpu().numpy().astype(np.float64),
        played.imagined,
        played.real,
        float(gate.threshold),
    )


def by_distance(result: Delivery, groups: int = 5) -> list[dict[str, float]]:
    """Mean distance, promised and delivered gain, and count, of equally large groups by distance.

    Raises:
        ValueError: fewer continuations than groups.
    """
    if len(result.distance) < groups:
        raise ValueError(f"{len(result.distance)} continuations cannot fill {groups} groups")
    order = np.argsort(result.distance, kind="stable")
    return [
        {
            "distance": float(result.distance[part].mean()),
            "promised": float(result.promised[part].mean()),
            "delivered": float(result.delivered[part].mean()),
            "count": len(part),
        }
        for part in np.array_split(order, groups)
    ]
