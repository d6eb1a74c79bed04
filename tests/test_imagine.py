"""Imagination on a line where every step, doubt and return is known by construction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ipd_lite.course.stitching import plan_with_paths
from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.paper.acting import PlanningActor
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.imagination import (
    Assessment,
    Continuations,
    ImaginationConfig,
    accept,
    assess,
    augment,
    choose_starts,
    imagine,
    plan_in_chunks,
    planning_model,
    splice,
    trusted_length,
)
from ipd_lite.paper.planning import PlannerConfig
from tests.helpers import GAMMA, counting_episodes

STRIDE = 0.125  # a binary fraction: positions add up exactly
STILL = PlannerConfig(candidates=2, horizon=1, first_noise=0.0, later_noise=0.0, top=1)


class LineValues:
    """V(x) = 10 x; the policy always walks to the right at full speed."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed

    def v(self, observations: Tensor) -> Tensor:
        return 10 * observations[..., 0]

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        return actions[..., 0]

    def policy(self, observations: Tensor) -> Tensor:
        return torch.full_like(observations[..., :1], self.speed)


class LineModel:
    """x' = x + a / 8; the model doubts every step that begins at `doubtful_from` or beyond."""

    def __init__(self, doubtful_from: float, goal: float = 100.0, doubt: float = 1.0) -> None:
        self.doubtful_from, self.goal, self.doubt = doubtful_from, goal, doubt
        self.target_mean = torch.zeros(2)
        self.asked: list[list[float]] = []

    def step(self, states: Tensor, actions: Tensor, generator: Any = None) -> Any:
        following = torch.cat([states[:, :1] + STRIDE * actions, states[:, 1:]], dim=1)
        return following, torch.full_like(states[:, 0], -1.0), following[:, 0] >= self.goal

    def step_with_uncertainty(self, states: Tensor, actions: Tensor, generator: Any) -> Any:
        self.asked.append(states[:, 0].tolist())
        doubtful = (states[:, 0] >= self.doubtful_from).float()
        return *self.step(states, actions), self.doubt * doubtful


def line_dataset(positions: list[float]) -> OfflineDataset:
    """One recorded step from each position, which goes nowhere."""
    return from_episodes(
        [
            Episode(np.array([[x, 7.0]] * 2), np.zeros((1, 1)), np.array([-1.0]), terminated=False)
            for x in positions
        ],
        "line",
    )


def blank_assessment(dataset: OfflineDataset, bootstrapped: float = 0.0) -> Assessment:
    zeros = torch.zeros(len(dataset))
    return Assessment(zeros, zeros + bootstrapped, zeros, torch.ones(len(dataset)).bool())


def walk(
    positions: list[float],
    model: LineModel,
    config: ImaginationConfig | None = None,
    threshold: float = 0.5,
    values: LineValues | None = None,
    planner: PlannerConfig = STILL,
    bootstrapped: float = 0.0,
    seed: int = 0,
    **more: Any,
) -> Continuations:
    dataset = line_dataset(positions)
    return imagine(
        dataset,
        torch.arange(len(positions)),
        values or LineValues(),  # type: ignore[arg-type]
        model,  # type: ignore[arg-type]
        planner,
        config or ImaginationConfig(length=6),
        threshold=torch.tensor(threshold),
        assessment=blank_assessment(dataset, bootstrapped),
        discount=GAMMA,
        seed=seed,
        **more,
    )


def test_gate_stops_where_the_model_begins_to_doubt() -> None:
    starts = [0.0, 0.25, 0.5, 3.0]
    model = LineModel(doubtful_from=0.5)
    found = walk(starts, model)
    assert found.length.tolist() == [4, 2, 0, 0]
    for row, (start, steps) in enumerate(zip(starts, [4, 2, 0, 0], strict=True)):
        path = found.observations[row, : steps + 1, 0].tolist()
        assert path == [start + STRIDE * i for i in range(steps + 1)]
        assert found.uncertainty[row, :steps].tolist() == [0.0] * steps
        # The step that failed was looked at; those after it never were.
        assert found.uncertainty[row, steps] == 1.0
        assert found.uncertainty[row, steps + 1 :].isinf().all()
    assert [len(asked) for asked in model.asked] == [4, 2, 2, 1, 1]
    assert (found.observations[..., 1] == 7.0).all()


def test_cumulative_gate_forgives_a_doubt_that_certain_steps_paid_for() -> None:
    """U is 0 below 0.5 and 0.9 from there on; threshold 0.5 per step."""
    config = ImaginationConfig(length=6)
    strict = walk([0.0], LineModel(0.5, doubt=0.9), config)
    lenient = walk([0.0], LineModel(0.5, doubt=0.9), replace(config, cumulative=True))
    assert strict.length.tolist() == [4]
    # Running sums 0 0 0 0 0.9 1.8 against 0.5 1 1.5 2 2.5 3: all pass.
    assert lenient.length.tolist() == [6]
    at_once = walk([0.5], LineModel(0.5, doubt=0.9), replace(config, cumulative=True))
    assert at_once.length.tolist() == [0]


@pytest.mark.parametrize("threshold", [0.5, torch.inf])
def test_continuation_ends_at_the_terminal_step(threshold: float) -> None:
    found = walk([0.0, 0.25], LineModel(100.0, goal=0.375), threshold=threshold)
    assert found.length.tolist() == [3, 1]
    assert found.terminated.nonzero().tolist() == [[0, 2], [1, 0]]
    kept, book = accept(found, ImaginationConfig(length=6), torch.tensor(threshold))
    assert (len(kept), book.reached_end, book.stopped_by_gate) == (2, 2, 0)


def test_gain_is_the_imagined_minus_the_recorded_return() -> None:
    found = walk([0.0, 0.25], LineModel(0.5), bootstrapped=3.0)
    ended = walk([0.0], LineModel(100.0, goal=0.375), bootstrapped=3.0)
    expected = [
        sum(-(GAMMA**t) for t in range(4)) + GAMMA**4 * 10 * 0.5 - 3.0,
        sum(-(GAMMA**t) for t in range(2)) + GAMMA**2 * 10 * 0.5 - 3.0,
    ]
    np.testing.assert_allclose(found.gain.numpy(), expected, rtol=1e-5)
    # Nothing is added beyond the terminal step.
    np.testing.assert_allclose(ended.gain, [-1 - GAMMA - GAMMA**2 - 3.0], rtol=1e-5)


def test_planner_finds_what_the_policy_does_not() -> None:
    planner = PlannerConfig(candidates=40, horizon=2, first_noise=1.0, later_noise=0.1, top=2)
    idle = LineValues(speed=0.0)
    planned = walk([0.0] * 20, LineModel(100.0), values=idle, planner=planner)
    noise = walk([0.0] * 20, LineModel(100.0), values=idle, planner=replace(planner, kind="random"))
    # V grows to the right: the best of 40 first actions is close to full speed.
    assert (planned.actions > 0.8).all()
    assert abs(float(noise.actions.mean())) < 0.25 and float(noise.actions.min()) < -0.8


def test_imagination_repeats_for_a_seed_and_changes_with_it() -> None:
    planner = replace(STILL, candidates=4, first_noise=0.5)
    one, again, other = (
        walk([0.0, 0.1], LineModel(100.0), planner=planner, values=LineValues(0.0), seed=seed)
        for seed in (1, 1, 2)
    )
    for name, tensor in vars(one).items():
        assert torch.equal(tensor, getattr(again, name)), name
    assert not torch.equal(one.actions, other.actions)


def test_proposals_have_the_configured_noise_around_the_policy() -> None:
    config = PlannerConfig(first_noise=0.5, later_noise=0.1)
    generator = torch.Generator().manual_seed(0)
    model = planning_model(LineValues(0.25), LineModel(1.0), config, GAMMA, generator)  # type: ignore[arg-type]
    states = torch.zeros(20_000, 2)
    for depth, deviation in ((0, 0.5), (1, 0.1), (4, 0.1)):
        proposed = model.propose(states, depth)
        assert proposed.mean() == pytest.approx(0.25, abs=0.02)
        assert proposed.std() == pytest.approx(deviation, rel=0.03)


def test_planning_in_chunks_plans_for_every_state() -> None:
    config = replace(STILL, candidates=1)
    generator = torch.Generator()
    values = LineValues()
    values.policy = lambda observations: observations[..., :1] / 10  # type: ignore[method-assign]
    model = planning_model(values, LineModel(1.0), config, GAMMA, generator)  # type: ignore[arg-type]
    states = torch.arange(14.0).reshape(7, 2) / 2
    actions = plan_in_chunks(states, model, config, generator, size=3)
    torch.testing.assert_close(actions, states[:, :1] / 10)


def test_planning_actor_starts_over_with_the_same_noise() -> None:
    planner = PlannerConfig(candidates=4, horizon=2, top=2)
    states, rewards, rows = torch.zeros(3, 2), torch.zeros(3), torch.arange(3)

    def acts(seed: int, rounds: int = 2) -> list[Tensor]:
        actor = PlanningActor(LineValues(0.0), LineModel(1.0), planner, GAMMA, seed)  # type: ignore[arg-type]
        result = []
        for _ in range(rounds):
            actor.begin(3)
            actor.reset(rows)
            result += [actor.act(states, rewards, rows), actor.act(states, rewards, rows)]
        return result

    first, second, third, fourth = acts(5)
    assert torch.equal(first, third) and torch.equal(second, fourth)
    assert not torch.equal(first, second)
    assert not torch.equal(first, acts(6)[0])


def test_plan_with_paths_traces_every_candidate() -> None:
    planner = PlannerConfig(candidates=4, horizon=3, top=2)
    states = torch.tensor([[0.0, 7.0], [1.0, 7.0]])
    found = plan_with_paths(states, LineValues(0.0), LineModel(9.0), planner, GAMMA, seed=0)  # type: ignore[arg-type]
    assert found.paths is not None and found.paths.shape == (4, 2, 4, 2)
    assert torch.equal(found.paths[:, :, 0], states.expand(4, 2, 2))
    moved = found.paths[:, :, 1:, 0] - found.paths[:, :, :-1, 0]
    torch.testing.assert_close(moved, STRIDE * found.candidates[..., 0])


def test_assessment_marks_the_steps_that_fall_short_most() -> None:
    """x goes 0, 1, 3, 6 and stops there: V = 10 x expects nothing, so jumps beat it."""
    episode = Episode(
        np.array([[0.0], [1.0], [3.0], [6.0], [6.0]]),
        np.zeros((4, 1)),
        np.zeros(4),
        terminated=False,
    )
    dataset = from_episodes([episode], "jumps")
    config = ImaginationConfig(bootstrap_steps=1, suboptimal_fraction=0.25)
    found = assess(dataset, LineValues(), config, GAMMA)  # type: ignore[arg-type]
    following = GAMMA * 10 * np.array([1.0, 3.0, 6.0, 6.0])
    np.testing.assert_allclose(found.values, [0.0, 10.0, 30.0, 60.0])
    np.testing.assert_allclose(found.bootstrapped, following, rtol=1e-6)
    np.testing.assert_allclose(found.shortfall, [-9.0, -17.0, -24.0, 6.0], rtol=1e-5)
    assert found.suboptimal.tolist() == [False, False, False, True]


@given(
    size=st.integers(1, 12),
    marked=st.integers(0, 12),
    starts=st.integers(0, 40),
    seed=st.integers(0, 9),
)
def test_starts_visit_every_step_once_before_any_twice(
    size: int, marked: int, starts: int, seed: int
) -> None:
    dataset = line_dataset([float(i) for i in range(size)])
    suboptimal = torch.arange(size) < marked
    assessment = replace(blank_assessment(dataset), suboptimal=suboptimal)
    found = choose_starts(assessment, starts, torch.Generator().manual_seed(seed))
    visits = torch.bincount(found, minlength=size)
    assert (visits[~suboptimal] == 0).all()
    assert len(found) == (starts if suboptimal.any() else 0)
    if suboptimal.any():
        assert int(visits[suboptimal].max() - visits[suboptimal].min()) <= 1


@st.composite
def continuation_sets(draw: st.DrawFn) -> tuple[OfflineDataset, Continuations]:
    """Recorded episodes and continuations of any kept length from any of their steps.

    U is below 0.5 on the kept steps and on some that follow, and above it beyond.
    """
    recorded = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    dataset = from_episodes(counting_episodes(recorded), "counting")
    count, most = draw(st.integers(0, 6)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    length = torch.randint(0, most + 1, (count,), generator=generator)
    start = torch.randint(len(dataset), (count,), generator=generator)
    observations = 1000 + torch.rand(count, most + 1, 2, generator=generator)
    observations[:, 0] = dataset.observations[start]
    known = length + torch.randint(0, most + 1, (count,), generator=generator)
    beyond = torch.arange(most) >= known[:, None]
    terminated = torch.zeros(count, most, dtype=torch.bool)
    for row in range(count):
        if length[row] and torch.rand((), generator=generator) < 0.4:
            terminated[row, length[row] - 1] = True
    found = Continuations(
        start=start,
        observations=observations,
        actions=torch.rand(count, most, 1, generator=generator),
        rewards=torch.rand(count, most, generator=generator),
        terminated=terminated,
        uncertainty=torch.rand(count, most, generator=generator) / 2 + 0.5 * beyond,
        length=length,
        gain=torch.randn(count, generator=generator),
    )
    return dataset, found


@given(drawn=continuation_sets(), min_length=st.integers(1, 3), improve=st.booleans())
def test_books_add_up(
    drawn: tuple[OfflineDataset, Continuations], min_length: int, improve: bool
) -> None:
    _, found = drawn
    most = found.actions.shape[1]
    config = ImaginationConfig(
        length=most, min_length=min_length, require_improvement=improve, improvement=0.25
    )
    kept, book = accept(found, config, torch.tensor(0.5))
    expected, reached, stopped, unsupported = [], 0, 0, 0
    for row in range(len(found)):
        steps = int(found.length[row])
        known = int((found.uncertainty[row] < 0.5).sum())
        ended = bool(found.terminated[row].any())
        reached += ended
        stopped += not ended and known < most
        unsupported += not ended and steps < min_length <= known
        good = not improve or float(found.gain[row]) > 0.25
        if (steps >= min_length or ended) and good:
            expected.append(row)
    assert torch.equal(kept.gain, found.gain[expected])
    assert (book.reached_end, book.stopped_by_gate) == (reached, stopped)
    assert book.rejected_unsupported == unsupported
    rejected = book.rejected_short + unsupported + book.rejected_not_better
    assert book.starts == book.accepted + rejected
    assert book.starts == len(found) and book.accepted == len(kept) == len(expected)
    assert book.imagined_steps == sum(int(found.length[row]) for row in expected)
    assert book.threshold == pytest.approx(0.5)
    if expected:
        assert book.mean_length == pytest.approx(book.imagined_steps / book.accepted)
        assert book.mean_gain == pytest.approx(float(found.gain[expected].mean()), rel=1e-5)


@dataclass(frozen=True)
class Near:
    """Trusts states whose first entry is at most the threshold."""

    threshold: Tensor

    def distance(self, states: Tensor) -> Tensor:
        return states[:, 0]


@given(drawn=continuation_sets(), most=st.floats(1000, 1001))
def test_continuations_end_at_their_last_trusted_state(
    drawn: tuple[OfflineDataset, Continuations], most: float
) -> None:
    _, found = drawn
    gate = Near(torch.tensor(most))
    kept = trusted_length(found.observations, found.terminated, found.length, gate)
    for row in range(len(found)):
        steps = range(1, int(found.length[row]) + 1)
        trusted = [step for step in steps if found.observations[row, step, 0] <= gate.threshold]
        ended = bool(found.terminated[row].any())
        assert kept[row] == (found.length[row] if ended else max(trusted, default=0))
    everywhere = trusted_length(found.observations, found.terminated, found.length, None)
    assert torch.equal(everywhere, found.length)
    nowhere = torch.zeros_like(found.length)  # no step passed the gate on U
    none = trusted_length(found.observations, found.terminated, nowhere, gate)
    assert torch.equal(none, nowhere)


@given(drawn=continuation_sets(), prefix=st.integers(0, 4))
def test_splice_joins_recorded_steps_to_imagined_ones(
    drawn: tuple[OfflineDataset, Continuations], prefix: int
) -> None:
    dataset, found = drawn
    found = found.select(found.length > 0)
    spliced = splice(dataset, found, prefix)
    assert spliced.episodes == len(found)
    assert len(spliced) == int(spliced.lengths.sum())
    fields = ("observations", "actions", "rewards", "next_observations", "terminated")
    for number in range(len(found)):
        start, steps = int(found.start[number]), int(found.length[number])
        first = int(dataset.starts[dataset.episode[start]])
        recorded = range(max(first, start - prefix), start)
        begin = int(spliced.starts[number])
        assert spliced.time[begin + len(recorded)] == dataset.step[start], "as late as it began"
        rows = range(begin, begin + len(recorded) + steps)
        assert int(spliced.lengths[number]) == len(rows)
        for row, source in zip(rows, recorded, strict=False):
            assert not spliced.imagined[row]
            for field in fields:
                assert torch.equal(getattr(spliced, field)[row], getattr(dataset, field)[source])
        for step, row in enumerate(rows[len(recorded) :]):
            assert spliced.imagined[row]
            assert torch.equal(spliced.observations[row], found.observations[number, step])
            assert torch.equal(spliced.next_observations[row], found.observations[number, step + 1])
            for field in ("actions", "rewards", "terminated"):
                imagined = getattr(found, field)[number, step]
                assert torch.equal(getattr(spliced, field)[row], imagined)
        # One unbroken path: every step begins where the one before it ended.
        assert torch.equal(spliced.next_observations[rows[:-1]], spliced.observations[rows[1:]])


@given(drawn=continuation_sets())
def test_augmented_data_begins_with_the_recorded_episodes(
    drawn: tuple[OfflineDataset, Continuations],
) -> None:
    dataset, found = drawn
    spliced = splice(dataset, found.select(found.length > 0), prefix=2)
    both = augment(dataset, spliced)
    assert len(both) == len(dataset) + len(spliced)
    assert both.episodes == dataset.episodes + spliced.episodes
    assert torch.equal(both.time, torch.cat([dataset.step, spliced.time]))
    first = both.select_episodes(torch.arange(dataset.episodes))
    assert first.fingerprint() == dataset.fingerprint()
    rest = both.select_episodes(torch.arange(dataset.episodes, both.episodes))
    assert rest.fingerprint() == spliced.fingerprint()


def test_no_tensor_forgets_the_device_of_its_data() -> None:
    """A tensor made without `device=` lands on the meta device here and meets no other."""
    dataset = line_dataset([0.0, 0.25, 0.5])
    planner = replace(STILL, candidates=4, first_noise=0.5)
    arguments = (LineValues(), LineModel(0.5, goal=0.75), planner, ImaginationConfig(length=4))
    assessment, threshold = blank_assessment(dataset), torch.tensor(0.5)
    generator = torch.Generator()
    with torch.device("meta"):
        with pytest.raises(RuntimeError, match="meta"):
            _ = dataset.rewards + torch.zeros(3)
        start = choose_starts(assessment, 5, generator)
        found = imagine(
            dataset,
            start,
            *arguments,
            threshold=threshold,  # type: ignore[arg-type]
            assessment=assessment,
            discount=GAMMA,
            seed=0,
        )
        noise = imagine(
            dataset,
            start,
            *arguments[:2],
            replace(planner, kind="random"),
            arguments[3],  # type: ignore[arg-type]
            threshold=threshold,
            assessment=assessment,
            discount=GAMMA,
            seed=0,
        )
        kept, _ = accept(found, ImaginationConfig(min_length=1), threshold)
        both = augment(dataset, splice(dataset, kept, 2))
    for tensors in (found, noise, both):
        for name, value in vars(tensors).items():
            assert not isinstance(value, Tensor) or value.device.type == "cpu", name
