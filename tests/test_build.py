"""The built exercises in use: trained with a folded solution, a stage is the package's."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch

from ipd_lite.course import build, checks
from ipd_lite.paper.acting import FunctionActor
from ipd_lite.paper.distillation import train_policy
from ipd_lite.paper.transformer import Block
from ipd_lite.paper.uncertainty import ensemble_divergence
from ipd_lite.paper.values import train_values
from ipd_lite.paper.world_model import train_world_model
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.mazes import geometry
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
        pipeline.dataset,
        pipeline.config.values,
        seed=0,
        position_dimensions=dimensions,
        loss=solutions("02")["iql_loss"],
    )
    assert_same(mine.v_net, pipeline.values.v_net)
    assert_same(mine.actor, pipeline.values.actor)
    found = build.score(pipeline, FunctionActor(mine.policy), episodes=2)
    assert found == pytest.approx(build.score(pipeline, FunctionActor(mine.policy), episodes=2))


def test_policy_with_the_reader_s_block_and_loss(pipeline: Pipeline) -> None:
    scope, before = solutions("05"), Block.forward
    with build.attending(scope["block_forward"]):
        assert Block.forward is scope["block_forward"]
        mine, _ = train_policy(
            pipeline.examples,
            pipeline.values,
            pipeline.config.distillation,
            seed=0,
            episode_steps=int(pipeline.dataset.lengths.max()),
            loss=scope["policy_loss"],
        )
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


ASKED = {  # lines of the package that a notebook prints -> the check of the reader's own version
    "expectile_loss": "expectile_loss",
    "bellman_target": "q_loss",
    "iql_loss": "iql_loss",
    "gaussian_loss": "model_loss",
    "dual_divergence": "divergence",
    "rollout": "plan_score",
    "inside_threshold": "imagine_paths",
    "causal_attention": "block_forward",
    "policy_loss": "policy_loss",
    "distillation_loss": "policy_loss",
}


@pytest.mark.parametrize("name", ["02", "03", "04", "05"])
def test_notebooks_print_the_package_s_lines_after_the_exercise(name: str) -> None:
    """Equation and code are read together, but not before the reader has written his own."""
    (path,) = FOLDER.glob(f"{name}_*.ipynb")
    text = path.read_text()
    printed = re.findall(r"build\.lines_of\((?:\w+\.)?(\w+)\)", text)
    assert 2 <= len(printed) <= 4
    for function in printed:
        if function in ASKED:
            asked = text.index(f"checks.{ASKED[function]}({ASKED[function]})")
            assert text.index(f"{function})", text.index("build.lines_of")) > asked
            assert re.search(rf"build\.lines_of\((\w+\.)?{function}\)", text[asked:])


MISTAKES = [  # notebook, exercise, what the solution says, what a reader wrote, the hint
    ("02", "iql_loss", "q < v", "q > v", "turned round"),
    ("02", "iql_loss", "batch.continues * next_v", "next_v", "batch.continues"),
    ("02", "iql_loss", ".clamp_max(config.max_weight)", "", "max_weight"),
    ("02", "iql_loss", "-(weight * log", "(weight * log", "sign"),
    ("03", "model_loss", "highest - softplus(highest - raw)", "raw", "step 1"),
    ("03", "model_loss", "log_variance = lowest + softplus(log_variance - lowest)", "", "upper"),
    ("03", "model_loss", "(-log_variance).exp()", "log_variance.exp()", "divide the squared"),
    ("03", "model_loss", "exp() + log_variance)", "exp())", "excuse everything"),
    ("03", "model_loss", "0.5 * (error", "(error", "half"),
    ("03", "model_loss", "(config.variance", "(-config.variance", "positive"),
    ("03", "model_loss", "config.variance_weight * log", "log", "not 1"),
    ("03", "model_loss", ".detach()", "", "detach the weight"),
    ("03", "model_loss", "(weight * likelihood)", "likelihood", "plain likelihood"),
    ("03", "model_loss", ".mean(dim=(1, 2)).sum()", ".mean()", "sum over members"),
    ("03", "model_loss", "loss = loss + 0.01", "0.01", "pull on the bounds is missing"),
    ("03", "model_loss", ".mean(0).sum()\n", ".sum()\n", "mean over the members"),
    ("03", "disagreement", "range(i)", "range(len(means))", "itself"),
    ("03", "disagreement", ".mean(0)", ".sum(0)", "do not sum"),
    ("03", "disagreement", "for j in range(i)", "for j in [(i + 1) % len(means)]", "ring"),
    ("03", "disagreement", ".mean(0)", ".mean()", "over the batch"),
    ("04", "imagine_paths", "kept[rows] += 1", "kept[active] += 1", "looked at"),
    ("04", "imagine_paths", "trusted & ~ended", "trusted", "after the task has terminated"),
    (
        "04",
        "imagine_paths",
        "rows = active[trusted]",
        "trusted = trusted & ~ended\n        rows = active[trusted]",
        "part of the path",
    ),
    (
        "04",
        "imagine_paths",
        "active = active[trusted & ~ended]",
        "active = active[~ended]",
        "goes on later",
    ),
    ("04", "imagine_paths", "doubt <= threshold", "~(doubt > threshold)", "NaN passes"),
    ("04", "imagine_paths", "doubt <= threshold", "doubt < threshold", "as large as"),
    (
        "04",
        "imagine_paths",
        "trusted = doubt <= threshold",
        "trusted = (doubt <= threshold).all().expand(len(doubt))",
        "its own U",
    ),
    (
        "04",
        "imagine_paths",
        "trusted = doubt <= threshold",
        "total = total[moved] + doubt if t "
        "else doubt\n        trusted = total <= threshold\n        moved = trusted & ~ended",
        "the sum so far",
    ),
    ("04", "imagine_paths", "plan(states)", "plan(start[active])", "plan again"),
    ("04", "imagine_paths", "[rows, t + 1] =", "[rows, t] =", "at time t + 1"),
    ("05", "policy_loss", "examples.weights[rows] * ", "", "weight 0"),
    ("05", "policy_loss", ".detach() / count", " / count", "detach the scale"),
]


@pytest.mark.parametrize(("name", "exercise", "right", "wrong", "hint"), MISTAKES)
def test_planted_mistakes_get_their_hint(
    name: str, exercise: str, right: str, wrong: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = FOLDER.glob(f"{name}_*.ipynb")
    text = dict(exercises(path))[exercise]
    assert right in text
    scope: dict[str, Any] = {"torch": torch, "np": np}
    exec(text.replace(right, wrong), scope)
    getattr(checks, exercise)(scope[exercise])
    printed = capsys.readouterr().out
    assert printed.startswith("not right: ") and hint in printed, printed


def test_model_with_the_reader_s_loss_and_disagreement(pipeline: Pipeline) -> None:
    scope = solutions("03")
    mine = train_world_model(
        pipeline.dataset,
        pipeline.config.world_model,
        seed=0,
        known=pipeline.known,
        loss=lambda *batch: scope["model_loss"](*batch)[0],
    )
    assert_same(mine.net, pipeline.world_model.net)
    found = build.bounces(pipeline, mine, scope["disagreement"])
    package = build.bounces(pipeline, pipeline.world_model, ensemble_divergence)
    assert found.auroc == pytest.approx(package.auroc, abs=0.02)
    assert found.medians() == pytest.approx(package.medians(), rel=0.05, abs=0.02)


def test_u_is_judged_without_a_floor(pipeline: Pipeline) -> None:
    """A floor so high that all members agree would make U blind; the comparison does not see it."""
    blind = copy.copy(pipeline.world_model)
    blind.variance_floor = 1e9
    found = build.bounces(pipeline, blind, ensemble_divergence)
    assert found.auroc == build.bounces(pipeline, pipeline.world_model, ensemble_divergence).auroc


def test_wall_distance() -> None:
    """In the U-maze's lower corridor, 1 m wide, a ball of radius 0.1 m in the middle has 0.4 m."""
    maze = geometry("umaze")
    middle = maze.centres[0]
    distances = build.wall_distance(
        maze, np.stack([middle, *(middle + np.array([0, y]) for y in (0.2, 0.39))])
    )
    np.testing.assert_allclose(distances, [0.4, 0.2, 0.0], atol=0.051)


def test_algorithm_1_of_the_reader_accepts_what_the_package_accepts(pipeline: Pipeline) -> None:
    found = build.imagine_with(pipeline, solutions("04")["imagine_paths"])
    package = pipeline.imagination[1]
    counts = ("starts", "accepted", "rejected_short", "stopped_by_gate", "reached_end")
    assert [getattr(found, n) for n in counts] == [getattr(package, n) for n in counts]
    assert found.mean_gain == pytest.approx(package.mean_gain, rel=1e-4)
    assert found.mean_length == package.mean_length > 0
