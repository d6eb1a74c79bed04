"""Planners on 2-D linear dynamics with a quadratic cost: closed form, bounds, bad numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ipd_lite.paper.planning import (
    Model,
    Plan,
    PlannerConfig,
    PlanningError,
    finite_scores,
    plan,
    rollout,
)

DRIFT = torch.tensor([[1.0, 0.2], [0.0, 0.9]])
PUSH = torch.tensor([[0.5, 0.0], [0.1, 0.4]])
EFFORT, FINAL, DISCOUNT, HORIZON = 0.1, 5.0, 0.95, 3
KINDS = ("shooting", "greedy-q")


def moved(states: Tensor, actions: Tensor) -> Tensor:
    return states @ DRIFT.T + actions @ PUSH.T


def reward_of(states: Tensor, actions: Tensor) -> Tensor:
    return -states.square().sum(-1) - EFFORT * actions.square().sum(-1)


def riccati_actions(states: Tensor) -> Tensor:
    """First action of the linear-quadratic regulator over HORIZON steps, by dynamic programming."""
    cost_to_go = FINAL * torch.eye(2)
    for _ in range(HORIZON):
        curvature = EFFORT * torch.eye(2) + DISCOUNT * PUSH.T @ cost_to_go @ PUSH
        gain = DISCOUNT * torch.linalg.solve(curvature, PUSH.T @ cost_to_go @ DRIFT)
        closed = DRIFT - PUSH @ gain
        cost_to_go = (
            torch.eye(2) + EFFORT * gain.T @ gain + DISCOUNT * closed.T @ cost_to_go @ closed
        )
    return -states @ gain.T


def never(states: Tensor) -> Tensor:
    return torch.zeros(len(states), dtype=torch.bool)


def uniform_proposals(seed: int) -> Callable[[Tensor, int], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda states, depth: torch.empty(len(states), 2).uniform_(-1, 1, generator=generator)


def quadratic_model(seed: int = 0, **changes: Any) -> Model:
    model = Model(
        propose=uniform_proposals(seed),
        step=lambda s, a: (moved(s, a), reward_of(s, a), never(s)),
        value=lambda s: -FINAL * s.square().sum(-1),
        discount=DISCOUNT,
        q=lambda s, a: reward_of(s, a) - DISCOUNT * FINAL * moved(s, a).square().sum(-1),
    )
    return replace(model, **changes)


def config(kind: str, **changes: Any) -> PlannerConfig:
    base = {"candidates": 64, "horizon": HORIZON, "top": 5}
    return PlannerConfig(kind=kind, **{**base, **changes})  # type: ignore[arg-type]


def planned(model: Model, settings: PlannerConfig, states: Tensor, seed: int = 0) -> Plan:
    return plan(states, model, settings, torch.Generator().manual_seed(seed))


STATES = torch.tensor([[0.3, -0.2], [-0.4, 0.1], [0.0, 0.0], [0.2, 0.5]])


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (config("shooting", candidates=30_000, top=10), 0.25),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_planner_finds_the_closed_form(settings: PlannerConfig, tolerance: float) -> None:
    optimum = riccati_actions(STATES)
    assert 0.1 < optimum.abs().max() < 0.9
    found = planned(quadratic_model(), settings, STATES).action
    assert float((found - optimum).abs().max()) < tolerance


def test_greedy_q_finds_the_best_action_of_q() -> None:
    curvature = EFFORT * torch.eye(2) + DISCOUNT * FINAL * PUSH.T @ PUSH
    optimum = -DISCOUNT * FINAL * torch.linalg.solve(curvature, PUSH.T @ DRIFT @ STATES.T).T
    found = planned(quadratic_model(), config("greedy-q", candidates=5000), STATES).action
    inside = optimum.abs().amax(1) <= 1
    assert inside.sum() >= 3
    assert float((found - optimum)[inside].abs().max()) < 0.06


def test_terminal_value_shows_what_lies_beyond_the_horizon() -> None:
    """One step ahead, effort costs and nothing is gained, unless the value tells."""
    settings = config("shooting", candidates=2000, top=20, horizon=1)
    blind = planned(quadratic_model(value=lambda s: torch.zeros(len(s))), settings, STATES).action
    torch.testing.assert_close(blind, torch.zeros(4, 2), atol=0.03, rtol=0)
    assert planned(quadratic_model(), settings, STATES).action.abs().max() > 0.3


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000), low=st.floats(-3, -0.1), high=st.floats(0.1, 3))
def test_bounds_are_respected(kind: str, seed: int, low: float, high: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    wild = quadratic_model(
        propose=lambda s, depth: 10 * torch.randn(len(s), 2, generator=generator),
        low=low,
        high=high,
    )
    states = 100 * torch.randn(3, 2, generator=generator)
    result = planned(wild, config(kind, candidates=8, top=2), states)
    for actions in (result.action, result.candidates):
        assert actions.min() >= low - 1e-6
        assert actions.max() <= high + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_best_action_beyond_the_bound_stops_at_it(kind: str) -> None:
    far = torch.tensor([[50.0, 50.0]])
    settings = config(kind, horizon=1, candidates=2000)
    result = planned(quadratic_model(), settings, far)
    assert (result.action < -0.8).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["reward", "state", "value"])
def test_non_finite_plan_never_wins(kind: str, bad: float, where: str) -> None:
    """More is better, but beyond 0.5 the model breaks: the plan must stay below."""

    def poisoned(x: Tensor, actions: Tensor) -> Tensor:
        broken = actions[:, 0] > 0.5
        return torch.where(broken if x.dim() == 1 else broken[:, None], bad, x)

    def step(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, reward = states + actions, actions[:, 0]
        if where == "reward":
            reward = poisoned(reward, actions)
        if where == "state":
            following = poisoned(following, actions)
        return following, reward, never(states)

    def value(states: Tensor) -> Tensor:
        if where == "value":
            return torch.where(states[:, 0] > 0.5, bad, states[:, 0])
        return 0 * states.sum(-1)  # a broken state has a broken value

    model = quadratic_model(
        step=step, value=value, q=lambda s, a: poisoned(a[:, 0].clone(), a), discount=1.0
    )
    settings = config(kind, horizon=1, candidates=200)
    result = planned(model, settings, torch.zeros(3, 2))
    assert result.action.isfinite().all()
    assert result.action[:, 0].max() <= 0.5
    assert result.action[:, 0].min() > 0.2
    assert not (result.scores.isnan() | result.scores.isposinf()).any()


@pytest.mark.parametrize("kind", KINDS)
def test_broken_proposals_do_not_spread(kind: str) -> None:
    def propose(states: Tensor, depth: int) -> Tensor:
        actions = torch.linspace(-1, 1, len(states))[:, None].repeat(1, 2)
        actions[::3] = torch.nan
        return actions

    result = planned(quadratic_model(propose=propose), config(kind), STATES)
    assert result.action.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_finite_plans_fail_loudly(kind: str) -> None:
    nothing = quadratic_model(
        value=lambda s: torch.full((len(s),), torch.nan),
        q=lambda s, a: torch.full((len(s),), torch.nan),
    )
    with pytest.raises(PlanningError, match="only 0 of 64 candidates"):
        planned(nothing, config(kind), STATES)


def test_every_state_needs_enough_finite_scores() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, torch.nan], [torch.inf, -torch.inf]])
    with pytest.raises(PlanningError, match="only 1 of 3"):
        finite_scores(scores, 2)
    assert finite_scores(scores, 1).tolist() == [
        [1.0, 2.0],
        [3.0, -torch.inf],
        [-torch.inf, -torch.inf],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_plan(kind: str) -> None:
    one, again, other = (
        planned(quadratic_model(seed), config(kind), STATES, seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one.action, again.action)
    assert torch.equal(one.scores, again.scores)
    assert not torch.equal(one.action, other.action)


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_planned_for_independently(kind: str) -> None:
    """Together or one by one: the same proposals give the same plan."""
    guesses = torch.empty(64, 2).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))

    def propose(states: Tensor, depth: int) -> Tensor:
        return guesses.roll(depth, 0).repeat_interleave(len(states) // 64, 0)

    settings = config(kind)
    together = planned(quadratic_model(propose=propose), settings, STATES)
    for i, state in enumerate(STATES):
        alone = planned(quadratic_model(propose=propose), settings, state[None])
        torch.testing.assert_close(together.action[i], alone.action[0])
        torch.testing.assert_close(together.scores[:, i], alone.scores[:, 0])


def test_rows_are_candidates_outermost() -> None:
    seen: list[Tensor] = []

    def step(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(states)
        return states, states[:, 0], never(states)

    planned(quadratic_model(step=step), config("shooting", candidates=6), STATES)
    torch.testing.assert_close(seen[0].reshape(6, 4, 2), STATES.expand(6, 4, 2))


@given(
    seed=st.integers(0, 1000),
    candidates=st.integers(1, 4),
    count=st.integers(1, 3),
    horizon=st.integers(1, 5),
)
def test_scores_equal_a_loop(seed: int, candidates: int, count: int, horizon: int) -> None:
    """Rewards up to the terminal step, then nothing; else the value of the last state."""

    def step(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = moved(states, actions)
        return following, reward_of(states, actions), following[:, 0] > 0.8

    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, 2, generator=generator)
    model = quadratic_model(seed, step=step)
    taken, scores, paths = rollout(states, model, candidates, horizon, True)
    assert paths is not None
    assert taken.shape == (candidates, count, horizon, 2)
    assert paths.shape == (candidates, count, horizon + 1, 2)
    for n in range(candidates):
        for b in range(count):
            state, total, over = states[b], 0.0, False
            for t in range(horizon):
                torch.testing.assert_close(paths[n, b, t], state)
                following, reward, ends = step(state[None], taken[n, b, t][None])
                if not over:
                    total += DISCOUNT**t * float(reward)
                over, state = over or bool(ends), following[0]
            if not over:
                total += DISCOUNT**horizon * float(model.value(state[None]))
            assert float(scores[n, b]) == pytest.approx(total, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("broken", ["reward", "value"])
def test_nothing_after_the_terminal_step_counts(broken: str) -> None:
    """An imagined state beyond the end may be absurd; it must not cost a good plan its score."""

    def step(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        beyond = states[:, 0] > 0
        reward = torch.where(beyond & (broken == "reward"), torch.nan, -1.0)
        return states + 1, reward, ~beyond

    def value(states: Tensor) -> Tensor:
        return torch.full((len(states),), torch.nan if broken == "value" else 5.0)

    model = quadratic_model(step=step, value=value)
    _, scores, _ = rollout(torch.zeros(2, 2), model, 3, 4, False)
    assert (scores == -1).all()


def test_paths_are_kept_only_if_asked_for() -> None:
    generator = torch.Generator()
    for kind in ("shooting",):
        kept = plan(STATES, quadratic_model(), config(kind), generator, keep_paths=True)
        assert kept.paths is not None
        assert kept.paths.shape == (64, 4, HORIZON + 1, 2)
        assert plan(STATES, quadratic_model(), config(kind), generator).paths is None


def test_greedy_q_needs_q() -> None:
    with pytest.raises(ValueError, match=r"needs Model\.q"):
        planned(quadratic_model(q=None), config("greedy-q"), STATES)
