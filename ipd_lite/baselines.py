"""What IPD is compared with: the data's own policy and behaviour cloning.

IQL's policy lives in `iql.py`, TD3+BC and CQL in `actor_critic.py`, MPC acting directly in
`imagine.py`; Decision Transformer and QT are the transformer of `transformer.py` with a
return-to-go token, without and with the Q term. `methods.METHODS` lists them all.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ipd_lite.collect import behaviour_action, random_position
from ipd_lite.config import ValueConfig
from ipd_lite.data import OfflineDataset
from ipd_lite.mazes import GOAL_RADIUS, geometry
from ipd_lite.nets import (
    EnsembleMLP,
    Features,
    Snapshots,
    cosine_rate,
    packed_parameters,
    set_learning_rate,
)
from ipd_lite.runs import Checkpoint, seeded
from ipd_lite.tasks import MazeRecipe


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
        optimizer = torch.optim.Adam(
            [packed_parameters(policy)], lr=config.learning_rate, fused=True
        )
        generator = torch.Generator(dataset.device).manual_seed(seed)
        for step in checkpoint.steps(
            "cloning", config.updates, modules={"policy": policy, "snapshots": snapshots},
            optimizers={"adam": optimizer}, generators={"batches": generator},
        ):  # fmt: skip
            rate = cosine_rate(
                step, config.updates, config.learning_rate, config.final_learning_rate
            )
            set_learning_rate(optimizer, rate)
            batch = dataset.sample(config.batch_size, generator)
            loss = (policy(batch.observations) - batch.actions).square().mean()
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            optimizer.step()
            if (index := snapshots.due(step)) is not None:
                snapshots.take(index, policy)
            checkpoint.log(step, {"loss": loss})
    return policy.eval().requires_grad_(False), snapshots


def best_episodes(dataset: OfflineDataset, fraction: float) -> OfflineDataset:
    """The episodes with the greatest returns that hold `fraction` of the steps (at least one).

    "10 % BC" clones these (Chen et al. 2021, "Decision Transformer", section 5.2).
    """
    order = dataset.episode_returns.argsort(descending=True, stable=True)
    before = dataset.lengths[order].cumsum(0) - dataset.lengths[order]
    return dataset.select_episodes(order[before < fraction * len(dataset)])


class MazeBehaviour:
    """The policy that collected a maze's data: undirected, noisy, one goal after another."""

    def __init__(self, recipe: MazeRecipe, seed: int) -> None:
        self.recipe, self.maze, self.seed = recipe, geometry(recipe.maze), seed

    def begin(self, slots: int) -> None:
        """No goals yet."""
        self.generator = np.random.default_rng(self.seed)
        self.goals = np.zeros((slots, 2))

    def reset(self, rows: Tensor) -> None:
        """A new random goal for every new episode."""
        for row in rows.tolist():
            self.goals[row] = random_position(self.maze, self.generator)

    def act(self, observations: Tensor, rewards: Tensor, rows: Tensor) -> Tensor:
        """Noisy waypoint control to each slot's current goal."""
        states, slots = observations.cpu().numpy().astype(np.float64), rows.cpu().numpy()
        for i, slot in enumerate(slots):
            while np.linalg.norm(states[i, :2] - self.goals[slot]) <= GOAL_RADIUS:
                self.goals[slot] = random_position(self.maze, self.generator)
        action = behaviour_action(self.maze, states, self.goals[slots], self.recipe, self.generator)
        return torch.as_tensor(action, dtype=torch.float32, device=observations.device)
