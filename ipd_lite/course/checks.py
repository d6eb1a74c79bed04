"""Checks of the notebooks' exercises: they tell right from wrong and name the likely mistake.

Every check calls the reader's function on small made-up numbers, compares the result with the
package's own, and prints one line: "not yet" (nothing was written), "right", or "not right" with a
hint. A check never raises, so that a notebook runs to its end with the exercises unsolved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipd_lite.course import practice
from ipd_lite.course.build import small_model, small_values
from ipd_lite.course.example import reviewed
from ipd_lite.course.practice import BUGS, CORRIDORS, planted
from ipd_lite.course.stitching import find_segments
from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.paper.dataset import Batch
from ipd_lite.paper.distillation import (
    DistillationConfig,
    Examples,
    distillation_loss,
    make_policy,
)
from ipd_lite.paper.distillation import policy_loss as reference_policy_loss
from ipd_lite.paper.transformer import Block
from ipd_lite.paper.uncertainty import dual_divergence, ensemble_divergence
from ipd_lite.paper.values import expectile_loss as reference_expectile_loss
from ipd_lite.paper.values import iql_loss as reference_iql_loss
from ipd_lite.paper.world_model import model_loss as reference_model_loss
from ipd_lite.report.statistics import bootstrap_interval, paired_interval

Answer = Callable[..., Any]


Check = Callable[[Any], None]


class _Unsolved(Exception):
    """The reader has not written anything yet."""


class _Wrong(Exception):
    """The answer is wrong; the message is the hint."""


def _exercise(praise: str) -> Callable[[Check], Check]:
    """Turn a function that raises into one that prints a single line."""

    def decorate(check: Check) -> Check:
        @functools.wraps(check)
        def run(answer: Any) -> None:
            try:
                check(answer)
            except _Unsolved:
                print(
                    "not yet: there is no result so far. "
                    "(If you did write something: is a `return` missing?)"
                )
            except _Wrong as hint:
                print(f"not right: {hint}")
            else:
                print(f"right: {praise}")

        return run

    return decorate


def _ask(answer: Answer, *arguments: Any) -> Any:
    """What the reader's function makes of these very `arguments`."""
    try:
        result = answer(*arguments)
    except NotImplementedError:
        raise _Unsolved from None
    except Exception as error:
        raise _Wrong(f"the function stopped with {type(error).__name__}: {error}") from error
    if result is None or result is ...:
        raise _Unsolved
    return result


def _call(answer: Answer, *arguments: Any) -> Any:
    """The reader's function on copies of `arguments`, so that nothing is changed in place."""
    return _ask(answer, *(a.clone() if isinstance(a, Tensor) else a for a in arguments))


def _tensor(result: Any) -> Tensor:
    try:
        return torch.as_tensor(result).detach()
    except (TypeError, ValueError, RuntimeError):
        raise _Wrong(
            f"the result is a {type(result).__name__}, expected a tensor or a number"
        ) from None


def _same(first: Tensor, second: Tensor, tolerance: float = 1e-4) -> bool:
    if first.shape != second.shape:
        return False
    return torch.allclose(first.double(), second.double(), tolerance, tolerance, equal_nan=True)


def _compare(got: Any, right: Any, mistakes: Mapping[str, Any], tolerance: float = 1e-4) -> None:
    """Raise the hint of the known mistake that gives the same numbers, else say what is expected.

    Args:
        mistakes: hint -> what a reader with this mistake would get.
    """
    found, expected = _tensor(got), _tensor(right)
    if _same(found, expected, tolerance):
        return
    for hint, wrong in mistakes.items():
        if _same(found, _tensor(wrong), tolerance):
            raise _Wrong(hint)
    if found.shape != expected.shape:
        raise _Wrong(
            f"the result has shape {tuple(found.shape)}, expected {tuple(expected.shape)}. Print "
            "the shapes of every part"
        )
    raise _Wrong(f"expected {_short(expected)}, got {_short(found)}")


def _short(values: Tensor) -> str:
    flat = [round(float(v), 3) for v in values.flatten()[:6]]
    more = ", ..." if values.numel() > 6 else ""
    return str(flat[0]) if values.dim() == 0 else f"[{', '.join(map(str, flat))}{more}]"


def _chosen(answer: Any, keys: Collection[str]) -> None:
    """Refuse what is no dictionary with these keys; `...` or None stands for "not chosen yet"."""
    if not isinstance(answer, Mapping):
        raise _Wrong(f"expected a dictionary with the keys {', '.join(keys)}")
    missing = [key for key in keys if key not in answer]
    if missing:
        raise _Wrong(f"{missing[0]!r} has no entry; keep the keys as they were")
    if any(answer[key] is None or answer[key] is ... for key in keys):
        raise _Unsolved


def _choices(answer: Any, solution: Mapping[str, Any], hints: Mapping[str, str]) -> None:
    """Compare a dictionary of choices."""
    _chosen(answer, solution)
    for key, expected in solution.items():
        if answer[key] != expected:
            raise _Wrong(f"{key}: {hints[key]}")


STAGES = ("data", "values", "world model", "segments", "imagination", "distillation", "evaluation")


@_exercise("each stage needs the result of an earlier one, so this is the paper's order.")
def stage_order(answer: Sequence[Any]) -> None:
    """00: the stages in the order in which they can be computed."""
    if not answer or any(stage is ... for stage in answer):
        raise _Unsolved
    given = list(answer)
    if sorted(given) != sorted(STAGES):
        raise _Wrong(f"use each of these once: {', '.join(STAGES)}")
    place = {stage: given.index(stage) for stage in STAGES}
    needs = (
        ("values", "data", "IQL learns from recorded transitions"),
        ("world model", "data", "the ensemble learns from recorded transitions"),
        ("segments", "values", "a step is called suboptimal by comparing it with V"),
        ("imagination", "world model", "planning needs something to predict the next state"),
        ("imagination", "segments", "imagination starts where the data falls short"),
        ("distillation", "imagination", "the transformer learns from real and imagined data"),
        ("evaluation", "distillation", "only a finished policy can be scored"),
    )
    for later, earlier, why in needs:
        if place[later] < place[earlier]:
            raise _Wrong(f"{later!r} comes before {earlier!r}, but {why}")
    if place["world model"] < place["values"]:
        raise _Wrong("possible, but the paper learns the values first (3.1), then the model (3.2)")


SYMBOL_SHAPES = {
    "s": "(N, 4)",
    "a": "(N, 2)",
    "V(s)": "(N,)",
    "model means": "(M, N, 4)",
    "U(s, a)": "(N,)",
    "tokens": "(B, K, C)",
}


@_exercise("you can now read most assertions in the package.")
def symbol_shapes(answer: Mapping[str, str]) -> None:
    """00: which shape belongs to which symbol of the paper."""
    _choices(
        answer,
        SYMBOL_SHAPES,
        {
            "s": "a ball in the plane has a position (x, y) and a velocity (x, y)",
            "a": "the action is a force with one number per axis",
            "V(s)": "one number per state; a trailing 1 is how broadcasting bugs begin",
            "model means": "every one of the M members predicts its own next state",
            "U(s, a)": "the members' disagreement is averaged over pairs, so M is gone",
            "tokens": "B windows, K steps each, and one vector of width C per step",
        },
    )


def _returns(rewards: Tensor, lengths: Tensor, discount: float) -> Tensor:
    """Returns-to-go by the package, from rewards (N,) and episode lengths (E,)."""
    episodes = [
        Episode(np.zeros((len(part) + 1, 1)), np.zeros((len(part), 1)), part.numpy(), False)
        for part in rewards.split(lengths.tolist())
    ]
    return from_episodes(episodes, "exercise").returns_to_go(discount)


@_exercise("every step counts its own reward, and no episode leaks into the one before.")
def returns_to_go(answer: Answer) -> None:
    """01: f(rewards (N,), lengths (E,), discount) -> (N,)."""
    rewards = torch.tensor([-1.0, -2.0, 4.0, 3.0, -1.0, 2.0])
    lengths = torch.tensor([3, 1, 2])
    discount = 0.5
    right = _returns(rewards, lengths, discount)
    whole = _returns(rewards, torch.tensor([6]), discount)
    plain = _returns(rewards, lengths, 1.0)
    step = torch.cat([torch.arange(n) for n in lengths.tolist()])
    so_far = torch.cat([part.cumsum(0) for part in rewards.split(lengths.tolist())])
    mistakes = {
        "the sum runs on into the next episode. Start again at every episode's end": whole,
        "the rewards are added without the discount: multiply what follows by it": plain,
        "the step's own reward is missing: the sum starts with r_t itself": right - rewards,
        "that is the return so far; the return-to-go looks ahead": so_far,
        "the discount counts from the episode's first step. Count from the current step": right
        * discount**step,
    }
    _compare(_call(answer, rewards, lengths, discount), right, mistakes)


@_exercise("only termination ends the future; a cut recording keeps V(s').")
def bootstrap_target(answer: Answer) -> None:
    """01: f(rewards, terminated, truncated, next_values, discount), (B,) tensors -> (B,)."""
    rewards = torch.tensor([-1.0, -1.0, -1.0])
    terminated = torch.tensor([False, True, False])
    truncated = torch.tensor([False, False, True])
    value, discount = torch.tensor([-10.0, -20.0, -30.0]), 0.9
    right = rewards + discount * (~terminated) * value
    done = terminated | truncated
    mistakes = {
        "truncation also cuts the future here. The recording stopped there, the task did not": (
            rewards + discount * (~done) * value
        ),
        "the future is cut at truncation and kept at termination: it is the other way round": (
            rewards + discount * (~truncated) * value
        ),
        "a terminated step must not add V(s'): nothing follows it": rewards + discount * value,
        "the discount is missing in front of V(s')": rewards + (~terminated) * value,
    }
    _compare(_call(answer, rewards, terminated, truncated, value, discount), right, mistakes)


@_exercise("0 and 100 are two agreed returns; better than the reference is above 100.")
def normalized_score(answer: Answer) -> None:
    """01: f(returns (E,), reference_min, reference_max) -> (E,)."""
    returns, low, high = torch.tensor([-120.0, -75.0, -30.0, -21.0]), -120.0, -30.0
    right = 100 * (returns - low) / (high - low)
    mistakes = {
        "this is a fraction; papers print it times 100": right / 100,
        "do not clip: a policy may be better than the reference": right.clamp(0, 100),
        "the two references are swapped: the poor return scores 0": 100
        * (returns - high)
        / (low - high),
        "divide by the distance between the references, not by the upper one": 100
        * (returns - low)
        / high,
        "subtract the lower reference first": 100 * returns / (high - low),
    }
    _compare(_call(answer, returns, low, high), right, mistakes)


@_exercise("for tau = 0.5 it is half the squared error, and above 0.5 it forgives overestimates.")
def expectile_loss(answer: Answer) -> None:
    """02: f(difference (B,), tau) -> scalar mean; difference = Q - V."""
    difference, tau = torch.tensor([-2.0, -0.5, 1.0, 3.0]), 0.9
    right = reference_expectile_loss(difference, tau)
    weight = torch.where(difference < 0, 1 - tau, tau)
    square = difference.square()
    mistakes = {
        "the weights are swapped: tau belongs to differences above zero (V too low)": (
            (1 - weight) * square
        ).mean(),
        "absolute differences give quantiles; an expectile squares them": (
            weight * difference.abs()
        ).mean(),
        "the weights are not used, or both sides get the same one": square.mean(),
        "take the mean over the batch, not the sum": (weight * square).sum(),
        "give one number: take the mean over the batch": weight * square,
        "square the difference before it is weighted, not after": (weight * difference)
        .square()
        .mean(),
    }
    _compare(_call(answer, difference, tau), right, mistakes)


@_exercise("shapes agree, so every row is compared with its own target.")
def q_loss(answer: Answer) -> None:
    """02: f(q (B, 1), rewards, continues, next_v (B,), discount) -> scalar mean squared error."""
    q = torch.tensor([[1.0], [2.0], [4.0]])
    rewards, continues = torch.tensor([0.0, 1.0, -1.0]), torch.tensor([1.0, 0.0, 1.0])
    next_v, discount = torch.tensor([2.0, 9.0, 3.0]), 0.5
    target = rewards + discount * continues * next_v
    right = (q.squeeze(1) - target).square().mean()
    mistakes = {
        "(B, 1) - (B,) broadcasts to (B, B): each Q meets every target. Drop q's last dimension": (
            q - target
        )
        .square()
        .mean(),
        "after a terminated step nothing follows: multiply V(s') by `continues`": (
            q.squeeze(1) - rewards - discount * next_v
        )
        .square()
        .mean(),
        "V(s') is not discounted": (q.squeeze(1) - rewards - continues * next_v).square().mean(),
    }
    _compare(_call(answer, q, rewards, continues, next_v, discount), right, mistakes)


@_exercise("good actions weigh much, bad ones little, and none so much that it drowns the rest.")
def advantage_weights(answer: Answer) -> None:
    """02: f(q (B,), v (B,), beta, most) -> weights (B,)."""
    q, v = torch.tensor([-3.0, -1.0, -1.0, 4.0]), torch.tensor([-1.0, -1.0, -1.5, 0.0])
    beta, most = 2.0, 100.0
    raw = (beta * (q - v)).exp()
    mistakes = {
        "cap the weight: one lucky action weighs more than all others together": raw,
        "the advantage has the wrong sign: it is Q - V": (beta * (v - q)).exp().clamp_max(most),
        "beta multiplies the advantage, it does not divide it": ((q - v) / beta)
        .exp()
        .clamp_max(most),
        "beta belongs inside the exponential": (beta * (q - v).exp()).clamp_max(most),
        "the weight is the exponential of beta times the advantage": (beta * (q - v)).clamp_max(
            most
        ),
    }
    _compare(_call(answer, q, v, beta, most), raw.clamp_max(most), mistakes)


@_exercise("soft on both sides, and a gradient survives everywhere.")
def bounded_log_variance(answer: Answer) -> None:
    """03: f(raw (B,), lowest, highest) -> (B,) softly inside the bounds."""
    softplus = torch.nn.functional.softplus
    raw = torch.tensor([-30.0, -4.0, -1.0, 0.4, 8.0], requires_grad=True)
    lowest, highest = torch.tensor(-5.0), torch.tensor(0.5)
    upper = highest - softplus(highest - raw)
    right = lowest + softplus(upper - lowest)
    result = _ask(answer, raw, lowest, highest)
    mistakes = {
        "a hard clamp has no gradient outside the bounds: a member that is too sure can never "
        "take it back. Use softplus": raw.clamp(lowest, highest),
        "only the upper bound is there; push from below with lowest + softplus(x - lowest)": upper,
        "only the lower bound is there; cap it with highest - softplus(highest - x)": lowest
        + softplus(raw - lowest),
    }
    _compare(result, right, mistakes)


@_exercise("symmetric, zero for equal Gaussians, and exact in float32.")
def divergence(answer: Answer) -> None:
    """03: f(mean1, variance1, mean2, variance2), (..., D) -> (...) in nats."""
    mean1, mean2 = torch.tensor([[0.0, 1.0], [2.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 5.0]])
    one, two = torch.tensor([[1.0, 0.5], [4.0, 1.0]]), torch.tensor([[1.0, 2.0], [0.25, 1.0]])
    right = dual_divergence(mean1, one, mean2, two)

    def parts(v1: Tensor, v2: Tensor) -> tuple[Tensor, Tensor]:
        total = v1 + v2
        distance = (mean1 - mean2).square() / (4 * total)
        return distance, 0.5 * (total / (2 * (v1 * v2).sqrt())).log()

    distance, spread = parts(one, two)
    squared = sum(parts(one.square(), two.square()))
    kl = 0.5 * ((two / one).log() + (one + (mean1 - mean2).square()) / two - 1)
    mistakes = {
        "sum over the last dimension: a state has one U, not one per entry": distance + spread,
        "the second half is missing: Gaussians of different width differ too": distance.sum(-1),
        "the first half is missing: Gaussians with different means differ too": spread.sum(-1),
        "the arguments are variances already; do not square them": torch.as_tensor(squared).sum(-1),
        "that is the Kullback-Leibler divergence, which is not symmetric": kl.sum(-1),
        "sum the dimensions; a mean would make U depend on their number": (distance + spread).mean(
            -1
        ),
        "the distance of the means is divided by 4 (v1 + v2)": (
            (mean1 - mean2).square() / (one + two) + spread
        ).sum(-1),
    }
    _compare(_call(answer, mean1, one, mean2, two), right, mistakes)
    far1, far2 = torch.tensor([3000.0]), torch.tensor([3000.25])
    small = torch.tensor([0.01]), torch.tensor([0.012])
    exact = dual_divergence(far1, small[0], far2, small[1])
    found = _tensor(_call(answer, far1, small[0], far2, small[1]))
    if not _same(found, exact, 1e-2):
        raise _Wrong(
            f"right on paper, but for means near 3000 float32 gives {_short(found)} where the "
            f"truth is {_short(exact)}. Subtract the means first, then square"
        )


@_exercise("runs of suboptimal steps, none of which crosses the end of an episode.")
def segments(answer: Answer) -> None:
    """04: f(suboptimal (N,), last (N,)) -> list of (first step, length)."""
    marked = torch.tensor([1, 1, 0, 1, 1, 1, 0, 0, 1], dtype=torch.bool)
    last = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 1], dtype=torch.bool)
    found = find_segments(marked, last, torch.zeros(9))
    right = [(int(f), int(n)) for f, n in zip(found.first, found.length, strict=True)]
    result = _call(answer, marked, last)
    try:
        got = [(int(f), int(n)) for f, n in result]
    except (TypeError, ValueError):
        raise _Wrong("expected a list of pairs (first step, length)") from None
    if got == right:
        return
    hints = (
        ([(0, 2), (3, 3), (8, 1)], "steps 3 to 5 were joined, but an episode ends after step 4"),
        ([(0, 2), (3, 2)], "segments of a single step count too, also the one at the very end"),
        ([(0, 2), (3, 2), (5, 1)], "the segment that is still open at the end of the data is lost"),
        ([(f, f + n) for f, n in right], "the second number is the length, not the end"),
        ([(f, f + n - 1) for f, n in right], "the second number is the length, not the last step"),
        ([(f, n + 1) for f, n in right], "every segment is one step too long"),
        ([(f, n - 1) for f, n in right], "every segment is one step too short"),
    )
    for wrong, hint in hints:
        if got == wrong:
            raise _Wrong(hint)
    raise _Wrong(f"expected {right}, got {got}")


@_exercise("rewards up to the end, and beyond the horizon the value, unless the task has ended.")
def plan_score(answer: Answer) -> None:
    """04: f(rewards (N, H), terminated (N, H), final_values (N,), discount) -> (N,)."""
    rewards = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, 5.0, -1.0]])
    terminated = torch.tensor([[False, False, False], [False, True, False]])
    values, discount = torch.tensor([-8.0, -8.0]), 0.5
    weight = discount ** torch.arange(3)
    before = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    ended = terminated.any(1)
    inside, beyond = (rewards * weight * before).sum(1), discount**3 * values
    right = inside + (~ended) * beyond
    mistakes = {
        "a future that terminated gets no terminal value": inside + beyond,
        "rewards after the terminal step do not count": (rewards * weight).sum(1)
        + (~ended) * beyond,
        "neither rewards nor value count after the terminal step": (rewards * weight).sum(1)
        + beyond,
        "the terminal value lies H steps away: discount it by discount**H": inside
        + (~ended) * values,
        "the terminal value is missing: the plan would be blind beyond H steps": inside,
        "the reward of step h is discounted by discount**h": (rewards * before).sum(1)
        + (~ended) * beyond,
        "one factor too few: after H rewards V is discounted by discount**H": inside
        + (~ended) * discount**2 * values,
    }
    _compare(_call(answer, rewards, terminated, values, discount), right, mistakes)


@_exercise("a broken candidate never wins.")
def best_candidate(answer: Answer) -> None:
    """04: f(scores (N,)) -> index of the best finite score."""
    nan, infinite = float("nan"), float("inf")
    cases = (
        ([-3.0, -1.0, -2.0], 1, "the greatest score wins; this picks another"),
        ([-3.0, nan, -1.0], 2, "argmax and max think that NaN is the greatest number of all"),
        ([-3.0, infinite, -1.0], 2, "an infinite score is a broken one: refuse it as well"),
        ([nan, -3.0, -infinite], 1, "NaN replaced by 0 or by the mean can still win"),
    )
    for scores, right, hint in cases:
        result = _tensor(_call(answer, torch.tensor(scores)))
        if result.numel() != 1 or int(result) != right:
            raise _Wrong(f"for scores {scores} the best is number {right}: {hint}")


@_exercise("step t sees itself and everything before it, nothing after.")
def causal_mask(answer: Answer) -> None:
    """05: f(T) -> (T, T) bool, true where row t may look at column j."""
    right = torch.ones(4, 4, dtype=torch.bool).tril()
    result = _tensor(_call(answer, 4))
    if result.dtype != torch.bool:
        raise _Wrong(f"expected a mask of booleans, got {result.dtype}")
    mistakes = {
        "rows and columns are swapped: this policy sees only its own future": right.T,
        "a step may see itself, or its own observation would be hidden from it": right.tril(-1),
        "this is the complement: true marks what may be seen": ~right,
        "every step sees the whole window, the future too": torch.ones_like(right),
    }
    _compare(result, right, mistakes)


@_exercise("regression minus alpha times the scaled Q, and the scale gets no gradient.")
def ipd_loss(answer: Answer) -> None:
    """05: f(predicted (B, A), actions (B, A), q (B,), v (B,), alpha) -> scalar."""
    actions, v, alpha = torch.tensor([[0.5, 0.0], [0.0, -1.0]]), torch.tensor([-4.0, -2.0]), 0.4

    def pieces() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        predicted = torch.tensor([[0.0, 0.2], [0.4, -0.6]], requires_grad=True)
        q = -5.0 + 3 * predicted.sum(1)
        return predicted, q, (predicted - actions).square().mean(), q - v

    predicted, q, regression, gap = pieces()
    ones = torch.ones(1, 2)
    right, _ = distillation_loss(
        predicted[None], actions[None], ones, ones.bool(), q[None], v[None], alpha, "advantage"
    )
    (gradient,) = torch.autograd.grad(right, predicted)
    predicted, q, regression, gap = pieces()
    scale = gap.abs().mean()
    result = _ask(answer, predicted, actions, q, v, alpha)
    mistakes = {
        "plus alpha Q would push the policy towards the worst actions": regression
        + alpha * gap.mean() / scale,
        "Q is not scaled: divide by the batch mean of |Q - V|": regression - alpha * gap.mean(),
        "alpha is not used": regression - gap.mean() / scale,
        "the value term is missing": regression,
        "subtract V from Q; the loss then reads as an advantage": regression
        - alpha * q.mean() / scale,
        "divide by the mean of |Q - V|, not by the mean of |Q|": regression
        - alpha * gap.mean() / q.abs().mean(),
        "the squared error is a mean over the action's entries, not a sum": regression * 2
        - alpha * gap.mean() / scale,
    }
    _compare(result, right, mistakes)
    if not isinstance(result, Tensor) or not result.requires_grad:
        raise _Wrong("the loss carries no gradient; do not detach the whole of it")
    (found,) = torch.autograd.grad(result, predicted)
    if not _same(found, gradient):
        raise _Wrong("the value is right, its gradient is not: detach the scale |Q - V|")


@_exercise("resample the seeds, average each resample, read the 2.5 and 97.5 percentiles.")
def interval(answer: Answer) -> None:
    """06: f(scores (n,) array) -> (low, high), 95 % bootstrap interval of the mean."""
    scores = np.array([61.0, 70.0, 75.0, 78.0, 96.0])
    right = bootstrap_interval(scores)
    result = np.asarray(_call(answer, scores.copy()), dtype=float)
    if result.shape != (2,):
        raise _Wrong("give two numbers, (low, high)")
    low, high = result
    if low > high:
        raise _Wrong("low and high are swapped")
    tolerance = 1.0
    spreads = {
        "mean plus and minus the standard deviation shows how seeds scatter, not how well the "
        "mean is known": (scores.mean() - scores.std(), scores.mean() + scores.std()),
        "mean plus and minus the standard deviation (n - 1) is no interval of the mean": (
            scores.mean() - scores.std(ddof=1),
            scores.mean() + scores.std(ddof=1),
        ),
        "these are percentiles of the seeds; average each resample first": tuple(
            np.percentile(scores, [2.5, 97.5])
        ),
        "this is the range of the seeds": (scores.min(), scores.max()),
    }
    if abs(low - right.low) < tolerance and abs(high - right.high) < tolerance:
        return
    for hint, (wrong_low, wrong_high) in spreads.items():
        if abs(low - wrong_low) < tolerance and abs(high - wrong_high) < tolerance:
            raise _Wrong(hint)
    raise _Wrong(
        f"expected about ({right.low:.1f}, {right.high:.1f}), got ({low:.1f}, {high:.1f}): 10,000 "
        "resamples of all n seeds with replacement"
    )


@_exercise("pairing removes what both methods share: the same data, starts and values.")
def paired_difference(answer: Answer) -> None:
    """06: f(ours (n,), theirs (n,)) -> (mean, low, high) of the paired difference."""
    ours, theirs = (
        np.array([80.0, 60.0, 90.0, 70.0, 50.0]),
        np.array([77.0, 58.0, 86.0, 67.0, 49.0]),
    )
    right = paired_interval(ours, theirs)
    result = np.asarray(_call(answer, ours.copy(), theirs.copy()), dtype=float)
    if result.shape != (3,):
        raise _Wrong("give three numbers: (mean, low, high)")
    mean, low, high = result
    if abs(mean + right.mean) < 1e-6:
        raise _Wrong("the sign is turned: subtract theirs from ours")
    if abs(mean - right.mean) > 1e-6:
        raise _Wrong(f"the mean difference is {right.mean:.1f}, got {mean:.1f}")
    if high - low > 3 * (right.high - right.low):
        raise _Wrong(
            "the interval is far too wide: take the difference seed by seed first, then resample "
            "the differences"
        )
    if abs(low - right.low) > 0.3 or abs(high - right.high) > 0.3:
        raise _Wrong(
            f"expected about ({right.low:.1f}, {right.high:.1f}), got ({low:.1f}, {high:.1f})"
        )


@_exercise("it asks how often, not by how much, and no scale of scores can distort it.")
def improvement(answer: Answer) -> None:
    """06: f(ours (n,), theirs (m,)) -> probability that a run of ours beats one of theirs."""
    ours, theirs = np.array([3.0, 5.0, 9.0]), np.array([5.0, 2.0])
    more, ties = (ours[:, None] > theirs).mean(), (ours[:, None] == theirs).mean()
    result = _ask(answer, ours.copy(), theirs.copy())
    _compare(
        result,
        float(more + ties / 2),
        {
            "a tie is half a win": float(more),
            "a tie is half a win, not a whole one": float(more + ties),
            "that is how often *theirs* wins": float(1 - more - ties / 2),
            "that compares the means; count the pairs of runs": float(ours.mean() > theirs.mean()),
            "that is a number of pairs; divide by how many pairs there are": float(
                (more + ties / 2) * ours.size * theirs.size
            ),
        },
    )


@_exercise("keep what the rows show, drop what they do not, and name the maze.")
def decision(answer: Mapping[str, Any]) -> None:
    """06: which claims do the committed results support, and what becomes of the paper?"""
    rows = reviewed()
    shown = {claim: found.low > 0 for claim, found in rows.items()}
    hints = {
        claim: f"the interval [{found.low:+.2f}, {found.high:+.2f}] "
        + ("lies above zero as a whole" if shown[claim] else "contains zero: it may be nothing")
        for claim, found in rows.items()
    }
    wanted = "revise" if any(shown.values()) else "reject"
    hints["decision"] = (
        "what is shown deserves to be printed, what is not does not, and one maze is one maze"
    )
    _choices(answer, {**shown, "decision": wanted}, hints)


def _parts(answer: Any, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss function's result: the loss, and its parts by name."""
    result = _ask(answer, *arguments)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise _Wrong("return two things: the loss, and a dictionary with its parts")
    return result


def _gradients(loss: Tensor, module: torch.nn.Module) -> dict[str, Tensor]:
    """Gradient of every trainable parameter by name, zero where there is none."""
    if not loss.requires_grad:
        raise _Wrong("the loss carries no gradient; only targets and weights belong under no_grad")
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(trained.items(), found, strict=True)
    }


def _step(number: int, name: str, parts: Mapping[str, Any], right: Any, mistakes: Any) -> None:
    """One part of a longer exercise."""
    if name not in parts:
        raise _Wrong(f"step {number}: the dictionary has no {name!r}")
    try:
        _compare(parts[name], right, mistakes)
    except _Wrong as hint:
        raise _Wrong(f"step {number}, {name}: {hint}") from None


@_exercise("three losses, three targets without a gradient. Now train with it.")
def iql_loss(answer: Answer) -> None:
    """02: f(values, batch, config, bounds) -> (loss, {"v_loss", "q_loss", "policy_loss"})."""
    values, config = small_values()
    draw = torch.Generator().manual_seed(1)
    s, n = (torch.randn(6, 2, generator=draw) for _ in range(2))
    a, r = torch.rand(6, 1, generator=draw) * 2 - 1, torch.randn(6, generator=draw)
    batch = Batch(s, a, r, n, torch.tensor([1.0, 0, 1, 1, 0, 1]))
    bounds = torch.tensor(-1.0), torch.tensor(1.0)
    config = replace(config, max_weight=1.2)
    loss, parts = _parts(answer, values, batch, config, bounds)
    right, truth = reference_iql_loss(values, batch, config, bounds)
    with torch.no_grad():
        x, pairs = values.features(s), torch.cat([values.features(s), a], -1)
        q, online = values.q_target(pairs).squeeze(-1).mean(0), values.q_net(pairs).squeeze(-1)
        v, next_v = (values.v_net(y).squeeze(-1) for y in (x, values.features(n)))
        tau, gamma = config.expectile, config.discount

        def q_loss(target: Tensor) -> Tensor:
            return (target.clamp(*bounds) - online).square().mean()

        error = (a - values.policy(s)) * (-values.log_deviation).exp()
        weight = (config.temperature * (q - v.mean(0))).exp()
        log_probability = -(0.5 * error.square() + values.log_deviation).sum(-1)
        next_mean = next_v.mean(0)
    _step(
        1,
        "v_loss",
        parts,
        truth["v_loss"],
        {
            "the balance is turned round: tau weighs u = Q - V > 0": reference_expectile_loss(
                q - v, 1 - tau
            ),
            "without tau this is the mean of Q, not its upper expectile": (q - v).square().mean(),
            "V follows the slow copy, values.q_target": reference_expectile_loss(
                online.mean(0) - v, tau
            ),
        },
    )
    _step(
        2,
        "q_loss",
        parts,
        truth["q_loss"],
        {
            "a terminated step has no value after it: multiply by batch.continues": q_loss(
                r + gamma * next_mean
            ),
            "Q looks ahead: V of the *next* observation": q_loss(
                r + gamma * batch.continues * v.mean(0)
            ),
            "the discount is missing": q_loss(r + batch.continues * next_mean),
            "clamp the target to the bounds": (r + gamma * batch.continues * next_mean - online)
            .square()
            .mean(),
        },
    )
    _step(
        3,
        "policy_loss",
        parts,
        truth["policy_loss"],
        {
            "the sign: a greater log-probability must lower the loss": (
                weight.clamp_max(1.2) * log_probability
            ).mean(),
            "clamp the weights at config.max_weight": -(weight * log_probability).mean(),
            "without weights this is behaviour cloning": -log_probability.mean(),
        },
    )
    _compare(loss, right, {"the three losses are summed, not averaged": right / 3})
    mine, theirs = _gradients(loss, values), _gradients(right, values)
    for prefix, hint in (
        ("v_net", "the target of Q and the advantage are constants: compute them under no_grad"),
        ("q_net", "Q appears in its own loss alone"),
        ("", "the policy learns from weights that carry no gradient"),
    ):
        if any(not _same(mine[k], theirs[k]) for k in theirs if k.startswith(prefix)):
            raise _Wrong(f"the numbers are right, the gradient is not: {hint}")


@_exercise("a block that cannot look ahead. Now train with it.")
def block_forward(answer: Answer) -> None:
    """05: f(block, x (B, T, C)) -> (B, T, C)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block, x = Block(8, 2, 0.0).eval(), torch.randn(2, 4, 8)
    weights = block.attention(x)
    q, k, v = block.qkv(block.norm1(x)).view(2, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)

    def finish(mixed: Tensor, start: Tensor = x) -> Tensor:
        y = start + block.out(mixed.transpose(1, 2).reshape(2, 4, 8))
        feed = block.down(torch.nn.functional.gelu(block.up(block.norm2(y))))
        return torch.as_tensor(y + feed)

    scores = q @ k.transpose(-1, -2)
    hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)
    with torch.no_grad():
        mistakes = {
            "every step sees the future: hide columns after the row before the softmax": finish(
                (scores / 2).softmax(-1) @ v
            ),
            "divide the scores by the root of the width of one head": finish(
                scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
            ),
            "that is the root of the whole width; take the width of one head": finish(
                (scores / 8**0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v
            ),
            "hiding after the softmax leaves rows that do not sum to 1": finish(
                (scores / 2).softmax(-1).masked_fill(hidden, 0.0) @ v
            ),
            "the first skip is missing: x + attention": finish(weights @ v, torch.zeros_like(x)),
            "the feed-forward half is missing": x
            + block.out((weights @ v).transpose(1, 2).reshape(2, 4, 8)),
        }
        _compare(_ask(answer, block, x), block(x), mistakes)


@_exercise(
    "regression where it is wanted, guidance everywhere, padding nowhere. Now train with it."
)
def policy_loss(answer: Answer) -> None:
    """05: f(policy, values, examples, rows, valid, steps, config) -> (loss, parts)."""
    values, _ = small_values()
    values.requires_grad_(False)
    config = DistillationConfig(context=3, width=8, heads=2, alpha=0.5)
    draw = torch.Generator().manual_seed(2)
    episodes = [
        Episode(
            torch.randn(n + 1, 2, generator=draw).numpy(),
            (torch.rand(n, 1, generator=draw) * 2 - 1).numpy(),
            -np.ones(n),
            True,
        )
        for n in (4, 2)
    ]
    data = from_episodes(episodes, "made up")
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    conditions, v = torch.randn(6, generator=draw), values.v(data.observations)
    examples = Examples(data, conditions, weights, torch.zeros(6, dtype=torch.bool), v)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = make_policy(2, 1, config, 4)
    rows, valid = data.windows(torch.tensor([0, 4]), 3)
    steps = torch.arange(3).expand(2, 3)
    given = (policy, values, examples, rows, valid, steps, config)
    loss, parts = _parts(answer, *given)
    right, truth = reference_policy_loss(*given)
    with torch.no_grad():
        s, a, mask = data.observations[rows], data.actions[rows], valid.float()
        predicted = policy(conditions[rows], s, a, steps, valid)
        error, w = (predicted - a).square().mean(-1), weights[rows]
        gap, count = values.q(s, predicted) - v[rows], mask.sum()
        scale = (gap.abs() * mask).sum() / count
    _step(
        1,
        "regression",
        parts,
        truth["regression"],
        {
            "steps with weight 0 are not imitated: multiply by the weights": (error * mask).sum()
            / count,
            "padding counts in the mean: multiply by the mask, divide by its sum": (
                error * w
            ).mean(),
            "divide by the number of real steps, not by the sum of the weights": (
                error * w * mask
            ).sum()
            / (w * mask).sum(),
        },
    )
    _step(
        2,
        "guidance",
        parts,
        truth["guidance"],
        {
            "divide by the batch mean of |Q - V|": (gap * mask).sum() / count,
            "padding counts in the mean: multiply by the mask, divide by its sum": gap.mean()
            / gap.abs().mean(),
            "subtract V: the term is an advantage": ((gap + v[rows]) * mask).sum() / count / scale,
        },
    )
    regression, guidance = truth["regression"], truth["guidance"]
    _compare(
        loss,
        right,
        {
            "plus alpha Q would push the policy towards the worst actions": regression
            + config.alpha * guidance,
            "alpha is not used": regression - guidance,
        },
    )
    mine, theirs = _gradients(loss, policy), _gradients(right, policy)
    if any(not _same(mine[key], theirs[key]) for key in theirs):
        raise _Wrong("the numbers are right, the gradient is not: detach the scale |Q - V|")


@_exercise("bounded, weighted, and the weight is no way to lower the loss. Now train with it.")
def model_loss(answer: Answer) -> None:
    """03: f(model, rows, config) -> (loss, {"log_variance", "likelihood", "weight"})."""
    model, config, rows = small_model()
    config = replace(config, variance_weight=0.3)
    loss, parts = _parts(answer, model, rows, config)
    right = reference_model_loss(model, rows, config)
    softplus = torch.nn.functional.softplus
    with torch.no_grad():
        mean, raw, _ = model.net.mlp(rows[..., :3]).split(model.net.split, dim=-1)
        low, high = model.net.lowest, model.net.highest
        capped = high - softplus(high - raw)
        x = low + softplus(capped - low)
        square = (rows[..., 3:5] - mean).square()
        likelihood, weight = 0.5 * (square * (-x).exp() + x), (0.3 * x).exp()
        pull = 0.01 * (high - low)

        def total(terms: Tensor) -> Tensor:
            return terms.mean(dim=(1, 2)).sum() + pull.mean(0).sum()

    _step(
        1,
        "log_variance",
        parts,
        x,
        {
            "this is the raw output; keep it softly between the bounds (exercise 1)": raw,
            "a hard clamp has no gradient outside the bounds; use softplus": raw.clamp(low, high),
            "only the upper bound is there": capped,
        },
    )
    _step(
        2,
        "likelihood",
        parts,
        likelihood,
        {
            "divide the squared error by the variance: times exp(-log_variance)": 0.5
            * (square * x.exp() + x),
            "the log-variance is missing: a large variance would excuse everything": 0.5
            * square
            * (-x).exp(),
            "the half is missing, on both terms": 2 * likelihood,
            "that is a mean already; keep (M, B, D), the weight comes first": likelihood.mean(),
        },
    )
    _step(
        3,
        "weight",
        parts,
        weight,
        {
            "the exponent is positive: where the variance is large the weight is, too": 1 / weight,
            "raise the variance, exp(log_variance), to the power of config.variance_weight": 0.3
            * x,
            "the variance is exp(log_variance); exp(0.5 log_variance) is the deviation": (
                0.15 * x
            ).exp(),
            "the power is config.variance_weight, not 1": x.exp(),
        },
    )
    _compare(
        loss,
        right,
        {
            "the weight is not used: this is the plain likelihood": total(likelihood),
            "every member has a loss of its own: sum over members, mean over the rest": (
                weight * likelihood
            ).mean()
            + pull.mean(0).sum(),
            "the pull on the bounds is missing": total(weight * likelihood) - pull.mean(0).sum(),
            "the pull is a mean over the members": total(weight * likelihood)
            - pull.mean(0).sum()
            + pull.sum(),
        },
    )
    mine, theirs = _gradients(loss, model.net), _gradients(right, model.net)
    if any(not _same(mine[key], theirs[key]) for key in theirs):
        raise _Wrong("the numbers are right, the gradient is not: detach the weight")


@_exercise("every pair once, and one number per state and action.")
def disagreement(answer: Answer) -> None:
    """03: f(means (M, B, D), variances (M, B, D)) -> U (B,)."""
    draw = torch.Generator().manual_seed(3)
    means = torch.randn(4, 3, 2, generator=draw)
    variances = 0.2 + torch.rand(4, 3, 2, generator=draw)
    right = ensemble_divergence(means, variances)
    next_ones = torch.arange(4).roll(-1)
    ring = dual_divergence(means, variances, means[next_ones], variances[next_ones])
    whole = means.mean(0).expand_as(means), variances.mean(0).expand_as(variances)
    _compare(
        _call(answer, means, variances),
        right,
        {
            "a member does not differ from itself: average over pairs i < j alone": right * 3 / 4,
            "average over the pairs, do not sum them": right * 6,
            "every pair counts, not neighbours alone": ring[:-1].mean(0),
            "every pair counts, not neighbours alone (in a ring)": ring.mean(0),
            "that is the variance of the means, the noise left out": means.var(0, correction=0).sum(
                -1
            ),
            "compare the members with each other, not with their mean": dual_divergence(
                means, variances, *whole
            ).mean(0),
            "one number per state and action: do not average over the batch": right.mean(),
        },
    )


_DOUBTS = torch.tensor(
    [
        [0.1, 0.1, 0.1, 0.1],  # always sure
        [0.1, 2.0, 0.1, 0.1],  # doubtful once
        [0.1, 0.1, 0.1, 0.1],  # ends at its second step
        [0.1, 0.1, torch.nan, 0.1],
        [2.0, 0.1, 0.1, 0.1],  # doubtful at once
        [0.9, 0.9, 0.9, 0.9],  # its sum soon exceeds the threshold
        [0.1, 1.0, 0.1, 0.1],  # exactly at the threshold
    ]
)
_ENDS = torch.zeros(7, 4, dtype=torch.bool).index_put(
    (torch.tensor([2]), torch.tensor([1])), torch.tensor(True)
)


def _plan(states: Tensor) -> Tensor:
    """States (n, 3) are row, clock and position; the plan depends on clock and position."""
    return torch.stack([1 - states[:, 2] / 10, states[:, 1]], dim=1)


def _look(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A world of seven paths whose U and ends are written down above."""
    row, clock = states[:, 0].round().long(), states[:, 1].round().long()
    now = clock.clamp_max(3)
    following = torch.stack([states[:, 0], states[:, 1] + 1, states[:, 2] + actions[:, 0]], dim=1)
    return following, -1.0 - clock - 10 * row, _ENDS[row, now], _DOUBTS[row, now]


def _lengths(mistake: str = "") -> Tensor:
    """How many steps of the seven paths are kept, (7,), by the rule or with a mistake in it."""
    kept = []
    for doubts, ends in zip(_DOUBTS.tolist(), _ENDS.tolist(), strict=True):
        length, total, clock = 0, 0.0, 0
        for _ in range(4):
            doubt, end = doubts[clock], ends[clock]
            total += doubt
            judged = total if mistake == "sum" else doubt
            trusted = not judged > 1 if mistake == "nan" else judged <= 1
            trusted = judged < 1 if mistake == "strict" else trusted
            length += trusted or mistake == "late"
            if not trusted and mistake not in ("again", "stale"):
                break
            if end and mistake != "goes on":
                length -= mistake == "end"
                break
            # A next state that was never written is still the start.
            clock = 0 if mistake == "still" or (not trusted and mistake == "stale") else clock + 1
        kept.append(length)
    return torch.tensor(kept)


@_exercise("plan, one step, look at U, again: this is Algorithm 1. Now run it in the maze.")
def imagine_paths(answer: Answer) -> None:
    """04: f(start, plan, step, threshold, length) -> (observations, actions, rewards, terminated,
    kept)."""
    start = torch.stack([torch.arange(7.0), torch.zeros(7), torch.arange(7.0)], dim=1)
    result = _ask(answer, start.clone(), _plan, _look, torch.tensor(1.0), 4)
    if not (isinstance(result, tuple) and len(result) == 5):
        raise _Wrong("return five tensors: observations, actions, rewards, terminated, kept")
    names = ("observations", "actions", "rewards", "terminated", "kept")
    found = dict(zip(names, result, strict=True))
    right = _lengths()
    _step(
        1,
        "kept",
        found,
        right,
        {
            "the step was kept before its U was looked at: look first, then keep": _lengths("late"),
            "a path goes on after the task has terminated": _lengths("goes on"),
            "the step that terminates the task is part of the path: keep it, then stop": _lengths(
                "end"
            ),
            "a path that was stopped goes on later: remove it from `active`": _lengths("again"),
            "a stopped path goes on later, anew: remove it from `active`": _lengths("stale"),
            "the paths never move: the next state belongs at time t + 1": _lengths("still"),
            "NaN passes: ask whether U <= threshold; `U > threshold` is false for NaN": _lengths(
                "nan"
            ),
            "compare the U of this very step with the threshold, not the sum so far": _lengths(
                "sum"
            ),
            "U may be as large as the threshold: <=": _lengths("strict"),
            "one doubtful path stops all of them; each row has its own U": torch.zeros_like(right),
        },
    )
    paths, stale = [start], [start]
    for _ in range(4):
        paths.append(_look(paths[-1], _plan(paths[-1]))[0])
        stale.append(_look(stale[-1], _plan(start))[0])
    inside = torch.arange(4) < right[:, None]
    before = torch.cat([torch.ones(7, 1, dtype=torch.bool), inside], dim=1)[..., None]
    states, old = torch.stack(paths, dim=1), torch.stack(stale, dim=1)
    found = {name: _tensor(tensor) for name, tensor in found.items()}
    for name, mask in (
        ("observations", before),
        ("actions", inside[..., None]),
        ("rewards", inside),
        ("terminated", inside),
    ):
        if found[name].shape[:2] != mask.shape[:2]:
            raise _Wrong(
                f"step 1: {name} has shape {tuple(found[name].shape)}, expected "
                f"{tuple(mask.shape[:2])} in front"
            )
        found[name] = torch.where(mask, found[name], torch.zeros_like(found[name]))
    _step(
        2,
        "observations",
        found,
        states * before,
        {
            "plan again from the imagined state, not from the start": old * before,
        },
    )
    acted = torch.stack([_plan(state) for state in paths[:4]], dim=1)
    given = torch.stack([_look(state, _plan(state))[1] for state in paths[:4]], dim=1)
    _step(3, "actions", found, acted * inside[..., None], {})
    _step(3, "rewards", found, given * inside, {})
    _step(3, "terminated", found, _ENDS & inside, {})


@_exercise("found. Now think of the training run that would have swallowed it.")
def planted_bug(answer: Mapping[str, Any]) -> None:
    """07: {"log": number, "kind": one of practice.BUGS, "first episode": from which one on}."""
    _chosen(answer, ("log", "kind", "first episode"))
    if answer["kind"] not in BUGS:
        raise _Wrong(f"no such kind; choose one of {', '.join(map(repr, BUGS))}")
    truth = planted(int(answer["log"]))
    ended, late, borrowed, large = BUGS
    tests = {
        ended: "then episodes would end with `terminated`: sum it up per episode",
        late: "then a reward would belong to the row before: compute each from its own row",
        borrowed: "then a last next observation would be the next episode's first one: compare",
        large: "then actions would leave [-1, 1]: look at the largest of each episode",
    }
    if answer["kind"] != truth.kind:
        raise _Wrong(tests[answer["kind"]])
    if answer["first episode"] != truth.first_episode:
        side = "earlier" if answer["first episode"] > truth.first_episode else "later"
        raise _Wrong(f"the kind is right, but it begins {side}")


CLOSE = 0.125
"""Largest mean distance of V from full force, as a share of its range, that counts as learned."""


@_exercise("V is near what full force earns in all three, and each needed another setting.")
def own_settings(answer: Mapping[str, Any]) -> None:
    """07: {data set: (expectile, discount, reward scale)} for the three corridors."""
    _chosen(answer, CORRIDORS)
    for name, corridor in CORRIDORS.items():
        try:
            expectile, discount, scale = (float(number) for number in answer[name])
            tried = practice.try_settings(name, expectile, discount, scale)
        except (TypeError, ValueError) as error:
            raise _Wrong(f"{name}: give (expectile, discount, reward scale); {error}") from None
        steps = 1 / corridor.reach
        blind = 1 / (1 - discount) < steps
        if tried.error <= CLOSE and not blind:
            continue
        size = scale * float(np.abs(tried.earned).max())
        if blind:
            why = f"a discount of {discount:g} looks {1 / (1 - discount):.0f} decisions ahead"
        elif corridor.good < 1 and expectile < 0.99:
            why = "V describes the usual recording, and the good ones are few: raise the expectile"
        elif size > 50 or size < 0.5:
            why = f"the scaled returns reach {size:.3g}: V begins at 0 and learns tens best"
        else:
            why = "look at the figure: where does V leave the line?"
        far = int(tried.place.argmin())
        raise _Wrong(
            f"{name}: at the far end V says {tried.promised[far]:.0f} where full force earns "
            f"{tried.best[far]:.0f}; {why}"
        )
