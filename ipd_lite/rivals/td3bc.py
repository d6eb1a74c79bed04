"""TD3+BC (Fujimoto & Gu 2021): squared error to the data's action minus lambda Q(s, pi(s))."""

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
class TD3BCConfig:
    """Baseline: TD3+BC (Fujimoto & Gu 2021); sizes, rates and updates are those of `values`."""

    alpha: float = 2.5
    """Weight of Q against cloning, divided by the batch mean of |Q|."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's action (range [-1, 1])."""
    noise_clip: float = 0.5
    policy_delay: int = 2
    """Updates of Q per update of the policy and of the target networks."""

    def __post_init__(self) -> None:
        require(self.policy_delay >= 1, "td3bc.policy_delay", self.policy_delay, "at least 1")


def td3bc_critic_loss(
    q: TwinQ,
    target_policy: ClonedPolicy,
    batch: Batch,
    config: ValueConfig,
    td3bc: TD3BCConfig,
    bounds: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared Bellman error, summed over the twins; the target action carries clipped noise."""
    with torch.no_grad():
        next_action = smoothed_action(
            target_policy, batch, td3bc.target_noise, td3bc.noise_clip, generator
        )
        next_q = q.lowest_target(batch.next_observations, next_action)
        target = bellman_target(batch, next_q, config, bounds)
    return squared_error(q, batch, target)


def td3bc_policy_loss(q: TwinQ, policy: ClonedPolicy, batch: Batch, alpha: float) -> Tensor:
    """mean |pi - a|^2 - lambda * mean Q1(s, pi), lambda = alpha / mean |Q1| without gradient."""
    action = policy(batch.observations)
    value = q(batch.observations, action)[0]
    scale = alpha / value.detach().abs().mean().clamp_min(1e-6)
    return (action - batch.actions).square().mean() - scale * value.mean()


def train_td3bc(
    dataset: OfflineDataset, config: ValueConfig, td3bc: TD3BCConfig, *, seed: int, **more: Any
) -> tuple[ClonedPolicy, Snapshots, TwinQ]:
    """Train TD3+BC, see :func:`train_td3` for what else it takes and gives."""

    def critic_loss(
        q: TwinQ, target_policy: ClonedPolicy, batch: Batch, *rest: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return td3bc_critic_loss(q, target_policy, batch, config, td3bc, *rest)

    return train_td3(
        "td3bc",
        dataset,
        config,
        lambda generator: (dataset.sample(config.batch_size, generator),),
        critic_loss,
        partial(td3bc_policy_loss, alpha=td3bc.alpha),
        td3bc.policy_delay,
        seed=seed,
        **more,
    )
