"""The command line: `ipd-lite demo | run | sweep | evaluate | figures`, and what they need."""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from ipd_lite.settings import PRESETS, Config, Preset, override, preset

if TYPE_CHECKING:
    from ipd_lite.paper.dataset import OfflineDataset
    from ipd_lite.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command."""

    quiet: bool = False
    """No progress bars."""
    debug: bool = False
    """Full traceback instead of a one-line error."""


@dataclass(frozen=True, kw_only=True)
class Run(Common):
    """Train and evaluate one method on one task; continues where an earlier call was stopped."""

    task: str | None = None
    """A task of `ipd-lite tasks` (pointmaze-medium if neither task nor dataset is named)."""
    dataset: str | None = None
    """Your own data: a Minari id or the path of its folder. Together with --task: that task's
    environment and scores, this data."""
    horizon: int | None = None
    """Time limit of an evaluation episode; by default the task's or the environment's."""
    method: str = "ipd"
    """A method of `ipd-lite methods`."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads (0 = all); the last bits of a result depend on it."""
    out: Path = Path("runs")
    """Root folder of all runs."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


DEMO: dict[str, Any] = {
    "values.evaluations": 1,
    "distillation.evaluations": 1,
    "evaluation.slots": 4,
}
"""What `ipd-lite demo` makes smaller in the lesson preset, to end in minutes and in 2 GB. Not the
values: with fewer networks and updates of them, plans exploit their errors."""


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """Every stage and every method on one maze: a table and figures in a few minutes.

    The lesson preset, with only the last checkpoint evaluated.
    """

    task: str = "pointmaze-medium-slow"
    seed: int = 0
    device: str = "auto"
    out: Path = Path("runs/demo")
    workers: int = 2
    """Processes side by side."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common):
    """Evaluate a finished run's checkpoints again (for instance with more episodes)."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run: runs/TASK/METHOD/seed-N."""
    episodes: int = 100
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Collect(Common):
    """Make a task's dataset on this machine."""

    task: Annotated[str, tyro.conf.Positional]
    replace: bool = False
    """Make it again if it exists."""


@dataclass(frozen=True, kw_only=True)
class Download(Common):
    """Fetch a task's dataset from Minari's server."""

    task: Annotated[str, tyro.conf.Positional]
    replace: bool = False
    """Fetch it again if it exists."""


@dataclass(frozen=True, kw_only=True)
class ImportD4rl(Common):
    """Turn one of D4RL's v2 HDF5 files into a task's dataset."""

    file: Annotated[str, tyro.conf.Positional]
    """Path or address of the file."""
    task: str
    """For instance hopper-medium-v2."""
    replace: bool = False
    """Import it again if it exists."""


@dataclass(frozen=True, kw_only=True)
class Tasks(Common):
    """List the tasks and whether their data is on this machine."""

    names: tuple[str, ...] = ()
    """Only these tasks, or all whose name begins so."""


@dataclass(frozen=True, kw_only=True)
class Methods(Common):
    """List the methods: what each does, its source, and our deviations from it."""


@dataclass(frozen=True, kw_only=True)
class Figures(Common):
    """Draw every figure and table again from committed result files."""

    data: Path = Path("figures/data")
    out: Path = Path("figures")


@dataclass(frozen=True, kw_only=True)
class Sweep(Common):
    """Tasks x methods x seeds of a spec file; stopped anywhere, the same command continues."""

    spec: Annotated[Path, tyro.conf.Positional]
    """A TOML file such as figures/study.toml."""
    status: bool = False
    """Run nothing: show what is done, running, failed and to do, and the time left."""
    tasks: tuple[str, ...] = ()
    """Only these tasks of the spec."""
    methods: tuple[str, ...] = ()
    """Only these methods."""
    seeds: tuple[int, ...] = ()
    """Only these seeds."""
    datasets: tuple[str, ...] = ()
    """Other data for a task of the spec: TASK=ID_OR_PATH."""
    workers: int = 2
    """Processes side by side."""
    threads: int = 0
    """CPU threads of each process (0 = this machine's, divided); last bits depend on it."""
    dask: str | None = None
    """Address of a Dask scheduler, tcp://host:8786, whose workers see the same files."""
    device: str = "auto"
    out: Path = Path("runs/study")
    results: Path = Path("figures/data")
    """Where scores-TASK.csv and the other result files go."""


@dataclass(frozen=True, kw_only=True)
class Survey(Common):
    """A few methods on every task whose data is here: figures/data/tasks.csv and returns.csv."""

    tasks: tuple[str, ...] = ()
    """None named = all whose data is on this machine."""
    datasets: tuple[str, ...] = ()
    """Other data for a task: TASK=ID_OR_PATH."""
    methods: tuple[str, ...] = ("behaviour", "bc", "iql", "ipd")
    seeds: tuple[int, ...] = (0,)
    preset: Preset = "lesson"
    device: str = "auto"
    workers: int = 2
    """Processes side by side, one thread each."""
    out: Path = Path("runs/survey")
    results: Path = Path("figures/data")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status (0 fine, 1 failed, 130 interrupted)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.filterwarnings("ignore", module="gymnasium|minari")
    warnings.formatwarning = _warning
    try:
        command = _parse(arguments)
        _COMMANDS[type(command)](command)
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    except Exception as error:
        if "--debug" in arguments:
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        print(f"ipd-lite: {text or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Our own warnings speak about data: where in the code they arise helps nobody."""
    kind = "warning" if category is UserWarning else category.__name__
    return f"ipd-lite: {kind}: {message}\n"


def _parse(arguments: list[str]) -> Any:
    """Arguments as one of the command dataclasses; preset and task choose the other defaults."""
    config = _default_config(arguments)
    subcommand = tyro.conf.subcommand
    command: Any = Union[  # noqa: UP007 - tyro wants the annotations spelled out
        Annotated[Demo, subcommand("demo", default=Demo(config=config))],
        Annotated[Run, subcommand("run", default=Run(config=config))],
        Annotated[Sweep, subcommand("sweep")],
        Annotated[Survey, subcommand("survey")],
        Annotated[Evaluate, subcommand("evaluate")],
        Annotated[Collect, subcommand("collect")],
        Annotated[Download, subcommand("download")],
        Annotated[ImportD4rl, subcommand("import-d4rl")],
        Annotated[Tasks, subcommand("tasks")],
        Annotated[Methods, subcommand("methods")],
        Annotated[Figures, subcommand("figures")],
    ]
    return tyro.cli(
        command,
        args=arguments,
        prog="ipd-lite",
        description="Imaginary Planning Distillation, a teaching reproduction.",
    )


def _default_config(arguments: list[str]) -> Config:
    """Preset and task overrides, read before the full parse."""

    def value(flag: str) -> str | None:
        for i, argument in enumerate(arguments):
            if argument == flag and i + 1 < len(arguments):
                return arguments[i + 1]
            if argument.startswith(flag + "="):
                return argument.split("=", 1)[1]
        return None

    name = value("--preset") or "lesson"
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")
    task = value("--task")
    config = preset(name)
    if task is not None:
        from ipd_lite.tasks.registry import get_task

        config = get_task(task).config(name)
    elif value("--dataset") is not None:
        from ipd_lite.tasks.registry import CAUTIOUS

        config = override(config, CAUTIOUS)
    if arguments[:1] == ["demo"] and name == "lesson":
        config = override(config, DEMO)
    return config


def _threads(count: int) -> None:
    if count:
        import torch

        torch.set_num_threads(count)


def _run(command: Run) -> None:
    from ipd_lite.study.run import run
    from ipd_lite.tasks.own_data import check_fit, open_task

    _threads(command.threads)
    name = command.task or (None if command.dataset else "pointmaze-medium")
    task = open_task(name, command.dataset, command.horizon)
    if command.task and command.dataset:
        check_fit(task)
    if task.opened:
        print(f"{task.name}: {task.description}; score: {task.score_definition}")
    scores = run(
        task, command.method, command.seed, command.config,
        out=command.out, device=command.device, progress=not command.quiet,
    )  # fmt: skip
    if len(scores):
        print(scores.to_string(index=False))
    print(f"files: {command.out / task.name / command.method / f'seed-{command.seed}'}")


def _demo(command: Demo) -> None:
    from ipd_lite.report.demo import demo

    demo(
        command.task, command.seed, command.config, out=command.out, device=command.device,
        workers=command.workers, progress=not command.quiet,
    )  # fmt: skip


def _evaluate(command: Evaluate) -> None:
    from ipd_lite.study.run import evaluate_again

    started = time.perf_counter()
    scores = evaluate_again(
        command.run, command.episodes, device=command.device, progress=not command.quiet
    )
    print(scores.to_string(index=False))
    print(f"{time.perf_counter() - started:.1f} s")


def _collect(command: Collect) -> None:
    from ipd_lite.tasks.collect import collect
    from ipd_lite.tasks.registry import get_task

    task = get_task(command.task)
    _report(task, collect(task, progress=not command.quiet, replace_existing=command.replace))


def _download(command: Download) -> None:
    from ipd_lite.tasks.fetch import download
    from ipd_lite.tasks.registry import get_task

    task = get_task(command.task)
    _report(task, download(task, replace_existing=command.replace))


def _import_d4rl(command: ImportD4rl) -> None:
    from ipd_lite.tasks.fetch import import_d4rl
    from ipd_lite.tasks.registry import get_task

    task = get_task(command.task)
    _report(task, import_d4rl(command.file, task, replace_existing=command.replace))


def _report(task: Task, data: OfflineDataset) -> None:
    from ipd_lite.data.minari_files import local_path

    print(
        f"{task.dataset}: {data.episodes} episodes, {len(data)} transitions, "
        f"{int(data.terminated.sum())} terminated, in {local_path(task.dataset)}"
    )


TASKS_WIDTH = 100
"""Columns that `ipd-lite tasks` needs at least."""


def _tasks(command: Tasks) -> None:
    from rich.box import HORIZONTALS
    from rich.console import Console
    from rich.table import Table

    from ipd_lite.tasks.registry import TASKS, describe

    rows = [
        describe(task)
        for task in TASKS.values()
        if not command.names or task.name.startswith(command.names)
    ]
    if not rows:
        raise ValueError(f"no task begins with {' or '.join(command.names)}; see `ipd-lite tasks`")
    table = Table(*rows[0], box=HORIZONTALS, show_lines=True, padding=(0, 1, 0, 0))
    for column, least in zip(table.columns, (30, 37, 16, 9), strict=True):
        column.overflow, column.min_width = "fold", least
    for row in rows:
        table.add_row(*row.values())
    # Narrower than this, a column would be cut off: then the terminal may break the lines.
    width = max(TASKS_WIDTH, Console().width) if sys.stdout.isatty() else 120
    Console(width=width).print(table)


def _methods(command: Methods) -> None:
    from ipd_lite.study.methods import METHODS

    for name, method in METHODS.items():
        print(f"{name}: {method.description}\n  source: {method.source}")
        if method.deviations:
            print(f"  deviations: {method.deviations}")


def _sweep(command: Sweep) -> None:
    from ipd_lite.report.gather import write_results
    from ipd_lite.study import sweep

    spec = sweep.read_spec(command.spec)
    units = sweep.expand(
        spec, tasks=command.tasks, methods=command.methods, seeds=command.seeds,
        datasets=sweep.other_data(command.datasets),
    )  # fmt: skip
    if command.status:
        print(sweep.format_status(sweep.status(units, command.out), command.workers))
        return
    failed = sweep.run_units(
        units, out=command.out, device=command.device, workers=command.workers,
        threads=command.threads, dask=command.dask, progress=not command.quiet,
    )  # fmt: skip
    for path in write_results(
        units, command.out, command.results, workers=command.workers, device=command.device
    ):
        print(path)
    if failed:
        raise RuntimeError("failed, the rest is done:\n  " + "\n  ".join(failed))


def _survey(command: Survey) -> None:
    from ipd_lite.report.survey import here, survey
    from ipd_lite.study.methods import get_method
    from ipd_lite.tasks.registry import get_task

    tasks = command.tasks or (() if command.datasets else tuple(here()))
    for task in tasks:
        get_task(task)
    for method in command.methods:
        get_method(method)
    failed = survey(
        tasks, command.datasets, command.methods, command.seeds, preset=command.preset,
        out=command.out, results=command.results, device=command.device,
        workers=command.workers, progress=not command.quiet,
    )  # fmt: skip
    if failed:
        raise RuntimeError("failed, the rest is done: " + "; ".join(failed))


def _figures(command: Figures) -> None:
    from ipd_lite.report.redraw import redraw

    for path in redraw(command.data, command.out):
        print(path)


_COMMANDS: dict[type, Any] = {
    Run: _run,
    Demo: _demo,
    Evaluate: _evaluate,
    Collect: _collect,
    Download: _download,
    ImportD4rl: _import_d4rl,
    Tasks: _tasks,
    Methods: _methods,
    Sweep: _sweep,
    Survey: _survey,
    Figures: _figures,
}


if __name__ == "__main__":
    raise SystemExit(main())
