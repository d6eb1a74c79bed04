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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ipd_lite.paper.dataset import Batch, OfflineDataset
from ipd_lite.paper.training import (
    Checkpoint,
    Snapshots,
    average_into,
    require,
    seeded,
    set_learning_rate,
)
from ipd_lite.paper.values import ValueConfig, bellman_target, value_bounds
from ipd_lite.rivals.cloning import ClonedPolicy
from ipd_lite.rivals.critics import TwinQ
from ipd_lite.rivals.td3bc import smoothed_action


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
    members = q(batch.observations, batch.actions)
    loss = (target - members).square().mean(1).sum()
    logs = {"q_loss": loss.detach(), "q_mean": members.detach().mean(), "penalty": penalty.mean()}
    return loss, logs


def rebrac_policy_loss(q: TwinQ, policy: ClonedPolicy, batch: Batch, weight: float) -> Tensor:
    """mean of weight * |pi - a|^2 - min Q(s, pi) / mean |min Q|, the divisor without gradient."""
    action = policy(batch.observations)
    value = q(batch.observations, action).amin(0)
    scale = value.detach().abs().mean().clamp_min(1e-6)
    return weight * (action - batch.actions).square().sum(-1).mean() - value.mean() / scale


def train_rebrac(
    dataset: OfflineDataset,
    config: ValueConfig,
    rebrac: ReBRACConfig,
    *,
    seed: int,
    position_dimensions: Sequence[int] = (),
    checkpoint: Checkpoint | None = None,
) -> tuple[ClonedPolicy, Snapshots, TwinQ]:
    """Train ReBRAC; returns the policy, its snapshots along the way, and Q.

    Raises:
        FloatingPointError: a loss became NaN or infinite.
    """
    checkpoint = checkpoint or Checkpoint.none()
    device = dataset.device
    observations, actions = dataset.observations.shape[1], dataset.actions.shape[1]
    with seeded(seed, device):
        q = TwinQ(config, observations, actions, position_dimensions).to(device)
        policy = ClonedPolicy(config, observations, actions).to(device)
        q.features.fit(dataset.observations)
        policy.features.fit(dataset.observations)
        target_policy = ClonedPolicy(config, observations, actions).to(device)
        target_policy.load_state_dict(policy.state_dict())
        snapshots = Snapshots(policy, config.evaluations, config.updates).to(device)
        critic = torch.optim.Adam(q.online.parameters(), lr=config.learning_rate, fused=True)
        actor = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, fused=True)
        generator = torch.Generator(device).manual_seed(seed)
        bounds = value_bounds(dataset.rewards, config.discount)
        for step in checkpoint.steps(
            "rebrac", config.updates,
            modules={
                "q": q, "policy": policy, "target_policy": target_policy, "snapshots": snapshots,
            },
            optimizers={"critic": critic, "actor": actor}, generators={"batches": generator},
        ):  # fmt: skip
            batch, following, recorded = with_next_action(dataset, config.batch_size, generator)
            loss, logs = rebrac_critic_loss(
                q, target_policy, batch, following, recorded, config, rebrac, bounds, generator
            )
            set_learning_rate(critic, step, config)
            critic.zero_grad(set_to_none=True)
            loss.backward()
            critic.step()
            if step % rebrac.policy_delay == 0:
                policy_loss = rebrac_policy_loss(q, policy, batch, rebrac.actor_weight)
                set_learning_rate(actor, step, config)
                actor.zero_grad(set_to_none=True)
                policy_loss.backward(inputs=list(policy.parameters()))
                actor.step()
                average_into(q.target, q.online, config.target_rate)
                average_into(target_policy, policy, config.target_rate)
                logs["policy_loss"] = policy_loss.detach()
            snapshots.keep(step, policy)
            checkpoint.log(step, logs)
    return policy.eval().requires_grad_(False), snapshots, q.eval().requires_grad_(False)


def with_next_action(
    dataset: OfflineDataset, size: int, generator: torch.Generator
) -> tuple[Batch, Tensor, Tensor]:
    """Random transitions, the action (B, A) recorded after each, and 1 where there is one (B,)."""
    index = torch.randint(len(dataset), (size,), generator=generator, device=dataset.device)
    following = dataset.actions[(index + 1).clamp_max(len(dataset) - 1)]
    return dataset.batch(index), following, (~dataset.last[index]).float()
