"""Section 3.2: how much the members of an ensemble disagree.

Two pairwise divergences of diagonal Gaussians are offered. Both are geometric Jensen-Shannon
divergences at skew 1/2 (Nielsen 2019): they compare N1 and N2 with their normalized geometric mean
N*. The *dual* form, 1/2 KL(N*||N1) + 1/2 KL(N*||N2), equals the Bhattacharyya distance and is what
MACURA (arXiv 2405.19014) computes; it is the default. The *primal* form swaps the arguments,
1/2 KL(N1||N*) + 1/2 KL(N2||N*), and weighs a difference of means more.

Both are written with differences of means: the textbook form with mu^2 / variance terms cancels
catastrophically in float32 once the means are large against the deviations.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dual_divergence(mean1: Tensor, variance1: Tensor, mean2: Tensor, variance2: Tensor) -> Tensor:
    """Dual geometric Jensen-Shannon divergence at skew 1/2, in nats, (..., D) -> (...).

    sum_d (m1 - m2)^2 / (4 (v1 + v2)) + 1/2 log((v1 + v2) / (2 sqrt(v1 v2))); not negative, zero
    exactly for equal Gaussians, symmetric.
    """
    total = variance1 + variance2
    distance = (mean1 - mean2).square() / (4 * total)
    # (v1 + v2)^2 / (4 v1 v2) = 1 + (v1 - v2)^2 / (4 v1 v2), so log1p keeps small values exact.
    spread = 0.25 * torch.log1p((variance1 - variance2).square() / (4 * variance1 * variance2))
    return (distance + spread).sum(-1)


def primal_divergence(mean1: Tensor, variance1: Tensor, mean2: Tensor, variance2: Tensor) -> Tensor:
    """Primal geometric Jensen-Shannon divergence at skew 1/2, in nats, (..., D) -> (...).

    With N* of variance 2 v1 v2 / (v1 + v2) and precision-weighted mean:
    sum_d (m1 - m2)^2 / (8 (v1 v2) / (v1 + v2)) * (v1^2 + v2^2) / (v1 + v2)^2 + the spread terms.
    """
    total, product = variance1 + variance2, variance1 * variance2
    difference = (mean1 - mean2).square()
    # m1 - m* = (m1 - m2) v1 / (v1 + v2) and likewise for m2.
    shares = (variance1.square() + variance2.square()) / total.square()
    distance = 0.25 * difference * shares * total / (2 * product)
    ratio = (variance1 - variance2).square() / (4 * product)
    # 1/4 (v1 + v2) / v* - 1/2 + 1/2 log(v* / sqrt(v1 v2)), both parts by the same small ratio.
    spread = 0.5 * ratio - 0.25 * torch.log1p(ratio)
    return (distance + spread).sum(-1)


def ensemble_divergence(means: Tensor, variances: Tensor, kind: str = "dual") -> Tensor:
    """U: mean divergence over all pairs of members.

    Args:
        means, variances: (members, ..., D); variances positive.
        kind: "dual" or "primal".

    Returns:
        (...) in nats; zero exactly if all members agree.

    Raises:
        ValueError: fewer than two members, or an unknown kind.
    """
    kinds = {"dual": dual_divergence, "primal": primal_divergence}
    if kind not in kinds:
        raise ValueError(f"unknown divergence {kind!r}: expected 'dual' or 'primal'")
    members = means.shape[0]
    if members < 2:
        raise ValueError(f"disagreement needs at least two members, got {members}")
    first, second = torch.triu_indices(members, members, offset=1, device=means.device)
    return kinds[kind](means[first], variances[first], means[second], variances[second]).mean(0)


def inside_threshold(uncertainty: Tensor, threshold: Tensor | float, cumulative: bool) -> Tensor:
    """Which imagined steps may be kept, (B, T) -> (B, T) bool.

    Per step: every U up to and including this one is at or below the threshold. Cumulative: the
    running sum of U stays at or below (steps so far) * threshold, so that one doubtful step can be
    paid for by certain ones. A U that is not finite (unknown, or a diverged model) never passes,
    whatever the threshold.
    """
    if cumulative:
        steps = torch.arange(1, uncertainty.shape[1] + 1, device=uncertainty.device)
        passed = uncertainty.cumsum(1) <= threshold * steps
    else:
        passed = uncertainty <= threshold
    return (passed & uncertainty.isfinite()).cumprod(1).bool()
