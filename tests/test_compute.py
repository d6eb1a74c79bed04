"""Compiled and bfloat16 losses: the same training, up to rounding, and repeatable."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ipd_lite.paper import training
from ipd_lite.paper.distillation import prepare_examples, train_policy
from ipd_lite.paper.imagination import planning_model
from ipd_lite.paper.planning import Plan, plan
from ipd_lite.paper.training import AS_WRITTEN, Checkpoint, Compute, accelerated
from ipd_lite.paper.transformer import causal_attention
from ipd_lite.paper.values import Values, train_values
from ipd_lite.paper.world_model import train_world_model
from ipd_lite.settings import override, preset
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.registry import get_task
from tests.helpers import Killed, KilledCheckpoint, same_bits, small_dataset

SMOKE = preset("smoke")
CPU = torch.device("cpu")
TRACED, BFLOAT = Compute(compile=True), Compute(autocast=True)


def train(
    stage: str, compute: Compute, updates: int = 8, checkpoint: Checkpoint | None = None
) -> nn.Module:
    """A few updates of one stage from seed 0."""
    data, few = small_dataset(), {"updates": updates}
    if stage == "world model":
        config = override(SMOKE.world_model, few | {"evaluate_every": 4})
        return train_world_model(data, config, seed=0, compute=compute, checkpoint=checkpoint)
    if stage == "values":
        config = override(SMOKE.values, few)
        return train_values(data, config, seed=0, compute=compute, checkpoint=checkpoint)
    values = train_values(data, override(SMOKE.values, {"updates": 8}), seed=0)
    config = override(SMOKE.distillation, few | {"imagined_share": 0.0, "dropout": 0.1})
    examples = prepare_examples(data, values, config, 0.99, bootstrap_steps=3)
    return train_policy(
        examples, values, config, seed=0, episode_steps=50, compute=compute, checkpoint=checkpoint
    )[0]


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


STAGES = ["values", "world model", "policy"]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_traced_losses_train_the_same_weights(
    stage: str, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whole graph forward and backward (no breaks), without the time of a C++ build."""
    whole = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    monkeypatch.setattr(training, "_has_compiler", lambda: True)
    plain, traced = Compute(False, autocast), Compute(True, autocast)
    assert distance(train(stage, plain), train(stage, traced)) < (0.05 if autocast else 1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_trains_nearly_the_same_weights_and_repeats(stage: str) -> None:
    plain, rounded, again = train(stage, AS_WRITTEN), train(stage, BFLOAT), train(stage, BFLOAT)
    assert 0 < distance(plain, rounded) < 0.05
    assert distance(rounded, again) == 0
    assert all(p.dtype == torch.float32 for p in rounded.parameters())


@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_continues_exactly_where_it_was_stopped(stage: str, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(stage, BFLOAT, checkpoint=KilledCheckpoint(tmp_path / "state", every=3, kill_at=7))
    resumed = train(stage, BFLOAT, checkpoint=Checkpoint(tmp_path / "state", every=3))
    assert same_bits(resumed, train(stage, BFLOAT))


def test_bfloat16_world_model_learns_as_well() -> None:
    plain, rounded = (train("world model", c, updates=200) for c in (AS_WRITTEN, BFLOAT))
    untrained = train("world model", AS_WRITTEN, updates=1)
    assert plain.holdout_error.mean() < 0.5 * untrained.holdout_error.mean()
    assert rounded.holdout_error.mean() < 1.1 * plain.holdout_error.mean()


def test_attention_in_bfloat16_is_causal_and_close() -> None:
    """Without torch's kernel: the same mixture, and the same gradient, to 1 %."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(3, 2, 6, 8, generator=generator).requires_grad_() for _ in range(4)]
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    results = []
    for q, k, v, direction in (exact, rounded):
        mixed = causal_attention(q, k, v, 0.0)
        results.append([mixed, *torch.autograd.grad((mixed * direction).sum(), (q, k, v))])
    for found, expected in zip(results[1], results[0], strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.float() - expected).norm() < 0.01 * expected.norm()
    changed = [x.detach().clone() for x in rounded[:3]]
    for x in changed:
        x[:, :, 4:] = 0
    assert torch.equal(causal_attention(*changed, 0.0)[:, :, :4], results[1][0][:, :, :4])
    dropped = causal_attention(*(torch.ones_like(x) for x in changed), 0.5)
    assert dropped.unique().numel() > 1


@pytest.mark.parametrize("networks", [1, 2])
def test_values_keep_float32_steps_under_bfloat16(networks: int) -> None:
    """At V = -100 bfloat16 has steps of 0.5: too coarse to compare plans with."""
    config = override(SMOKE.values, {"v_networks": networks, "q_networks": networks})
    values = Values(config, 2, 2).requires_grad_(False)
    for net in (values.v_net, values.q_net):
        net.head.bias.fill_(-100.0)
    states, actions = torch.linspace(-1, 1, 100).reshape(50, 2), torch.zeros(50, 2)
    exact = values.v(states), values.q(states, actions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = values.v(states), values.q(states, actions)
    for found, expected in zip(rounded, exact, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
        assert (found - expected).abs().max() > 0


def test_plans_under_bfloat16_are_as_good_and_repeat() -> None:
    """The same noise, nearly the same scores, and float32 actions."""
    values, model = train("values", AS_WRITTEN), train("world model", AS_WRITTEN, updates=60)
    states, planner = torch.linspace(-1, 1, 40).reshape(20, 2), SMOKE.planner

    def planned(compute: Compute) -> Plan:
        generator = torch.Generator().manual_seed(0)
        callables = planning_model(values, model, planner, 0.99, generator, compute)  # type: ignore[arg-type]
        return plan(states, callables, planner, generator)

    exact, rounded, again = planned(AS_WRITTEN), planned(BFLOAT), planned(BFLOAT)
    assert rounded.action.dtype == rounded.scores.dtype == torch.float32
    assert torch.equal(rounded.action, again.action)
    assert 0 < (rounded.scores - exact.scores).abs().max() < 0.05 * exact.scores.std()
    torch.testing.assert_close(rounded.candidates, exact.candidates, rtol=0, atol=0.02)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_loss_has_the_same_gradient() -> None:
    weights = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
    inputs = torch.linspace(-2, 2, 20).reshape(5, 4)

    def loss(weights: Tensor) -> Tensor:
        return torch.tanh(inputs @ weights.T).square().mean()

    found = accelerated(loss, CPU, TRACED)(weights)
    torch.testing.assert_close(found, loss(weights))
    gradients = [torch.autograd.grad(value, weights)[0] for value in (found, loss(weights))]
    torch.testing.assert_close(*gradients)


def test_loss_as_written_is_left_alone() -> None:
    assert accelerated(distance, CPU, AS_WRITTEN) is distance


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="C\\+\\+ compiler"):
        accelerated(distance, CPU, TRACED)


def test_other_roundings_are_another_stage(tmp_path: Path) -> None:
    task = get_task("pointmaze-umaze")

    def folder(**changes: Any) -> str:
        config = override(SMOKE, changes)
        pipeline = Pipeline(task, 0, config, tmp_path, CPU, data=small_dataset())
        return pipeline._stage("values", [config.values], ()).folder.name

    assert folder() == folder(**{"compute.compile": False})
    assert len({folder(), folder(**{"compute.compile": True})}) == 2
    assert len({folder(), folder(**{"compute.autocast": True})}) == 2
