"""Network parts that every stage shares: input features, batched ensembles, target averaging."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

P = ParamSpec("P")
R = TypeVar("R")


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
        deviation = data.std(0, correction=0)
        self.mean.copy_(data.mean(0))
        self.inverse.copy_(torch.where(deviation > 1e-6, 1 / deviation, 1.0))

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


def packed_parameters(module: nn.Module) -> nn.Parameter:
    """All trainable parameters of `module` as one flat parameter (P,), its gradient likewise.

    The module's own parameters become views of it and work as before. The optimizer, clipping and
    clearing of gradients are then one operation each instead of one per layer. Call it after the
    module is on its device, and clear gradients with `zero_grad(set_to_none=False)`: they must stay
    views.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    packed = nn.Parameter(torch.cat([p.detach().flatten() for p in trained]))
    packed.grad = torch.zeros_like(packed)
    sizes = [p.numel() for p in trained]
    pieces = packed.detach().split(sizes), packed.grad.split(sizes)
    for parameter, weights, gradient in zip(trained, *pieces, strict=True):
        parameter.data = weights.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return packed


def accelerated(
    loss: Callable[P, R], device: torch.device, *, compile: bool, autocast: bool
) -> Callable[P, R]:
    """`loss` compiled, and under bfloat16 autocast, where asked for.

    Parameters, gradients and the optimizer stay float32.

    Raises:
        RuntimeError: compilation for the CPU was asked for and there is no C++ compiler.
    """
    if compile and device.type == "cpu" and not _has_compiler():
        raise RuntimeError(
            "compute.compile on the CPU needs a C++ compiler (g++ or clang++) on the PATH; "
            "install one, or set --compute.no-compile"
        )
    if autocast:

        def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                return loss(*args, **kwargs)
    else:
        chosen = loss
    return torch.compile(chosen) if compile else chosen


def _has_compiler() -> bool:
    names = [os.environ.get("CXX", ""), "g++", "clang++"]
    return any(shutil.which(name) for name in names if name)


@torch.no_grad()
def average_into(target: nn.Module, source: nn.Module, rate: float) -> None:
    """target <- (1 - rate) * target + rate * source, parameter by parameter, in place."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)


def cosine_rate(step: int, updates: int, peak: float, final_fraction: float) -> float:
    """Learning rate at `step`: from `peak` down to `peak * final_fraction` along half a cosine."""
    fraction = 0.5 * (1 + math.cos(math.pi * min(step / updates, 1.0)))
    return peak * (final_fraction + (1 - final_fraction) * fraction)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def in_chunks(function: Callable[..., Tensor], *inputs: Tensor, size: int = 8192) -> Tensor:
    """`function` over the rows of the inputs, at most `size` rows at a time (fits the cache)."""
    pieces = [function(*(x[i : i + size] for x in inputs)) for i in range(0, len(inputs[0]), size)]
    return torch.cat(pieces)


class Snapshots(nn.Module):
    """Copies of a policy along its training, (snapshots, ...) per parameter."""

    def __init__(self, policy: nn.Module, count: int, updates: int) -> None:
        super().__init__()
        # Never more copies than updates: one that is not taken would stay zero.
        self.count = count = min(count, updates)
        self.updates = updates
        for name, parameter in policy.named_parameters():
            stack = parameter.detach().new_zeros(count, *parameter.shape)
            self.register_buffer(name.replace(".", "/"), stack)

    def due(self, step: int) -> int | None:
        """Index of the snapshot to take after update `step` (counted from 0), if any."""
        for index in range(self.count):
            if step + 1 == self.updates * (index + 1) // self.count:
                return index
        return None

    @torch.no_grad()
    def take(self, index: int, policy: nn.Module) -> None:
        """Copy the parameters into row `index`."""
        for name, parameter in policy.named_parameters():
            getattr(self, name.replace(".", "/"))[index] = parameter

    @torch.no_grad()
    def restore(self, index: int, policy: nn.Module) -> None:
        """Copy row `index` back into `policy`."""
        for name, parameter in policy.named_parameters():
            parameter.copy_(getattr(self, name.replace(".", "/"))[index])
