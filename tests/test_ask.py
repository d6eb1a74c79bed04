"""What is asked for at inference: quantiles by hand, and a model that can tell good from bad."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ipd_lite.paper.ask import excess_of, quantile_of


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
