"""The teacher's page against the code, and the course's helpers."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ipd_lite.course import example as course
from ipd_lite.course.example import repository, running_example, saved_paths, walks
from ipd_lite.paper.acting import FunctionActor
from ipd_lite.paper.imagination import augment
from ipd_lite.paper.shortfall import bootstrapped_returns, shortfall
from ipd_lite.paper.world_model import calibrate_threshold
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.rollout import rollout
from tests.recorded import TASK as NAME
from tests.recorded import smoke, umaze_data

TASK = get_task(NAME)
ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "notebooks" / "README.md").read_text()
SYMBOLS = (ROOT / "ipd_lite" / "paper" / "README.md").read_text()


def symbols() -> list[tuple[str, str, str, str]]:
    """Rows of the symbol table: paper's symbol, name in code, module, shape."""
    table = SYMBOLS.split("## Symbols")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \| `(.+?)` \| (.+?) \|$", table, re.MULTILINE)
    assert len(rows) >= 20
    return rows


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("runs")
    return Pipeline(TASK, 0, smoke(), out, torch.device("cpu"), data=umaze_data())


@pytest.mark.parametrize(("symbol", "name", "module", "shape"), symbols())
def test_symbol_names_exist(symbol: str, name: str, module: str, shape: str) -> None:
    thing = importlib.import_module(f"ipd_lite.paper.{module}")
    owner, _, member = name.partition(".")
    thing = getattr(thing, owner)
    if member and dataclasses.is_dataclass(thing):
        fields = {field.name for field in dataclasses.fields(thing)}
        assert member in fields or callable(getattr(thing, member))
    elif member:
        assert callable(getattr(thing, member))


def test_symbol_shapes_are_true(pipeline: Pipeline) -> None:
    """Every row of the table, evaluated on a small run."""
    data, values, model = pipeline.dataset, pipeline.values, pipeline.world_model
    s, a = data.observations, data.actions
    v, next_v = values.v(s), values.v(data.next_observations)
    steps = bootstrapped_returns(data.rewards, data.terminated, data.last, v, next_v, 3, 0.9)
    imagined = pipeline.continuations.observations
    policy, _ = pipeline.policy
    context = policy.context
    windows = torch.zeros(5, context), s[:5, None].expand(-1, context, -1)
    acted = policy(*windows, a[:5, None].expand(-1, context, -1), torch.zeros(5, context).long())
    found = {
        "s": s, "a": a, "r": data.rewards, "s'": data.next_observations, "d": data.terminated,
        "G": data.returns_to_go(), "V(s)": v, "Q(s, a)": values.q(s, a),
        "behaviour policy": values.policy(s), "mu, sigma^2": model.predict(s, a)[1],
        "U(s, a)": model.uncertainty(s, a),
        "kappa": calibrate_threshold(model, pipeline.holdout, 0.5),
        "G^(k)": steps, "Delta": shortfall(v, steps), "imagined states": imagined, "pi": acted,
    }  # fmt: skip
    sizes = {
        "N": len(data), "O": s.shape[1], "A": a.shape[1], "K": context,
        "M": pipeline.config.world_model.members, "B": None, "T + 1": imagined.shape[1],
    }  # fmt: skip
    rows = {symbol: shape for symbol, _, _, shape in symbols()}
    for symbol, tensor in found.items():
        letters = [part.strip() for part in rows[symbol].strip("()").split(",") if part.strip()]
        assert tensor.dim() == len(letters), symbol
        for size, letter in zip(tensor.shape, letters, strict=True):
            assert sizes[letter] in (None, size), symbol
    assert len(augment(data, data)) == 2 * len(data)


def test_the_page_lists_every_notebook_and_every_verb() -> None:
    for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        assert f"]({path.name})" in PAGE
    for target in ("lab", "notebooks", "test-notebooks", "test-browser"):
        assert f"make {target} " in PAGE
        assert f"\n{target}: " in (ROOT / "Makefile").read_text()


def test_walks_agree_with_the_evaluation(pipeline: Pipeline) -> None:
    actor = FunctionActor(lambda observations: torch.ones(len(observations), 2))
    config = dataclasses.replace(pipeline.config.evaluation, episodes=2, slots=1)
    found = walks(TASK, actor, [config.seed, config.seed + 1], torch.device("cpu"))
    expected = rollout(TASK, actor, config)
    assert [len(walk.rewards) for walk in found] == expected.steps.tolist()
    assert [walk.rewards.sum() for walk in found] == expected.returns.tolist()
    for walk in found:
        assert walk.observations.shape == (len(walk.rewards) + 1, 4)


def test_running_example_keeps_its_results_in_the_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("IPD_RUNS", raising=False)
    monkeypatch.setattr(course, "collect_missing", lambda task: None)
    monkeypatch.chdir(ROOT / "notebooks")
    assert repository() == ROOT
    assert running_example("smoke").out == ROOT / "runs" / "course"
    monkeypatch.setenv("IPD_RUNS", str(tmp_path))
    assert running_example("smoke").out == tmp_path
    monkeypatch.chdir(tmp_path)
    assert repository() == tmp_path


def test_saved_paths_begin_at_the_same_starts() -> None:
    paths = saved_paths(ROOT / "figures" / "data")
    assert tuple(paths) == course.ALPHAS
    starts = [np.array([path[0] for path in group]) for group in paths.values()]
    assert all(np.array_equal(starts[0], other) for other in starts[1:])


def test_sweeps_score_every_setting(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "ALPHAS", (0.0, 1.0))
    monkeypatch.setattr(course, "TARGETS", (-60.0, -10.0))
    tiny = {"distillation.updates": 4, "evaluation.episodes": 2}
    monkeypatch.setattr(course, "SWEEP", {**course.SWEEP, **tiny})
    monkeypatch.setattr(course, "walks", lambda *arguments: [])
    scores, paths = course.alpha_sweep(pipeline)
    assert scores["alpha"].tolist() == [0.0, 1.0] == list(paths)
    targets = course.target_sweep(pipeline)
    assert targets["target"].tolist() == [-60.0, -10.0]
    assert targets["score"].notna().all()
