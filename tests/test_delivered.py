"""Promised against delivered gain: groups by hand, and a promise that a simulator must refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.paper.imagination import Continuations
from ipd_lite.report.delivered import Delivery, by_distance, delivery
from ipd_lite.tasks.registry import get_task
from tests.test_support import gate_of


def test_groups_are_equally_large_and_ordered_by_distance() -> None:
    result = Delivery(
        np.array([3.0, 0.0, 2.0, 1.0]), np.array([30.0, 0, 20, 10]), np.array([3.0, 0, 2, 1]), 1.0
    )
    near, far = by_distance(result, 2)
    assert near == {"distance": 0.5, "promised": 5.0, "delivered": 0.5, "count": 2}
    assert far == {"distance": 2.5, "promised": 25.0, "delivered": 2.5, "count": 2}
    with pytest.raises(ValueError, match="cannot fill 5 groups"):
        by_distance(result)


def test_an_imagined_leap_is_promised_but_not_delivered() -> None:
    task = get_task("pointmaze-umaze")
    rest = np.array([[-1.0, 1.0, 0.0, 0.0]] * 2)
    data = from_episodes([Episode(rest, np.zeros((1, 2)), np.array([-1.0]), False)], "rest")
    start = data.observations[:1]
    leap = start + torch.tensor([[5.0, 0.0, 0.0, 0.0]])
    dreamt = Continuations(
        start=torch.zeros(1, dtype=torch.long),
        observations=torch.stack([start, leap], dim=1),
        actions=torch.zeros(1, 1, 2),
        rewards=torch.full((1, 1), -1.0),
        terminated=torch.zeros(1, 1, dtype=torch.bool),
        uncertainty=torch.zeros(1, 1),
        length=torch.ones(1, dtype=torch.long),
        gain=torch.zeros(1),
    )
    values: Any = SimpleNamespace(v=lambda s: s[..., 0])  # V grows with x
    found = delivery(task, dreamt, data, values, gate_of(start), 1.0)
    assert found.promised == pytest.approx(5 - 1) and found.delivered == pytest.approx(-1, abs=0.1)
    assert found.distance == pytest.approx(5)
