"""Presets, overrides and the errors that a wrong field must raise."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipd_lite.settings import PRESETS, Config, as_dict, override, preset

WRONG: dict[str, list[float]] = {
    "values.expectile": [0.0, 1.0, -0.1, 1.5],
    "values.discount": [-0.1, 1.0],
    "values.q_networks": [0],
    "values.v_networks": [0],
    "values.updates": [0],
    "world_model.members": [0, 1],
    "world_model.elites": [0, 99],
    "world_model.holdout": [0.0, 1.0],
    "planner.horizon": [0],
    "planner.top": [0, 1000],
    "imagination.quantile": [0.0, 1.1],
    "imagination.length": [0],
}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_knows_its_name_and_is_json(name: str) -> None:
    config = preset(name)
    assert config.preset == name
    assert json.loads(json.dumps(as_dict(config)))["preset"] == name


def test_presets_grow_from_smoke_to_paper() -> None:
    smoke, lesson, paper = (preset(name) for name in PRESETS)
    for stage in ("values", "world_model", "distillation"):
        updates = [getattr(config, stage).updates for config in (smoke, lesson, paper)]
        assert updates[0] < updates[1] < updates[2]


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="smoke, lesson, paper"):
        preset("quick")


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_impossible_value_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} = "):
        override(Config(), {field: value})


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


@pytest.mark.parametrize("field", ["velues.expectile", "values.expectle", "seed"])
def test_unknown_field_lists_the_known_ones(field: str) -> None:
    known = "expectile" if "." in field and field.startswith("values") else "values"
    with pytest.raises(KeyError, match=f"expected one of .*{known}"):
        override(Config(), {field: 1})
