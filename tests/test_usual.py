"""Our batched losses, tokens and plans against the same ones written member by member.

`tests/benchmarks/usual.py` is what speed is measured against; with our weights copied into it, it
is also an independent check.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ipd_lite.paper.dataset import Batch
from ipd_lite.paper.distillation import DistillationConfig, distillation_loss, make_policy
from ipd_lite.paper.nets import EnsembleMLP
from ipd_lite.paper.planning import Model, rollout
from ipd_lite.paper.values import ValueConfig, Values, iql_loss
from ipd_lite.paper.world_model import WorldModel, WorldModelConfig, model_loss
from tests.benchmarks.usual import (
    UsualDistillation,
    UsualEnsemble,
    UsualIQL,
    UsualTransformer,
    usual_futures,
)

STATE, ACTION, ROWS = 5, 2, 7
VALUES = ValueConfig(
    width=8,
    q_networks=2,
    v_networks=1,
    q_reduction="min",
    layer_norm=False,
    fourier_features=0,
    clip_targets=False,
)
MODEL = WorldModelConfig(
    members=3,
    elites=3,
    width=8,
    depth=2,
    fourier_features=0,
    known_reward=False,
    known_termination=False,
)
POLICY = DistillationConfig(context=4, width=8, layers=2, heads=2, fused_tokens=False)


@torch.no_grad()
def copy_member(ensemble: EnsembleMLP, member: int, network: nn.Module) -> None:
    """Weights of one member into an `nn.Sequential`."""
    linear = [part for part in network.modules() if isinstance(part, nn.Linear)]
    for ours, usual in zip([*ensemble.layers, ensemble.head], linear, strict=True):
        usual.weight.copy_(ours.weight[member].T)
        usual.bias.copy_(ours.bias[member, 0])


def random_batch() -> Batch:
    return Batch(
        torch.randn(ROWS, STATE),
        torch.rand(ROWS, ACTION) * 2 - 1,
        torch.randn(ROWS),
        torch.randn(ROWS, STATE),
        (torch.rand(ROWS) < 0.7).float(),
    )


def test_iql_loss_and_gradient() -> None:
    torch.manual_seed(0)
    ours, usual, batch = Values(VALUES, STATE, ACTION), UsualIQL(VALUES, STATE, ACTION), None
    batch = random_batch()
    for member, network, target in ((0, usual.q1, usual.q1_target), (1, usual.q2, usual.q2_target)):
        copy_member(ours.q_net, member, network)
        copy_member(ours.q_target, member, target)
    copy_member(ours.v_net, 0, usual.v)
    copy_member(ours.actor, 0, usual.actor)
    found, _ = iql_loss(ours, batch, VALUES, (torch.tensor(-99.0), torch.tensor(99.0)))
    v_loss, advantage = usual.v_loss(batch)
    expected = v_loss + usual.q_loss(batch) + usual.policy_loss(batch, advantage)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    for mine, network in ((ours.v_net, usual.v), (ours.actor, usual.actor)):
        torch.testing.assert_close(mine.head.weight.grad[0].T, network[-1].weight.grad)
    torch.testing.assert_close(ours.q_net.layers[0].weight.grad[1].T, usual.q2[0].weight.grad)


@torch.no_grad()
def copy_policy(ours: nn.Module, usual: UsualTransformer) -> None:
    for name in (
        "embed_condition",
        "embed_observation",
        "embed_action",
        "embed_timestep",
        "norm",
        "final_norm",
    ):
        getattr(usual, name).load_state_dict(getattr(ours, name).state_dict())
    usual.head[0].load_state_dict(ours.head.state_dict())
    for mine, other in zip(ours.blocks, usual.blocks, strict=True):
        other.norm1.load_state_dict(mine.norm1.state_dict())
        other.norm2.load_state_dict(mine.norm2.state_dict())
        other.attention.project.load_state_dict(mine.out.state_dict())
        other.feed_forward[0].load_state_dict(mine.up.state_dict())
        other.feed_forward[2].load_state_dict(mine.down.state_dict())
        parts = zip(mine.qkv.weight.chunk(3), mine.qkv.bias.chunk(3), strict=True)
        targets = (other.attention.query, other.attention.key, other.attention.value)
        for (weight, bias), target in zip(parts, targets, strict=True):
            target.weight.copy_(weight)
            target.bias.copy_(bias)


def test_three_token_policy_and_its_loss() -> None:
    torch.manual_seed(0)
    policy = make_policy(STATE, ACTION, POLICY, 99)
    values = Values(VALUES, STATE, ACTION).requires_grad_(False)
    usual = UsualDistillation(POLICY, VALUES, STATE, ACTION)
    copy_policy(policy, usual.policy)
    copy_member(values.q_net, 0, usual.q1)
    copy_member(values.q_net, 1, usual.q2)
    K = POLICY.context
    conditions, observations = torch.randn(3, K), torch.randn(3, K, STATE)
    actions = torch.rand(3, K, ACTION) * 2 - 1
    valid = torch.arange(K) < torch.tensor([4, 2, 1])[:, None]
    steps = torch.arange(K).expand(3, K)
    predicted = policy(conditions, observations, actions, steps, valid)
    found, _ = distillation_loss(
        predicted,
        actions,
        torch.ones(3, K),
        valid,
        values.q(observations, predicted),
        conditions,
        POLICY.alpha,
        "advantage",
    )
    expected = usual.loss(conditions, observations, actions, valid)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    gradients = policy.embed_action.weight.grad, usual.policy.embed_action.weight.grad
    torch.testing.assert_close(*gradients)


def ensembles(config: WorldModelConfig, alike: bool = False) -> tuple[WorldModel, UsualEnsemble]:
    model = WorldModel(config, STATE, ACTION)
    usual = UsualEnsemble(config, STATE + ACTION, STATE + 1)
    for member, network in enumerate(usual.members):
        copy_member(
            model.elite_net.mlp if alike else model.net.mlp, 0 if alike else member, network
        )
    return model, usual


def test_ensemble_loss_and_gradient() -> None:
    torch.manual_seed(0)
    model, usual = ensembles(MODEL)
    inputs = torch.randn(MODEL.members, ROWS, STATE + ACTION)
    target = torch.randn(MODEL.members, ROWS, STATE + 1)
    ended = (torch.rand(MODEL.members, ROWS) < 0.3).float()
    found = model_loss(model, torch.cat([inputs, target, ended[..., None]], dim=-1), MODEL)
    expected = usual.loss(inputs, target, ended)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    for member, network in enumerate(usual.members):
        torch.testing.assert_close(
            model.net.mlp.head.weight.grad[member].T, network.net[-1].weight.grad
        )
        torch.testing.assert_close(model.net.lowest.grad[member], network.lowest.grad)


def test_scores_of_imagined_futures() -> None:
    """With members that agree, following one of them is asking all of them."""
    torch.manual_seed(0)
    model, usual = ensembles(MODEL, alike=True)
    with torch.no_grad():
        for parameter in model.elite_net.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter).clone())
    values = Values(replace(VALUES, q_networks=2), STATE, ACTION).requires_grad_(False)
    copy_member(values.v_net, 0, value := UsualIQL(VALUES, STATE, ACTION).v)
    states, candidates, horizon = torch.randn(4, STATE), MODEL.elites * 2, 3
    actions = torch.rand(candidates, 4, horizon, ACTION) * 2 - 1

    def replay(rows: Tensor, depth: int) -> Tensor:
        return actions[:, :, depth].flatten(0, 1)

    planner = Model(propose=replay, step=model.step, value=values.v, discount=0.9)
    _, found, _ = rollout(states, planner, candidates, horizon, paths=False)
    first, expected = usual_futures(
        usual, value, replay, states.repeat(candidates, 1), horizon, 0.9
    )
    torch.testing.assert_close(first, replay(states, 0))
    torch.testing.assert_close(found.flatten(), expected)
