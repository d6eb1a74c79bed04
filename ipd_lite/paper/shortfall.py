"""Section 3.3: where the data falls short of what the value function promises.

The plain comparison of V(s) with the return that the recording still holds is confounded by
truncation: a recording that was cut looks bad at its start and good at its end. The *bootstrapped*
return of the next few real steps plus V at their end is not: it asks only whether these steps were
as good as the best that is known from here.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bootstrapped_returns(
    rewards: Tensor,
    terminated: Tensor,
    last: Tensor,
    values: Tensor,
    next_values: Tensor,
    steps: int,
    discount: float,
) -> Tensor:
    """Discounted return (N,) of up to `steps` real steps, then V.

    For flat transitions, episode after episode. Windows end early at the end of their episode: with
    V(s') where it was truncated, with nothing where it terminated.

    Args:
        rewards, values, next_values: (N,) r, V(s), V(s').
        terminated, last: (N,) bool; `last` marks the final step of an episode.
        steps: at least 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    continues = (~terminated).to(values.dtype)
    result = values
    for _ in range(steps):
        following = torch.cat([result[1:], result[:1]])
        ahead = torch.where(last, next_values, following)
        result = rewards + discount * continues * ahead
    return result


def shortfall(values: Tensor, bootstrapped: Tensor) -> Tensor:
    """How much better than the recorded steps the value function thinks one can do, (N,)."""
    return values - bootstrapped


def suboptimal_steps(shortfalls: Tensor, fraction: float) -> Tensor:
    """The steps whose shortfall lies in the upper `fraction` of the data, (N,) bool."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in [0, 1], got {fraction}")
    count = round(fraction * len(shortfalls))
    chosen = torch.zeros_like(shortfalls, dtype=torch.bool)
    chosen[shortfalls.argsort(descending=True, stable=True)[:count]] = True
    return chosen
