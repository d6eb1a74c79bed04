"""What a study consists of: a spec file, and the runs ("units") that it stands for."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ipd_lite.data.minari_files import local_path
from ipd_lite.settings import PRESETS, Config, as_dict, check_number
from ipd_lite.study.names import label_of, read_run, run_folder, same
from ipd_lite.study.pipeline import FORMAT
from ipd_lite.study.run import configured
from ipd_lite.tasks.own_data import open_task
from ipd_lite.tasks.registry import TASKS, get_task
from ipd_lite.tasks.task import Task

HERE = "here"
"""In a spec's tasks: every task whose data is on this machine."""


@dataclass(frozen=True)
class Block:
    """One `[[runs]]` table of a spec: every task with every method and seed.

    overrides: config fields that differ from the preset, "stage.field" -> value; they need a
    `variant`, the name that folders and tables show behind the method. vary: fields with a list of
    values each; every combination is a variant of its own, named after its values.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    variant: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def variants(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, config changes) of every combination."""
        for values in itertools.product(*self.vary.values()):
            varied = dict(zip(self.vary, values, strict=True))
            parts = [self.variant] if self.variant else []
            parts += [f"{name.split('.')[-1]}={value}" for name, value in varied.items()]
            yield ",".join(parts), {**self.overrides, **varied}


@dataclass(frozen=True)
class Spec:
    """A whole study.

    survey: its results are tasks.csv and returns.csv, in place of some files per task.
    """

    runs: tuple[Block, ...]
    preset: str = "lesson"
    survey: bool = False


@dataclass(frozen=True)
class Unit:
    """One run.

    config: preset and task. changes: what the study sets. dataset: other data for the registered
    task, a Minari id or a folder's path; "" = its own.
    """

    task: str
    method: str
    seed: int
    config: Config
    variant: str = ""
    dataset: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method with its variant."""
        return label_of(self.method, self.variant)

    def __str__(self) -> str:
        return f"{self.task} {self.label} seed {self.seed}"

    def configured(self) -> Config:
        """Its whole configuration."""
        return configured(self.config, self.method, self.changes)

    def check(self) -> None:
        """Refuse what could not run."""
        check_number("seed", self.seed, 0, 2**32 - 1)
        self.folder(Path())
        self.configured()

    def open(self) -> Task:
        """The task with this unit's data.

        Raises:
            DataError: the other data is not on this machine.
        """
        return open_task(self.task, self.dataset or None)

    def folder(self, out: Path) -> Path:
        """Where its files lie."""
        return run_folder(out, self.task, self.label, self.seed)

    def done(self, out: Path) -> bool:
        """Whether it has finished with this very configuration, and data from the same place.

        Raises:
            Damaged: one of its files is.
        """
        folder = self.folder(out)
        if not (folder / "scores.csv").exists():
            return False
        wanted: dict[str, Any] = {"config": as_dict(self.configured()), "format": FORMAT}
        wanted["opened"] = dict(self.open().opened) if self.dataset else None
        return same(read_run(folder)[0], wanted)


def read_spec(path: Path) -> Spec:
    """A spec from its TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, or a key is unknown, missing or of another type; the message
            names the place.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no spec file {path}; figures/study.toml is an example")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    kinds: dict[str, type] = {"runs": list, "preset": str, "survey": bool}
    _check_table(content, kinds, ("runs",), str(path))
    if (chosen := content.get("preset", "lesson")) not in PRESETS:
        raise ValueError(f"{path}: preset = {chosen!r}, expected one of {', '.join(PRESETS)}")
    blocks = [
        _block(table, f"{path}, [[runs]] number {number}")
        for number, table in enumerate(content["runs"], 1)
    ]
    return Spec(tuple(blocks), chosen, content.get("survey", False))


def _check_table(table: Any, kinds: Mapping[str, type], needed: Sequence[str], place: str) -> None:
    names = {list: "a list", dict: "a table", str: "a text", bool: "true or false"}
    if not isinstance(table, dict):
        raise ValueError(f"{place}: expected a table, found {table!r}")
    for key, value in table.items():
        if key not in kinds:
            raise ValueError(f"{place}: unknown key {key!r}, expected one of {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise ValueError(f"{place}: {key} = {value!r}, expected {names[kinds[key]]}")
    for key in needed:
        if not table.get(key):
            raise ValueError(f"{place}: {key} is missing or empty")


def _block(table: Any, place: str) -> Block:
    lists = ("tasks", "methods", "seeds")
    kinds = {f.name: list if f.name in lists else dict for f in fields(Block)}
    _check_table(table, {**kinds, "variant": str}, lists, place)
    for name, kind in (("tasks", str), ("methods", str), ("seeds", int)):
        for value in table[name]:
            if type(value) is not kind:
                raise ValueError(f"{place}: {name} has {value!r}, expected {kind.__name__}")
    vary = table.get("vary", {})
    for name, value in {**table.get("overrides", {}), **vary}.items():
        if name == "preset":
            raise ValueError(f"{place}: preset stands at the top of the file, for all runs")
        if isinstance(value, dict):
            field = f"{name}.{next(iter(value), 'field')}"
            raise ValueError(f'{place}: write the field in quotes, "{field}" = ...')
    _check_table(vary, dict.fromkeys(vary, list), tuple(vary), f"{place}, vary")
    if table.get("overrides") and not table.get("variant"):
        raise ValueError(
            f"{place}: overrides of {', '.join(table['overrides'])} need a name, `variant = ...`"
        )
    chosen = {name: tuple(table[name]) for name in lists}
    return Block(**{**table, **chosen, "vary": {name: tuple(v) for name, v in vary.items()}})


def here() -> tuple[str, ...]:
    """Names of all registered tasks whose data is on this machine."""
    return tuple(name for name, task in TASKS.items() if local_path(task.dataset).is_dir())


def expand(
    spec: Spec,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    datasets: Mapping[str, str] | None = None,
) -> list[Unit]:
    """The units of a spec, or of a slice of it, each once; seed after seed, then task by task.

    Args:
        datasets: other data for some of the tasks, see :func:`other_data`.

    Raises:
        KeyError: an unknown task, method or config field.
        ValueError: an impossible setting, a variant that cannot name a folder, data for a task that
            the spec does not have, or nothing is left of the slice.
    """
    datasets = datasets or {}
    found: dict[tuple[str, str, int], Unit] = {}
    order: dict[str, None] = {}
    for block in spec.runs:
        names = dict.fromkeys((*here(), *datasets) if HERE in block.tasks else block.tasks)
        order |= names
        configs = {name: get_task(name).config(spec.preset) for name in names}
        for seed, task, (variant, changes), method in itertools.product(
            block.seeds, names, list(block.variants()), block.methods
        ):
            unit = Unit(task, method, seed, configs[task], variant, datasets.get(task, ""), changes)
            unit.check()
            if found.setdefault((task, unit.label, seed), unit) != unit:
                raise ValueError(
                    f"{unit} stands twice in the spec with different settings; give one of them "
                    "another variant"
                )
    if strangers := [task for task in datasets if task not in order]:
        raise ValueError(
            f"--datasets names {strangers[0]}, but the spec has only {', '.join(order)}"
        )
    chosen = [
        unit
        for unit in found.values()
        if unit.task in (tasks or order)
        and unit.method in (methods or (unit.method,))
        and unit.seed in (seeds or (unit.seed,))
    ]
    if not chosen:
        raise ValueError("no unit of the spec is in this slice; see --tasks, --methods, --seeds")
    return sorted(chosen, key=lambda unit: (unit.seed, list(order).index(unit.task)))


def other_data(pairs: Sequence[str]) -> dict[str, str]:
    """Task -> data in place of its own, from arguments of the form TASK=ID_OR_PATH.

    Raises:
        KeyError: an unknown task.
        ValueError: another form, or the same task twice.
        DataError: the data is not on this machine, or not of the task's widths.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        task, _, dataset = pair.partition("=")
        if not (task and dataset):
            raise ValueError(f"--datasets {pair!r}: expected TASK=ID_OR_PATH")
        if task in found:
            raise ValueError(f"--datasets names {task} twice")
        open_task(task, dataset)  # a mistake is better known now than in every unit
        found[task] = dataset
    return found
