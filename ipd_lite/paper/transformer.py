"""Section 3.4: a causal transformer over (condition, observation, action) steps.

As in Decision Transformer (Chen et al. 2021), but the condition may be V(s). Two layouts: three
tokens per step as in that paper, or one *fused* token per step that sums the embeddings of the
condition, the observation and the *previous* action: a third of the length, the same information.

Shapes: B windows, K steps, T tokens (K or 3 K), C width. Padding stands on the right, where a
causal mask hides it from every real step; `valid` silences what it would predict.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ipd_lite.paper.nets import inverse_deviation


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Mix v (B, heads, T, D) by the similarity of q and k, every row from rows up to itself."""
    if not (q.dtype == torch.bfloat16 and q.device.type == "cpu"):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    # torch's bfloat16 kernel for the CPU takes several times as long backward as its float32 one.
    hidden = torch.full((q.shape[-2],) * 2, -torch.inf, device=q.device).triu(1)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + hidden
    return F.dropout(scores.softmax(-1), dropout).to(v.dtype) @ v


class Block(nn.Module):
    """Pre-norm attention and feed-forward, (B, T, C) -> (B, T, C)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """One block, (B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        heads = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, C // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, T, C / heads)
        dropout = self.dropout if self.training else 0.0
        mixed = causal_attention(q, k, v, dropout)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).reshape(B, T, C)), dropout, self.training)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), dropout, self.training)

    def attention(self, x: Tensor) -> Tensor:
        """Attention weights (B, heads, T, T) for the figures; row i sums to 1 over columns <= i."""
        B, T, C = x.shape
        heads = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, C // self.heads)
        q, k, _ = heads.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / (C // self.heads) ** 0.5
        hidden = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        return scores.masked_fill(hidden, -torch.inf).softmax(-1)


class TransformerPolicy(nn.Module):
    """Predicts the action of every step from the steps up to it.

    Args:
        observations, actions: widths O and A.
        context: K, the longest window.
        steps: number of distinct timesteps that can be embedded.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        *,
        context: int,
        width: int = 64,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
        fused: bool = True,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.context, self.fused, self.dropout = context, fused, dropout
        self.register_buffer("observation_mean", torch.zeros(observations))
        self.register_buffer("observation_inverse", torch.ones(observations))
        self.register_buffer("condition_mean", torch.zeros(()))
        self.register_buffer("condition_inverse", torch.ones(()))
        self.embed_condition = nn.Linear(1, width)
        self.embed_observation = nn.Linear(observations, width)
        self.embed_action = nn.Linear(actions, width)
        self.embed_timestep = nn.Embedding(steps or context, width)
        nn.init.normal_(self.embed_timestep.weight, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, actions)

    observation_mean: Tensor
    observation_inverse: Tensor
    condition_mean: Tensor
    condition_inverse: Tensor

    def fit(self, observations: Tensor, conditions: Tensor) -> None:
        """Normalize by the statistics of observations (N, O) and conditions (N,)."""
        for name, data in (("observation", observations), ("condition", conditions)):
            getattr(self, f"{name}_mean").copy_(data.mean(0))
            getattr(self, f"{name}_inverse").copy_(inverse_deviation(data))

    def tokens(
        self, conditions: Tensor, observations: Tensor, actions: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Embedded tokens (B, T, C): T = K fused, or 3 K in the order condition, state, action."""
        time = self.embed_timestep(timesteps)
        scaled = (conditions - self.condition_mean) * self.condition_inverse
        condition = self.embed_condition(scaled[..., None])
        observation = self.embed_observation(
            (observations - self.observation_mean) * self.observation_inverse
        )
        action = self.embed_action(actions)
        if self.fused:
            previous = F.pad(action[:, :-1], (0, 0, 1, 0))  # no action before the first step
            return F.dropout(
                self.norm(condition + observation + previous + time), self.dropout, self.training
            )
        stacked = torch.stack([condition, observation, action], dim=2) + time[:, :, None]
        return F.dropout(self.norm(stacked.flatten(1, 2)), self.dropout, self.training)

    def forward(
        self,
        conditions: Tensor,
        observations: Tensor,
        actions: Tensor,
        timesteps: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Actions (B, K, A) in (-1, 1).

        Args:
            conditions: (B, K) V(s) or a return. observations: (B, K, O). actions: (B, K, A); the
                prediction of step t sees only those before t. timesteps: (B, K) int64.
            valid: (B, K) bool, false on padding; predictions there are zero.
        """
        x = self.tokens(conditions, observations, actions, timesteps)
        for block in self.blocks:
            x = block(x)
        if not self.fused:
            x = x[:, 1::3]  # the observation tokens
        predicted = torch.tanh(self.head(self.final_norm(x)))
        return predicted if valid is None else predicted * valid[..., None]
