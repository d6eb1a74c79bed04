"""One frozen dataclass per stage of the paper, and three presets of all of them together.

`smoke` runs every stage in seconds (tests), `lesson` in a few minutes on a laptop CPU (the course),
`paper` has published sizes and wants a GPU. A task may override single fields (`tasks.py`), and the
command line may override any of them (`--values.expectile 0.8`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from ipd_lite.paper.algorithm import IPDConfig
from ipd_lite.rivals.cloning import CloningConfig
from ipd_lite.rivals.cql import CQLConfig
from ipd_lite.rivals.td3bc import TD3BCConfig

Preset = Literal["smoke", "lesson", "paper"]


PRESETS: tuple[Preset, ...] = ("smoke", "lesson", "paper")


@dataclass(frozen=True)
class EvaluationConfig:
    """Rollouts in the real environment; used to report, never to train."""

    episodes: int = 100
    slots: int = 25
    """Environments stepped side by side with one batched policy."""
    seed: int = 12345
    """Episode i starts from seed + i: every method and seed meets the same starts."""
    target: float | None = None
    """Hand-set return-to-go target of methods that need one; None = by `target_level`."""
    target_level: float = 1.0
    """0 = the worst return in the data, 1 = the best; beyond 1 asks for more than was ever seen."""


@dataclass(frozen=True)
class Config(IPDConfig):
    """All stages together; one run = one task + one method + one seed + this."""

    preset: Preset = "lesson"
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    cloning: CloningConfig = field(default_factory=CloningConfig)
    td3bc: TD3BCConfig = field(default_factory=TD3BCConfig)
    cql: CQLConfig = field(default_factory=CQLConfig)


def preset(name: str) -> Config:
    """The preset called `name`.

    Raises:
        ValueError: the name is not one of `PRESETS`.
    """
    lesson = Config()
    if name == "lesson":
        return lesson
    if name == "smoke":
        return override(
            replace(lesson, preset="smoke"),
            {
                "values.updates": 60,
                "values.width": 16,
                "values.fourier_features": 8,
                "values.q_networks": 2,
                "values.v_networks": 2,
                "values.evaluations": 2,
                "world_model.updates": 60,
                "world_model.width": 16,
                "world_model.members": 3,
                "world_model.elites": 3,
                "world_model.evaluate_every": 20,
                "planner.candidates": 6,
                "planner.horizon": 2,
                "planner.top": 2,
                "imagination.starts": 60,
                "imagination.length": 4,
                "distillation.context": 3,
                "distillation.width": 16,
                "distillation.updates": 40,
                "distillation.batch_size": 16,
                "distillation.evaluations": 2,
                "evaluation.episodes": 4,
                "evaluation.slots": 4,
                "cql.samples": 2,
            },
        )
    if name == "paper":
        return override(
            replace(lesson, preset="paper"),
            {
                "values.updates": 1_000_000,
                "values.width": 256,
                "values.q_networks": 2,
                "values.v_networks": 1,
                "values.q_reduction": "min",
                "values.learning_rate": 3e-4,
                "values.final_learning_rate": 0.0,
                "values.target_rate": 0.005,
                "world_model.updates": 100_000,
                "world_model.learning_rate": 1e-3,
                "world_model.evaluate_every": 1_000,
                "world_model.members": 7,
                "world_model.elites": 5,
                "world_model.width": 200,
                "world_model.depth": 4,
                "planner.candidates": 65,
                "imagination.starts": 100_000,
                "distillation.context": 20,
                "distillation.width": 256,
                "distillation.layers": 4,
                "distillation.dropout": 0.1,
                "distillation.updates": 100_000,
                "distillation.batch_size": 256,
                "distillation.learning_rate": 3e-4,
                "distillation.evaluations": 10,
                "cql.samples": 10,
            },
        )
    raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")


T = TypeVar("T")


def override(config: T, changes: dict[str, Any]) -> T:
    """A copy of a (nested) dataclass with dotted fields changed.

    Raises:
        KeyError: a field does not exist; the message lists those that do.
    """
    direct: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    known = [f.name for f in fields(config)]  # type: ignore[arg-type]
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if head not in known:
            raise KeyError(f"unknown config field {name!r}: expected one of {', '.join(known)}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = value
    for head, inner in nested.items():
        direct[head] = override(direct.get(head, getattr(config, head)), inner)
    return replace(config, **direct)  # type: ignore[type-var]


def as_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values that JSON can hold."""
    assert is_dataclass(config) and not isinstance(config, type)
    return asdict(config)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """The inverse of :func:`as_dict` for a (nested) dataclass type."""
    template = kind()
    changes: dict[str, Any] = {}
    for item in fields(template):  # type: ignore[arg-type]
        if item.name not in values:
            continue
        current, value = getattr(template, item.name), values[item.name]
        if is_dataclass(current):
            value = from_dict(type(current), value)
        elif isinstance(current, tuple):
            value = tuple(value)
        changes[item.name] = value
    return replace(template, **changes)  # type: ignore[type-var]
