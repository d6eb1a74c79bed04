"""Two rivals that ask Q about actions outside the data, and how each keeps Q from dreaming.

**TD3+BC** (Fujimoto & Gu 2021, "A minimalist approach to offline reinforcement learning") adds
behaviour cloning to TD3: the policy minimizes |pi(s) - a|^2 - lambda Q(s, pi(s)) with
lambda = alpha / mean |Q|. **CQL** (Kumar et al. 2020, "Conservative Q-learning for offline
reinforcement learning") lowers Q where actions are not in the data: soft actor-critic plus
weight * E_s[log integral exp Q(s, a) da - Q(s, a of the data)], the variant CQL(H).

Deviations, the same for both, so that only the learning rule differs from our IQL: width, depth,
LayerNorm, Fourier features, batch size, learning rates (cosine), target rate, number of updates and
clipped bootstrap targets are those of `ValueConfig`; both keep the published twin Q and its
minimum. TD3+BC: none beyond these. CQL: no behaviour-cloning warm-up, one learning rate for policy,
Q and entropy weight, no entropy in Q's target (as in the authors' code), a fixed penalty weight
instead of the Lagrangian variant.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ipd_lite.paper.nets import EnsembleMLP, Features
from ipd_lite.paper.values import ValueConfig

TWIN = 2


class TwinQ(nn.Module):
    """Two Q networks and their slowly following targets; raw observations in.

    Shapes: observations (B, O), actions (B, A) in [-1, 1], values (2, B).
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

        def network() -> EnsembleMLP:
            return EnsembleMLP(
                TWIN,
                self.features.width + actions,
                1,
                config.width,
                config.depth,
                layer_norm=config.layer_norm,
            )

        self.online, self.target = network(), network()
        self.target.load_state_dict(self.online.state_dict())
        self.target.requires_grad_(False)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Both online values (2, B)."""
        inputs = torch.cat([self.features(observations), actions], dim=-1)
        return self.online(inputs).squeeze(-1)

    def lowest_target(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The smaller of both target values (B,)."""
        inputs = torch.cat([self.features(observations), actions], dim=-1)
        return self.target(inputs).squeeze(-1).amin(0)
