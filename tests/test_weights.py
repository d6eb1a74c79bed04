"""Advantage weights of the transformer's regression, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ipd_lite.paper.distillation import (
    LARGEST_WEIGHT,
    DistillationConfig,
    advantages,
    prepare_examples,
)
from tests.helpers import small_dataset


def stub(advantage: torch.Tensor) -> Any:
    """Values whose advantage of the data's rows is the one given."""
    return SimpleNamespace(
        q=lambda s, a: advantage[: len(s)] + 5.0, v=lambda s: torch.full(s.shape[:-1], 5.0)
    )


def test_weights_are_exponential_with_mean_one() -> None:
    data = small_dataset()
    advantage = torch.zeros(len(data))
    advantage[::2] = math.log(3.0)
    weight = advantages(stub(advantage), data, 1.0)
    assert weight[:4].tolist() == pytest.approx([1.5, 0.5, 1.5, 0.5])
    sharper = advantages(stub(advantage), data, 2.0)
    assert float(sharper[0] / sharper[1]) == pytest.approx(9.0)


def test_no_step_outweighs_its_bound() -> None:
    data = small_dataset()
    advantage = torch.zeros(len(data))
    advantage[0] = 1e4
    weight = advantages(stub(advantage), data, 1.0)
    assert float(weight[0]) == LARGEST_WEIGHT
    assert weight.isfinite().all()


def test_only_the_regression_on_recorded_steps_is_weighed() -> None:
    data = small_dataset()
    values = stub(torch.linspace(-1, 1, len(data)))
    config = DistillationConfig(weigh_by_advantage=True, filter_suboptimal=False)
    examples = prepare_examples(data, values, config, 0.9, bootstrap_steps=2)
    torch.testing.assert_close(examples.weights, advantages(values, data, 1.0))
    plain = DistillationConfig(filter_suboptimal=False)
    assert prepare_examples(data, values, plain, 0.9, bootstrap_steps=2).weights.unique() == 1
