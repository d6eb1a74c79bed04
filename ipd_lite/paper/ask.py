"""What to ask for at inference: V(s), or V(s) and some more, of which Q takes the best answer.

A policy that was trained on returns follows the token beyond the usual returns, for a while: asking
for more than V(s) helps until it leads where nothing is known. How much is best differs between
data sets, and even between seeds, and a number set by hand is what the method promises to abolish.
So several amounts are asked for at every step, and the critic chooses among the answers, as QT (Hu
et al. 2024) does with return targets. The amounts are quantiles of (bootstrapped return - V(s))
over all recorded steps: numbers of the data, in its units, which also undo a bias of V (a minimum
of two networks lowers it, an expectile lifts it). All answers come from the policy, so that Q is
only asked about actions like the recorded ones.

PAPER SILENT.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ipd_lite.paper.imagination import Assessment


def beyond_values(assessment: Assessment, count: int) -> Tensor:
    """What to ask for beyond V(s), (count,): evenly spaced quantiles, from the median to the best.

    They are quantiles of what the recorded bootstrapped returns are above V(s) (nearest rank).
    Below the median one would ask for less than V(s), its bias taken away. With count 0 nothing,
    (1,).
    """
    excess = assessment.bootstrapped - assessment.values
    if not count:
        return excess.new_zeros(1)
    levels = 0.5 + torch.arange(1, count + 1, device=excess.device) / (2 * count + 2)
    return excess.sort().values[(levels * (len(excess) - 1)).round().long()]
