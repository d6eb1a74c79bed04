"""Device-cleanliness without a GPU, and the same numbers with one.

Under FakeTensorMode tensors have a device and a shape but no content. With everything on "meta", an
operation that meets a tensor left on the CPU raises as it would on a GPU. Generators stay on the
CPU here: "meta" has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ipd_lite.paper import planning as planners
from ipd_lite.paper import world_model
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.planning import Model, PlannerConfig, plan
from ipd_lite.paper.shortfall import bootstrapped_returns, suboptimal_steps
from ipd_lite.paper.training import Checkpoint
from ipd_lite.paper.transformer import TransformerPolicy
from ipd_lite.paper.uncertainty import ensemble_divergence, inside_threshold
from ipd_lite.paper.values import (
    ValueConfig,
    Values,
    diagnose,
    iql_loss,
    train_values,
    value_bounds,
)
from ipd_lite.paper.world_model import WorldModel, WorldModelConfig, train_world_model
from ipd_lite.rivals.cql import CQLConfig, train_cql
from ipd_lite.rivals.td3bc import TD3BCConfig, train_td3bc
from ipd_lite.tasks.registry import get_task
from tests.helpers import small_dataset

VALUES = ValueConfig(
    updates=4, batch_size=8, width=8, fourier_features=4, huber=1.0, actor_dropout=0.1
)
MODEL = WorldModelConfig(members=4, elites=2, width=8, depth=1, updates=4, fourier_features=4)
KINDS = ("shooting", "greedy-q", "random")
TASK = get_task("pointmaze-umaze")
ROWS, STATE, ACTION = 24, 4, 2


class FewSteps(Checkpoint):
    """Two updates, no numbers read."""

    def steps(self, *args: Any, **kwargs: Any) -> Iterator[int]:
        for step in super().steps(*args, **kwargs):
            if step == 2:
                return
            yield step

    def log(self, step: int, values: object) -> None:
        pass


class HostGenerator(torch.Generator):
    """A generator on the CPU, whatever is asked for."""

    def __new__(cls, device: object = "cpu") -> HostGenerator:
        return super().__new__(cls)


def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """`Module.to` for fake tensors, which PyTorch cannot swap in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                content = parameter.detach().to(device)
                part._parameters[name] = nn.Parameter(content, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to(device)
    return module


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A device without content; what cannot exist on it is replaced by its nearest relative."""
    monkeypatch.setattr(torch, "Generator", HostGenerator)
    monkeypatch.setattr(nn.Module, "to", moved)
    # Copies of fake tensors stay in the same mode.
    monkeypatch.setattr(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, raising=False)
    for name in ("Adam", "AdamW"):
        optimizer = getattr(torch.optim, name)

        def unfused(*args: Any, kind: Any = optimizer, **kwargs: Any) -> torch.optim.Optimizer:
            return kind(*args, **{**kwargs, "fused": False})

        monkeypatch.setattr(torch.optim, name, unfused)
    # The only decision that planning takes on the host: whether enough scores are finite.
    monkeypatch.setattr(
        planners,
        "finite_scores",
        lambda scores, needed: scores.masked_fill(~scores.isfinite(), -torch.inf),
    )
    with FakeTensorMode():
        yield torch.device("meta")


def fake_dataset(device: torch.device) -> OfflineDataset:
    count = torch.ones(3, dtype=torch.int64, device=device)
    return OfflineDataset(
        observations=torch.zeros(ROWS, STATE, device=device),
        actions=torch.zeros(ROWS, ACTION, device=device),
        rewards=torch.zeros(ROWS, device=device),
        next_observations=torch.zeros(ROWS, STATE, device=device),
        terminated=torch.zeros(ROWS, dtype=torch.bool, device=device),
        imagined=torch.zeros(ROWS, dtype=torch.bool, device=device),
        starts=count,
        lengths=count,
    )


def on(device: torch.device, *shape: int) -> Tensor:
    return torch.zeros(shape, device=device)


def test_a_tensor_left_behind_is_noticed(fake: torch.device) -> None:
    """The check itself: mixing devices must raise."""
    with pytest.raises(RuntimeError, match="meta and cpu"):
        on(fake, 3) + torch.zeros(3)


def test_value_training(fake: torch.device) -> None:
    values = train_values(
        fake_dataset(fake), VALUES, seed=0, position_dimensions=(0, 1), checkpoint=FewSteps(None)
    )
    states, actions = on(fake, 5, 3, STATE), on(fake, 5, 3, ACTION)
    for result in (values.v(states), values.q(states, actions), values.policy(states)):
        assert result.device == fake


@pytest.mark.parametrize(
    ("train", "config"), [(train_td3bc, TD3BCConfig(policy_delay=1)), (train_cql, CQLConfig())]
)
def test_actor_critic_training(fake: torch.device, train: Any, config: Any) -> None:
    policy, _, q = train(
        fake_dataset(fake),
        VALUES,
        config,
        seed=0,
        position_dimensions=(0, 1),
        checkpoint=FewSteps(None),
    )
    states, actions = on(fake, 5, STATE), on(fake, 5, ACTION)
    assert policy(states).device == q(states, actions).device == fake


@pytest.mark.parametrize("known", [True, False])
def test_world_model_training_and_steps(
    fake: torch.device, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The number of held-out rows depends on the data's content, which does not exist here.
    monkeypatch.setattr(world_model, "split_for_model", lambda data, config, seed: (data, data))
    model = train_world_model(
        fake_dataset(fake),
        replace(MODEL, updates=3, known_reward=known, known_termination=known),
        seed=0,
        known=TASK.known,
        checkpoint=FewSteps(None),
    )
    states, actions, generator = on(fake, 6, STATE), on(fake, 6, ACTION), torch.Generator()
    results = [
        *model.step(states, actions),
        *model.step(states, actions, generator),
        *model.step_with_uncertainty(states, actions, generator),
        *model.predict(states, actions),
        model.uncertainty(states, actions),
        world_model.holdout_error(model, fake_dataset(fake)),
        world_model.calibrate_threshold(model, fake_dataset(fake), 0.8),
    ]
    assert {result.device for result in results} == {fake}


def planning_model(values: Values, model: WorldModel, generator: torch.Generator) -> Model:
    """MPC as the stages assemble it: policy proposals, elite dynamics, terminal value."""

    def propose(states: Tensor, depth: int) -> Tensor:
        action = values.policy(states)
        return action + 0.3 * torch.empty_like(action).normal_(generator=generator)

    return Model(
        propose=propose,
        step=lambda s, a: model.step(s, a, generator),
        value=values.v,
        discount=0.99,
        q=values.q,
    )


def networks(device: torch.device) -> tuple[Values, WorldModel]:
    values = Values(VALUES, STATE, ACTION, TASK.position_dimensions)
    model = WorldModel(MODEL, STATE, ACTION, TASK.known)
    for network in (values, model):
        network.to(device).eval().requires_grad_(False)
    return values, model


@pytest.mark.parametrize("kind", KINDS)
def test_planning_step(fake: torch.device, kind: str) -> None:
    generator = torch.Generator()
    model = planning_model(*networks(fake), generator)
    config = PlannerConfig(kind=kind, candidates=8, horizon=3, top=2)  # type: ignore[arg-type]
    found = plan(on(fake, 5, STATE), model, config, generator, keep_paths=True)
    assert {found.action.device, found.scores.device, found.candidates.device} == {fake}
    assert found.action.shape == (5, ACTION)


@pytest.mark.parametrize("fused", [True, False])
def test_transformer_training_step(fake: torch.device, fused: bool) -> None:
    policy = TransformerPolicy(
        STATE, ACTION, context=6, width=16, layers=2, heads=2, dropout=0.1, fused=fused
    ).to(fake)
    policy.fit(on(fake, 20, STATE), on(fake, 20))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    valid = torch.ones(3, 6, dtype=torch.bool, device=fake)
    predicted = policy(
        on(fake, 3, 6),
        on(fake, 3, 6, STATE),
        on(fake, 3, 6, ACTION),
        torch.arange(6, device=fake).expand(3, 6),
        valid,
    )
    predicted.square().mean().backward()
    optimizer.step()
    assert predicted.device == fake
    assert {p.grad.device for p in policy.parameters() if p.grad is not None} == {fake}


def test_uncertainty_and_segments(fake: torch.device) -> None:
    flags = torch.zeros(ROWS, dtype=torch.bool, device=fake)
    numbers = on(fake, ROWS)
    results = [
        ensemble_divergence(on(fake, 5, 7, STATE), on(fake, 5, 7, STATE) + 1, "dual"),
        ensemble_divergence(on(fake, 5, 7, STATE), on(fake, 5, 7, STATE) + 1, "primal"),
        inside_threshold(on(fake, 7, 4), on(fake), cumulative=True),
        inside_threshold(on(fake, 7, 4), on(fake), cumulative=False),
        bootstrapped_returns(numbers, flags, flags, numbers, numbers, 3, 0.9),
        suboptimal_steps(numbers, 0.5),
    ]
    assert {result.device for result in results} == {fake}


def test_sampling_and_windows(fake: torch.device) -> None:
    data = fake_dataset(fake)
    first = torch.zeros(5, dtype=torch.int64, device=fake)
    results = [*data.sample(5, torch.Generator()), *data.windows(first, 4), data.truncated]
    assert {result.device for result in results} == {fake}


CUDA = torch.device("cuda")


@pytest.mark.gpu
def test_dataset_moves_to_the_gpu_and_back() -> None:
    data = small_dataset()
    moved = data.to(CUDA)
    for field in fields(moved):
        value = getattr(moved, field.name)
        assert not isinstance(value, Tensor) or value.device.type == "cuda"
    assert moved.fingerprint() == moved.to("cpu").fingerprint() == data.fingerprint()


@pytest.mark.gpu
def test_losses_agree_between_cpu_and_gpu() -> None:
    data = small_dataset()
    torch.manual_seed(0)
    config = replace(VALUES, actor_dropout=0.0)
    values = Values(config, 2, 2, position_dimensions=(0,))
    index = torch.arange(32)
    results = []
    for device in (torch.device("cpu"), CUDA):
        moved, network = data.to(device), values.to(device)
        bounds = value_bounds(moved.rewards, config.discount)
        loss, _ = iql_loss(network, moved.batch(index.to(device)), config, bounds)
        results.append(loss.detach().cpu())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("stage", [train_values, train_world_model])
def test_training_on_the_gpu_repeats_itself_and_stays_finite(stage: Any) -> None:
    config = VALUES if stage is train_values else MODEL
    longer = replace(config, updates=50)
    data = small_dataset().to(CUDA)
    one, again = (stage(data, longer, seed=0) for _ in range(2))
    for name, tensor in one.state_dict().items():
        assert tensor.device.type == "cuda"
        assert tensor.isfinite().all()
        torch.testing.assert_close(tensor, again.state_dict()[name])
    if stage is train_values:
        assert diagnose(one, data, VALUES.discount).violation < 10


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_planning_on_the_gpu(kind: str) -> None:
    generator = torch.Generator(CUDA).manual_seed(0)
    model = planning_model(*networks(CUDA), generator)
    config = PlannerConfig(kind=kind, candidates=8, horizon=3, top=2)  # type: ignore[arg-type]
    found = plan(torch.randn(5, STATE, device=CUDA), model, config, generator)
    assert found.action.device.type == "cuda"
    assert found.action.isfinite().all()
    assert found.action.abs().max() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [True, False])
def test_transformer_agrees_between_cpu_and_gpu(fused: bool) -> None:
    torch.manual_seed(0)
    policy: nn.Module = TransformerPolicy(
        STATE, ACTION, context=6, width=16, layers=2, heads=2, fused=fused
    ).eval()
    inputs = (torch.randn(3, 6), torch.randn(3, 6, STATE), torch.randn(3, 6, ACTION))
    steps = torch.arange(6).expand(3, 6)
    expected = policy(*inputs, steps)
    found = policy.to(CUDA)(*(x.to(CUDA) for x in (*inputs, steps)))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
