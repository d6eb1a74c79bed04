"""What is asked for at inference: quantiles by hand, and a model that can tell good from bad."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ipd_lite.paper.ask import choose, excess_of, imagine_policy, quantile_of
from tests.test_support import gate_of


def test_the_excess_and_its_quantile_by_hand() -> None:
    assessment: Any = SimpleNamespace(
        bootstrapped=torch.tensor([3.0, 1.0]), values=torch.tensor([1.0, 1.0])
    )
    assert excess_of(assessment).tolist() == [2.0, 0.0]
    assert float(quantile_of(torch.tensor([4.0, 0.0, 2.0]), 0.75)) == 3.0
    draws = torch.randn(101, generator=torch.Generator().manual_seed(0))
    assert float(quantile_of(draws, 0.9)) == pytest.approx(np.quantile(draws.numpy(), 0.9))
    with pytest.raises(ValueError, match="ask_quantile"):
        quantile_of(draws, 1.5)


def test_more_is_asked_for_only_beyond_the_standard_error() -> None:
    first = torch.arange(100.0)
    alternating = torch.tensor([1.0, -1.0]).repeat(50)
    assert choose([first, first + 0.5, first + 0.4]) == 1
    assert choose([first, first - 1]) == 0
    assert choose([first, first + 0.01 + 20 * alternating]) == 0
    assert choose([first, torch.full((100,), torch.nan)]) == 0


class Walk:
    """s' = s + a, reward 1; ends where s' > `wall`; U is `doubt`."""

    def __init__(self, wall: float = float("inf"), doubt: float = 0.0) -> None:
        self.wall, self.doubt = wall, doubt

    def step(self, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return s + a, torch.ones(len(s)), (s + a)[:, 0] > self.wall

    def uncertainty(self, s: Tensor, a: Tensor) -> Tensor:
        return torch.full((len(s),), self.doubt)


class Stride:
    """Always the same action."""

    def begin(self, slots: int) -> None:
        pass

    def reset(self, rows: Tensor) -> None:
        pass

    def act(self, observations: Tensor, rewards: Tensor, rows: Tensor) -> Tensor:
        return torch.ones_like(observations)


def outcome(model: Any, gate: Any = None, value: float = 10.0, steps: int = 4) -> Any:
    values: Any = SimpleNamespace(v=lambda s: torch.full(s.shape[:-1], value))
    return imagine_policy(
        Stride(), torch.zeros(2, 1), values, model,  # type: ignore[arg-type]
        threshold=torch.tensor(1.0), gate=gate, steps=steps, discount=0.5,
    )  # fmt: skip


def test_inside_the_gates_rewards_and_the_value_of_the_end_count() -> None:
    result = outcome(Walk())
    assert result.returns.tolist() == [1 + 0.5 + 0.25 + 0.125 + 10 / 16] * 2
    assert result.steps.tolist() == [4, 4] and result.inside.all()


def test_terminated_is_not_cut() -> None:
    result = outcome(Walk(wall=1.5))  # ends with its second step, without a value
    assert result.returns.tolist() == [1.5, 1.5]
    assert result.steps.tolist() == [2, 2] and result.inside.all()


def test_a_rollout_that_leaves_a_gate_keeps_what_it_has_earned() -> None:
    left = outcome(Walk(), gate_of(torch.zeros(1, 1), threshold=2.5))
    assert left.returns.tolist() == [1.5, 1.5] and not left.inside.any()
    for doubt in (2.0, float("nan")):
        unsure = outcome(Walk(doubt=doubt))
        assert unsure.returns.tolist() == [0.0, 0.0] and not unsure.inside.any()
