"""Transitions, returns, windows and sampling, against plain Python loops."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st

from ipd_lite.data.episodes import Episode, from_arrays, from_episodes
from ipd_lite.data.spaces import from_unit_range, to_unit_range
from ipd_lite.paper.dataset import DataError, OfflineDataset, concatenate
from tests.helpers import counting_episodes, episode_lists

length_lists = st.lists(st.integers(1, 8), min_size=1, max_size=6)


@given(length_lists)
def test_transitions_never_cross_an_episode(lengths: list[int]) -> None:
    dataset = from_episodes(counting_episodes(lengths), "counting")
    assert len(dataset) == sum(lengths)
    assert dataset.episodes == len(lengths)
    # The next observation is the same episode's next step, everywhere.
    torch.testing.assert_close(
        dataset.next_observations, dataset.observations + torch.tensor([0.0, 1.0])
    )
    expected = [[n, step] for n, length in enumerate(lengths) for step in range(length)]
    assert dataset.observations.tolist() == expected
    assert torch.stack([dataset.episode, dataset.step], 1).tolist() == expected


@given(length_lists)
def test_ends_are_terminated_or_truncated_and_nothing_else_is(lengths: list[int]) -> None:
    dataset = from_episodes(counting_episodes(lengths), "counting")
    for index, (number, step) in enumerate(dataset.observations.tolist()):
        end = step == lengths[int(number)] - 1
        assert bool(dataset.last[index]) == end
        assert bool(dataset.terminated[index]) == (end and number % 2 == 0)
        assert bool(dataset.truncated[index]) == (end and number % 2 == 1)
        assert int(dataset.remaining[index]) == lengths[int(number)] - step


@given(episode_lists(), st.floats(0, 1))
def test_returns_to_go_equal_a_loop(episodes: list[Episode], discount: float) -> None:
    expected, totals = [], []
    for episode in episodes:
        running, backwards = 0.0, []
        for reward in episode.rewards[::-1].astype(float):
            running = reward + discount * running
            backwards.append(running)
        expected += backwards[::-1]
        totals.append(float(episode.rewards.sum(dtype=float)))
    dataset = from_episodes(episodes, "random")
    scale = float(dataset.rewards.abs().max())
    np.testing.assert_allclose(
        dataset.returns_to_go(discount).numpy(), expected, rtol=1e-4, atol=1e-5 * scale
    )
    np.testing.assert_allclose(
        dataset.episode_returns.numpy(), totals, rtol=1e-4, atol=1e-5 * scale
    )


@given(length_lists, st.integers(1, 12))
def test_windows_stay_inside_their_episode(lengths: list[int], length: int) -> None:
    dataset = from_episodes(counting_episodes(lengths), "counting")
    first = torch.arange(len(dataset))
    index, valid = dataset.windows(first, length)
    for row in range(len(dataset)):
        number, step = dataset.observations[row].tolist()
        end = lengths[int(number)]
        expected = [[number, min(step + offset, end - 1)] for offset in range(length)]
        assert dataset.observations[index[row]].tolist() == expected
        assert valid[row].tolist() == [step + offset < end for offset in range(length)]


def test_sampling_is_uniform() -> None:
    dataset = from_episodes(counting_episodes([1, 7, 2]), "counting")
    draws = 20_000
    batch = dataset.sample(draws, torch.Generator().manual_seed(0))
    seen = batch.observations[:, 0] * 10 + batch.observations[:, 1]
    names = dataset.observations[:, 0] * 10 + dataset.observations[:, 1]
    counts = (seen[:, None] == names).sum(0)
    assert int(counts.sum()) == draws
    expected = draws / len(dataset)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 27.9  # chi-square with 9 degrees of freedom: one in a thousand


@given(episode_lists())
def test_batch_returns_the_rows_asked_for(episodes: list[Episode]) -> None:
    dataset = from_episodes(episodes, "random")
    index = torch.randint(len(dataset), (7,), generator=torch.Generator().manual_seed(0))
    batch = dataset.batch(index)
    assert torch.equal(batch.observations, dataset.observations[index])
    assert torch.equal(batch.actions, dataset.actions[index])
    assert torch.equal(batch.rewards, dataset.rewards[index])
    assert torch.equal(batch.next_observations, dataset.next_observations[index])
    assert torch.equal(batch.continues == 0, dataset.terminated[index])


def test_same_generator_seed_same_batch() -> None:
    dataset = from_episodes(counting_episodes([9, 9]), "counting")
    one, other, third = (
        dataset.sample(16, torch.Generator().manual_seed(seed)).observations for seed in (1, 1, 2)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def episodes_of(dataset: OfflineDataset) -> list[list[list[float]]]:
    """Every episode as a list of its observations, the last one included."""
    result = []
    for start, length in zip(dataset.starts.tolist(), dataset.lengths.tolist(), strict=True):
        rows = dataset.observations[start : start + length].tolist()
        result.append([*rows, dataset.next_observations[start + length - 1].tolist()])
    return result


@given(episode_lists(most=8), st.floats(0.05, 0.95), st.integers(0, 1000))
def test_split_is_a_partition_of_whole_episodes(
    episodes: list[Episode], fraction: float, seed: int
) -> None:
    dataset = from_episodes(episodes, "random")
    if dataset.episodes < 2:
        with pytest.raises(DataError, match="at least two"):
            dataset.split_episodes(fraction, torch.Generator())
        return
    rest, holdout = dataset.split_episodes(fraction, torch.Generator().manual_seed(seed))
    assert rest.episodes >= 1
    assert holdout.episodes >= 1
    assert abs(holdout.episodes - fraction * dataset.episodes) <= 1
    assert sorted(episodes_of(rest) + episodes_of(holdout)) == sorted(episodes_of(dataset))
    assert len(rest) + len(holdout) == len(dataset)
    assert rest.terminated.sum() + holdout.terminated.sum() == dataset.terminated.sum()


@given(episode_lists())
def test_selecting_and_joining_single_episodes_gives_the_same_data(
    episodes: list[Episode],
) -> None:
    dataset = from_episodes(episodes, "random")
    singles = [dataset.select_episodes(torch.tensor([i])) for i in range(dataset.episodes)]
    joined = concatenate(singles, "joined")
    assert joined.name == "joined"
    assert joined.fingerprint() == dataset.fingerprint()
    backwards = torch.arange(dataset.episodes).flip(0)
    assert episodes_of(dataset.select_episodes(backwards)) == episodes_of(dataset)[::-1]


def test_fingerprint_changes_with_any_part() -> None:
    dataset = from_episodes(counting_episodes([3, 2]), "counting")
    prints = {dataset.fingerprint()}
    for field in ("observations", "actions", "rewards", "next_observations"):
        changed = getattr(dataset, field).clone()
        changed.view(-1)[0] += 1e-3
        prints.add(replace(dataset, **{field: changed}).fingerprint())
    for field in ("terminated", "imagined"):
        prints.add(replace(dataset, **{field: ~getattr(dataset, field)}).fingerprint())
    other_cut = replace(dataset, starts=torch.tensor([0, 2]), lengths=torch.tensor([2, 3]))
    assert len(prints | {other_cut.fingerprint()}) == 8
    assert replace(dataset, name="other").fingerprint() == dataset.fingerprint()


def broken(**changes: object) -> list[Episode]:
    """Two episodes, the second with changed fields."""
    first, second = counting_episodes([3, 4])
    return [first, replace(second, **changes)]  # type: ignore[arg-type]


NAN_OBSERVATIONS = np.zeros((5, 2))
NAN_OBSERVATIONS[2, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": NAN_OBSERVATIONS}, "observations is not finite at step 2"),
        ({"actions": np.array([[0.0], [0], [0], [np.inf]])}, "actions is not finite at step 3"),
        ({"rewards": np.array([0, np.nan, 0, 0])}, "rewards is not finite at step 1"),
        ({"rewards": np.array([0, 0, 1e300, 0])}, "rewards is not finite at step 2"),
        ({"observations": np.zeros((4, 2))}, r"observations has shape \(4, 2\), expected \(5, 2\)"),
        ({"observations": np.zeros((5, 3))}, r"observations has shape \(5, 3\), expected \(5, 2\)"),
        ({"actions": np.zeros((4, 2))}, r"actions has shape \(4, 2\), expected \(4, 1\)"),
        ({"actions": np.zeros((3, 1))}, r"actions has shape \(3, 1\), expected \(4, 1\)"),
        ({"rewards": np.zeros((4, 1))}, r"rewards has shape \(4, 1\), expected \(4,\)"),
        ({"rewards": np.zeros(3)}, r"rewards has shape \(3,\), expected \(4,\)"),
        (
            {"observations": np.zeros((5, 2), np.float32)},
            "observations has type float32, earlier episodes have float64",
        ),
        (
            {"actions": np.zeros((4, 1), np.float32)},
            "actions has type float32, earlier episodes have",
        ),
        ({"actions": np.full((4, 1), "x")}, "actions has type <U1, expected real numbers"),
        ({"imagined": np.zeros(3, bool)}, r"imagined has shape \(3,\), expected \(4,\)"),
        (
            {"observations": np.zeros((1, 2)), "actions": np.zeros((0, 1)), "rewards": np.zeros(0)},
            "no steps",
        ),
    ],
)
def test_bad_episode_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=f"robot, episode 1: {message}"):
        from_episodes(broken(**changes), "robot")


def test_whole_numbered_actions_are_refused() -> None:
    episodes = [replace(e, actions=e.actions.astype(int)) for e in counting_episodes([3, 4])]
    with pytest.raises(DataError, match=r"robot: actions has type int64, .* discrete actions"):
        from_episodes(episodes, "robot")


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("next_observations", lambda a: a.astype(np.float32), "has type float32, observations fl"),
        ("next_observations", lambda a: a[:, :1], r"has shape \(5, 1\), observations \(5, 2\)"),
        ("observations", lambda a: np.zeros((5, 8, 8, 3)), r"expected \(5, width\)"),
        ("observations", lambda a: [[0.0], [0.0, 1.0]], "is no array of numbers"),
        ("actions", lambda a: np.zeros(5, int), r"has shape \(5,\), expected \(5, width\)"),
        ("rewards", lambda a: a[:0], "there are no transitions"),
        ("terminated", lambda a: a[:4], r"has shape \(4,\), expected \(5,\)"),
    ],
)
def test_bad_logs_are_named(field: str, change: Any, message: str) -> None:
    data = from_episodes(counting_episodes([2, 3]), "counting")
    logs: dict[str, Any] = {
        name: getattr(data, name).double().numpy()
        for name in ("observations", "actions", "rewards", "next_observations", "terminated")
    }
    assert len(from_arrays(**logs)) == 5
    logs[field] = change(logs[field])
    with pytest.raises(DataError, match=f"arrays.*{message}"):
        from_arrays(**logs)


@given(length_lists)
def test_logs_without_any_mark_are_split_where_they_jump(lengths: list[int]) -> None:
    """Every episode of `counting_episodes` starts at its own number: each border is a jump."""
    data = from_episodes(counting_episodes(lengths), "counting")
    found = from_arrays(
        data.observations.numpy(),
        data.actions.numpy(),
        data.rewards.numpy(),
        data.next_observations.numpy(),
        np.zeros(len(data), bool),
    )
    assert found.lengths.tolist() == lengths
    assert torch.equal(found.next_observations, data.next_observations)
    assert not found.terminated.any()


def test_no_episodes_is_an_error() -> None:
    with pytest.raises(DataError, match="no episodes"):
        from_episodes([], "robot")


def test_out_of_bounds_actions_are_counted_and_clipped() -> None:
    actions = np.array([[1.5], [-0.5], [-7.0], [1.0]])
    with pytest.warns(UserWarning, match="2 of 7 action entries"):
        dataset = from_episodes(broken(actions=actions), "robot")
    assert dataset.actions[3:, 0].tolist() == [1.0, -0.5, -1.0, 1.0]


def test_rounding_beyond_the_bounds_is_clipped_silently() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = from_episodes(broken(actions=np.full((4, 1), 1 + 1e-7)), "robot")
    assert float(dataset.actions.max()) == 1.0


bounds = st.tuples(st.floats(-100, 99), st.floats(0.1, 100)).map(lambda b: (b[0], b[0] + b[1]))


@given(st.lists(bounds, min_size=1, max_size=4), st.integers(0, 1000))
def test_unit_range_maps_bounds_to_one_and_back(
    limits: list[tuple[float, float]], seed: int
) -> None:
    low, high = (np.array(side) for side in zip(*limits, strict=True))
    space = Box(low, high, dtype=np.float64)
    np.testing.assert_allclose(
        to_unit_range(np.stack([low, high]), space), [[-1.0], [1.0]] * np.ones(len(low))
    )
    inside = np.random.default_rng(seed).uniform(low, high, (5, len(low)))
    unit = to_unit_range(inside, space)
    assert (np.abs(unit) <= 1 + 1e-12).all()
    np.testing.assert_allclose(from_unit_range(unit, space), inside, rtol=1e-9, atol=1e-9)
