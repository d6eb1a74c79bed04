"""CQL (Kumar et al. 2020): soft actor-critic whose Q is lowered outside the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ipd_lite.paper.dataset import Batch, OfflineDataset
from ipd_lite.paper.nets import EnsembleMLP, Features
from ipd_lite.paper.training import (
    Checkpoint,
    Snapshots,
    average_into,
    require,
    seeded,
    set_learning_rate,
)
from ipd_lite.paper.values import ValueConfig, bellman_target, value_bounds
from ipd_lite.rivals.critics import TWIN, TwinQ

LOG_DEVIATION = (-5.0, 2.0)


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
            "cql",
            config.updates,
            modules={"q": q, "policy": policy, "entropy": entropy, "snapshots": snapshots},
            optimizers={"adam": optimizer},
            generators={"batches": generator},
        ):
            set_learning_rate(optimizer, step, config)
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
            snapshots.keep(step, policy)
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


@dataclass(frozen=True)
class CQLConfig:
    """Baseline: CQL (Kumar et al. 2020); sizes, rates and updates are those of `values`."""

    weight: float = 5.0
    """alpha of the conservative penalty."""
    samples: int = 4
    """Actions per state from each of: uniform, the policy at s, the policy at s'. Published: 10."""

    def __post_init__(self) -> None:
        require(self.samples >= 1, "cql.samples", self.samples, "at least 1")
