"""Section 3.4: distil real and imagined data into a transformer policy.

Per step of a window: squared error to the recorded (or imagined) action, minus alpha times the
normalized Q of the predicted action. The conditioning token is V(s) or the bootstrapped return, in
units of return; at inference it is V(s), so nobody has to choose a target.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.imagination import Assessment
from ipd_lite.paper.nets import in_chunks
from ipd_lite.paper.shortfall import bootstrapped_returns
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
from ipd_lite.paper.transformer import TransformerPolicy
from ipd_lite.paper.values import Values


@dataclass(frozen=True)
class DistillationConfig:
    """Section 3.4: the transformer policy and its value-guided loss."""

    context: int = 5
    """K: steps of context."""
    width: int = 64
    layers: int = 1
    heads: int = 4
    dropout: float = 0.0
    fused_tokens: bool = True
    """One token per step (condition, observation, previous action summed) instead of three."""
    timestep: Literal["window", "episode"] = "window"
    """Embed the position inside the context window, or the step of the episode."""
    updates: int = 3_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.05
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    ema: float = 0.995
    """Decay of the averaged weights that act at evaluation (0 = no averaging)."""
    # PAPER SILENT: what the token is in training, Q's scale, and which actions are regressed on.
    condition: Literal["value", "bootstrapped", "maximum", "return-to-go"] = "bootstrapped"
    """Conditioning token in training; V(s) at inference (return-to-go: a hand-set target)."""
    alpha: float = 1.0
    q_scale: Literal["advantage", "magnitude", "none"] = "advantage"
    """Divide Q by the batch mean of |Q - V| or of |Q|."""
    filter_suboptimal: bool = True
    """Suboptimal real steps get no action regression, only the Q term."""
    imagined_share: float = 0.5
    """Share of a batch's windows drawn from imagined continuations."""
    evaluations: int = 3
    """Checkpoints that are evaluated, the last one included ("last" and "best" columns)."""

    def __post_init__(self) -> None:
        require(self.context >= 1, "distillation.context", self.context, "at least 1")
        share = 0 <= self.imagined_share <= 1
        require(share, "distillation.imagined_share", self.imagined_share, "0 <= share <= 1")
        require(self.evaluations >= 1, "distillation.evaluations", self.evaluations, "at least 1")

    @property
    def uses_values(self) -> bool:
        """Whether tokens or loss need the value function (Decision Transformer's do not)."""
        return self.condition != "return-to-go" or self.alpha > 0


@dataclass(frozen=True)
class Examples:
    """D_aug with what the loss needs per step.

    conditions: (N,) the conditioning token. weights: (N,) 1 where the action is regressed on, else
    0. spliced: (N,) bool, steps of episodes with an imagined part. baseline: (N,) V(s).
    """

    dataset: OfflineDataset
    conditions: Tensor
    weights: Tensor
    spliced: Tensor
    baseline: Tensor


@torch.no_grad()
def prepare_examples(
    dataset: OfflineDataset,
    values: Values | None,
    config: DistillationConfig,
    discount: float,
    *,
    bootstrap_steps: int,
    assessment: Assessment | None = None,
) -> Examples:
    """Tokens and weights for every step of `dataset` (real episodes first, then spliced ones).

    Real steps are regressed on, except suboptimal ones if the configuration filters them; spliced
    episodes are regressed on from the splice on.
    Without `values` (Decision Transformer) the condition is the undiscounted return-to-go.
    """
    has_imagined = torch.zeros(dataset.episodes, dtype=torch.bool, device=dataset.device)
    has_imagined[dataset.episode[dataset.imagined]] = True
    spliced = has_imagined[dataset.episode]
    weights = torch.where(spliced, dataset.imagined, True).float()
    if config.filter_suboptimal and assessment is not None:
        real = len(assessment.suboptimal)
        weights[:real] *= (~assessment.suboptimal).float()
    if values is None or config.condition == "return-to-go":
        conditions = dataset.returns_to_go()
        baseline = torch.zeros_like(conditions)
        if values is not None:
            baseline = in_chunks(values.v, dataset.observations)
        return Examples(dataset, conditions, weights, spliced, baseline)
    v = in_chunks(values.v, dataset.observations)
    conditions = v
    if config.condition != "value":
        next_v = in_chunks(values.v, dataset.next_observations)
        conditions = bootstrapped_returns(
            dataset.rewards,
            dataset.terminated,
            dataset.last,
            v,
            next_v,
            min(bootstrap_steps, int(dataset.lengths.max())),
            discount,
        )
    if config.condition == "maximum":
        conditions = torch.maximum(v, conditions)
    return Examples(dataset, conditions, weights, spliced, v)


def distillation_loss(
    predicted: Tensor,
    actions: Tensor,
    weights: Tensor,
    valid: Tensor,
    q: Tensor | None,
    baseline: Tensor,
    alpha: float,
    q_scale: str,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over all steps but padding of weight * |pi - a|^2 / A  -  alpha * Q(s, pi) / scale.

    Args:
        predicted, actions: (B, K, A). weights: (B, K), 0 = no regression. valid: (B, K) bool.
        q: (B, K) Q of the predicted actions, None without the value term. baseline: (B, K) V(s).
        q_scale: scale is the detached batch mean of |Q - V| ("advantage"), of |Q| ("magnitude"),
            or 1 ("none").
    """
    mask = valid.float()
    count = mask.sum().clamp_min(1.0)
    error = (predicted - actions).square().mean(-1)
    regression = (error * weights * mask).sum() / count
    logs = {"regression": regression.detach()}
    if q is None or alpha == 0:
        return regression, logs
    magnitude = {
        "advantage": (q - baseline).abs(),
        "magnitude": q.abs(),
        "none": torch.ones_like(q),
    }
    scale = ((magnitude[q_scale].detach() * mask).sum() / count).clamp_min(1e-6)
    guidance = ((q - baseline) * mask).sum() / count / scale
    logs |= {
        "guidance": guidance.detach(),
        "q_scale": scale,
        "q_mean": (q.detach() * mask).sum() / count,
    }
    # Subtracting V changes the loss by a constant only: V(s) does not depend on the policy.
    return regression - alpha * guidance, logs


def policy_loss(
    policy: TransformerPolicy,
    values: Values | None,
    examples: Examples,
    rows: Tensor,
    valid: Tensor,
    steps: Tensor,
    config: DistillationConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """:func:`distillation_loss` of the policy on the windows `rows` (B, K), and what to log."""
    dataset = examples.dataset
    observations, actions = dataset.observations[rows], dataset.actions[rows]
    predicted = policy(examples.conditions[rows], observations, actions, steps, valid)
    q = values.q(observations, predicted) if values is not None and config.alpha else None
    return distillation_loss(
        predicted, actions, examples.weights[rows], valid, q, examples.baseline[rows],
        config.alpha, config.q_scale,
    )  # fmt: skip


def make_policy(
    observations: int, actions: int, config: DistillationConfig, episode_steps: int
) -> TransformerPolicy:
    """An untrained policy of the configured size."""
    return TransformerPolicy(
        observations,
        actions,
        context=config.context,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        dropout=config.dropout,
        fused=config.fused_tokens,
        steps=config.context if config.timestep == "window" else episode_steps,
    )


def train_policy(
    examples: Examples,
    values: Values | None,
    config: DistillationConfig,
    *,
    seed: int,
    episode_steps: int,
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]] | None = None,
    compute: Compute = AS_WRITTEN,
    checkpoint: Checkpoint | None = None,
) -> tuple[TransformerPolicy, Snapshots]:
    """Train the transformer; returns it (averaged weights) and its snapshots along the way.

    Args:
        values: frozen; None = regression only (Decision Transformer).
        episode_steps: most steps that an episode can have, for `timestep="episode"`.

    Raises:
        FloatingPointError: the loss became NaN or infinite.
    """
    checkpoint = checkpoint or Checkpoint.none()
    dataset, device = examples.dataset, examples.dataset.device
    with seeded(seed, device):
        policy = make_policy(*dataset.widths, config, episode_steps).to(device)
        policy.fit(dataset.observations, examples.conditions)
        averaged = copy.deepcopy(policy).requires_grad_(False).eval()
        snapshots = Snapshots(policy, config.evaluations, config.updates).to(device)
        descent = Descent(
            policy, config, weight_decay=config.weight_decay, clip=config.gradient_clip
        )
        generator = torch.Generator(device).manual_seed(seed)
        pools = window_pools(examples, config)
        loss_of = accelerated(loss or policy_loss, device, compute)
        for step in checkpoint.steps(
            "policy", config.updates,
            modules={"policy": policy, "averaged": averaged, "snapshots": snapshots},
            optimizers={"adam": descent.optimizer}, generators={"batches": generator},
        ):  # fmt: skip
            rows, valid = sample_windows(dataset, pools, config, generator)
            steps = timesteps(dataset, rows, config, episode_steps)
            value, logs = loss_of(policy, values, examples, rows, valid, steps, config)
            descent.step(step, value)
            # Early on the average follows closely, so that a short training is not all warm-up.
            average_into(averaged, policy, max(1 - config.ema, 1 / (step + 1)))
            snapshots.keep(step, averaged)
            checkpoint.log(step, {"loss": value, "gradient_norm": descent.norm, **logs})
    return averaged, snapshots.requires_grad_(False)


def window_pools(examples: Examples, config: DistillationConfig) -> list[tuple[Tensor, int]]:
    """(first steps to draw from, how many windows per batch) for real and spliced episodes."""
    every = torch.arange(len(examples.dataset), device=examples.dataset.device)
    spliced = every[examples.spliced]
    imagined = round(config.imagined_share * config.batch_size) if len(spliced) else 0
    return [(every[~examples.spliced], config.batch_size - imagined), (spliced, imagined)]


def sample_windows(
    dataset: OfflineDataset,
    pools: list[tuple[Tensor, int]],
    config: DistillationConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Transition indices (B, K) of random windows and their mask of real steps (B, K)."""
    first = [
        pool[torch.randint(len(pool), (count,), generator=generator, device=dataset.device)]
        for pool, count in pools
        if count
    ]
    return dataset.windows(torch.cat(first), config.context)


def timesteps(
    dataset: OfflineDataset, rows: Tensor, config: DistillationConfig, episode_steps: int
) -> Tensor:
    """(B, K) int64: position in the window, or in the episode (below `episode_steps`)."""
    if config.timestep == "window":
        return torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    # A spliced episode may be longer than any real one.
    return dataset.time[rows].clamp_max(episode_steps - 1)
