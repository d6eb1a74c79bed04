"""What is asked for at inference: quantiles by hand, and a choice by Q against a plain loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ipd_lite.paper.acting import TransformerActor
from ipd_lite.paper.ask import beyond_values
from ipd_lite.paper.transformer import TransformerPolicy

K, SLOTS = 3, 2


def assessment(excess: Tensor) -> Any:
    values = torch.linspace(-1, 1, len(excess))
    return SimpleNamespace(bootstrapped=values + excess, values=values)


def test_what_is_asked_beyond_v_are_upper_quantiles_of_what_recordings_exceed_it_by() -> None:
    shuffled = torch.randperm(101, generator=torch.Generator().manual_seed(0)).float()
    found = beyond_values(assessment(shuffled), 4)
    torch.testing.assert_close(found, torch.tensor([60.0, 70.0, 80.0, 90.0]))
    assert beyond_values(assessment(shuffled), 0).tolist() == [0.0]
    draws = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    expected = np.quantile(draws.numpy(), np.arange(11, 20) / 20, method="nearest")
    np.testing.assert_allclose(beyond_values(assessment(draws), 9), expected, atol=1e-6)


class Critic:
    """V and Q that a test can do by head: V is the first entry, Q prefers actions near a third of
    the second."""

    def v(self, observations: Tensor) -> Tensor:
        return observations[:, 0]

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        return -(actions[:, 0] - observations[:, 1] / 3).abs()


@pytest.mark.parametrize("timestep", ["window", "episode"])
def test_the_answer_that_q_prefers_is_taken_and_its_token_remembered(timestep: str) -> None:
    """One episode and one token at a time, with lists; a second episode begins half way."""
    torch.manual_seed(0)
    policy = TransformerPolicy(2, 1, context=K, width=8, heads=2, steps=5).eval()
    policy.embed_condition.weight.data *= 5  # the token matters
    critic: Any = Critic()
    beyond = torch.tensor([-1.0, 0.0, 2.0])
    actor = TransformerActor(policy, values=critic, timestep=timestep, beyond=beyond)
    actor.begin(SLOTS)
    memory: list[list[tuple[Tensor, Tensor, Tensor]]] = [[], []]
    chosen = []
    for step in range(6):
        if step == 3:
            actor.reset(torch.tensor([1]))
            memory[1] = []
        observations = torch.randn(SLOTS, 2)
        found = actor.act(observations, torch.zeros(SLOTS), torch.arange(SLOTS))
        for slot, observation in enumerate(observations):
            past, first = memory[slot][-(K - 1) :], max(0, len(memory[slot]) - K + 1)
            offers = []
            for token in critic.v(observation[None]) + beyond:
                conditions = torch.stack([*(c for c, _, _ in past), token])[None]
                seen = torch.stack([*(o for _, o, _ in past), observation])[None]
                done = torch.stack([*(a for _, _, a in past), torch.zeros(1)])[None]
                start = first if timestep == "episode" else 0
                steps = (start + torch.arange(len(past) + 1)).clamp_max(4)[None]
                with torch.no_grad():
                    action = policy(conditions, seen, done, steps)[0, -1]
                offers.append((float(critic.q(observation[None], action[None])), token, action))
            _, token, action = max(offers, key=lambda offer: offer[0])
            torch.testing.assert_close(found[slot], action, atol=1e-6, rtol=1e-5)
            memory[slot].append((token, observation, action))
            chosen.append(int((token - observation[0] - beyond).abs().argmin()))
    assert len(set(chosen)) > 1, "Q never had to choose"
