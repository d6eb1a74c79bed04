"""Section 3.1: a quasi-optimal value function from offline data, by implicit Q-learning.

Kostrikov, Nair & Levine (2021), "Offline reinforcement learning with implicit Q-learning". V is an
upper expectile of Q over the data's actions, Q bootstraps on V, so no action outside the data is
ever queried; the policy is regression onto the data's actions, weighted by exp(beta * advantage).

All three losses are computed from the networks as they stand before the update (the order of
gwthomas' and CORL's implementations; the authors' own code updates V first). That allows one
backward pass and one fused optimizer step per batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ipd_lite.paper.dataset import Batch, OfflineDataset
from ipd_lite.paper.nets import EnsembleMLP, Features, in_chunks
from ipd_lite.paper.training import (
    AS_WRITTEN,
    Checkpoint,
    Compute,
    Descent,
    Snapshots,
    accelerated,
    average_into,
    require,
    seeded,
)


@dataclass(frozen=True)
class ValueConfig:
    """Section 3.1: implicit Q-learning."""

    updates: int = 10_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.05
    """Fraction of the learning rate at the end of the cosine schedule (1 = constant)."""
    width: int = 64
    depth: int = 2
    layer_norm: bool = True
    """LayerNorm without affine parameters in Q and V: steadier bootstrapping."""
    fourier_features: int = 32
    """Random Fourier features of the task's position coordinates in Q and V (0 = none)."""
    fourier_scale: float = 2.0
    expectile: float = 0.9
    """tau: 0.5 averages over the data's actions, towards 1 approaches the best of them."""
    huber: float | None = None
    """Threshold where the expectile loss turns from squared to linear; None = always squared."""
    temperature: float = 5.0
    """beta: weight of the advantage in the policy, exp(beta * A)."""
    max_weight: float = 100.0
    discount: float = 0.99
    target_rate: float = 0.02
    q_networks: int = 5
    v_networks: int = 5
    q_reduction: Literal["min", "mean"] = "mean"  # PAPER SILENT
    """Twin Q and "min" are published; five of each and their means vary less between seeds."""
    clip_targets: bool = True
    """Keep bootstrapped targets inside the bounds that reward and discount imply."""
    actor_dropout: float = 0.0
    evaluations: int = 3
    """Copies of the policy kept along the training ("last" and "best" columns)."""

    def __post_init__(self) -> None:
        require(0 < self.expectile < 1, "values.expectile", self.expectile, "0 < expectile < 1")
        require(0 <= self.discount < 1, "values.discount", self.discount, "0 <= discount < 1")
        require(self.q_networks >= 1, "values.q_networks", self.q_networks, "at least 1")
        require(self.v_networks >= 1, "values.v_networks", self.v_networks, "at least 1")
        require(self.updates >= 1, "values.updates", self.updates, "at least 1")
        require(self.evaluations >= 1, "values.evaluations", self.evaluations, "at least 1")


def expectile_loss(difference: Tensor, expectile: float, huber: float | None = None) -> Tensor:
    """Mean of |tau - 1(u < 0)| * L(u) over all entries; L is u^2, or Huber's loss times two.

    Args:
        difference: u = target - prediction, any shape.
        expectile: tau in (0, 1).
        huber: |u| beyond which L grows linearly; None = squared everywhere.
    """
    weight = torch.where(difference < 0, 1.0 - expectile, expectile)
    if huber is None:
        return (weight * difference.square()).mean()
    zero = torch.zeros_like(difference)
    return (weight * 2 * F.huber_loss(difference, zero, reduction="none", delta=huber)).mean()


class Values(nn.Module):
    """Twin (or more) Q, V, and the advantage-weighted policy; raw observations in.

    Shapes: observations (..., O), actions (..., A) in [-1, 1], values (...).
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
        self.plain_features = Features(observations)
        self.q_reduction = config.q_reduction
        width, depth = config.width, config.depth

        def network(members: int, inputs: int, outputs: int) -> EnsembleMLP:
            return EnsembleMLP(members, inputs, outputs, width, depth, layer_norm=config.layer_norm)

        self.q_net = network(config.q_networks, self.features.width + actions, 1)
        self.q_target = network(config.q_networks, self.features.width + actions, 1)
        self.q_target.load_state_dict(self.q_net.state_dict())
        self.q_target.requires_grad_(False)
        self.v_net = network(config.v_networks, self.features.width, 1)
        self.actor = EnsembleMLP(
            1, self.plain_features.width, actions, width, depth, dropout=config.actor_dropout
        )
        self.log_deviation = nn.Parameter(torch.zeros(actions))
        self.snapshots = Snapshots(self.actor, config.evaluations, config.updates)

    def v(self, observations: Tensor) -> Tensor:
        """State value (...), the mean over the V networks."""
        flat = self.features(observations.reshape(-1, observations.shape[-1]))
        return self.v_net(flat).squeeze(-1).mean(0).reshape(observations.shape[:-1])

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Action value (...) of the online Q networks, reduced by min or mean."""
        inputs = torch.cat([self.features(observations), actions], dim=-1)
        members = self.q_net(inputs.reshape(-1, inputs.shape[-1])).squeeze(-1)
        return self.reduce(members).reshape(observations.shape[:-1])

    def reduce(self, members: Tensor) -> Tensor:
        """(Q networks, ...) -> (...), the configured minimum or mean."""
        return members.amin(0) if self.q_reduction == "min" else members.mean(0)

    def policy(self, observations: Tensor) -> Tensor:
        """Mean action (..., A) of the advantage-weighted policy, inside (-1, 1)."""
        flat = self.plain_features(observations.reshape(-1, observations.shape[-1]))
        mean = torch.tanh(self.actor(flat)[0])
        return mean.reshape(*observations.shape[:-1], -1)


def value_bounds(rewards: Tensor, discount: float) -> tuple[Tensor, Tensor]:
    """Least and greatest discounted return that rewards in [min, max] allow, scalars.

    A terminal state has value 0, so the interval always contains min(r) and max(r).
    """
    low, high = rewards.min(), rewards.max()
    horizon = 1.0 / (1.0 - discount)
    return torch.minimum(low, low * horizon), torch.maximum(high, high * horizon)


def bellman_target(
    batch: Batch, next_value: Tensor, config: ValueConfig, bounds: tuple[Tensor, Tensor]
) -> Tensor:
    """r + discount * next_value (B,), without the second term where the task terminated."""
    target = batch.rewards + config.discount * batch.continues * next_value
    assert target.shape == next_value.shape == batch.rewards.shape
    return target.clamp(*bounds) if config.clip_targets else target


def iql_loss(
    values: Values, batch: Batch, config: ValueConfig, bounds: tuple[Tensor, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the V, Q and policy losses (their parameters are disjoint) and what to log.

    Q's target is r + discount * (1 - terminated) * V(s'); truncation does not stop it.
    """
    # PAPER SILENT: the order of the updates; see the module's docstring.
    size = len(batch.rewards)
    both = values.features(torch.cat([batch.observations, batch.next_observations]))
    encoded = both[:size]
    pairs = torch.cat([encoded, batch.actions], dim=-1)
    with torch.no_grad():
        q_target = values.reduce(values.q_target(pairs).squeeze(-1))
        next_v = values.v_net(both[size:]).squeeze(-1).mean(0)
        target = bellman_target(batch, next_v, config, bounds)
    v_members = values.v_net(encoded).squeeze(-1)
    assert v_members.shape[1:] == q_target.shape == target.shape == (size,)
    v_loss = expectile_loss(q_target - v_members, config.expectile, config.huber)
    q_members = values.q_net(pairs).squeeze(-1)
    q_loss = (target - q_members).square().mean()

    with torch.no_grad():
        advantage = q_target - v_members.mean(0)
        weight = (config.temperature * advantage).exp().clamp_max(config.max_weight)
    mean = values.policy(batch.observations)
    log_deviation = values.log_deviation.clamp(-5.0, 2.0)
    standardized = (batch.actions - mean) * (-log_deviation).exp()
    log_probability = -(0.5 * standardized.square() + log_deviation).sum(-1)
    policy_loss = -(weight * log_probability).mean()
    logs = {
        "v_loss": v_loss,
        "q_loss": q_loss,
        "policy_loss": policy_loss,
        "v_mean": v_members.mean(),
        "advantage": advantage.mean(),
    }
    return v_loss + q_loss + policy_loss, {k: v.detach() for k, v in logs.items()}


Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def train_values(
    dataset: OfflineDataset,
    config: ValueConfig,
    *,
    seed: int,
    position_dimensions: Sequence[int] = (),
    normalize_observations: bool = True,
    loss: Loss | None = None,
    compute: Compute = AS_WRITTEN,
    checkpoint: Checkpoint | None = None,
) -> Values:
    """Train Q, V and the policy on `dataset` and return them in evaluation mode.

    Args:
        loss: instead of :func:`iql_loss`, with its arguments and results.

    Raises:
        FloatingPointError: a loss became NaN or infinite (stage and step named).
    """
    checkpoint = checkpoint or Checkpoint.none()
    with seeded(seed, dataset.device):
        values = Values(config, *dataset.widths, position_dimensions).to(dataset.device)
        if normalize_observations:
            values.features.fit(dataset.observations)
            values.plain_features.fit(dataset.observations)
        descent = Descent(values, config)
        generator = torch.Generator(dataset.device).manual_seed(seed)
        bounds = value_bounds(dataset.rewards, config.discount)
        loss_of = accelerated(loss or iql_loss, dataset.device, compute)
        for step in checkpoint.steps(
            "values", config.updates, modules={"values": values},
            optimizers={"adam": descent.optimizer}, generators={"batches": generator},
        ):  # fmt: skip
            batch = dataset.sample(config.batch_size, generator)
            value, logs = loss_of(values, batch, config, bounds)
            descent.step(step, value)
            average_into(values.q_target, values.q_net, config.target_rate)
            values.snapshots.keep(step, values.actor)
            checkpoint.log(step, logs)
    return values.eval().requires_grad_(False)


LEAST_CORRELATION, LEAST_SPREAD = 0.2, 0.1
"""Below these V says nothing about the data. With a fitting scale of rewards, after 2,000 updates:
maze 0.42 and 0.65, pendulum 0.39 and 0.28, door 0.76 and 0.53; door unscaled 0.54 and 0.09."""


@dataclass(frozen=True)
class ValueDiagnostics:
    """What to look at before trusting V (all in units of return).

    v_mean and monte_carlo_mean are over steps of *terminated* episodes, whose Monte-Carlo return is
    complete: V should not be below it. violation: largest distance outside the possible returns,
    as a fraction of their range. rank_correlation, spread: of V with the data's discounted returns
    (after a recording's cut, V's own), and its deviation as a fraction of theirs; NaN where they
    are all the same.
    """

    v_mean: float
    monte_carlo_mean: float
    v_lowest: float
    v_highest: float
    bound_low: float
    bound_high: float
    violation: float
    rank_correlation: float
    spread: float


@torch.no_grad()
def diagnose(values: Values, dataset: OfflineDataset, discount: float) -> ValueDiagnostics:
    """Compare V with the data's Monte-Carlo returns and with the bounds of any return."""
    v = in_chunks(values.v, dataset.observations)
    low, high = value_bounds(dataset.rewards, discount)
    ends = dataset.starts + dataset.lengths - 1
    complete = dataset.terminated[ends][dataset.episode]
    returns = dataset.returns_to_go(discount)
    outside = torch.maximum(low - v.min(), v.max() - high).clamp_min(0)
    nothing = torch.full((1,), float("nan"), device=v.device)
    rewards = dataset.rewards.clone()
    cut = dataset.truncated
    if cut.any():
        rewards[cut] += discount * values.v(dataset.next_observations[cut])
    following = replace(dataset, rewards=rewards).returns_to_go(discount)
    varies = bool(following.std() > 1e-6 * following.abs().max())
    return ValueDiagnostics(
        v_mean=float((v[complete] if complete.any() else nothing).mean()),
        monte_carlo_mean=float((returns[complete] if complete.any() else nothing).mean()),
        v_lowest=float(v.min()),
        v_highest=float(v.max()),
        bound_low=float(low),
        bound_high=float(high),
        violation=float(outside / (high - low).clamp_min(1e-6)),
        rank_correlation=_correlation(_ranks(v), _ranks(following)) if varies else float("nan"),
        spread=float(v.std() / following.std()) if varies else float("nan"),
    )


def _ranks(values: Tensor) -> Tensor:
    """Ranks (N,); equal values share the mean of theirs, as in Spearman's correlation."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2)[place].double()


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def warn_if_values_do_not_fit(diagnostics: ValueDiagnostics) -> None:
    """Warn in one line where V does not follow the returns of the data it was trained on.

    V is not their average (it prefers the better ones, and stitches), so only what no policy
    explains counts: V is nearly flat where they vary, or in another order.
    """
    correlation, spread = diagnostics.rank_correlation, diagnostics.spread
    if correlation < LEAST_CORRELATION or spread < LEAST_SPREAD:
        warnings.warn(
            f"V does not follow the data's returns (rank correlation {correlation:.2f}, spread "
            f"{spread:.2g} of theirs); try data.reward_scale 'discounted range', or more "
            "values.updates",
            stacklevel=2,
        )
