"""Presets, overrides and the errors that a wrong field must raise."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipd_lite.paper.algorithm import IPDConfig
from ipd_lite.paper.distillation import DistillationConfig
from ipd_lite.paper.imagination import ImaginationConfig
from ipd_lite.paper.planning import PlannerConfig
from ipd_lite.settings import (
    PRESETS,
    Config,
    as_dict,
    configuration,
    from_dict,
    override,
    preset,
)
from ipd_lite.study.methods import METHODS
from ipd_lite.study.run import configured

WRONG: dict[str, list[Any]] = {
    "values.expectile": [0.0, 1.0, -0.1, 1.5],
    "values.discount": [-0.1, 1.0],
    "values.q_networks": [0],
    "values.v_networks": [0],
    "values.updates": [0, 2.5, "many", True],
    "values.width": [0, -8],
    "values.batch_size": [0],
    "values.learning_rate": [0.0, math.nan, math.inf],
    "values.fourier_features": [-1],
    "values.layer_norm": [1],
    "values.q_reduction": ["max"],
    "values.huber": [0.0],
    "world_model.members": [0, 1],
    "world_model.elites": [0, 99],
    "world_model.holdout": [0.0, 1.0],
    "world_model.evaluate_every": [0],
    "planner.horizon": [0],
    "planner.top": [0, 1000],
    "planner.candidates": [7, 31],
    "planner.kind": ["magic"],
    "imagination.quantile": [0.0, 1.1],
    "imagination.length": [0],
    "imagination.min_length": [0, 99],
    "imagination.starts": [0],
    "distillation.heads": [0],
    "distillation.width": [0, 65],
    "distillation.imagined_share": [-0.1, 1.1],
    "distillation.dropout": [1.5],
    "evaluation.episodes": [0],
    "evaluation.slots": [0],
    "evaluation.seed": [-1],
    "evaluation.target_level": [math.nan],
    "compute.compile": ["yes"],
    "cql.samples": [0],
}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_knows_its_name_and_is_json(name: str) -> None:
    config = preset(name)
    assert config.preset == name
    assert json.loads(json.dumps(as_dict(config)))["preset"] == name


def test_presets_grow_from_smoke_to_paper() -> None:
    assert PRESETS == ("smoke", "lesson", "gpu", "paper")
    presets = [preset(name) for name in PRESETS]
    for stage in ("values", "world_model", "distillation"):
        updates = [getattr(config, stage).updates for config in presets]
        widths = [getattr(config, stage).width for config in presets]
        assert updates == sorted(set(updates)) and widths == sorted(widths)
    starts = [config.imagination.starts for config in presets]
    assert starts == sorted(set(starts))


def test_the_gpu_preset_lies_between_lesson_and_paper() -> None:
    lesson, gpu, paper = (as_dict(preset(name)) for name in ("lesson", "gpu", "paper"))
    for stage, fields_of_stage in gpu.items():
        for name, value in fields_of_stage.items() if isinstance(fields_of_stage, dict) else ():
            ends = lesson[stage][name], paper[stage][name]
            if type(value) in (int, float):
                assert min(ends) <= value <= max(ends), f"{stage}.{name}"
            else:
                assert value in ends, f"{stage}.{name}"


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="smoke, lesson, gpu, paper"):
        preset("quick")


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_impossible_value_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} = {value!r}: expected "):
        override(Config(), {field: value})


def test_rules_between_stages_hold_however_a_configuration_is_built() -> None:
    lesson = Config()
    elites = replace(lesson.world_model, elites=4)
    with pytest.raises(ValueError, match=r"planner.candidates = 30: .* world_model.elites \(4\)"):
        Config(world_model=elites)
    with pytest.raises(ValueError, match=r"distillation.width = 64: .* distillation.heads \(3\)"):
        replace(lesson, distillation=replace(lesson.distillation, heads=3))


def test_configuration_is_read_back_from_json() -> None:
    config = override(preset("smoke"), {"imagination.quantile": None, "values.huber": 0.5})
    assert from_dict(json.loads(json.dumps(as_dict(config)))) == config
    with pytest.raises(ValueError, match=r"not one of this version .*epochs"):
        from_dict({"values": {"epochs": 3}})


@pytest.mark.parametrize(
    ("task", "method", "user", "expected"),
    [
        ({}, {}, {}, 1.0),
        ({"distillation.alpha": 0.1}, {}, {}, 0.1),
        ({"distillation.alpha": 0.1}, {"distillation.alpha": 0.2}, {}, 0.2),
        ({"distillation.alpha": 0.1}, {}, {"distillation.alpha": 0.3}, 0.3),
        ({}, {"distillation.alpha": 0.2}, {"distillation.alpha": 0.3}, 0.3),
    ],
)
def test_preset_then_task_then_method_then_user(
    task: dict[str, Any], method: dict[str, Any], user: dict[str, Any], expected: float
) -> None:
    found = configuration("lesson", task, method, user, needs=())
    assert found.distillation.alpha == expected
    assert override(found, {"distillation.alpha": 1.0}) == Config()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_refuses_what_it_is_not(method: str) -> None:
    found, other = (
        METHODS[method],
        {
            "distillation.alpha": 7.0,
            "planner.kind": "random",
            "imagination.quantile": 0.5,
            "cloning.fraction": 0.5,
            "distillation.imagined_share": 0.25,
            "distillation.filter_suboptimal": True,
            "distillation.condition": "maximum",
        },
    )
    for name, value in other.items():
        if found.overrides.get(name) == value:
            continue  # ipd-random, for instance, is what it is
        if name in found.borrowed:
            with pytest.raises(ValueError, match=f"{name} = 7.0: method {method} takes it from"):
                configured(Config(), method, {name: value})
            continue
        fixed = name in (found.overrides if found.needs is None else found.needs)
        if not fixed:
            part, _, field = name.partition(".")
            config = configured(Config(), method, {name: value})
            if found.amount == 1 or field != "imagined_share":
                assert getattr(getattr(config, part), field) == value
            continue
        with pytest.raises(ValueError, match=f"^{name} = .*: method {method} is defined"):
            configured(Config(), method, {name: value})
        assert configured(Config(), method, {name: found.overrides[name]})


def test_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().values.updates = 3  # type: ignore[misc]


@given(
    expectile=st.floats(0.01, 0.99),
    horizon=st.integers(1, 50),
    name=st.sampled_from(PRESETS),
)
def test_override_changes_exactly_the_named_fields(
    expectile: float, horizon: int, name: str
) -> None:
    before = preset(name)
    after = override(before, {"values.expectile": expectile, "planner.horizon": horizon})
    assert (after.values.expectile, after.planner.horizon) == (expectile, horizon)
    for stage in fields(Config):
        old, new = getattr(before, stage.name), getattr(after, stage.name)
        if stage.name not in ("values", "planner"):
            assert old == new
            continue
        changed = {f.name for f in fields(old) if getattr(old, f.name) != getattr(new, f.name)}
        assert changed <= {"expectile", "horizon"}


@pytest.mark.parametrize(
    ("field", "nearest"),
    [
        ("velues.expectile", "did you mean values.expectile"),
        ("values.expectle", "did you mean values.expectile"),
        ("zzz", "`ipd-lite run --help` lists all"),
        ("values", "unknown config field 'values'"),
    ],
)
def test_unknown_field_names_the_nearest(field: str, nearest: str) -> None:
    with pytest.raises(KeyError, match=nearest):
        override(Config(), {field: 1})


def test_whole_and_decimal_spelling_are_one_setting() -> None:
    assert json.dumps(as_dict(override(Config(), {"distillation.alpha": 1}))) == json.dumps(
        as_dict(Config())
    )


@pytest.mark.parametrize(
    ("field", "parts"),
    [
        ("planner.candidates", {"planner": PlannerConfig(candidates=31)}),
        ("distillation.width", {"distillation": DistillationConfig(width=65)}),
        ("imagination.min_length", {"imagination": ImaginationConfig(length=1)}),
    ],
)
def test_rules_between_stages_hold_without_the_command_line(
    field: str, parts: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=field):
        IPDConfig(**parts)
