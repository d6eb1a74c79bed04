"""What IPD is compared with: the data's own policy and behaviour cloning.

IQL's policy lives in `paper/values.py`, MPC acting directly in `paper/acting.py`; Decision
Transformer and QT are the transformer of `paper/transformer.py` with a return-to-go token, without
and with the Q term. `study.methods.METHODS` lists them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.nets import EnsembleMLP, Features
from ipd_lite.paper.training import (
    Checkpoint,
    Descent,
    Snapshots,
    require,
    seeded,
)
from ipd_lite.paper.values import ValueConfig


class ClonedPolicy(nn.Module):
    """Deterministic policy for behaviour cloning: observations (B, O) -> actions (B, A)."""

    def __init__(self, config: ValueConfig, observations: int, actions: int) -> None:
        super().__init__()
        self.features = Features(observations)
        self.net = EnsembleMLP(1, observations, actions, config.width, config.depth)

    def forward(self, observations: Tensor) -> Tensor:
        """Actions in (-1, 1)."""
        return torch.tanh(self.net(self.features(observations))[0])


def train_cloning(
    dataset: OfflineDataset,
    config: ValueConfig,
    *,
    seed: int,
    evaluations: int = 1,
    checkpoint: Checkpoint | None = None,
) -> tuple[ClonedPolicy, Snapshots]:
    """Regress on every recorded action; same size, batches and schedule as the IQL policy."""
    checkpoint = checkpoint or Checkpoint.none()
    with seeded(seed, dataset.device):
        policy = ClonedPolicy(config, dataset.observations.shape[1], dataset.actions.shape[1])
        policy = policy.to(dataset.device)
        policy.features.fit(dataset.observations)
        snapshots = Snapshots(policy, evaluations, config.updates).to(dataset.device)
        descent = Descent(policy, config)
        generator = torch.Generator(dataset.device).manual_seed(seed)
        for step in checkpoint.steps(
            "cloning",
            config.updates,
            modules={"policy": policy, "snapshots": snapshots},
            optimizers={"adam": descent.optimizer},
            generators={"batches": generator},
        ):
            batch = dataset.sample(config.batch_size, generator)
            loss = (policy(batch.observations) - batch.actions).square().mean()
            descent.step(step, loss)
            snapshots.keep(step, policy)
            checkpoint.log(step, {"loss": loss})
    return policy.eval().requires_grad_(False), snapshots


def best_episodes(dataset: OfflineDataset, fraction: float) -> OfflineDataset:
    """The episodes with the greatest returns that hold `fraction` of the steps (at least one).

    "10 % BC" clones these (Chen et al. 2021, "Decision Transformer", section 5.2).
    """
    if fraction == 1:
        return dataset
    order = dataset.episode_returns.argsort(descending=True, stable=True)
    before = dataset.lengths[order].cumsum(0) - dataset.lengths[order]
    return dataset.select_episodes(order[before < fraction * len(dataset)])


@dataclass(frozen=True)
class CloningConfig:
    """Baseline: behaviour cloning of the best episodes; sizes and updates are those of `values`."""

    fraction: float = 1.0
    """Share of the data's steps, taken from the episodes with the greatest returns."""

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, "cloning.fraction", self.fraction, "0 < fraction <= 1")
