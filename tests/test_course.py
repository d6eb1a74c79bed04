"""The teacher's page against the code, and the course's helpers."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ipd_lite.course import example as course
from ipd_lite.course.example import repository, running_example, saved_paths, walks
from ipd_lite.paper.acting import FunctionActor
from ipd_lite.paper.imagination import augment
from ipd_lite.paper.shortfall import bootstrapped_returns, shortfall
from ipd_lite.paper.world_model import calibrate_threshold
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.study.spec import Block, Spec, expand, read_spec
from ipd_lite.study.sweep import run_units
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.rollout import rollout
from tests.recorded import TASK as NAME
from tests.recorded import smoke, umaze_data

TASK = get_task(NAME)
ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "figures" / "course.toml"
QUICK = {
    "values.updates": 8,
    "distillation.updates": 4,
    "distillation.evaluations": 1,
    "evaluation.episodes": 2,
}
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
        "s": s,
        "a": a,
        "r": data.rewards,
        "s'": data.next_observations,
        "d": data.terminated,
        "G": data.returns_to_go(),
        "V(s)": v,
        "Q(s, a)": values.q(s, a),
        "behaviour policy": values.policy(s),
        "mu, sigma^2": model.predict(s, a)[1],
        "U(s, a)": model.uncertainty(s, a),
        "kappa": calibrate_threshold(model, pipeline.holdout, 0.5),
        "G^(k)": steps,
        "Delta": shortfall(v, steps),
        "imagined states": imagined,
        "pi": acted,
    }
    sizes = {
        "N": len(data),
        "O": s.shape[1],
        "A": a.shape[1],
        "K": context,
        "M": pipeline.config.world_model.members,
        "B": None,
        "T + 1": imagined.shape[1],
    }
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
    assert list(paths) == list(read_spec(SPEC).runs[0].vary["distillation.alpha"])
    starts = [np.array([path[0] for path in group]) for group in paths.values()]
    assert all(np.array_equal(starts[0], other) for other in starts[1:])


def test_the_committed_sweeps_are_those_of_the_spec() -> None:
    """Which settings, seeds and tasks; the scores themselves take an hour."""
    found: dict[Path, set[tuple[float, int]]] = {}
    for unit in expand(read_spec(SPEC)):
        setting = "target" if unit.method == "dt" else "alpha"
        key = "evaluation.target" if setting == "target" else "distillation.alpha"
        file = course.sweep_file(ROOT / "figures" / "data", setting, unit.task)
        found.setdefault(file, set()).add((unit.changes[key], unit.seed))
    for file, settings in found.items():
        table = pd.read_csv(file)
        assert set(zip(table.iloc[:, 0], table["seed"], strict=True)) == settings


def test_sweeps_score_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    umaze_data()
    blocks = [
        Block((NAME,), ("ipd-noaug",), (0, 1), "short", QUICK, {"distillation.alpha": (0.0, 1.0)}),
        Block((NAME,), ("dt",), (0,), "short", QUICK, {"evaluation.target": (-60.0, -10.0)}),
    ]
    units = expand(Spec(tuple(blocks), "smoke"))
    assert run_units(units, out=tmp_path / "runs", device="cpu", progress=False) == []
    paths = course.write_sweeps(units, tmp_path / "runs", tmp_path, "cpu")
    alpha, target, tensors = paths
    assert {path.parent for path in paths} == {tmp_path}
    table = pd.read_csv(alpha)
    assert table.columns.tolist() == ["alpha", "seed", "score"]
    assert table[["seed", "alpha"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert pd.read_csv(target)["target"].tolist() == [-60.0, -10.0]
    walked = saved_paths(tmp_path)
    assert list(walked) == [0.0, 1.0] and tensors.exists()
    # Paths and scores are of the same policies: the first starts are the evaluation's.
    folder = next(u for u in units if u.changes.get("distillation.alpha") == 1.0).folder(
        tmp_path / "runs"
    )
    steps = pd.read_csv(folder / "episodes.csv").query("checkpoint == 1")["steps"].tolist()
    assert [len(path) - 1 for path in walked[1.0]][: len(steps)] == steps


def test_reviewed_rows_are_paired_by_seed(tmp_path: Path) -> None:
    """A rival that loses two points on every seed: exactly two, however the seeds scatter."""
    lines = ["task,method,variant,seed,checkpoint,episodes,return_mean,score,success,wall_seconds"]
    for seed, score in enumerate((50.0, 90.0, 70.0)):
        for method in ("ipd", *course.CLAIMS.values()):
            mine = score - 2 * (method != "ipd")
            for checkpoint, flattery in (("last", 0.0), ("best", 5.0 * (method == "ipd"))):
                lines.append(f"t,{method},,{seed},{checkpoint},9,0,{mine + flattery},1,1")
    (tmp_path / "scores-t.csv").write_text("\n".join(reversed(lines[1:] + lines[:1])) + "\n")
    for found in course.reviewed(tmp_path, "t").values():
        assert (found.mean, found.low, found.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")))
def test_notebooks_name_modules_that_exist(path: Path) -> None:
    """`ipd_lite/paper/values.py`: `diagnose`, `train_values` are there."""
    rows = [line for line in path.read_text().splitlines() if re.match(r'\s*"\|.*`ipd_lite/', line)]
    for line in rows:
        files = re.findall(r"`(ipd_lite/[\w/]+(?:\.py)?)[`,]", line)
        assert files and all((ROOT / file).exists() for file in files), line
        if "py`: `" in line:
            module = importlib.import_module(files[-1].removesuffix(".py").replace("/", "."))
            for name in re.findall(r"`(\w+)`", line.split("py`: ", 1)[1]):
                assert hasattr(module, name), line
