"""Planned first actions where the best answer is known, and what no gate may let through."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ipd_lite.paper.distillation import DistillationConfig, Examples, window_pools
from ipd_lite.paper.labels import Planner, label, mean_of_best, plan_first_actions, with_labels
from ipd_lite.paper.planning import PlannerConfig
from ipd_lite.paper.support import NearestStates
from tests.helpers import small_dataset

CONFIG = PlannerConfig(candidates=60, horizon=2, first_noise=0.5, later_noise=0.0, top=3)


class Line:
    """s' = s + a in every member; the reward is -|s' - 1|; `terminates` ends every step."""

    def __init__(self, members: int = 2, doubt: float = 0.0, terminates: bool = False) -> None:
        self.elites = torch.arange(members)
        self.doubt, self.terminates = doubt, terminates

    def step(self, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = s + a
        ended = torch.full((len(s),), self.terminates)
        return following, -(following[:, 0] - 1).abs(), ended

    def uncertainty(self, s: Tensor, a: Tensor) -> Tensor:
        return torch.full((len(s),), self.doubt)


def planner(model: Any = None, value: float = 0.0, **changes: Any) -> Planner:
    values: Any = SimpleNamespace(
        policy=lambda s: torch.zeros(*s.shape[:-1], s.shape[-1]),
        v=lambda s: torch.full(s.shape[:-1], value),
    )
    base = Planner(
        values, model or Line(), CONFIG, 0.9, torch.tensor(1.0), None,
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    return replace(base, **changes)


def near(where: float, threshold: float) -> NearestStates:
    one = torch.ones(1)
    return NearestStates(where * one[None], 0 * one, one, 1, torch.tensor(threshold))


def test_the_plan_goes_where_the_reward_is_and_its_gain_is_exact() -> None:
    states = torch.tensor([[0.0], [0.7], [1.4]])
    found = plan_first_actions(states, planner())
    best = (1 - states).clamp(-1, 1)
    assert found["improved"].all()
    assert float((found["actions"] - best).abs().max()) < 0.35
    # Two steps: the policy stays where the first action led. Own action: stays at the start.
    reached = states + found["actions"]
    expected = (1 + 0.9) * ((states - 1).abs() - (reached - 1).abs()).squeeze(1)
    torch.testing.assert_close(found["gain"], expected)


def test_where_the_own_action_is_best_it_is_kept_without_a_promise() -> None:
    found = plan_first_actions(torch.ones(4, 1), planner())
    assert not found["improved"].any()
    assert torch.equal(found["actions"], torch.zeros(4, 1))
    assert torch.equal(found["gain"], torch.zeros(4))


def test_neither_gate_can_be_passed_by_a_great_promise() -> None:
    states = torch.zeros(3, 1)
    for refused in (
        planner(gate=near(50.0, 1.0)),
        planner(Line(doubt=2.0)),
        planner(Line(doubt=float("nan"))),
        planner(value=float("nan")),
    ):
        assert not plan_first_actions(states, refused)["improved"].any()
    assert plan_first_actions(states, planner(gate=near(0.5, 1.0)))["improved"].all()


def test_the_support_gate_chooses_among_ends() -> None:
    found = plan_first_actions(torch.zeros(1, 1), planner(gate=near(0.2, 0.15)))
    assert 0.05 <= float(found["actions"]) <= 0.35


def test_a_plan_that_ends_the_task_needs_no_value() -> None:
    found = plan_first_actions(torch.zeros(2, 1), planner(Line(terminates=True), float("nan"),
                                                          gate=near(50.0, 1.0)))  # fmt: skip
    assert found["improved"].all() and found["terminated"].all()
    expected = 1 - (found["actions"] - 1).abs().squeeze(1)  # one step alone counts
    torch.testing.assert_close(found["gain"], expected)


def test_mean_of_best_against_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn(9, 5, 2, generator=generator)
    gain = torch.randn(9, 5, generator=generator)
    allowed = torch.rand(9, 5, generator=generator) < 0.3
    allowed[:, 0] = False
    found, mean = mean_of_best(actions, gain, allowed, 3)
    for b in range(5):
        ranked = sorted((float(gain[n, b]), n) for n in range(9) if allowed[n, b])[::-1][:3]
        assert bool(found[b]) == bool(ranked)
        if ranked:
            torch.testing.assert_close(mean[b], actions[[n for _, n in ranked], b].mean(0))


def test_same_seed_same_labels_and_none_is_an_error() -> None:
    data = small_dataset()
    values: Any = SimpleNamespace(policy=lambda s: 0 * s, v=lambda s: s.sum(-1))
    first, second = (label(data, torch.arange(30), planner(values=values)) for _ in range(2))
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    with pytest.raises(ValueError, match="no recorded state"):
        label(data, torch.arange(0), planner())


def test_a_label_is_a_window_with_its_promise_and_a_share_of_the_batch() -> None:
    data = small_dataset()
    values: Any = SimpleNamespace(policy=lambda s: 0 * s, v=lambda s: s.sum(-1))
    labels = label(data, torch.tensor([0, 7, 25]), planner(values=values))
    count = len(data)
    nothing = torch.zeros(count, dtype=torch.bool)
    plain = Examples(data, torch.zeros(count), torch.ones(count), nothing, torch.zeros(count))
    examples = with_labels(plain, data, labels, values, prefix=4)
    assert examples.labelled is not None
    added = examples.dataset
    # Steps 0, 7 and 5 of their episodes: prefixes of 0, 4 and 4 recorded steps.
    assert added.lengths[-3:].tolist() == [1, 5, 5]
    final = (added.starts + added.lengths - 1)[-3:]
    assert torch.equal(added.actions[final], labels.actions)
    promised = data.observations[labels.start].sum(-1) + labels.gain
    torch.testing.assert_close(examples.conditions[final], promised)
    assert float(examples.weights[count:].sum()) == 3 == float(examples.weights[final].sum())
    config = DistillationConfig(imagined_share=0.0, label_share=0.75, batch_size=8)
    pools = window_pools(examples, config)
    assert [n for _, n in pools] == [2, 0, 6]
    assert pools[2][0].tolist() == list(range(count, count + 11))
