"""What to ask for at inference: V(s), or as much more as the recordings themselves exceed it by.

A policy that was trained on returns follows the token beyond the usual returns, for a while: asking
for a little more than V(s) helps until it leads where nothing is known. How much is "a little"
differs between data sets, and a number set by hand is what the method promises to abolish. The
quantile of (bootstrapped return - V(s)) over all recorded steps is a number of the data, in its
units. It also undoes a bias of V (a minimum of two networks lowers it, an expectile lifts it).

PAPER SILENT.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ipd_lite.paper.imagination import Assessment


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
