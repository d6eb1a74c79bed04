"""The same computations as they are usually written, to measure against and to check against.

One `nn.Sequential` per network, a loop over the members of an ensemble, one optimizer per loss,
three tokens per step with explicit attention, a planner that asks every member, one environment at
a time. Nothing here uses a network or a loss of `ipd_lite`; `tests/test_usual.py` copies weights
over and finds the same numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ipd_lite.data.spaces import from_unit_range
from ipd_lite.paper.dataset import Batch, OfflineDataset
from ipd_lite.paper.distillation import DistillationConfig
from ipd_lite.paper.values import ValueConfig
from ipd_lite.paper.world_model import WorldModelConfig


def mlp(
    inputs: int, width: int, depth: int, outputs: int, activation: type[nn.Module]
) -> nn.Module:
    """`depth` hidden layers, (B, inputs) -> (B, outputs)."""
    widths = [inputs] + [width] * depth
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


# -- implicit Q-learning ---------------------------------------------------------------------------


class UsualIQL:
    """Two Q networks, V and a Gaussian policy, with an optimizer each; normalized observations."""

    def __init__(self, config: ValueConfig, observations: int, actions: int) -> None:
        self.config = config
        shape = (config.width, config.depth)
        self.q1, self.q2 = (mlp(observations + actions, *shape, 1, nn.ReLU) for _ in range(2))
        self.q1_target, self.q2_target = copy.deepcopy(self.q1), copy.deepcopy(self.q2)
        self.v = mlp(observations, *shape, 1, nn.ReLU)
        self.actor = mlp(observations, *shape, actions, nn.ReLU)
        self.log_deviation = nn.Parameter(torch.zeros(actions))
        rate = config.learning_rate
        self.v_optimizer = torch.optim.Adam(self.v.parameters(), lr=rate)
        self.q_optimizer = torch.optim.Adam([*self.q1.parameters(), *self.q2.parameters()], lr=rate)
        self.actor_optimizer = torch.optim.Adam(
            [*self.actor.parameters(), self.log_deviation], lr=rate
        )

    def v_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Expectile regression, and the advantage (B,)."""
        with torch.no_grad():
            pair = torch.cat([batch.observations, batch.actions], dim=1)
            target = torch.minimum(self.q1_target(pair), self.q2_target(pair)).squeeze(-1)
        advantage = target - self.v(batch.observations).squeeze(-1)
        weight = torch.abs(self.config.expectile - (advantage < 0).float())
        return (weight * advantage**2).mean(), advantage.detach()

    def q_loss(self, batch: Batch) -> Tensor:
        """Mean squared Bellman error of both."""
        with torch.no_grad():
            following = self.v(batch.next_observations).squeeze(-1)
            target = batch.rewards + self.config.discount * batch.continues * following
        pair = torch.cat([batch.observations, batch.actions], dim=1)
        losses = [F.mse_loss(q(pair).squeeze(-1), target) for q in (self.q1, self.q2)]
        return sum(losses) / 2

    def policy_loss(self, batch: Batch, advantage: Tensor) -> Tensor:
        """Log-likelihood of the data's actions, weighted by exp(beta A); constant dropped."""
        weight = torch.exp(self.config.temperature * advantage).clamp(max=self.config.max_weight)
        mean = torch.tanh(self.actor(batch.observations))
        normal = torch.distributions.Normal(mean, self.log_deviation.clamp(-5, 2).exp())
        constant = 0.5 * math.log(2 * math.pi)
        return -(weight * (normal.log_prob(batch.actions) + constant).sum(-1)).mean()

    def update(self, batch: Batch) -> None:
        """One step of every network."""
        v_loss, advantage = self.v_loss(batch)
        q_loss = self.q_loss(batch)
        policy_loss = self.policy_loss(batch, advantage)
        for optimizer, loss in (
            (self.v_optimizer, v_loss),
            (self.q_optimizer, q_loss),
            (self.actor_optimizer, policy_loss),
        ):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for online, target in ((self.q1, self.q1_target), (self.q2, self.q2_target)):
                for new, old in zip(online.parameters(), target.parameters(), strict=True):
                    old.mul_(1 - self.config.target_rate).add_(self.config.target_rate * new)


def usual_batch(data: OfflineDataset, size: int) -> Batch:
    """A random minibatch, one gather per field."""
    index = torch.randint(len(data), (size,))
    return Batch(
        data.observations[index],
        data.actions[index],
        data.rewards[index],
        data.next_observations[index],
        1 - data.terminated[index].float(),
    )


# -- transformer -----------------------------------------------------------------------------------


class Attention(nn.Module):
    """Causal self-attention with explicit scores, (B, T, C) -> (B, T, C)."""

    def __init__(self, width: int, heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.key, self.query = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.project = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.register_buffer(
            "visible", torch.ones(length, length).tril().view(1, 1, length, length)
        )

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            part(x).view(B, T, self.heads, C // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(k.shape[-1])
        scores = scores.masked_fill(self.visible[:, :, :T, :T] == 0, float("-inf"))
        mixed = self.dropout1(F.softmax(scores, dim=-1)) @ v
        return self.dropout2(self.project(mixed.transpose(1, 2).contiguous().view(B, T, C)))


class UsualBlock(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int, heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, length, dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class UsualTransformer(nn.Module):
    """Tokens (return, state, action) of K steps; the action is read off the state's token.

    Shapes: conditions (B, K), observations (B, K, O), actions (B, K, A) -> (B, K, A).
    """

    def __init__(self, observations: int, actions: int, config: DistillationConfig) -> None:
        super().__init__()
        width, K = config.width, config.context
        self.embed_condition = nn.Linear(1, width)
        self.embed_observation = nn.Linear(observations, width)
        self.embed_action = nn.Linear(actions, width)
        self.embed_timestep = nn.Embedding(K, width)
        self.norm, self.final_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(
            *(UsualBlock(width, config.heads, 3 * K, config.dropout) for _ in range(config.layers))
        )
        self.head = nn.Sequential(nn.Linear(width, actions), nn.Tanh())

    def forward(self, conditions: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        B, K, _ = observations.shape
        time = self.embed_timestep(torch.arange(K).expand(B, K))
        tokens = (
            self.embed_condition(conditions.unsqueeze(-1)) + time,
            self.embed_observation(observations) + time,
            self.embed_action(actions) + time,
        )
        stacked = torch.stack(tokens, dim=1).permute(0, 2, 1, 3).reshape(B, 3 * K, -1)
        x = self.final_norm(self.blocks(self.dropout(self.norm(stacked))))
        return self.head(x.reshape(B, K, 3, -1).permute(0, 2, 1, 3)[:, 1])


def usual_policy_loss(
    predicted: Tensor,
    actions: Tensor,
    valid: Tensor,
    q: Tensor,
    baseline: Tensor,
    alpha: float,
) -> Tensor:
    """Regression minus alpha Q, Q centred and divided by the mean of its magnitude; real steps."""
    regression = F.mse_loss(predicted[valid], actions[valid])
    advantage = (q - baseline)[valid]
    return regression - alpha * advantage.mean() / advantage.abs().mean().detach()


class UsualDistillation:
    """The transformer, trained by regression and by two frozen Q networks."""

    def __init__(
        self, config: DistillationConfig, values: ValueConfig, observations: int, actions: int
    ) -> None:
        self.config = config
        self.policy = UsualTransformer(observations, actions, config)
        shape = (observations + actions, values.width, values.depth, 1, nn.ReLU)
        self.q1, self.q2 = (mlp(*shape).requires_grad_(False) for _ in range(2))
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def loss(
        self, conditions: Tensor, observations: Tensor, actions: Tensor, valid: Tensor
    ) -> Tensor:
        """Of windows (B, K, ...); the condition is also the baseline of Q."""
        predicted = self.policy(conditions, observations, actions)
        pair = torch.cat([observations, predicted], dim=-1)
        q = torch.minimum(self.q1(pair), self.q2(pair)).squeeze(-1)
        return usual_policy_loss(predicted, actions, valid, q, conditions, self.config.alpha)

    def update(self, data: OfflineDataset, conditions: Tensor) -> None:
        """One step on random windows."""
        first = torch.randint(len(data), (self.config.batch_size,))
        rows, valid = data.windows(first, self.config.context)
        loss = self.loss(conditions[rows], data.observations[rows], data.actions[rows], valid)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.gradient_clip)
        self.optimizer.step()


# -- world model -----------------------------------------------------------------------------------


class UsualMember(nn.Module):
    """One Gaussian model: inputs (B, I) -> mean and log-variance (B, G), termination logit (B,)."""

    def __init__(self, inputs: int, gaussians: int, width: int, depth: int) -> None:
        super().__init__()
        self.gaussians = gaussians
        self.net = mlp(inputs, width, depth, 2 * gaussians + 1, nn.SiLU)
        self.lowest = nn.Parameter(torch.full((1, gaussians), -10.0))
        self.highest = nn.Parameter(torch.full((1, gaussians), 0.5))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.net(inputs)
        mean, log_variance = output[:, : self.gaussians], output[:, self.gaussians : -1]
        log_variance = self.highest - F.softplus(self.highest - log_variance)
        log_variance = self.lowest + F.softplus(log_variance - self.lowest)
        return mean, log_variance, output[:, -1]

    def loss(self, inputs: Tensor, target: Tensor, ended: Tensor, beta: float) -> Tensor:
        """Likelihood, each term weighted by variance^beta, the bounds' pull, and termination."""
        mean, log_variance, logit = self(inputs)
        terms = ((mean - target) ** 2 * torch.exp(-log_variance) + log_variance) / 2
        likelihood = (torch.exp(log_variance).detach() ** beta * terms).mean()
        return likelihood + F.binary_cross_entropy_with_logits(logit, ended)


class UsualEnsemble:
    """Members in a list, trained and asked one after the other."""

    def __init__(self, config: WorldModelConfig, inputs: int, gaussians: int) -> None:
        self.config = config
        self.members = nn.ModuleList(
            UsualMember(inputs, gaussians, config.width, config.depth)
            for _ in range(config.members)
        )
        self.optimizer = torch.optim.AdamW(
            self.members.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def loss(
        self, inputs: Sequence[Tensor], target: Sequence[Tensor], ended: Sequence[Tensor]
    ) -> Tensor:
        """Sum over members, each on its own batch (B, ...)."""
        total = torch.zeros(())
        for member, *given in zip(self.members, inputs, target, ended, strict=True):
            total = total + member.loss(*given, self.config.variance_weight)
            width = (member.highest - member.lowest).sum()
            total = total + 0.01 * width / len(self.members)
        return total

    def update(self, inputs: Tensor, targets: Tensor, ended: Tensor) -> None:
        """One step; every member draws a batch from the rows (N, ...)."""
        rows = [torch.randint(len(inputs), (self.config.batch_size,)) for _ in self.members]
        loss = self.loss(*([x[r] for r in rows] for x in (inputs, targets, ended)))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


@torch.no_grad()
def usual_futures(
    ensemble: UsualEnsemble,
    value: nn.Module,
    propose: Callable[[Tensor, int], Tensor],
    states: Tensor,
    horizon: int,
    discount: float,
) -> tuple[Tensor, Tensor]:
    """First actions (N, A) and scores (N,) of one imagined future per state (N, O).

    Every member is asked at every step and their mean is what happens; the last Gaussian is the
    reward. propose: (states, depth) -> actions.
    """
    score, weight, first = torch.zeros(len(states)), torch.ones(len(states)), None
    for depth in range(horizon):
        action = propose(states, depth)
        first = action if first is None else first
        inputs = torch.cat([states, action], dim=-1)
        outputs = [member(inputs) for member in ensemble.members]
        mean = torch.stack([output[0] for output in outputs]).mean(0)
        logit = torch.stack([output[2] for output in outputs]).mean(0)
        states = states + mean[:, :-1]
        score = score + weight * mean[:, -1]
        weight = weight * discount * (logit <= 0).float()
    return first, score + weight * value(states).squeeze(-1)


def usual_plan(
    ensemble: UsualEnsemble,
    value: nn.Module,
    propose: Callable[[Tensor, int], Tensor],
    states: Tensor,
    *,
    candidates: int,
    horizon: int,
    discount: float,
) -> Tensor:
    """Actions (B, A): the first of the best future of each state, all of them imagined at once."""
    rows = states.repeat_interleave(candidates, dim=0)
    first, score = usual_futures(ensemble, value, propose, rows, horizon, discount)
    best = score.reshape(-1, candidates).argmax(1)
    return first.reshape(len(states), candidates, -1)[torch.arange(len(states)), best]


# -- evaluation ------------------------------------------------------------------------------------


@torch.no_grad()
def usual_episode(
    env: gym.Env, policy: UsualTransformer, value: nn.Module, context: int, seed: int
) -> int:
    """Steps of one episode; the policy sees the last `context` steps of this environment alone."""
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    observation, _ = env.reset(seed=seed)
    width = policy.embed_action.in_features
    observations, actions, conditions = [], [], []
    while True:
        state = torch.as_tensor(np.asarray(observation), dtype=torch.float32)
        observations.append(state)
        actions.append(torch.zeros(width))
        conditions.append(value(state).squeeze(-1))
        window = [
            torch.stack(history[-context:])[None] for history in (conditions, observations, actions)
        ]
        actions[-1] = policy(*window)[0, -1]
        action = from_unit_range(actions[-1].clamp(-1, 1).numpy(), space)
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return len(observations)
