"""Notebook 07's practice material: each planted bug is there, once, and can be found; each data set
needs the setting that it was made for."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from ipd_lite.course import checks, practice
from ipd_lite.data.episodes import Episode, from_arrays

Log = dict[str, Any]


@functools.cache
def pendulum(count: int = 16, steps: int = 30) -> tuple[Episode, ...]:
    env, draw, result = gym.make("Pendulum-v1"), np.random.default_rng(0), []
    for number in range(count):
        observations, actions, rewards = [env.reset(seed=number)[0]], [], []
        for _ in range(steps):
            actions.append(np.append(draw.uniform(-1, 1, 0), draw.choice([-1.0, 1.0])))
            after, reward, *_ = env.step((2 * actions[-1]).astype(np.float32))
            observations.append(after)
            rewards.append(float(reward))
        result.append(Episode(np.stack(observations), np.stack(actions), np.array(rewards), False))
    return tuple(result)


def ends(log: Log) -> Any:
    return log["terminated"]


def late(log: Log) -> Any:
    """Rewards that do not belong to their row, by Pendulum's own formula; units are forgiven."""
    cosine, sine, speed = log["observations"].T
    torque = 2 * log["actions"][:, 0].clip(-1, 1)
    expected = -(np.arctan2(sine, cosine) ** 2 + 0.1 * speed**2 + 0.001 * torque**2)
    return np.abs(expected - log["rewards"]) > 1e-3


def borrowed(log: Log) -> Any:
    """Next observations that are the next episode's first one."""
    after = np.roll(log["observations"], -1, axis=0)
    return (log["next_observations"] == after).all(1) & (log["terminated"] | log["truncated"])


def large(log: Log) -> Any:
    return np.abs(log["actions"][:, 0]) > 1


FINDERS = dict(zip(practice.BUGS, (ends, late, borrowed, large), strict=True))


@pytest.mark.parametrize("number", range(8))
def test_exactly_the_planted_bug_is_in_the_log(number: int) -> None:
    log, truth = practice.log_with_bug(pendulum(), number), practice.planted(number)
    for kind, find in FINDERS.items():
        episodes = set(log["episode"][find(log)])
        expected = range(truth.first_episode, 16) if kind == truth.kind else ()
        assert episodes == set(expected), kind
    assert ((log["terminated"] | log["truncated"]).sum()) == 16


def test_four_logs_have_all_four_bugs() -> None:
    for block in (0, 4, 8):
        kinds = {practice.planted(number).kind for number in range(block, block + 4)}
        assert kinds == set(practice.BUGS)


def test_the_package_takes_the_notebook_s_log_without_a_word() -> None:
    log = practice.log_with_bug(pendulum(), 2)
    del log["episode"]
    assert len(from_arrays(**log)) == 16 * 30


def answered(check: Any, answer: Any, capsys: pytest.CaptureFixture[str]) -> str:
    check(answer)
    return capsys.readouterr().out


@pytest.mark.parametrize("number", range(4))
def test_planted_bug_is_judged(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    kind, first = practice.planted(number)
    right = {"log": number, "kind": kind, "first episode": first}
    assert answered(checks.planted_bug, right, capsys).startswith("right: ")
    hints = ("sum it up", "from its own row", "first one: compare", "leave [-1, 1]")
    for other, hint in zip(practice.BUGS, hints, strict=True):
        if other != kind:
            assert hint in answered(checks.planted_bug, {**right, "kind": other}, capsys)
    for wrong, hint in ((first - 1, "later"), (first + 1, "earlier")):
        assert hint in answered(checks.planted_bug, {**right, "first episode": wrong}, capsys)
    assert "no such kind" in answered(checks.planted_bug, {**right, "kind": "rewards"}, capsys)
    assert "no entry" in answered(checks.planted_bug, {"log": number}, capsys)


SETTINGS = {"far": (0.9, 0.99, 0.1), "cents": (0.9, 0.99, 0.0025), "crowd": (0.995, 0.99, 0.3)}


def test_settings_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert answered(checks.own_settings, SETTINGS, capsys).startswith("right: ")


@pytest.mark.parametrize(
    ("name", "settings", "hint"),
    [
        ("far", (0.9, 0.9, 0.1), "looks 10 decisions ahead"),
        ("far", (0.7, 0.99, 1.0), "V begins at 0"),
        ("cents", (0.9, 0.99, 1.0), "V begins at 0"),
        ("crowd", (0.5, 0.99, 0.1), "raise the expectile"),
        ("far", (0.9, 1.0, 0.1), "0 <= discount < 1"),
        ("far", (0.9, 0.99), "give (expectile, discount, reward scale)"),
        ("far", (0.9, 0.99, -1.0), "expected above 0"),
    ],
)
def test_settings_that_do_not_fit(
    name: str, settings: Any, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = answered(checks.own_settings, {**SETTINGS, name: settings}, capsys)
    assert printed.startswith(f"not right: {name}: ") and hint in printed


@pytest.mark.parametrize("name", practice.CORRIDORS)
def test_full_force_is_what_the_corridor_allows(name: str) -> None:
    """No recording is faster than the best return says; everybody's path obeys the reach."""
    corridor = practice.CORRIDORS[name]
    for episode in practice.recordings(name):
        moves = np.abs(np.diff(episode.observations[:, 0]))
        assert moves.max() <= corridor.reach + 1e-12
        distance = 1 - episode.observations[0, 0]
        if episode.terminated:
            assert len(episode.rewards) >= np.ceil(distance / corridor.reach - 1e-9)
        assert episode.rewards.sum() == pytest.approx(-corridor.cost * len(episode.rewards))


def test_v_and_full_force_are_discounted_alike() -> None:
    """The line is the discounted sum, step by step, and no recording beats it."""
    tried = practice.try_settings("far", 0.9, 0.98, 0.1, updates=1)
    assert (tried.earned <= tried.best + 1e-4).all()
    steps = np.ceil((1 - tried.place) / practice.CORRIDORS["far"].reach)
    by_hand = [-practice.CORRIDORS["far"].cost * sum(0.98**k for k in range(int(n))) for n in steps]
    np.testing.assert_allclose(tried.best, by_hand)
