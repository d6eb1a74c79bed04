"""Batched networks against plain torch.nn modules, and the small numeric helpers."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ipd_lite.paper.nets import EnsembleLinear, EnsembleMLP, Features
from ipd_lite.paper.training import average_into, cosine_rate, packed_parameters, set_learning_rate
from ipd_lite.paper.values import ValueConfig


def member_by_member(net: EnsembleMLP, inputs: Tensor, layer_norm: bool) -> Tensor:
    """The same forward pass with one torch.nn.Linear per member and layer."""
    results = []
    for member in range(net.head.weight.shape[0]):
        x = inputs if inputs.dim() == 2 else inputs[member]
        for layer in [*net.layers, net.head]:
            assert isinstance(layer, EnsembleLinear)
            _, width_in, width_out = layer.weight.shape
            linear = nn.Linear(width_in, width_out)
            linear.weight.data = layer.weight[member].T
            linear.bias.data = layer.bias[member, 0]
            x = linear(x)
            if layer is not net.head:
                x = F.relu(
                    nn.LayerNorm(width_out, elementwise_affine=False)(x) if layer_norm else x
                )
        results.append(x)
    return torch.stack(results)


@given(
    members=st.integers(1, 4),
    batch=st.integers(1, 5),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 3),
    depth=st.integers(0, 3),
    shared=st.booleans(),
    layer_norm=st.booleans(),
)
def test_ensemble_equals_separate_networks(
    members: int, batch: int, inputs: int, outputs: int, depth: int, shared: bool, layer_norm: bool
) -> None:
    torch.manual_seed(0)
    net = EnsembleMLP(members, inputs, outputs, 6, depth, layer_norm=layer_norm)
    x = torch.randn(batch, inputs) if shared else torch.randn(members, batch, inputs)
    torch.testing.assert_close(net(x), member_by_member(net, x, layer_norm), rtol=1e-4, atol=1e-5)


def test_members_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    net = EnsembleMLP(3, 4, 2, 8, 2)
    net(torch.randn(5, 4))[1].square().sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().sum() > 0
        assert parameter.grad[[0, 2]].abs().sum() == 0


def test_members_start_differently_and_like_linear() -> None:
    torch.manual_seed(0)
    layer, reference = EnsembleLinear(2, 300, 200), nn.Linear(300, 200)
    assert not torch.equal(layer.weight[0], layer.weight[1])
    spread, expected = layer.weight.detach().std(), reference.weight.detach().std()
    torch.testing.assert_close(spread, expected, rtol=0.02, atol=0)
    assert layer.bias.detach().abs().max() <= 1 / math.sqrt(300)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    net = EnsembleMLP(1, 3, 2, 32, 1, dropout=0.5)
    x = torch.randn(4, 3)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_features_normalize_and_only_centre_constants() -> None:
    torch.manual_seed(0)
    data = torch.randn(500, 3) * torch.tensor([10.0, 0.01, 0.0]) + torch.tensor([100.0, -5.0, 7.0])
    features = Features(3)
    features.fit(data)
    out = features(data)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        out.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0
    )
    assert out[:, 2].abs().max() == 0


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_fourier_features_approximate_the_gaussian_kernel(scale: float) -> None:
    """Rahimi & Recht (2007): over Gaussian w, the mean of cos(w (x - y)) is a Gaussian kernel."""
    torch.manual_seed(0)
    features = Features(3, dimensions=(0, 2), fourier=20_000, scale=scale)
    x, y = torch.randn(6, 3), torch.randn(6, 3)
    x[0, [0, 2]] = y[0, [0, 2]]
    waves_x, waves_y = features(x)[:, 3:], features(y)[:, 3:]
    kernel = (waves_x * waves_y).sum(1) / 20_000
    distance = (x - y)[:, [0, 2]].square().sum(1)
    expected = (-0.5 * (2 * math.pi * scale) ** 2 * distance).exp()
    torch.testing.assert_close(kernel, expected, atol=0.03, rtol=0)


@given(
    shape=st.lists(st.integers(1, 4), max_size=2),
    width=st.integers(1, 4),
    fourier=st.integers(0, 5),
)
def test_feature_width_is_what_comes_out(shape: list[int], width: int, fourier: int) -> None:
    features = Features(width, dimensions=(0,), fourier=fourier)
    assert features(torch.zeros(*shape, width)).shape == (*shape, features.width)
    assert features.width == width + 2 * fourier


def test_packed_parameters_learn_what_separate_ones_learn() -> None:
    torch.manual_seed(0)
    separate = EnsembleMLP(3, 4, 2, width=8, depth=2, layer_norm=True)
    net = copy.deepcopy(separate)
    packed = packed_parameters(net)
    assert packed.numel() == sum(p.numel() for p in separate.parameters())
    one = torch.optim.AdamW(separate.parameters(), lr=0.01, weight_decay=0.1, fused=True)
    other = torch.optim.AdamW([packed], lr=0.01, weight_decay=0.1, fused=True)
    for _ in range(5):
        inputs = torch.randn(6, 4)
        for model, optimizer in ((separate, one), (net, other)):
            optimizer.zero_grad(set_to_none=model is separate)
            model(inputs).square().mean().backward()
        parameters = list(separate.parameters())
        norms = [nn.utils.clip_grad_norm_(p, 0.05) for p in (parameters, [packed])]
        torch.testing.assert_close(*norms)
        one.step()
        other.step()
    for mine, expected in zip(net.parameters(), parameters, strict=True):
        torch.testing.assert_close(mine, expected)
    net.load_state_dict(separate.state_dict())  # a checkpoint restores into the packed tensor
    torch.testing.assert_close(packed, nn.utils.parameters_to_vector(parameters), rtol=0, atol=0)


def test_target_average_by_hand() -> None:
    target, source = nn.Linear(1, 1), nn.Linear(1, 1)
    for module, weight, bias in ((target, 1.0, 10.0), (source, 3.0, 20.0)):
        module.weight.data.fill_(weight)
        module.bias.data.fill_(bias)
    average_into(target, source, 0.25)
    assert (target.weight.item(), target.bias.item()) == (1.5, 12.5)
    assert (source.weight.item(), source.bias.item()) == (3.0, 20.0)


def schedule(final: float) -> ValueConfig:
    return ValueConfig(updates=100, learning_rate=2.0, final_learning_rate=final)


def test_cosine_rate_runs_from_peak_to_final_fraction() -> None:
    rates = [cosine_rate(step, schedule(0.1)) for step in range(151)]
    assert rates[0] == 2.0
    assert rates[50] == pytest.approx((2.0 + 0.2) / 2)
    assert rates[100] == rates[150] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[:101]))
    assert {cosine_rate(step, schedule(1.0)) for step in range(100)} == {2.0}


def test_set_learning_rate_reaches_every_group() -> None:
    optimizer = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=1
    )
    set_learning_rate(optimizer, 0, ValueConfig(learning_rate=0.25))
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
