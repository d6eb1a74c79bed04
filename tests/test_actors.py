"""Actors of one run share nothing that one of them changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ipd_lite.paper.acting import Actor
from ipd_lite.settings import override
from ipd_lite.study.actors import actors
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.study.run import configured
from ipd_lite.tasks.registry import get_task
from tests.recorded import TASK, smoke, umaze_data


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    umaze_data()
    return tmp_path_factory.mktemp("runs")


def step(actor: Actor, observations: Tensor) -> Tensor:
    rows = torch.arange(len(observations))
    return actor.act(observations, torch.full((len(observations),), -1.0), rows)


def begun(actor: Actor, slots: int) -> Actor:
    actor.begin(slots)
    actor.reset(torch.arange(slots))
    return actor


@pytest.mark.parametrize("method", ["iql", "bc", "td3bc", "cql", "ipd", "dt"])
def test_actors_in_turn_act_as_each_does_alone(method: str, out: Path) -> None:
    quick = override(smoke(), {"values.updates": 20, "distillation.updates": 20})
    config = configured(quick, method)
    pipeline = Pipeline(get_task(TASK), 0, config, out, torch.device("cpu"))
    observations = umaze_data().observations[:12].reshape(3, 4, -1)
    first, last = (begun(actor, 4) for actor in actors(pipeline, method))
    turns = [(step(first, o), step(last, o)) for o in observations]
    # Each alone, from a fresh look at the same stages, and the other way round.
    for position in (1, 0):
        alone = begun(actors(pipeline, method)[position], 4)
        for observation, pair in zip(observations, turns, strict=True):
            assert torch.equal(step(alone, observation), pair[position])
    assert not torch.equal(turns[-1][0], turns[-1][1])
