"""One frozen dataclass per stage of the paper, four presets of all of them together, their rules.

`smoke` runs every stage in seconds (tests), `lesson` in a few minutes on a laptop CPU (the course),
`gpu` in a quarter of an hour on one card, `paper` has published sizes and wants hours of a card.
Precedence: preset < task < method < user.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from ipd_lite.paper.algorithm import IPDConfig
from ipd_lite.paper.training import require
from ipd_lite.rivals.cloning import CloningConfig
from ipd_lite.rivals.cql import CQLConfig
from ipd_lite.rivals.rebrac import ReBRACConfig
from ipd_lite.rivals.td3bc import TD3BCConfig
from ipd_lite.suggestions import unknown

NOTHING: Mapping[str, Any] = MappingProxyType({})
Preset = Literal["smoke", "lesson", "gpu", "paper"]


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
    ask: Literal["value", "quantile"] = "value"  # PAPER SILENT
    """What V-conditioned methods ask for: V(s), or V(s) + `ask_quantile` of what the recordings'
    tokens are above it (`paper/ask.py`)."""
    ask_quantile: float = 0.9


@dataclass(frozen=True)
class QTConfig:
    """Baseline: QT's own weight of the value-guided term; all else is that of `distillation`."""

    alpha: float = 1.0


@dataclass(frozen=True)
class Config(IPDConfig):
    """All stages together; one run = one task + one method + one seed + this."""

    preset: Preset = "lesson"
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    cloning: CloningConfig = field(default_factory=CloningConfig)
    td3bc: TD3BCConfig = field(default_factory=TD3BCConfig)
    cql: CQLConfig = field(default_factory=CQLConfig)
    rebrac: ReBRACConfig = field(default_factory=ReBRACConfig)
    qt: QTConfig = field(default_factory=QTConfig)

    def __post_init__(self) -> None:
        for stage in fields(self):
            if is_dataclass(part := getattr(self, stage.name)):
                check(part, stage.name)
        super().__post_init__()


MOST = 10**18
RANGES = {
    name: bounds
    for bounds, names in {
        (0, MOST): "fourier_features evaluation.seed",
        (-MOST, MOST): "target target_level improvement",
        (1e-12, MOST): "learning_rate gradient_clip temperature fourier_scale huber",
        (0, 1): "dropout actor_dropout ema final_learning_rate imagined_share "
        "ask_quantile suboptimal_fraction target_rate variance_weight",
    }.items()
    for name in names.split()
}
"""Bounds of fields of that name, where they are not at least 1 (whole numbers) or 0 (others)."""


@functools.cache
def field_types(kind: type) -> dict[str, Any]:
    """The type of every field. Evaluating annotations takes a millisecond; a study asks ten
    thousand times."""
    return get_type_hints(kind)


def check(part: Any, stage: str, changes: Mapping[str, Any] | None = None) -> None:
    """Refuse a stage's configuration, or changes of it, of another type or out of range.

    Raises:
        ValueError: naming field, value and what was expected.
    """
    hints = field_types(type(part))  # type: ignore[arg-type]  # every class has a hash
    for name, value in (vars(part) if changes is None else changes).items():
        label, kinds = f"{stage}.{name}", get_args(hints[name]) or (hints[name],)
        if value is None and type(None) in kinds:
            continue
        if bool in kinds:
            require(isinstance(value, bool), label, value, "true or false")
        elif isinstance(kinds[0], str):
            require(value in kinds, label, value, f"one of {', '.join(kinds)}")
        else:
            whole = int in kinds
            usual = (1 if whole else 0, MOST)
            check_number(label, value, *RANGES.get(label, RANGES.get(name, usual)), whole=whole)


def check_number(
    label: str, value: Any, low: float, high: float = MOST, whole: bool = True
) -> None:
    """Refuse what is no (whole) number between `low` and `high`; NaN and infinity are none."""
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    bounds = f"at least {low:g}" if high == MOST else f"from {low:g} to {high:g}"
    expected = f"a{' whole' if whole else ''} number" + (f", {bounds}" if low > -MOST else "")
    require(number and low <= value <= high, label, value, expected)


SMOKE = {
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
}

GPU = {
    "values.updates": 100_000,
    "values.width": 256,
    "values.learning_rate": 3e-4,
    "values.target_rate": 0.005,
    "world_model.updates": 20_000,
    "world_model.learning_rate": 1e-3,
    "world_model.evaluate_every": 500,
    "world_model.members": 7,
    "world_model.width": 128,
    "imagination.starts": 30_000,
    "distillation.context": 20,
    "distillation.width": 128,
    "distillation.layers": 2,
    "distillation.dropout": 0.1,
    "distillation.updates": 30_000,
    "distillation.batch_size": 256,
    "distillation.learning_rate": 3e-4,
    "distillation.evaluations": 5,
}
"""Between `lesson` and `paper` in every size; nothing was tuned for it."""

PAPER = {
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
}

CHANGES: dict[str, dict[str, Any]] = {"smoke": SMOKE, "lesson": {}, "gpu": GPU, "paper": PAPER}
PRESETS = tuple(CHANGES)


def preset(name: str) -> Config:
    """The preset called `name`.

    Raises:
        ValueError: the name is not one of `PRESETS`.
    """
    if name not in CHANGES:
        raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")
    return override(Config(), {"preset": name, **CHANGES[name]})


def configuration(
    base: str | Config,
    task: Mapping[str, Any] = NOTHING,
    method: Mapping[str, Any] = NOTHING,
    user: Mapping[str, Any] = NOTHING,
    *,
    needs: Collection[str] | None = None,
    borrowed: Mapping[str, str] = NOTHING,
    amount: float = 1.0,
    name: str = "this one",
) -> Config:
    """Where every configuration is built: preset < task < method < user.

    Args:
        base: a preset's name, or a configuration that takes the place of preset and task.
        task, method, user: dotted fields that each of them sets.
        needs: fields of `method` that a user must not set otherwise; None = all.
        borrowed: fields of the method that take the value of another one.
        amount: factor of the imagined data: of starts and of the odds of drawing an imagined
            window, so that every such window stays as likely as before.
        name: the method's, for messages.

    Raises:
        KeyError: an unknown field.
        ValueError: an impossible value, or one that the method cannot have.
    """
    for needed in method if needs is None else needs:
        if needed in user and user[needed] != method[needed]:
            raise ValueError(
                f"{needed} = {user[needed]!r}: method {name} is defined by {needed} = "
                f"{method[needed]!r}; leave that setting out or choose another method"
            )
    for to, of in borrowed.items():
        if user.get(to, user.get(of)) != user.get(of):
            raise ValueError(f"{to} = {user[to]!r}: method {name} takes it from {of}; set that one")
    base = preset(base) if isinstance(base, str) else base
    config = override(base, {**task, **method, **user})
    config = override(config, {to: attrgetter(of)(config) for to, of in borrowed.items()})
    share = config.distillation.imagined_share
    if amount == 1.0 or share == 1.0:
        return config
    odds = amount * share / (1 - share)
    starts = max(1, round(amount * config.imagination.starts))
    changes = {"imagination.starts": starts, "distillation.imagined_share": odds / (1 + odds)}
    return override(config, changes)


T = TypeVar("T")


def names(config: Any, prefix: str = "") -> list[str]:
    """Every field of a (nested) configuration, dotted."""
    found: list[str] = []
    for name, value in vars(config).items():
        inside = is_dataclass(value)
        found += names(value, f"{prefix}{name}.") if inside else [prefix + name]
    return found


def override(config: T, changes: Mapping[str, Any]) -> T:
    """A copy of a configuration, or of one stage's, with (dotted) fields changed.

    Raises:
        KeyError: a field does not exist; the message names the nearest ones.
    """
    stages: dict[str, dict[str, Any]] = {}
    known = names(config)
    for name, value in changes.items():
        if name not in known:
            raise unknown("config field", name, known, "ipd-lite run --help")
        stage, _, last = name.rpartition(".")
        before = getattr(getattr(config, stage) if stage else config, last)
        same = type(value) is int and isinstance(before, float)  # 1 and 1.0 are one setting
        stages.setdefault(stage, {})[last] = float(value) if same else value
    own = stages.pop("", {})
    parts = {}
    for stage, new in stages.items():
        check(getattr(config, stage), stage, new)  # types, before a stage compares its values
        parts[stage] = replace(getattr(config, stage), **new)
    return replace(config, **own, **parts)  # type: ignore[type-var]


def as_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values that JSON can hold."""
    return asdict(config)


def from_dict(values: Mapping[str, Any]) -> Config:
    """The inverse of :func:`as_dict`.

    Raises:
        ValueError: an unknown field.
    """
    kinds = field_types(Config)
    try:
        return Config(**{k: kinds[k](**v) if isinstance(v, dict) else v for k, v in values.items()})
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"the stored configuration is not one of this version of ipd-lite ({error}); install "
            "the version that wrote it, or run again into another --out"
        ) from error
