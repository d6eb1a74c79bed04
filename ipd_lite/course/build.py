"""Stages trained with the reader's own functions, and compared with the package's."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ipd_lite.paper.acting import Actor
from ipd_lite.paper.transformer import Block
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.rollout import rollout

T = TypeVar("T")


def lines_of(function: Callable[..., Any]) -> None:
    """Print the package's own lines of a function."""
    print(inspect.getsource(function))


def use(train: Callable[[], T]) -> T | None:
    """What `train` makes with the reader's functions; None, and a line that says why, where they
    are not written yet or do not work."""
    try:
        return train()
    except NotImplementedError:
        message = "not yet: the notebook goes on with the package's version"
    except Exception as error:  # the reader's code may fail in any way
        message = f"not right: training stopped with {type(error).__name__}: {error}"
    print(message)  # here the exception is gone, and with it the bar of the training
    return None


def score(pipeline: Pipeline, actor: Actor, episodes: int = 100) -> float:
    """Normalized score of a policy over the evaluation's first episodes."""
    most = min(episodes, pipeline.config.evaluation.episodes)
    config = replace(pipeline.config.evaluation, episodes=most)
    returns = rollout(pipeline.task, actor, config, device=pipeline.device).returns
    return float(pipeline.task.normalized_score(returns.mean()))


@contextlib.contextmanager
def attending(forward: Callable[[Block, Tensor], Tensor]) -> Iterator[None]:
    """Every transformer block computes `forward(block, x)` until the context ends."""
    before = Block.forward
    Block.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Block.forward = before  # type: ignore[method-assign]


def small_values(seed: int = 0) -> Any:
    """Untrained values of a task with two observations and one action, for the checks."""
    from ipd_lite.paper.values import ValueConfig, Values

    config = ValueConfig(width=8, q_networks=2, v_networks=2, discount=0.9, expectile=0.8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        values = Values(config, 2, 1)
        with torch.no_grad():  # else the target network would be the same as the online one
            for parameter in values.q_target.parameters():
                parameter.mul_(1.3)
    return values, config
