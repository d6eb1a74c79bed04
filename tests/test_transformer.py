"""The policy transformer: causality, padding, an independent implementation, learning."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ipd_lite.paper.transformer import Block, TransformerPolicy

LAYOUTS = pytest.mark.parametrize("fused", [True, False], ids=["fused", "three tokens"])


class Windows(NamedTuple):
    """conditions (B, K), observations (B, K, O), actions (B, K, A), timesteps (B, K)."""

    conditions: Tensor
    observations: Tensor
    actions: Tensor
    timesteps: Tensor


def windows(batch: int, steps: int, seed: int = 0, observations: int = 3) -> Windows:
    generator = torch.Generator().manual_seed(seed)
    return Windows(
        torch.randn(batch, steps, generator=generator),
        torch.randn(batch, steps, observations, generator=generator),
        torch.rand(batch, steps, 2, generator=generator) * 2 - 1,
        torch.arange(steps).expand(batch, steps),
    )


def policy(fused: bool, layers: int = 2, context: int = 6, **changes: object) -> TransformerPolicy:
    torch.manual_seed(0)
    options = {"context": context, "width": 16, "layers": layers, "heads": 2, **changes}
    return TransformerPolicy(3, 2, fused=fused, **options).eval()  # type: ignore[arg-type]


@LAYOUTS
@pytest.mark.parametrize("step", range(6))
def test_the_future_does_not_leak(fused: bool, step: int) -> None:
    model, now, other = policy(fused), windows(4, 6), windows(4, 6, seed=1)
    changed = Windows(*(x.clone() for x in now))
    changed.conditions[:, step + 1 :] = other.conditions[:, step + 1 :]
    changed.observations[:, step + 1 :] = other.observations[:, step + 1 :]
    changed.actions[:, step:] = other.actions[:, step:]  # the action to be predicted included
    changed.timesteps[:, step + 1 :] = 0
    before, after = model(*now), model(*changed)
    assert torch.equal(before[:, : step + 1], after[:, : step + 1])
    if step < 5:
        assert not torch.allclose(before[:, step + 1 :], after[:, step + 1 :])


@LAYOUTS
@pytest.mark.parametrize("name", ["conditions", "observations", "actions", "timesteps"])
def test_everything_up_to_now_is_seen(fused: bool, name: str) -> None:
    """The last prediction depends on every entry so far but the action that it predicts."""
    model, now = policy(fused), windows(4, 6)
    reference = model(*now)[:, -1]
    for step in range(6):
        changed = {field: x.clone() for field, x in now._asdict().items()}
        changed[name][:, step] = 5 - step if name == "timesteps" else 1.5
        same = torch.allclose(model(**changed)[:, -1], reference)
        assert same == (name == "actions" and step == 5)


@LAYOUTS
@given(length=st.integers(1, 6), seed=st.integers(0, 100))
def test_padding_on_the_right_changes_nothing(fused: bool, length: int, seed: int) -> None:
    model, full = policy(fused), windows(3, 6, seed)
    short = Windows(*(x[:, :length] for x in full))
    valid = (torch.arange(6) < length).expand(3, 6)
    padded = model(*full, valid)
    torch.testing.assert_close(padded[:, :length], model(*short))
    assert padded[:, length:].abs().sum() == 0


@LAYOUTS
@given(
    batch=st.integers(1, 3),
    steps=st.integers(1, 4),
    observations=st.integers(1, 4),
    actions=st.integers(1, 3),
    layers=st.integers(0, 2),
)
def test_shapes(
    fused: bool, batch: int, steps: int, observations: int, actions: int, layers: int
) -> None:
    model = TransformerPolicy(
        observations, actions, context=4, width=8, layers=layers, heads=2, fused=fused
    )
    data = windows(batch, steps, observations=observations)
    found = model(
        data.conditions, data.observations, torch.zeros(batch, steps, actions), data.timesteps
    )
    assert found.shape == (batch, steps, actions)
    assert found.abs().max() < 1


def test_block_equals_pytorchs_own_encoder_layer() -> None:
    torch.manual_seed(0)
    block = Block(width=12, heads=3, dropout=0.0)
    reference = nn.TransformerEncoderLayer(
        12, 3, dim_feedforward=48, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    pairs = {
        "self_attn.in_proj_weight": block.qkv.weight,
        "self_attn.in_proj_bias": block.qkv.bias,
        "self_attn.out_proj.weight": block.out.weight,
        "self_attn.out_proj.bias": block.out.bias,
        "linear1.weight": block.up.weight,
        "linear1.bias": block.up.bias,
        "linear2.weight": block.down.weight,
        "linear2.bias": block.down.bias,
        "norm1.weight": block.norm1.weight,
        "norm1.bias": block.norm1.bias,
        "norm2.weight": block.norm2.weight,
        "norm2.bias": block.norm2.bias,
    }
    reference.load_state_dict({name: tensor.detach() for name, tensor in pairs.items()})
    x = torch.randn(2, 5, 12)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    torch.testing.assert_close(block(x), reference(x, src_mask=mask, is_causal=True))


def test_shown_attention_is_the_attention_used() -> None:
    torch.manual_seed(0)
    block, x = Block(width=12, heads=3, dropout=0.0), torch.randn(2, 5, 12)
    weights = block.attention(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))
    assert weights.triu(1).abs().max() == 0
    values = block.qkv(block.norm1(x))[..., 24:].view(2, 5, 3, 4).transpose(1, 2)
    mixed = x + block.out((weights @ values).transpose(1, 2).reshape(2, 5, 12))
    expected = mixed + block.down(nn.functional.gelu(block.up(block.norm2(mixed))))
    torch.testing.assert_close(block(x), expected)


@LAYOUTS
def test_overfits_a_toy_that_needs_everything(fused: bool) -> None:
    """Action = a function of the condition, the state and both of the step before."""
    model = policy(fused, layers=1, context=4, width=32).train()
    data = windows(16, 4)
    previous_state = torch.cat([torch.zeros(16, 1, 3), data.observations[:, :-1]], 1)
    first = 0.3 * data.conditions + 0.3 * previous_state[..., 0]
    actions = data.actions.clone()
    actions[..., 0] = first.clamp(-0.9, 0.9)
    for step in range(4):
        before = actions[:, step - 1, 0] if step else torch.zeros(16)
        actions[:, step, 1] = 0.8 * torch.sin(3 * before) * data.observations[:, step, 1].sign()
    data = data._replace(actions=actions)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = (model(*data) - data.actions).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01 * float(actions.var())


def test_fit_normalizes_what_goes_in() -> None:
    """The same data in other units gives the same predictions after fitting."""
    one, other, data = policy(True), policy(True), windows(64, 6)
    one.fit(data.observations.flatten(0, 1), data.conditions.flatten())
    scaled = data._replace(
        observations=100 * data.observations - 3, conditions=0.01 * data.conditions + 50
    )
    other.fit(scaled.observations.flatten(0, 1), scaled.conditions.flatten())
    torch.testing.assert_close(one(*data), other(*scaled), rtol=1e-2, atol=1e-3)
    assert not torch.allclose(one(*data), policy(True)(*scaled), atol=1e-2)


def test_constant_inputs_stay_finite() -> None:
    model, data = policy(True), windows(4, 6)
    constant = data._replace(conditions=torch.full((4, 6), 7.0))
    model.fit(torch.ones(20, 3), constant.conditions.flatten())
    assert model(*constant).isfinite().all()


def test_dropout_acts_in_training_only() -> None:
    model, data = policy(True, dropout=0.5), windows(4, 6)
    assert torch.equal(model(*data), model(*data))
    model.train()
    assert not torch.equal(model(*data), model(*data))


def test_steps_of_the_episode_can_be_embedded() -> None:
    model = policy(True, steps=1000)
    late = windows(2, 6)._replace(timesteps=torch.arange(994, 1000).expand(2, 6))
    assert not torch.allclose(model(*late), model(*windows(2, 6)))


def test_width_must_fit_the_heads() -> None:
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
        TransformerPolicy(3, 2, context=4, width=10, heads=4)
