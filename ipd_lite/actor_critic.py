"""Two rivals that ask Q about actions outside the data, and how each keeps Q from dreaming.

**TD3+BC** (Fujimoto & Gu 2021, "A minimalist approach to offline reinforcement learning") adds
behaviour cloning to TD3: the policy minimizes |pi(s) - a|^2 - lambda Q(s, pi(s)) with
lambda = alpha / mean |Q|. **CQL** (Kumar et al. 2020, "Conservative Q-learning for offline
reinforcement learning") lowers Q where actions are not in the data: soft actor-critic plus
weight * E_s[log integral exp Q(s, a) da - Q(s, a of the data)], the variant CQL(H).

Deviations, the same for both, so that only the learning rule differs from our IQL: width, depth,
LayerNorm, Fourier features, batch size, learning rates (cosine), target rate, number of updates and
clipped bootstrap targets are those of `ValueConfig`; both keep the published twin Q and its
minimum. TD3+BC: none beyond these. CQL: no behaviour-cloning warm-up, one learning rate for policy,
Q and entropy weight, no entropy in Q's target (as in the authors' code), a fixed penalty weight
instead of the Lagrangian variant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ipd_lite.baselines import ClonedPolicy
from ipd_lite.config import CQLConfig, TD3BCConfig, ValueConfig
from ipd_lite.data import Batch, OfflineDataset
from ipd_lite.iql import bellman_target, value_bounds
from ipd_lite.nets import (
    EnsembleMLP,
    Features,
    Snapshots,
    average_into,
    cosine_rate,
    set_learning_rate,
)
from ipd_lite.runs import Checkpoint, seeded

TWIN = 2
LOG_DEVIATION = (-5.0, 2.0)


class TwinQ(nn.Module):
    """Two Q networks and their slowly following targets; raw observations in.

    Shapes: observations (B, O), actions (B, A) in [-1, 1], values (2, B).
    """

    def __init__(
        self,
        config: ValueConfig,
        observations: int,
        actions: int,
        position_dimensions: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.features = Features(
            observations, position_dimensions, config.fourier_features, config.fourier_scale
        )

        def network() -> EnsembleMLP:
            return EnsembleMLP(
                TWIN, self.features.width + actions, 1, config.width, config.depth,
                layer_norm=config.layer_norm,
            )  # fmt: skip

        self.online, self.target = network(), network()
        self.target.load_state_dict(self.online.state_dict())
        self.target.requires_grad_(False)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Both online values (2, B)."""
        inputs = torch.cat([self.features(observations), actions], dim=-1)
        return self.online(inputs).squeeze(-1)

    def lowest_target(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The smaller of both target values (B,)."""
        inputs = torch.cat([self.features(observations), actions], dim=-1)
        return self.target(inputs).squeeze(-1).amin(0)


# -- TD3+BC ----------------------------------------------------------------------------------------


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
        noise = torch.empty_like(batch.actions).normal_(generator=generator) * td3bc.target_noise
        noise = noise.clamp(-td3bc.noise_clip, td3bc.noise_clip)
        next_action = (target_policy(batch.next_observations) + noise).clamp(-1, 1)
        next_q = q.lowest_target(batch.next_observations, next_action)
        target = bellman_target(batch, next_q, config, bounds)
    members = q(batch.observations, batch.actions)
    loss = (target - members).square().mean(1).sum()
    return loss, {"q_loss": loss.detach(), "q_mean": members.detach().mean()}


def td3bc_policy_loss(q: TwinQ, policy: ClonedPolicy, batch: Batch, alpha: float) -> Tensor:
    """mean |pi - a|^2 - lambda * mean Q1(s, pi), lambda = alpha / mean |Q1| without gradient."""
    action = policy(batch.observations)
    value = q(batch.observations, action)[0]
    scale = alpha / value.detach().abs().mean().clamp_min(1e-6)
    return (action - batch.actions).square().mean() - scale * value.mean()


def train_td3bc(
    dataset: OfflineDataset,
    config: ValueConfig,
    td3bc: TD3BCConfig,
    *,
    seed: int,
    position_dimensions: Sequence[int] = (),
    checkpoint: Checkpoint | None = None,
) -> tuple[ClonedPolicy, Snapshots, TwinQ]:
    """Train TD3+BC; returns the policy, its snapshots along the way, and Q.

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
            "td3bc", config.updates,
            modules={
                "q": q, "policy": policy, "target_policy": target_policy, "snapshots": snapshots,
            },
            optimizers={"critic": critic, "actor": actor}, generators={"batches": generator},
        ):  # fmt: skip
            rate = cosine_rate(
                step, config.updates, config.learning_rate, config.final_learning_rate
            )
            batch = dataset.sample(config.batch_size, generator)
            loss, logs = td3bc_critic_loss(
                q, target_policy, batch, config, td3bc, bounds, generator
            )
            set_learning_rate(critic, rate)
            critic.zero_grad(set_to_none=True)
            loss.backward()
            critic.step()
            if step % td3bc.policy_delay == 0:
                policy_loss = td3bc_policy_loss(q, policy, batch, td3bc.alpha)
                set_learning_rate(actor, rate)
                actor.zero_grad(set_to_none=True)
                policy_loss.backward(inputs=list(policy.parameters()))
                actor.step()
                average_into(q.target, q.online, config.target_rate)
                average_into(target_policy, policy, config.target_rate)
                logs["policy_loss"] = policy_loss.detach()
            if (index := snapshots.due(step)) is not None:
                snapshots.take(index, policy)
            checkpoint.log(step, logs)
    return policy.eval().requires_grad_(False), snapshots, q.eval().requires_grad_(False)


# -- CQL -------------------------------------------------------------------------------------------


class SquashedGaussian(nn.Module):
    """Stochastic policy: a Gaussian through tanh; observations (B, O), actions (..., B, A)."""

    def __init__(self, config: ValueConfig, observations: int, actions: int) -> None:
        super().__init__()
        self.features = Features(observations)
        self.net = EnsembleMLP(1, observations, 2 * actions, config.width, config.depth)

    def distribution(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log deviation (B, A) before the tanh."""
        mean, log_deviation = self.net(self.features(observations))[0].chunk(2, dim=-1)
        return mean, log_deviation.clamp(*LOG_DEVIATION)

    def forward(self, observations: Tensor) -> Tensor:
        """The mode (B, A): how the policy acts when it is evaluated."""
        return torch.tanh(self.distribution(observations)[0])

    def sample(
        self, observations: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Reparametrized actions (count, B, A) and their log densities (count, B)."""
        mean, log_deviation = self.distribution(observations)
        noise = torch.empty((count, *mean.shape), device=mean.device).normal_(generator=generator)
        raw = mean + log_deviation.exp() * noise
        normal = -0.5 * noise.square() - log_deviation - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(x)^2) in a form that stays finite where tanh(x) rounds to 1.
        squash = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
        return torch.tanh(raw), (normal - squash).sum(-1)


def log_integral(q: Tensor, log_density: Tensor) -> Tensor:
    """Importance-sampled log of the integral of exp Q(s, a) over actions: log mean exp(Q - log p).

    Args:
        q: (..., M, B) values of M sampled actions. log_density: (M, B) of the same actions.

    Returns:
        (..., B).
    """
    return (q - log_density).logsumexp(-2) - math.log(q.shape[-2])


def conservative_penalty(
    q: TwinQ,
    policy: SquashedGaussian,
    batch: Batch,
    members: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """E[log integral exp Q(s, .) - Q(s, a of the data)], summed over the twins.

    A third of the proposals is uniform, a third from the policy at s, a third from the policy at
    s' (Kumar et al., appendix F). members: (2, B) values of the data's actions.
    """
    size, width = batch.actions.shape
    with torch.no_grad():
        uniform = torch.empty((samples, size, width), device=batch.actions.device)
        uniform.uniform_(-1, 1, generator=generator)
        both = torch.cat([batch.observations, batch.next_observations])
        proposed, density = policy.sample(both, samples, generator)
        here, there = proposed.chunk(2, dim=1)
        actions = torch.cat([uniform, here, there])
        flat = torch.full((samples, size), -width * math.log(2), device=density.device)
        log_density = torch.cat([flat, *density.chunk(2, dim=1)])
    # The states are encoded once for all 3 * samples actions.
    encoded = q.features(batch.observations).expand(len(actions), -1, -1)
    inputs = torch.cat([encoded, actions], dim=-1).flatten(0, 1)
    values = q.online(inputs).reshape(TWIN, len(actions), size)
    return (log_integral(values, log_density) - members).mean(1).sum()


def train_cql(
    dataset: OfflineDataset,
    config: ValueConfig,
    cql: CQLConfig,
    *,
    seed: int,
    position_dimensions: Sequence[int] = (),
    checkpoint: Checkpoint | None = None,
) -> tuple[SquashedGaussian, Snapshots, TwinQ]:
    """Train CQL(H) on soft actor-critic; returns the policy, its snapshots, and Q.

    Raises:
        FloatingPointError: a loss became NaN or infinite.
    """
    checkpoint = checkpoint or Checkpoint.none()
    device = dataset.device
    observations, actions = dataset.observations.shape[1], dataset.actions.shape[1]
    with seeded(seed, device):
        q = TwinQ(config, observations, actions, position_dimensions).to(device)
        policy = SquashedGaussian(config, observations, actions).to(device)
        q.features.fit(dataset.observations)
        policy.features.fit(dataset.observations)
        entropy = EntropyWeight().to(device)
        snapshots = Snapshots(policy, config.evaluations, config.updates).to(device)
        groups = [list(q.online.parameters()), [*policy.parameters(), *entropy.parameters()]]
        optimizer = torch.optim.Adam([*groups[0], *groups[1]], lr=config.learning_rate, fused=True)
        generator = torch.Generator(device).manual_seed(seed)
        bounds = value_bounds(dataset.rewards, config.discount)
        for step in checkpoint.steps(
            "cql", config.updates,
            modules={"q": q, "policy": policy, "entropy": entropy, "snapshots": snapshots},
            optimizers={"adam": optimizer}, generators={"batches": generator},
        ):  # fmt: skip
            rate = cosine_rate(
                step, config.updates, config.learning_rate, config.final_learning_rate
            )
            set_learning_rate(optimizer, rate)
            batch = dataset.sample(config.batch_size, generator)
            critic_loss, critic_logs = cql_critic_loss(
                q, policy, batch, config, cql, bounds, generator
            )
            policy_loss, policy_logs = soft_policy_loss(q, policy, entropy, batch, generator)
            optimizer.zero_grad(set_to_none=True)
            critic_loss.backward(inputs=groups[0])
            policy_loss.backward(inputs=groups[1])
            optimizer.step()
            average_into(q.target, q.online, config.target_rate)
            if (index := snapshots.due(step)) is not None:
                snapshots.take(index, policy)
            checkpoint.log(step, critic_logs | policy_logs)
    return policy.eval().requires_grad_(False), snapshots, q.eval().requires_grad_(False)


class EntropyWeight(nn.Module):
    """The temperature of soft actor-critic, learned through its logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.zeros(()))


def cql_critic_loss(
    q: TwinQ,
    policy: SquashedGaussian,
    batch: Batch,
    config: ValueConfig,
    cql: CQLConfig,
    bounds: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared Bellman error of the twins + weight * conservative penalty."""
    with torch.no_grad():
        next_action = policy.sample(batch.next_observations, 1, generator)[0][0]
        next_q = q.lowest_target(batch.next_observations, next_action)
        target = bellman_target(batch, next_q, config, bounds)
    members = q(batch.observations, batch.actions)
    bellman = (target - members).square().mean(1).sum()
    penalty = conservative_penalty(q, policy, batch, members, cql.samples, generator)
    logs = {"q_loss": bellman, "penalty": penalty, "q_mean": members.mean()}
    return bellman + cql.weight * penalty, {name: value.detach() for name, value in logs.items()}


def soft_policy_loss(
    q: TwinQ,
    policy: SquashedGaussian,
    entropy: EntropyWeight,
    batch: Batch,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean(w log pi - min Q), and for the weight w: entropy is pulled towards -A (Haarnoja et al.
    2018, "Soft actor-critic algorithms and applications")."""
    action, log_density = (x[0] for x in policy.sample(batch.observations, 1, generator))
    weight = entropy.logarithm.exp().detach()
    loss = (weight * log_density - q(batch.observations, action).amin(0)).mean()
    surplus = (log_density.detach() - batch.actions.shape[1]).mean()
    logs = {"policy_loss": loss.detach(), "entropy": -log_density.detach().mean()}
    return loss - entropy.logarithm * surplus, logs
