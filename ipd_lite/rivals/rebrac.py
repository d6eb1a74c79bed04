"""A third rival that asks Q about actions outside the data: ReBRAC.

Tarasov et al. (2023), "Revisiting the minimalist approach to offline reinforcement learning":
TD3+BC with *two* penalties of their own weights. The policy minimizes
actor_weight * |pi(s) - a|^2 - Q(s, pi(s)) / mean |Q|; the target of Q pays for leaving the data at
the next state, r + discount * (min Q(s', a') - critic_weight * |a' - recorded a'|^2).

Deviations: those of `critics.py` (sizes, rates, clipped targets as our IQL); two hidden layers
and batches of the values' size instead of three and 1,024; one pair of weights for all data sets;
no penalty where a recording ends, because no next action was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ipd_lite.paper.dataset import Batch, OfflineDataset
from ipd_lite.paper.training import Snapshots, require
from ipd_lite.paper.values import ValueConfig, bellman_target
from ipd_lite.rivals.cloning import ClonedPolicy
from ipd_lite.rivals.critics import TwinQ
from ipd_lite.rivals.td3 import smoothed_action, squared_error, train_td3


@dataclass(frozen=True)
class ReBRACConfig:
    """Baseline: ReBRAC (Tarasov et al. 2023); sizes, rates and updates are those of `values`."""

    actor_weight: float = 0.05
    """Weight of |pi(s) - a|^2 (summed over entries) against Q / mean |Q|."""
    critic_weight: float = 0.05
    """Weight of |a' - recorded a'|^2 in the target of Q, in units of (scaled) return."""
    target_noise: float = 0.2
    noise_clip: float = 0.5
    policy_delay: int = 2

    def __post_init__(self) -> None:
        require(self.policy_delay >= 1, "rebrac.policy_delay", self.policy_delay, "at least 1")
        require(self.actor_weight >= 0, "rebrac.actor_weight", self.actor_weight, "at least 0")
        require(self.critic_weight >= 0, "rebrac.critic_weight", self.critic_weight, "at least 0")


def rebrac_critic_loss(
    q: TwinQ,
    target_policy: ClonedPolicy,
    batch: Batch,
    next_actions: Tensor,
    recorded: Tensor,
    config: ValueConfig,
    rebrac: ReBRACConfig,
    bounds: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared Bellman error, summed over the twins, of the penalized target.

    Args:
        next_actions: (B, A) recorded at s'. recorded: (B,) 1 where there is one, else 0.
    """
    with torch.no_grad():
        action = smoothed_action(
            target_policy, batch, rebrac.target_noise, rebrac.noise_clip, generator
        )
        penalty = (action - next_actions).square().sum(-1) * recorded
        next_q = q.lowest_target(batch.next_observations, action) - rebrac.critic_weight * penalty
        target = bellman_target(batch, next_q, config, bounds)
    loss, logs = squared_error(q, batch, target)
    return loss, {**logs, "penalty": penalty.mean()}


def rebrac_policy_loss(q: TwinQ, policy: ClonedPolicy, batch: Batch, weight: float) -> Tensor:
    """mean of weight * |pi - a|^2 - min Q(s, pi) / mean |min Q|, the divisor without gradient."""
    action = policy(batch.observations)
    value = q(batch.observations, action).amin(0)
    scale = value.detach().abs().mean().clamp_min(1e-6)
    return weight * (action - batch.actions).square().sum(-1).mean() - value.mean() / scale


def with_next_action(
    dataset: OfflineDataset, size: int, generator: torch.Generator
) -> tuple[Batch, Tensor, Tensor]:
    """Random transitions, the action (B, A) recorded after each, and 1 where there is one (B,)."""
    index = torch.randint(len(dataset), (size,), generator=generator, device=dataset.device)
    following = dataset.actions[(index + 1).clamp_max(len(dataset) - 1)]
    return dataset.batch(index), following, (~dataset.last[index]).float()


def train_rebrac(
    dataset: OfflineDataset, config: ValueConfig, rebrac: ReBRACConfig, *, seed: int, **more: Any
) -> tuple[ClonedPolicy, Snapshots, TwinQ]:
    """Train ReBRAC, see :func:`train_td3` for what else it takes and gives."""

    def critic_loss(
        q: TwinQ,
        target_policy: ClonedPolicy,
        batch: Batch,
        following: Tensor,
        recorded: Tensor,
        *rest: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return rebrac_critic_loss(
            q, target_policy, batch, following, recorded, config, rebrac, *rest
        )

    return train_td3(
        "rebrac",
        dataset,
        config,
        partial(with_next_action, dataset, config.batch_size),
        critic_loss,
        partial(rebrac_policy_loss, weight=rebrac.actor_weight),
        rebrac.policy_delay,
        seed=seed,
        **more,
    )
