"""The built exercises in use: trained with a folded solution, a stage is the package's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ipd_lite.course import build
from ipd_lite.paper.acting import FunctionActor
from ipd_lite.paper.distillation import train_policy
from ipd_lite.paper.transformer import Block
from ipd_lite.paper.values import train_values
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.registry import get_task
from tests.recorded import TASK, smoke, umaze_data
from tests.test_notebooks import FOLDER, exercises


def solutions(name: str) -> dict[str, Any]:
    """Every folded solution of a notebook, by name."""
    scope: dict[str, Any] = {"torch": torch, "np": np}
    for _, solution in exercises(next(FOLDER.glob(f"{name}_*.ipynb"))):
        exec(solution, scope)
    return scope


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("runs")
    return Pipeline(get_task(TASK), 0, smoke(), out, torch.device("cpu"), data=umaze_data())


def assert_same(mine: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for name, parameter in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], parameter, rtol=1e-3, atol=1e-4)


def test_values_with_the_reader_s_loss(pipeline: Pipeline) -> None:
    dimensions = pipeline.task.position_dimensions
    mine = train_values(
        pipeline.dataset, pipeline.config.values, seed=0, position_dimensions=dimensions,
        loss=solutions("02")["iql_loss"],
    )  # fmt: skip
    assert_same(mine.v_net, pipeline.values.v_net)
    assert_same(mine.actor, pipeline.values.actor)
    found = build.score(pipeline, FunctionActor(mine.policy), episodes=2)
    assert found == pytest.approx(build.score(pipeline, FunctionActor(mine.policy), episodes=2))


def test_policy_with_the_reader_s_block_and_loss(pipeline: Pipeline) -> None:
    scope, before = solutions("05"), Block.forward
    with build.attending(scope["block_forward"]):
        assert Block.forward is scope["block_forward"]
        mine, _ = train_policy(
            pipeline.examples, pipeline.values, pipeline.config.distillation, seed=0,
            episode_steps=int(pipeline.dataset.lengths.max()), loss=scope["policy_loss"],
        )  # fmt: skip
    assert Block.forward is before
    assert_same(mine, pipeline.policy[0])


def test_the_package_s_block_comes_back_after_an_error() -> None:
    before = Block.forward
    with pytest.raises(ZeroDivisionError), build.attending(lambda block, x: x):
        raise ZeroDivisionError
    assert Block.forward is before


def unwritten() -> None:
    raise NotImplementedError


def test_open_and_broken_exercises_let_the_notebook_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert build.use(unwritten) is None
    assert capsys.readouterr().out.startswith("not yet: ")
    assert build.use(lambda: 1 / 0) is None
    assert re.match("not right: training stopped with ZeroDivisionError", capsys.readouterr().out)
    assert build.use(lambda: 3) == 3
    build.lines_of(train_values)
    assert "def train_values(" in capsys.readouterr().out


def test_notebooks_print_the_package_s_lines_after_the_exercise() -> None:
    """Equation and code are read together, but not before the reader has written his own."""
    for path in sorted(Path(FOLDER).glob("0[25]_*.ipynb")):
        text = path.read_text()
        assert text.index("checks.iql_loss" if path.name[1] == "2" else "checks.policy_loss") > 0
        assert text.index("build.lines_of(") > text.index("build.use(")
