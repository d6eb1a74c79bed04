"""Network parts that every stage shares: input features, batched ensembles, chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rounding(data: Tensor) -> Tensor:
    """Deviation (D,) at which a column of data (N, D) counts as constant, in any unit: about ten
    times float32's rounding of its largest entry, or what float64 leaves in place of zeros."""
    return (1e-6 * data.abs().amax(0)).clamp_min(1e-12)


def inverse_deviation(data: Tensor) -> Tensor:
    """1 / deviation of every column of data (N, D), shape (D,); 1 for constant ones."""
    deviation = data.std(0, correction=0)
    return torch.where(deviation > rounding(data), 1 / deviation, 1.0)


class Features(nn.Module):
    """Normalized inputs, optionally with random Fourier features of some of them.

    Maps (..., D) to (..., D + 2 * fourier). A plain MLP is biased towards smooth functions of
    position and blurs walls; sines and cosines of random projections let it draw them
    (Tancik et al. 2020, "Fourier features let networks learn high frequency functions").

    Args:
        width: D, the number of inputs.
        dimensions: inputs that the Fourier features see.
        fourier: number of random frequencies (0 = none).
        scale: standard deviation of the frequencies, in periods per normalized unit.
    """

    def __init__(
        self, width: int, dimensions: Sequence[int] = (), fourier: int = 0, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("inverse", torch.ones(width))
        self.dimensions = list(dimensions) if fourier else []
        frequencies = torch.randn(len(self.dimensions), fourier if self.dimensions else 0)
        self.register_buffer("frequencies", 2 * math.pi * scale * frequencies)
        # On the device: indexing with a list would copy it there at every call.
        self.register_buffer("index", torch.tensor(self.dimensions).long(), persistent=False)
        self.width = width + 2 * self.frequencies.shape[1]

    mean: Tensor
    inverse: Tensor
    frequencies: Tensor
    index: Tensor

    def fit(self, data: Tensor) -> None:
        """Normalize by the mean and deviation of data (N, D); constant inputs are only centred."""
        self.mean.copy_(data.mean(0))
        self.inverse.copy_(inverse_deviation(data))

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (..., width) of raw inputs (..., D)."""
        normalized = (inputs - self.mean) * self.inverse
        if not self.dimensions:
            return normalized
        angles = normalized.index_select(-1, self.index) @ self.frequencies
        return torch.cat([normalized, angles.sin(), angles.cos()], dim=-1)


class EnsembleLinear(nn.Module):
    """`members` linear layers as one batched product.

    Input (members, B, inputs), or (B, inputs) shared by all members; output (members, B, outputs).
    Initialized like `torch.nn.Linear`.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        """(members, B, outputs) from (B, inputs) or (members, B, inputs)."""
        members, _, outputs = self.weight.shape
        if inputs.dim() == 2:
            inputs = inputs.expand(members, *inputs.shape)
        # Batched products with one column are slow. And values stay float32 under autocast:
        # bfloat16 knows only every half between 64 and 128.
        if outputs == 1 and (members > 1 or inputs.dtype != self.weight.dtype):
            return (inputs * self.weight.transpose(1, 2)).sum(-1, keepdim=True) + self.bias
        return torch.baddbmm(self.bias, inputs, self.weight)


class EnsembleMLP(nn.Module):
    """`members` independent multilayer perceptrons as batched products.

    Input (B, inputs) shared, or (members, B, inputs); output (members, B, outputs).
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        *,
        activation: type[nn.Module] = nn.ReLU,
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [inputs] + [width] * depth
        self.layers = nn.ModuleList(EnsembleLinear(members, a, b) for a, b in pairwise(widths))
        self.head = EnsembleLinear(members, width if depth else inputs, outputs)
        # In place where the gradient needs only the output: one large tensor less.
        self.activation = nn.ReLU(inplace=True) if activation is nn.ReLU else activation()
        self.layer_norm = layer_norm
        # LayerNorm is not affine, but torch's kernel is twice as fast when it is given constants.
        self.register_buffer("ones", torch.ones(width), persistent=False)
        self.register_buffer("zeros", torch.zeros(width), persistent=False)
        self.dropout = dropout

    ones: Tensor
    zeros: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        """(members, B, outputs) from (B, inputs) or (members, B, inputs)."""
        hidden = inputs
        for layer in self.layers:
            hidden = layer(hidden)
            if self.layer_norm:
                hidden = F.layer_norm(hidden, hidden.shape[-1:], self.ones, self.zeros)
            hidden = self.activation(hidden)
            if self.dropout:
                hidden = F.dropout(hidden, self.dropout, self.training)
        result: Tensor = self.head(hidden)
        return result


def in_chunks(function: Callable[..., Tensor], *inputs: Tensor, size: int = 8192) -> Tensor:
    """`function` over the rows of the inputs, at most `size` rows at a time (fits the cache)."""
    pieces = [function(*(x[i : i + size] for x in inputs)) for i in range(0, len(inputs[0]), size)]
    return torch.cat(pieces)
