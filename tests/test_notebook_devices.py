"""Notebooks with their pipeline on a card, without a card: nothing looks at its tensors in place.

Every code cell runs, in order, with the exercises solved, on short recordings and after a handful
of updates. Pictures are composed and not drawn.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from matplotlib.figure import Figure
from PIL import Image

from ipd_lite import files, plots, settings
from ipd_lite.course import checks, example, race, widgets
from ipd_lite.report import diagnostics, oracle
from ipd_lite.study import pipeline
from ipd_lite.tasks import rollout
from ipd_lite.tasks.collect import collect
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.task import Task
from tests import card
from tests.test_notebooks import NOTEBOOKS, python, text
from tools import teacher

SHORT = {"pointmaze-medium-slow": {"decisions": 3_000}, "hopper-medium-replay": {"steps": 80}}
FEW = {
    "values.updates": 3,
    "world_model.updates": 3,
    "distillation.updates": 3,
    "evaluation.episodes": 2,
    "evaluation.slots": 2,
}
TOYS = {"UPDATES": 3}
"""What notebooks set for their own toys."""

ON_A_CARD = [
    path
    for path in NOTEBOOKS
    if "Pipeline(" in path.read_text() or "running_example(" in path.read_text()
]


@pytest.fixture(scope="module")
def short_recordings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("recordings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        patch.setenv("IPD_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv("IPD_PRESET", "smoke")
        for name, recipe in SHORT.items():
            task = get_task(name)
            assert task.recipe is not None
            collect(replace(task, recipe=replace(task.recipe, **recipe)), progress=False)
        yield folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little training, no checks, no drawing, few and short races and episodes, a coarse oracle."""
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")

    def undrawn(figure: Figure) -> bytes:
        plt.close(figure)
        return image.getvalue()

    for name, value in FEW.items():
        monkeypatch.setitem(settings.SMOKE, name, value)
    monkeypatch.setattr(widgets, "picture", undrawn)
    monkeypatch.setattr(plots, "show", lambda drawn, alt: plt.close("all"))
    monkeypatch.setattr(plots, "race_animation", lambda *args, **kwargs: image.getvalue())
    walks, solve, run = example.walks, oracle.solve_time_to_goal, race._run

    def fewer(task: Any, actor: Any, seeds: Any, device: Any) -> Any:
        return walks(task, actor, seeds[:1], device)

    def coarse(name: str) -> Any:
        return solve(name, spacing=0.25, speeds=5)

    for name, check in list(vars(checks).items()):
        if hasattr(check, "__wrapped__"):  # numbers of their own, on the CPU; some train
            monkeypatch.setattr(checks, name, lambda answer: None)
    make = Task.make
    monkeypatch.setattr(Task, "make", lambda task: TimeLimit(make(task), 6))
    monkeypatch.setattr(rollout, "_environments", {})  # six steps for these notebooks alone
    monkeypatch.setattr(
        race, "_run", lambda actor, starts, goal, limit: run(actor, starts, goal, 3)
    )
    monkeypatch.setattr(example, "walks", fewer)
    monkeypatch.setattr(diagnostics, "stitch", partial(diagnostics.stitch, radius=2.0))
    for module in (oracle, diagnostics):
        monkeypatch.setattr(module, "solve_time_to_goal", coarse, raising=False)


@pytest.fixture
def fake_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`choose_device` finds a card; files and parameters go there like tensors."""
    load, new = files._load, torch.nn.Parameter.__new__

    def loaded(path: Path, framework: str, device: str) -> Any:
        found, meta = load(path, framework, "cpu")
        moved = {k: v.to(device) for k, v in found.items()} if framework == "pt" else found
        return moved, meta

    def parameter(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        made = new(cls, data, requires_grad)
        return card.put(made) if card.on_card(data) else made

    monkeypatch.setattr(files, "_load", loaded)
    monkeypatch.setattr(torch.nn.Parameter, "__new__", parameter)
    monkeypatch.setattr(torch, "Generator", card.Generator)
    for module in (example, pipeline):
        monkeypatch.setattr(module, "choose_device", lambda name: card.DEVICE)
    with card.Card():
        yield


def run_every_cell(path: Path) -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    for cell in teacher.solved(nbformat.read(path, as_version=4)).cells:
        if cell.cell_type != "code":
            continue
        code = compile(python(cell), f"{path.stem}, cell {cell['id']}", "exec")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                exec(code, scope)
            except Exception as error:
                raise AssertionError(f"cell {cell['id']}: {error}\n\n{text(cell)}") from error
        scope.update({name: value for name, value in TOYS.items() if name in scope})
    plt.close("all")


each_notebook = pytest.mark.parametrize("path", ON_A_CARD, ids=lambda path: path.stem)


@each_notebook
@pytest.mark.filterwarnings("default")
def test_every_cell_runs(path: Path, short_recordings: Path, quick: None, fake_card: None) -> None:
    run_every_cell(path)


@pytest.mark.gpu
@each_notebook
@pytest.mark.filterwarnings("default")
def test_every_cell_runs_on_a_real_card(path: Path, short_recordings: Path, quick: None) -> None:
    run_every_cell(path)


def test_all_notebooks_with_a_pipeline_are_meant() -> None:
    assert [path.stem[:2] for path in ON_A_CARD] == ["00", "01", "02", "03", "04", "05", "07"]


def numbers(count: int = 3) -> torch.Tensor:
    return torch.arange(count, device=card.DEVICE, dtype=torch.float32)


WRONG: dict[str, Callable[[], Any]] = {
    "numpy": lambda: numbers().numpy(),
    "array": lambda: plt.np.asarray(numbers()),
    "drawing": lambda: plt.figure().gca().plot(numbers()),
    "result": lambda: (numbers() + 1).mean(0, keepdim=True).numpy(),
    "network": lambda: torch.nn.Linear(3, 2).to(card.DEVICE)(torch.ones(3)),
    "sum": lambda: numbers() + torch.ones(3),
    "index": lambda: torch.ones(3)[numbers().long()],
    "generator": lambda: numbers().normal_(generator=torch.Generator()),
    "element": lambda: [x.numpy() for x in numbers()],
}
RIGHT: dict[str, Callable[[], Any]] = {
    "host": lambda: numbers().cpu().numpy() + torch.ones(3).numpy(),
    "number": lambda: float(numbers().sum()) + numbers()[1].item() + len(numbers().tolist()),
    "scalar": lambda: (numbers() * torch.tensor(2.0)).cpu().numpy(),
    "network": lambda: torch.nn.Linear(3, 2).to(card.DEVICE)(numbers()),
    "moved": lambda: numbers() + torch.ones(3).to(numbers().device),
    "back": lambda: numbers().to("cpu") + torch.ones(3),
    "index": lambda: numbers()[torch.tensor([0, 2])].cpu().numpy(),
    "generator": lambda: numbers().normal_(generator=torch.Generator(card.DEVICE)),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_card_refuses_what_a_card_refuses(name: str, fake_card: None) -> None:
    with pytest.raises((TypeError, RuntimeError), match=r"card|device"):
        WRONG[name]()
    plt.close("all")


@pytest.mark.parametrize("name", RIGHT)
def test_the_card_accepts_what_a_card_accepts(name: str, fake_card: None) -> None:
    RIGHT[name]()


def test_training_stays_on_the_card(fake_card: None) -> None:
    network = torch.nn.Linear(3, 1).to(card.DEVICE)
    optimizer = torch.optim.AdamW(network.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        network(numbers()).sum().backward()
        optimizer.step()
    assert all(p.device == p.grad.device == card.DEVICE for p in network.parameters())
