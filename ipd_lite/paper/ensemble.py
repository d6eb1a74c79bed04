"""Section 3.2: the batched network of Gaussian members and its likelihood."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ipd_lite.paper.nets import EnsembleMLP


class GaussianEnsemble(nn.Module):
    """Members that map inputs to a Gaussian and logits, with learned bounds of the log-variance.

    Every parameter's first dimension is the member, so that members can be copied one by one.
    """

    def __init__(
        self, members: int, inputs: int, gaussians: int, logits: int, width: int, depth: int
    ) -> None:
        super().__init__()
        self.split = [gaussians, gaussians, logits]
        self.mlp = EnsembleMLP(members, inputs, sum(self.split), width, depth, activation=nn.SiLU)
        self.lowest = nn.Parameter(torch.full((members, 1, gaussians), -10.0))
        self.highest = nn.Parameter(torch.full((members, 1, gaussians), 0.5))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (B, I) or (M, B, I) -> mean, log-variance (M, B, gaussians), logits (M, B, 0/1).

        The log-variance is bounded softly on both sides (Chua et al. 2018, A.1).
        """
        mean, log_variance, logits = self.mlp(inputs).split(self.split, -1)
        log_variance = self.highest - F.softplus(self.highest - log_variance)
        log_variance = self.lowest + F.softplus(log_variance - self.lowest)
        return mean, log_variance, logits

    def expected(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logits alone, as :meth:`forward` gives them (planning needs no variance)."""
        mean, _, logits = self.mlp(inputs).split(self.split, -1)
        return mean, logits


def gaussian_loss(
    mean: Tensor,
    log_variance: Tensor,
    target: Tensor,
    lowest: Tensor,
    highest: Tensor,
    variance_weight: float = 0.0,
) -> Tensor:
    """Negative log-likelihood (constant dropped), averaged over batch and outputs, summed over
    members, plus a small pull that keeps the learned bounds of the log-variance tight.

    Plain likelihood divides every error by the predicted variance: where the model is bad it calls
    the world noisy and stops learning, and then no member knows that it does not know. Each term is
    therefore weighted by variance ** `variance_weight`, without gradient (beta-NLL, Seitzer et al.
    2022): 0 is the plain likelihood, 1 gives the mean the gradient of squared error. The minimum is
    the same for every weight.

    Args:
        mean, log_variance, target: (M, B, gaussians); target may be (B, gaussians).
        lowest, highest: (M, 1, gaussians), the bounds of the log-variance.
    """
    error = (mean - target).square() * (-log_variance).exp()
    weight = (variance_weight * log_variance.detach()).exp()
    likelihood = 0.5 * (weight * (error + log_variance)).mean(dim=(1, 2)).sum()
    return likelihood + 0.01 * (highest - lowest).mean(0).sum()
