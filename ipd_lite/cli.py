"""The command line. Every command is a dataclass of its options with a `run` method.

A command imports what it needs when it runs, and settings only where it takes them: drawing figures
from files loads neither torch nor a simulator.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ipd_lite import __version__
from ipd_lite.process import check_amounts, terminated_like_interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipd_lite.paper.dataset import OfflineDataset
    from ipd_lite.settings import Config
    from ipd_lite.tasks.task import Task

Settings = Annotated[Any, tyro.conf.arg(name="")]
"""A :class:`Config`, given as the default, so that its module loads only where it is needed."""

ABOUT = "Imaginary Planning Distillation, a teaching reproduction."
DEMO = {"values.evaluations": 1, "distillation.evaluations": 1, "evaluation.slots": 4}
"""What `ipd-lite demo` makes smaller in the lesson preset, to end in minutes and in 2 GB. Not the
values: with fewer networks and updates of them, plans exploit their errors."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of every command."""

    quiet: bool = False
    """No progress bars."""
    debug: bool = False
    """Full traceback instead of a one-line error."""

    def run(self) -> None:
        """Do it."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Every stage and every method on one maze: a table and figures in a few minutes.

    The lesson preset, with only the last checkpoint evaluated.
    """

    task: str = "pointmaze-medium-slow"
    seed: int = 0
    device: str = "auto"
    out: Path = Path("runs/demo")
    workers: int = 2
    """Processes side by side."""
    config: Settings = None

    def run(self) -> None:
        from ipd_lite.report.demo import demo

        demo(
            self.task, self.seed, self.config, out=self.out, device=self.device,
            workers=self.workers, progress=not self.quiet,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run(Command):
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
    config: Settings = None
    user: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)
    """The settings among the arguments, dotted."""

    def run(self) -> None:
        from ipd_lite.study.names import run_folder
        from ipd_lite.study.run import run
        from ipd_lite.tasks.own_data import open_task

        if self.threads:
            import torch

            torch.set_num_threads(self.threads)
        named = self.task is not None or self.dataset is not None
        task = open_task(self.task if named else "pointmaze-medium", self.dataset, self.horizon)
        if task.opened:
            print(f"{task.name}: {task.description}; score: {task.score_definition}")
        scores = run(
            task, self.method, self.seed, self.config, user=self.user,
            out=self.out, device=self.device, progress=not self.quiet,
        )  # fmt: skip
        if len(scores):
            print(scores.to_string(index=False))
        print(f"files: {run_folder(self.out, task.name, self.method, self.seed)}")


@dataclass(frozen=True, kw_only=True)
class Sweep(Command):
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
    """Address of a Dask scheduler, tcp://host:8786, whose workers have this package and see the
    same files."""
    device: str = "auto"
    out: Path = Path("runs/study")
    results: Path = Path("figures/data")
    """Where scores-TASK.csv and the other result files go."""

    def run(self) -> None:
        import joblib

        from ipd_lite.report.gather import write_results, write_survey
        from ipd_lite.study import spec, sweep

        study, datasets = spec.read_spec(self.spec), spec.other_data(self.datasets)
        everything = spec.expand(study, datasets=datasets)
        units = spec.expand(study, self.tasks, self.methods, self.seeds, datasets)
        if self.status:
            print(sweep.format_status(sweep.status(units, self.out), self.workers))
            return
        write_files = write_survey if study.survey else write_results

        def write(task: str) -> None:
            own = [unit for unit in everything if unit.task == task]
            print(*write_files(own, self.out, self.results, device=self.device), sep="\n")

        local = {"backend": "loky", "n_jobs": self.workers}
        cluster = {"backend": "dask", "n_jobs": -1, "scheduler_host": self.dask}
        with joblib.parallel_config(**(cluster if self.dask else local)):
            failed = sweep.run_units(
                units, out=self.out, device=self.device, threads=self.threads,
                progress=not self.quiet, task_done=write,
            )  # fmt: skip
        if failed:
            raise RuntimeError("failed, the rest is done:\n  " + "\n  ".join(failed))


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Evaluate a finished run's checkpoints again (for instance with more episodes)."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Folder of the run: runs/TASK/METHOD/seed-N."""
    episodes: int = 100
    device: str = "auto"

    def run(self) -> None:
        from ipd_lite.study.run import evaluate_again

        started, progress = time.perf_counter(), not self.quiet
        scores = evaluate_again(
            self.run_folder, self.episodes, device=self.device, progress=progress
        )
        print(f"{scores.to_string(index=False)}\n{time.perf_counter() - started:.1f} s")


@dataclass(frozen=True, kw_only=True)
class Collect(Command):
    """Make a task's dataset on this machine."""

    task: Annotated[str, tyro.conf.Positional]
    replace: bool = False
    """Make it again if it exists."""

    def run(self) -> None:
        from ipd_lite.tasks.collect import collect

        _bring(self.task, lambda task: collect(task, not self.quiet, self.replace))


@dataclass(frozen=True, kw_only=True)
class Download(Command):
    """Fetch a task's dataset from Minari's server."""

    task: Annotated[str, tyro.conf.Positional]
    replace: bool = False
    """Fetch it again if it exists."""

    def run(self) -> None:
        from ipd_lite.tasks.fetch import download

        _bring(self.task, lambda task: download(task, self.replace))


@dataclass(frozen=True, kw_only=True)
class ImportD4rl(Command):
    """Turn one of D4RL's v2 HDF5 files into a task's dataset."""

    file: Annotated[str, tyro.conf.Positional]
    """Path or address of the file."""
    task: str
    """For instance hopper-medium-v2."""
    replace: bool = False
    """Import it again if it exists."""

    def run(self) -> None:
        from ipd_lite.tasks.fetch import import_d4rl

        _bring(self.task, lambda task: import_d4rl(self.file, task, self.replace))


def _bring(name: str, bring: Callable[[Task], OfflineDataset]) -> None:
    from ipd_lite.data.minari_files import local_path
    from ipd_lite.tasks.registry import get_task

    task = get_task(name)
    data = bring(task)
    print(
        f"{task.dataset}: {data.episodes} episodes, {len(data)} transitions, "
        f"{int(data.terminated.sum())} terminated, in {local_path(task.dataset)}"
    )


@dataclass(frozen=True, kw_only=True)
class Tasks(Command):
    """List the tasks and whether their data is on this machine."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Only this task, or all whose name begins so."""

    def run(self) -> None:
        from rich.box import HORIZONTALS
        from rich.console import Console
        from rich.table import Table

        from ipd_lite.tasks.registry import TASKS, describe, get_task

        begun = [name for name in TASKS if name.startswith(self.names or "")]
        exact = [get_task(name).name for name in self.names if name in TASKS or not begun]
        chosen = exact or begun
        rows = [describe(TASKS[name]) for name in chosen]
        table = Table(*rows[0], box=HORIZONTALS, show_lines=True, padding=(0, 1, 0, 0))
        for column, least in zip(table.columns, (30, 37, 16, 9), strict=True):
            column.overflow, column.min_width = "fold", least
        for row in rows:
            table.add_row(*row.values())
        # Narrower than 100, a column would be cut off: then the terminal may break the lines.
        width = max(100, Console().width) if sys.stdout.isatty() else 120
        Console(width=width).print(table)


@dataclass(frozen=True, kw_only=True)
class Methods(Command):
    """List the methods: what each does, its source, and our deviations from it."""

    def run(self) -> None:
        from ipd_lite.study.methods import METHODS

        for name, method in METHODS.items():
            deviations = method.deviations and f"\n  deviations: {method.deviations}"
            print(f"{name}: {method.description}\n  source: {method.source}{deviations}")


@dataclass(frozen=True, kw_only=True)
class Figures(Command):
    """Draw every figure and table again from committed result files."""

    data: Path = Path("figures/data")
    out: Path = Path("figures")

    def run(self) -> None:
        from ipd_lite.report.redraw import redraw

        print(*redraw(self.data, self.out), sep="\n")


COMMANDS: dict[str, type[Command]] = {
    "demo": Demo, "run": Run, "sweep": Sweep, "evaluate": Evaluate, "collect": Collect,
    "download": Download, "import-d4rl": ImportD4rl, "tasks": Tasks, "methods": Methods,
    "figures": Figures,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status (0 fine, 1 failed, 130 interrupted)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.filterwarnings("ignore", module="gymnasium|minari")
    # Our own warnings speak about data: where in the code they arise helps nobody.
    warnings.formatwarning = lambda message, category, *_: (
        f"ipd-lite: {'warning' if category is UserWarning else category.__name__}: {message}\n"
    )
    if arguments == ["--version"]:
        print(f"ipd-lite {__version__}")
        return 0
    try:
        with terminated_like_interrupted():
            command = _parse(arguments)
            check_amounts(vars(command))
            command.run()
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


def _parse(arguments: list[str]) -> Command:
    """Arguments as one of the commands."""
    name, options = (arguments or [""])[0], arguments[1:]
    if name in ("demo", "run"):
        return _with_settings(name, options)
    if name in COMMANDS:
        return tyro.cli(COMMANDS[name], args=options, prog=f"ipd-lite {name}")
    return tyro.extras.subcommand_cli_from_dict(
        {**COMMANDS}, args=arguments, prog="ipd-lite", description=ABOUT
    )


def _with_settings(name: str, options: list[str]) -> Command:
    """A command with a configuration: preset and task give the defaults."""
    from ipd_lite.settings import names

    default = _default_config(name, options)
    parsed = tyro.cli(
        COMMANDS[name], args=options, prog=f"ipd-lite {name}",
        default=COMMANDS[name](config=default),  # type: ignore[call-arg]
    )  # fmt: skip
    if not isinstance(parsed, Run):
        return parsed
    # As typed, --values.no-layer-norm for instance, to the field values.layer_norm.
    typed = {option.split("=")[0].removeprefix("--").replace("-", "_") for option in options}
    typed |= {option.replace(".no_", ".") for option in typed}
    user = {field: attrgetter(field)(parsed.config) for field in names(default) if field in typed}
    return replace(parsed, config=default, user=user)


def _default_config(command: str, options: list[str]) -> Config:
    """Preset and task overrides, read before the full parse."""
    from ipd_lite.settings import configuration, preset
    from ipd_lite.tasks.overrides import OWN_DATA
    from ipd_lite.tasks.registry import get_task
    from ipd_lite.tasks.task import with_overrides

    reader = argparse.ArgumentParser(f"ipd-lite {command}", add_help=False, allow_abbrev=False)
    reader.add_argument("--preset", default="lesson")
    for flag in ("--task", "--dataset"):
        reader.add_argument(flag)
    given, _ = reader.parse_known_args(options)
    config = preset(given.preset)
    if given.task is not None:
        config = get_task(given.task).config(given.preset)
    elif given.dataset is not None:
        config = with_overrides(given.preset, **OWN_DATA)
    short = command == "demo" and given.preset == "lesson"
    return configuration(config, DEMO) if short else config


if __name__ == "__main__":
    raise SystemExit(main())
