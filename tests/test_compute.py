"""Compiled and bfloat16 losses: the same training, up to rounding, and repeatable."""

from __future__ import annotations

import functools
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ipd_lite import nets
from ipd_lite.config import AS_WRITTEN, ComputeConfig, override, preset
from ipd_lite.distill import prepare_lessons, train_policy
from ipd_lite.iql import train_values
from ipd_lite.nets import accelerated
from ipd_lite.pipeline import Pipeline
from ipd_lite.tasks import get_task
from ipd_lite.world_model import train_world_model
from tests.helpers import small_dataset

SMOKE = preset("smoke")
CPU = torch.device("cpu")
TRACED, BFLOAT = ComputeConfig(compile=True), ComputeConfig(autocast=True)


def train(stage: str, compute: ComputeConfig) -> nn.Module:
    """A few updates of one stage from seed 0."""
    data = small_dataset()
    if stage == "world model":
        few = override(SMOKE.world_model, {"updates": 8, "evaluate_every": 4})
        return train_world_model(data, few, seed=0, compute=compute)
    values = train_values(
        data, override(SMOKE.values, {"updates": 8}), seed=0,
        compute=compute if stage == "values" else AS_WRITTEN,
    )  # fmt: skip
    if stage == "values":
        return values
    few_lessons = override(SMOKE.distillation, {"updates": 8, "imagined_share": 0.0})
    lessons = prepare_lessons(data, values, few_lessons, 0.99, bootstrap_steps=3)
    return train_policy(lessons, values, few_lessons, seed=0, episode_steps=50, compute=compute)[0]


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


STAGES = ["values", "world model", "policy"]


@pytest.mark.parametrize("stage", STAGES)
def test_traced_losses_train_the_same_weights(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whole graph forward and backward (no breaks), without the time of a C++ build."""
    whole = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    monkeypatch.setattr(nets, "_has_compiler", lambda: True)
    assert distance(train(stage, AS_WRITTEN), train(stage, TRACED)) < 1e-4


@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_trains_nearly_the_same_weights_and_repeats(stage: str) -> None:
    plain, rounded, again = train(stage, AS_WRITTEN), train(stage, BFLOAT), train(stage, BFLOAT)
    assert 0 < distance(plain, rounded) < 0.05
    assert distance(rounded, again) == 0
    assert all(p.dtype == torch.float32 for p in rounded.parameters())


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_loss_has_the_same_gradient() -> None:
    weights = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
    inputs = torch.linspace(-2, 2, 20).reshape(5, 4)

    def loss(weights: Tensor) -> Tensor:
        return torch.tanh(inputs @ weights.T).square().mean()

    found = accelerated(loss, CPU, **vars(TRACED))(weights)
    torch.testing.assert_close(found, loss(weights))
    gradients = [torch.autograd.grad(value, weights)[0] for value in (found, loss(weights))]
    torch.testing.assert_close(*gradients)


def test_loss_as_written_is_left_alone() -> None:
    assert accelerated(distance, CPU, **vars(AS_WRITTEN)) is distance


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="C\\+\\+ compiler"):
        accelerated(distance, CPU, **vars(TRACED))


def test_other_roundings_are_another_stage(tmp_path: Any) -> None:
    task = get_task("pointmaze-umaze")

    def folder(**changes: Any) -> str:
        config = override(SMOKE, changes)
        pipeline = Pipeline(task, 0, config, tmp_path, CPU, data=small_dataset())
        return pipeline.stage("values", config.values).folder.name

    assert folder() == folder(**{"compute.compile": False})
    assert len({folder(), folder(**{"compute.compile": True})}) == 2
    assert len({folder(), folder(**{"compute.autocast": True})}) == 2
