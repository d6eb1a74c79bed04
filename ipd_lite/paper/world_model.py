"""Section 3.2: an ensemble of Gaussian dynamics models that knows what it does not know.

Each member maps (s, a) to a Gaussian over s' - s (in units of the data's deviation), following
PETS and MBPO (Chua et al. 2018; Janner et al. 2019). A member's variance is *aleatoric* noise;
disagreement between members is *epistemic* uncertainty and measured in `uncertainty.py`. All
members are one batched network: no loop over them anywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.ensemble import GaussianEnsemble, gaussian_loss
from ipd_lite.paper.nets import Features, in_chunks, rounding
from ipd_lite.paper.training import (
    AS_WRITTEN,
    Checkpoint,
    Compute,
    Descent,
    accelerated,
    require,
    seeded,
)
from ipd_lite.paper.uncertainty import ensemble_divergence


@dataclass(frozen=True)
class WorldModelConfig:
    """Section 3.2: ensemble of Gaussian dynamics and its uncertainty."""

    members: int = 5
    elites: int = 5
    width: int = 64
    depth: int = 3
    updates: int = 6_000
    batch_size: int = 256
    learning_rate: float = 3e-3
    final_learning_rate: float = 0.05
    """Fraction of the learning rate at the end of the cosine schedule (1 = constant)."""
    weight_decay: float = 2.5e-5
    variance_weight: float = 0.5  # PAPER SILENT
    """beta of beta-NLL: 0 is the plain Gaussian likelihood, 1 the squared error for the mean."""
    variance_floor: float = 0.01  # PAPER SILENT
    """Added to every variance in U, in units of the data's variance of the change: members that
    differ by less than about a tenth of a usual step count as agreeing."""
    fourier_features: int = 32
    fourier_scale: float = 2.0
    holdout: float = 0.1
    """Fraction of episodes kept for early stopping, elites and the uncertainty threshold."""
    evaluate_every: int = 250
    """Updates between two looks at the holdout."""
    patience: int = 10
    """Looks without an improvement of 1 % after which a member stops learning."""
    known_reward: bool = True
    known_termination: bool = True
    """Use the task's reward and termination functions where it has them, else learn heads."""
    divergence: Literal["dual", "primal"] = "dual"  # PAPER SILENT

    def __post_init__(self) -> None:
        require(self.members >= 2, "world_model.members", self.members, "at least 2")
        require(
            1 <= self.elites <= self.members,
            "world_model.elites",
            self.elites,
            f"between 1 and world_model.members ({self.members})",
        )
        require(0 < self.holdout < 1, "world_model.holdout", self.holdout, "0 < holdout < 1")


RewardFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(observations (..., O), actions (..., A), next observations (..., O)) -> rewards (...)."""


TerminationFunction = Callable[[Tensor], Tensor]
"""next observations (..., O) -> terminated (...), bool."""


@dataclass(frozen=True)
class Known:
    """What is known of a task besides its data.

    position_dimensions: entries of the observation that say where things are (Fourier features).
    reward, terminated: functions of batched tensors, used instead of learned heads.
    reward_shift: added to every reward before learning.
    """

    position_dimensions: tuple[int, ...] = ()
    reward: RewardFunction | None = None
    terminated: TerminationFunction | None = None
    reward_shift: float = 0.0

    def scaled(self, scale: float) -> Known:
        """The same with the reward in the units that everything learns from."""
        known, shift = self.reward, self.reward_shift
        if known is None or (scale == 1.0 and shift == 0.0):
            return self
        return replace(self, reward=lambda s, a, n: scale * (known(s, a, n) + shift))


NOTHING = Known()


class WorldModel(nn.Module):
    """Ensemble of M Gaussian dynamics over raw observations (..., O) and actions (..., A).

    Outputs per member: mean and log-variance of the normalized change of observation, likewise of
    the reward if it is learned, and a termination logit if that is learned.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        observations: int,
        actions: int,
        known: Known = NOTHING,
    ) -> None:
        super().__init__()
        self.reward_function = known.reward if config.known_reward else None
        self.termination_function = known.terminated if config.known_termination else None
        self.observations, self.divergence = observations, config.divergence
        self.variance_floor = config.variance_floor
        self.gaussians = observations + (self.reward_function is None)
        self.logits = int(self.termination_function is None)
        self.features = Features(
            observations, known.position_dimensions, config.fourier_features, config.fourier_scale
        )
        shape = (self.features.width + actions, self.gaussians, self.logits)
        self.net = GaussianEnsemble(config.members, *shape, config.width, config.depth)
        # The elites' weights again, packed, so that planning never computes the other members.
        self.elite_net = GaussianEnsemble(config.elites, *shape, config.width, config.depth)
        self.elite_net.requires_grad_(False)
        self.register_buffer("target_mean", torch.zeros(self.gaussians))
        self.register_buffer("target_deviation", torch.ones(self.gaussians))
        self.register_buffer("elites", torch.arange(config.elites))
        self.register_buffer("holdout_error", torch.zeros(config.members))

    target_mean: Tensor
    target_deviation: Tensor
    elites: Tensor
    holdout_error: Tensor

    def inputs(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Network inputs (..., F) from raw observations and actions."""
        return torch.cat([self.features(observations), actions], dim=-1)

    def predict(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Every member's mean and variance (M, B, O) of the next observation, raw units."""
        mean, log_variance, _ = self.net(self.inputs(observations, actions))
        deviation = self.target_deviation[: self.observations]
        change = mean[..., : self.observations] * deviation + self.target_mean[: self.observations]
        variance = log_variance[..., : self.observations].exp() * deviation.square()
        return observations + change, variance

    def uncertainty(self, observations: Tensor, actions: Tensor) -> Tensor:
        """U(s, a) (B,) in nats: mean pairwise divergence over observation dimensions only."""
        mean, log_variance, _ = self.net(self.inputs(observations, actions))
        return self._disagreement(mean, log_variance)

    def _disagreement(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        states = slice(self.observations)  # PAPER SILENT: the reward has no part in U
        variance = log_variance[..., states].exp() + self.variance_floor
        return ensemble_divergence(mean[..., states], variance, self.divergence)

    def step(
        self, observations: Tensor, actions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One imagined step of B rows, split evenly over the elites (B a multiple of them).

        Rows keep their member as long as their order stays the same (trajectory sampling,
        TS-infinity of Chua et al. 2018). Without a generator the mean is taken, else a sample.

        Returns:
            next observations (B, O), rewards (B,), terminated (B,) bool.
        """
        elites = self.elites.shape[0]
        inputs = self.inputs(observations, actions)
        inputs = inputs.reshape(elites, -1, inputs.shape[-1])
        log_variance = None
        if generator is None:
            mean, logits = self.elite_net.expected(inputs)
        else:
            mean, log_variance, logits = self.elite_net(inputs)
            log_variance = log_variance.flatten(0, 1)
        mean, logits = mean.flatten(0, 1), logits.flatten(0, 1)
        return self._outcome(observations, actions, mean, log_variance, logits, generator)

    def step_with_uncertainty(
        self, observations: Tensor, actions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One imagined step of B rows, each by an elite drawn at random, and U(s, a) (B,) of it.

        All members are evaluated once and serve both purposes.
        """
        mean, log_variance, logits = self.net(self.inputs(observations, actions))
        rows = torch.arange(len(observations), device=observations.device)
        draw = torch.randint(
            len(self.elites), rows.shape, generator=generator, device=observations.device
        )
        member = self.elites[draw]
        outcome = self._outcome(
            observations, actions, mean[member, rows], log_variance[member, rows],
            logits[member, rows], generator,
        )  # fmt: skip
        return *outcome, self._disagreement(mean, log_variance)

    def _outcome(
        self,
        observations: Tensor,
        actions: Tensor,
        mean: Tensor,
        log_variance: Tensor | None,
        logits: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if log_variance is not None:
            noise = torch.empty_like(mean).normal_(generator=generator)
            mean = mean + noise * (0.5 * log_variance).exp()
        target = mean * self.target_deviation + self.target_mean
        following = observations + target[..., : self.observations]
        if self.reward_function is None:
            reward = target[..., -1]
        else:
            reward = self.reward_function(observations, actions, following)
        if self.termination_function is None:
            terminated = logits[..., 0] > 0
        else:
            terminated = self.termination_function(following)
        return following, reward, terminated


def model_targets(model: WorldModel, dataset: OfflineDataset) -> Tensor:
    """Targets (N, gaussians): change of observation, then the reward if it is learned."""
    change = dataset.next_observations - dataset.observations
    if model.reward_function is not None:
        return change
    return torch.cat([change, dataset.rewards[:, None]], dim=1)


def model_loss(model: WorldModel, rows: Tensor, config: WorldModelConfig) -> Tensor:
    """Loss of every member on its own batch, scalar.

    Args:
        rows: (M, B, inputs + gaussians + 1): network inputs, normalized targets, terminated.
    """
    sizes = [rows.shape[-1] - model.gaussians - 1, model.gaussians, 1]
    given, target, ended = rows.split(sizes, dim=-1)
    mean, log_variance, logits = model.net(given)
    loss = gaussian_loss(
        mean, log_variance, target, model.net.lowest, model.net.highest, config.variance_weight
    )
    if model.logits:
        loss = loss + config.members * F.binary_cross_entropy_with_logits(logits, ended)
    return loss


class _Best(nn.Module):
    """Per-member early stopping on the device: each member's best weights so far."""

    def __init__(self, net: GaussianEnsemble, members: int) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).requires_grad_(False)
        self.register_buffer("error", torch.full((members,), float("inf")))
        self.register_buffer("stale", torch.zeros(members))

    error: Tensor
    stale: Tensor

    @torch.no_grad()
    def update(self, net: GaussianEnsemble, error: Tensor, patience: int) -> None:
        """Keep the weights of members that improved by more than 1 % and have not stopped."""
        learning = self.stale < patience
        better = learning & ((error < 0.99 * self.error) | self.error.isinf())
        for best, current in zip(self.net.parameters(), net.parameters(), strict=True):
            best.copy_(torch.where(better[:, None, None], current, best))
        self.error.copy_(torch.where(better, error, self.error))
        self.stale.copy_(torch.where(better, 0.0, self.stale + learning))


def train_world_model(
    dataset: OfflineDataset,
    config: WorldModelConfig,
    *,
    seed: int,
    known: Known = NOTHING,
    loss: Callable[..., Tensor] | None = None,
    compute: Compute = AS_WRITTEN,
    checkpoint: Checkpoint | None = None,
) -> WorldModel:
    """Train the ensemble; each member sees its own bootstrap sample of the training episodes.

    Every `evaluate_every` updates each member's squared error on held-out episodes decides whether
    its weights are kept; the members with the least error become the elites.

    Raises:
        FloatingPointError: the loss became NaN or infinite.
    """
    checkpoint = checkpoint or Checkpoint.none()
    device = dataset.device
    with seeded(seed, device):
        model = WorldModel(config, *dataset.widths, known).to(device)
        generator = torch.Generator(device).manual_seed(seed)
        training, holdout = split_for_model(dataset, config, seed)
        model.features.fit(training.observations)
        targets = model_targets(model, training)
        model.target_mean.copy_(targets.mean(0))
        sizes = torch.cat([training.observations, training.rewards[:, None]], dim=1)
        least = rounding(sizes).clamp_max(1e-6)[: targets.shape[1]]
        model.target_deviation.copy_(targets.std(0, correction=0).clamp_min(least))
        bootstrap = torch.randint(
            len(training), (config.members, len(training)), generator=generator, device=device
        )
        inputs = model.inputs(training.observations, training.actions)
        targets = (targets - model.target_mean) / model.target_deviation
        rows = torch.cat([inputs, targets, training.terminated.float()[:, None]], dim=1)
        descent = Descent(model, config, weight_decay=config.weight_decay)
        best = _Best(model.net, config.members).to(device)
        loss_of = accelerated(loss or model_loss, device, compute)
        for step in checkpoint.steps(
            "world model", config.updates, modules={"model": model, "best": best},
            optimizers={"adam": descent.optimizer}, generators={"batches": generator},
        ):  # fmt: skip
            size = (config.members, config.batch_size)
            column = torch.randint(len(training), size, generator=generator, device=device)
            value = loss_of(model, rows[bootstrap.gather(1, column)], config)
            descent.step(step, value)
            checkpoint.log(step, {"loss": value})
            if (step + 1) % config.evaluate_every == 0 or step + 1 == config.updates:
                best.update(model.net, holdout_error(model, holdout), config.patience)
                if bool((best.stale >= config.patience).all()):
                    break
        model.net.load_state_dict(best.net.state_dict())
        model.holdout_error.copy_(best.error)
        choose_elites(model)
    return model.eval().requires_grad_(False)


def split_for_model(
    dataset: OfflineDataset, config: WorldModelConfig, seed: int
) -> tuple[OfflineDataset, OfflineDataset]:
    """The (training, holdout) episodes that :func:`train_world_model` uses for this seed."""
    generator = torch.Generator().manual_seed(seed + 1)
    return dataset.split_episodes(config.holdout, generator)


@torch.no_grad()
def holdout_error(model: WorldModel, holdout: OfflineDataset, most: int = 4096) -> Tensor:
    """Mean squared error (M,) of every member's normalized prediction on held-out transitions."""
    index = torch.linspace(
        0, len(holdout) - 1, min(most, len(holdout)), device=holdout.device
    ).long()
    target = (model_targets(model, holdout)[index] - model.target_mean) / model.target_deviation
    mean, _, _ = model.net(model.inputs(holdout.observations[index], holdout.actions[index]))
    return (mean - target).square().mean(dim=(1, 2))


@torch.no_grad()
def choose_elites(model: WorldModel) -> None:
    """The members with the least held-out error, packed for planning."""
    order = model.holdout_error.argsort()
    model.elites.copy_(order[: len(model.elites)])
    for packed, full in zip(model.elite_net.parameters(), model.net.parameters(), strict=True):
        packed.copy_(full[model.elites])


@torch.no_grad()
def holdout_uncertainty(model: WorldModel, holdout: OfflineDataset) -> Tensor:
    """U (N,) of every held-out real (s, a), in nats."""
    return in_chunks(model.uncertainty, holdout.observations, holdout.actions, size=4096)


def calibrate_threshold(model: WorldModel, holdout: OfflineDataset, quantile: float) -> Tensor:
    """Threshold of U, scalar: its `quantile` over held-out real (s, a).

    U's scale differs between tasks by orders of magnitude; a quantile does not.
    """
    return torch.quantile(holdout_uncertainty(model, holdout), quantile)
