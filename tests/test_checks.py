"""Every exercise check three ways: unsolved, solved, and with planted mistakes and their hints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ipd_lite.course import checks

Answer = Callable[..., Any]


def judge(check: Callable[[Any], None], answer: Any, capsys: pytest.CaptureFixture[str]) -> str:
    check(answer)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1, "a check prints one line"
    return printed.strip()


# -- correct answers, written independently of the package ---------------------------------------


def returns_to_go(rewards: Tensor, lengths: Tensor, discount: float) -> Tensor:
    parts = []
    for episode in rewards.split(lengths.tolist()):
        power = discount ** torch.arange(len(episode))
        parts += [(episode[t:] * power[: len(episode) - t]).sum() for t in range(len(episode))]
    return torch.stack(parts)


def target(r: Tensor, terminated: Tensor, truncated: Tensor, v: Tensor, discount: float) -> Tensor:
    return torch.where(terminated, r, r + discount * v)


def expectile(u: Tensor, tau: float) -> Tensor:
    return ((tau - (u < 0).float()).abs() * u**2).mean()


def q_loss(q: Tensor, r: Tensor, c: Tensor, v: Tensor, discount: float) -> Tensor:
    return F.mse_loss(q[:, 0], r + discount * c * v)


def soft(raw: Tensor, low: Tensor, high: Tensor) -> Tensor:
    raw = high - F.softplus(high - raw)
    return low + F.softplus(raw - low)


def bhattacharyya(m1: Tensor, v1: Tensor, m2: Tensor, v2: Tensor) -> Tensor:
    total = v1 + v2
    return ((m1 - m2) ** 2 / (4 * total) + 0.5 * (total / 2 / (v1 * v2).sqrt()).log()).sum(-1)


def textbook(m1: Tensor, v1: Tensor, m2: Tensor, v2: Tensor) -> Tensor:
    """The same number on paper: 1/4 (m1^2/v1 + m2^2/v2) - ... cancels in float32."""
    joint = 2 / (1 / v1 + 1 / v2)
    mean = 0.5 * joint * (m1 / v1 + m2 / v2)
    exponent = 0.25 * (m1**2 / v1 + m2**2 / v2) - 0.5 * mean**2 / joint
    return (exponent + 0.25 * (v1 * v2 / joint**2).log()).sum(-1)


def runs_of(marked: Tensor, last: Tensor) -> list[tuple[int, int]]:
    found, length = [], 0
    for i in range(len(marked)):
        length = length + 1 if marked[i] else 0
        if length and (last[i] or i + 1 == len(marked) or not marked[i + 1]):
            found.append((i - length + 1, length))
            length = 0
    return found


def score(rewards: Tensor, terminated: Tensor, final: Tensor, discount: float) -> Tensor:
    total, weight = torch.zeros(len(rewards)), torch.ones(len(rewards))
    for h in range(rewards.shape[1]):
        total = total + weight * rewards[:, h]
        weight = weight * discount * ~terminated[:, h]
    return total + weight * final


def best(scores: Tensor) -> int:
    return int(scores.masked_fill(~scores.isfinite(), -torch.inf).argmax())


def ipd(predicted: Tensor, actions: Tensor, q: Tensor, v: Tensor, alpha: float) -> Tensor:
    scale = (q - v).abs().mean().detach()
    return F.mse_loss(predicted, actions) - alpha * (q - v).mean() / scale


def resampled(scores: np.ndarray[Any, Any]) -> tuple[float, float]:
    draws = np.random.default_rng(1).choice(scores, (20_000, len(scores))).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def paired(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    return (float((ours - theirs).mean()), *resampled(ours - theirs))


def wins(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    points = [1.0 if x > y else 0.5 if x == y else 0.0 for x in ours for y in theirs]
    return sum(points) / len(points)


ORDER = list(checks.STAGES)
RIGHT: dict[str, Any] = {
    "stage_order": ORDER,
    "symbol_shapes": dict(checks.SYMBOL_SHAPES),
    "returns_to_go": returns_to_go,
    "bootstrap_target": target,
    "normalized_score": lambda r, low, high: (r - low) / (high - low) * 100,
    "expectile_loss": expectile,
    "q_loss": q_loss,
    "advantage_weights": lambda q, v, beta, most: torch.exp(beta * (q - v)).clamp(max=most),
    "bounded_log_variance": soft,
    "divergence": bhattacharyya,
    "segments": runs_of,
    "plan_score": score,
    "best_candidate": best,
    "causal_mask": lambda T: torch.arange(T)[:, None] >= torch.arange(T),
    "ipd_loss": ipd,
    "interval": resampled,
    "paired_difference": paired,
    "improvement": wins,
    "decision": {
        "IPD beats IQL": True,
        "IPD beats QT": True,
        "IPD beats its planner acting directly": True,
        "imagined data helps": True,
        "MPC imagines better than greedy Q": True,
        "the gate helps": False,
        "decision": "revise",
    },
}
NAMES = sorted(RIGHT)


def unfinished(*arguments: Any) -> Any:
    raise NotImplementedError


def swap(first: str, second: str) -> list[str]:
    other = {first: second, second: first}
    return [other.get(name, name) for name in ORDER]


# (check, wrong answer, words of the hint that it must get)
WRONG: list[tuple[str, Any, str]] = [
    ("stage_order", swap("values", "segments"), "comparing it with V"),
    ("stage_order", swap("world model", "imagination"), "predict the next state"),
    ("stage_order", swap("data", "values"), "recorded transitions"),
    ("stage_order", swap("values", "world model"), "paper learns the values first"),
    ("stage_order", ORDER[:-1], "each of these once"),
    ("symbol_shapes", {**checks.SYMBOL_SHAPES, "V(s)": "(N, 4)"}, "broadcasting"),
    ("symbol_shapes", {**checks.SYMBOL_SHAPES, "s": "(N, 2)"}, "position"),
    ("symbol_shapes", {"s": "(N, 4)"}, "no entry"),
    ("returns_to_go", lambda r, n, g: returns_to_go(r, torch.tensor([len(r)]), g), "next episode"),
    ("returns_to_go", lambda r, n, g: returns_to_go(r, n, 1.0), "without the discount"),
    ("returns_to_go", lambda r, n, g: returns_to_go(r, n, g) - r, "own reward is missing"),
    (
        "returns_to_go",
        lambda r, n, g: torch.cat([p.cumsum(0) for p in r.split(n.tolist())]),
        "looks ahead",
    ),
    ("returns_to_go", lambda r, n, g: returns_to_go(r, n, g)[:3], "shape"),
    ("returns_to_go", lambda r, n: r, "TypeError"),
    ("returns_to_go", lambda r, n, g: "text", "expected a tensor"),
    ("bootstrap_target", lambda r, e, c, v, g: r + g * ~(e | c) * v, "truncation also"),
    ("bootstrap_target", lambda r, e, c, v, g: r + g * v, "must not add"),
    ("bootstrap_target", lambda r, e, c, v, g: r + g * ~c * v, "other way round"),
    ("bootstrap_target", lambda r, e, c, v, g: r + ~e * v, "discount is missing"),
    ("normalized_score", lambda r, a, b: (r - a) / (b - a), "times 100"),
    ("normalized_score", lambda r, a, b: (100 * (r - a) / (b - a)).clamp(0, 100), "do not clip"),
    ("normalized_score", lambda r, a, b: 100 * (r - b) / (a - b), "swapped"),
    ("normalized_score", lambda r, a, b: 100 * r / (b - a), "subtract the lower"),
    ("expectile_loss", lambda u, t: expectile(u, 1 - t), "swapped"),
    ("expectile_loss", lambda u, t: ((t - (u < 0).float()).abs() * u.abs()).mean(), "quantiles"),
    ("expectile_loss", lambda u, t: u.square().mean(), "weights are not used"),
    ("expectile_loss", lambda u, t: len(u) * expectile(u, t), "not the sum"),
    ("expectile_loss", lambda u, t: (t - (u < 0).float()).abs() * u**2, "one number"),
    ("q_loss", lambda q, r, c, v, g: (q - (r + g * c * v)).square().mean(), "broadcasts"),
    ("q_loss", lambda q, r, c, v, g: q_loss(q, r, torch.ones(3), v, g), "nothing follows"),
    ("q_loss", lambda q, r, c, v, g: q_loss(q, r, c, v, 1.0), "not discounted"),
    ("advantage_weights", lambda q, v, b, m: (b * (q - v)).exp(), "cap the weight"),
    ("advantage_weights", lambda q, v, b, m: (b * (v - q)).exp().clamp_max(m), "wrong sign"),
    ("advantage_weights", lambda q, v, b, m: ((q - v) / b).exp().clamp_max(m), "multiplies"),
    ("bounded_log_variance", lambda x, a, b: x.clamp(a, b), "no gradient"),
    ("bounded_log_variance", lambda x, a, b: b - F.softplus(b - x), "only the upper"),
    ("bounded_log_variance", lambda x, a, b: a + F.softplus(x - a), "only the lower"),
    ("divergence", textbook, "float32"),
    ("divergence", lambda a, b, c, d: bhattacharyya(a, b**2, c, d**2), "variances already"),
    ("divergence", lambda a, b, c, d: ((a - c) ** 2 / (4 * (b + d))).sum(-1), "second half"),
    ("divergence", lambda a, b, c, d: bhattacharyya(a, b, a, d), "first half"),
    (
        "divergence",
        lambda a, b, c, d: (0.5 * ((d / b).log() + (b + (a - c) ** 2) / d - 1)).sum(-1),
        "not symmetric",
    ),
    ("divergence", lambda a, b, c, d: bhattacharyya(a, b, c, d) / 2, "a mean would"),
    ("segments", lambda m, e: runs_of(m, torch.zeros_like(e)), "joined"),
    ("segments", lambda m, e: [(f, n) for f, n in runs_of(m, e) if n > 1], "single step"),
    ("segments", lambda m, e: runs_of(m, e)[:-1], "still open"),
    ("segments", lambda m, e: [(f, f + n) for f, n in runs_of(m, e)], "not the end"),
    ("segments", lambda m, e: 3, "list of pairs"),
    ("plan_score", lambda r, e, v, g: score(r, e & False, v, g), "neither rewards nor value"),
    ("plan_score", lambda r, e, v, g: score(r, e, 0 * v, g), "terminal value is missing"),
    ("plan_score", lambda r, e, v, g: score(r, e, v / g**3, g), "H steps away"),
    (
        "plan_score",
        lambda r, e, v, g: score(r, e, v, g) + g**3 * v * e.any(1),
        "gets no terminal value",
    ),
    ("best_candidate", lambda s: int(s.argmax()), "NaN is the greatest"),
    ("best_candidate", lambda s: int(s.nan_to_num(-1e9, posinf=1e9).argmax()), "infinite"),
    ("best_candidate", lambda s: int(s.nan_to_num(0.0, 0.0, -1e9).argmax()), "for scores"),
    ("best_candidate", lambda s: int(s.argmin()), "greatest score wins"),
    ("causal_mask", lambda T: torch.ones(T, T).bool().triu(), "swapped"),
    ("causal_mask", lambda T: torch.ones(T, T).bool().tril(-1), "see itself"),
    ("causal_mask", lambda T: torch.ones(T, T).bool().triu(1), "complement"),
    ("causal_mask", lambda T: torch.ones(T, T).bool(), "future too"),
    ("causal_mask", lambda T: torch.ones(T, T).tril(), "booleans"),
    ("ipd_loss", lambda p, a, q, v, w: ipd(p, a, q, v, -w), "plus alpha"),
    ("ipd_loss", lambda p, a, q, v, w: F.mse_loss(p, a) - w * (q - v).mean(), "not scaled"),
    ("ipd_loss", lambda p, a, q, v, w: ipd(p, a, q, v, 1.0), "alpha is not used"),
    ("ipd_loss", lambda p, a, q, v, w: F.mse_loss(p, a), "value term is missing"),
    (
        "ipd_loss",
        lambda p, a, q, v, w: F.mse_loss(p, a) - w * (q - v).mean() / (q - v).abs().mean(),
        "detach the scale",
    ),
    ("ipd_loss", lambda p, a, q, v, w: ipd(p, a, q, v, w).detach(), "no gradient"),
    ("interval", lambda s: (s.mean() - s.std(), s.mean() + s.std()), "seeds scatter"),
    ("interval", lambda s: np.percentile(s, [2.5, 97.5]), "average each resample"),
    ("interval", lambda s: (s.min(), s.max()), "range of the seeds"),
    ("interval", lambda s: resampled(s)[::-1], "swapped"),
    ("interval", lambda s: s.mean(), "two numbers"),
    ("paired_difference", lambda a, b: paired(b, a), "sign"),
    (
        "paired_difference",
        lambda a, b: (
            (a - b).mean(),
            resampled(a)[0] - resampled(b)[1],
            resampled(a)[1] - resampled(b)[0],
        ),
        "seed by seed",
    ),
    ("improvement", lambda a, b: wins(b, a), "theirs"),
    ("improvement", lambda a, b: (a[:, None] > b).mean(), "half a win"),
    ("improvement", lambda a, b: (a[:, None] >= b).mean(), "not a whole one"),
    ("improvement", lambda a, b: a.mean() > b.mean(), "count the pairs"),
    ("improvement", lambda a, b: wins(a, b) * a.size * b.size, "divide"),
    ("decision", {**RIGHT["decision"], "the gate helps": True}, "contains zero"),
    ("decision", {**RIGHT["decision"], "imagined data helps": False}, "above zero"),
    ("decision", {**RIGHT["decision"], "decision": "accept"}, "one maze"),
    ("decision", {**RIGHT["decision"], "decision": "reject"}, "deserves to be printed"),
]


@pytest.mark.parametrize("name", NAMES)
def test_solved(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(getattr(checks, name), RIGHT[name], capsys).startswith("right: ")


@pytest.mark.parametrize("name", NAMES)
def test_unsolved(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    check, right = getattr(checks, name), RIGHT[name]
    if callable(right):
        blanks: list[Any] = [unfinished, lambda *a: None, lambda *a: ...]
    elif isinstance(right, dict):
        blanks = [dict.fromkeys(right, ...), dict.fromkeys(right)]
    else:
        blanks = [[], [...] * len(right)]
    for blank in blanks:
        assert judge(check, blank, capsys).startswith("not yet: ")


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_planted_mistakes(
    name: str, answer: Any, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = judge(getattr(checks, name), answer, capsys)
    assert printed.startswith("not right: ")
    assert hint in printed


@pytest.mark.parametrize("name", NAMES)
def test_every_check_has_planted_mistakes(name: str) -> None:
    assert sum(check == name for check, _, _ in WRONG) >= 2


def test_this_file_knows_every_check() -> None:
    public = {
        name
        for name, value in vars(checks).items()
        if callable(value) and getattr(value, "__wrapped__", None) and not name.startswith("_")
    }
    built = {
        "iql_loss",
        "model_loss",
        "disagreement",
        "imagine_paths",
        "block_forward",
        "policy_loss",
    }  # these train something: tests/test_build.py
    built |= {"planted_bug", "own_settings"}  # tests/test_practice.py
    assert public == set(RIGHT) | built


def test_answers_cannot_change_the_question(capsys: pytest.CaptureFixture[str]) -> None:
    def destructive(rewards: Tensor, lengths: Tensor, discount: float) -> Tensor:
        result = returns_to_go(rewards, lengths, discount)
        rewards.zero_()
        return result

    for _ in range(2):
        assert judge(checks.returns_to_go, destructive, capsys).startswith("right: ")
