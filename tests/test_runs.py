"""Files of a run: whole or absent, exactly resumable, damage is loud."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ipd_lite.files import load_tensors, save_tensors, write_atomically, write_csv, write_json
from ipd_lite.paper.training import Checkpoint, seeded
from ipd_lite.paper.values import ValueConfig, train_values
from ipd_lite.paper.world_model import Known, WorldModelConfig, train_world_model
from ipd_lite.study.storage import Stage, computed_otherwise, key_of, versions
from tests.helpers import Killed, KilledCheckpoint, same_bits, small_dataset


def test_a_checkpoint_stays_on_its_device(tmp_path: Path) -> None:
    file = tmp_path / "partial.safetensors"
    generator = torch.Generator()
    arguments = {"modules": {}, "optimizers": {}, "generators": {"batches": generator}}
    steps = Checkpoint(file, every=2).steps("toy", 9, **arguments)  # type: ignore[arg-type]
    for _ in range(4):
        next(steps)
    tensors, meta = load_tensors(file)
    assert meta["device"] == "cpu"
    save_tensors(file, tensors, {**meta, "device": "cuda"})
    with pytest.raises(ValueError, match="begun on cuda and cannot go on on cpu"):
        next(Checkpoint(file).steps("toy", 9, **arguments))  # type: ignore[arg-type]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "result.json"
    write_json(path, {"score": 1})

    def power_cut(descriptor: int) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write_json(path, {"score": 2})
    assert json.loads(path.read_text()) == {"score": 1}
    monkeypatch.undo()
    write_json(path, {"score": 3})
    assert json.loads(path.read_text()) == {"score": 3}


def test_reader_of_the_old_file_never_sees_the_new_one_begin(tmp_path: Path) -> None:
    """A file is replaced as a whole, not emptied and filled."""
    write_atomically(tmp_path / "file", "old and long")
    with open(tmp_path / "file") as reader:
        write_atomically(tmp_path / "file", "new")
        assert reader.read() == "old and long"
    assert (tmp_path / "file").read_text() == "new"


@settings(max_examples=8)
@given(content=st.one_of(st.binary(max_size=50), st.text(st.characters(codec="utf-8"))))
def test_written_bytes_are_read_back(tmp_path: Path, content: bytes | str) -> None:
    write_atomically(tmp_path / "file", content)
    expected = content if isinstance(content, bytes) else content.encode()
    assert (tmp_path / "file").read_bytes() == expected


def test_csv_reads_back(tmp_path: Path) -> None:
    rows = [{"step": 0, "loss": 0.1}, {"step": 100, "loss": 1 / 3}]
    write_csv(tmp_path / "log.csv", rows)
    assert pd.read_csv(tmp_path / "log.csv").to_dict("records") == rows


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@settings(max_examples=12)
@given(
    shape=st.lists(st.integers(0, 3), max_size=3),
    dtype=st.sampled_from(DTYPES),
    meta=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=5,
    ),
)
def test_tensors_and_json_are_read_back(
    tmp_path: Path, shape: list[int], dtype: torch.dtype, meta: Any
) -> None:
    generator = torch.Generator().manual_seed(0)
    stored = (torch.rand(shape, generator=generator) * 3).to(dtype)
    both = {"a": stored, "view": stored.T if stored.dim() == 2 else stored, "a/b.c": stored.clone()}
    save_tensors(tmp_path / "x.safetensors", both, meta)
    loaded, found = load_tensors(tmp_path / "x.safetensors")
    assert found == meta
    assert loaded.keys() == both.keys()
    for name, tensor in both.items():
        assert loaded[name].dtype == dtype
        assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("kept", [0, 4, 20, 100, -1])
def test_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.arange(100)}, {"step": 3})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged .*; delete it"):
        load_tensors(path)


def test_missing_file_is_missing_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "nothing.safetensors")


json_values = st.recursive(
    st.integers() | st.floats(allow_nan=False) | st.text(max_size=4) | st.booleans(),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=3), json_values, min_size=1, max_size=4))
def test_key_ignores_order_and_nothing_else(parts: dict[str, Any]) -> None:
    backwards = dict(reversed(parts.items()))
    assert key_of(parts) == key_of(backwards)
    name = next(iter(parts))
    assert key_of({**parts, name: [parts[name], 1]}) != key_of(parts)
    assert key_of(parts, 0) != key_of(parts)
    assert len(key_of(parts)) == 12
    assert int(key_of(parts), 16) >= 0


def test_seeded_restores_the_callers_randomness() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(1):
        one = torch.rand(3)
    with seeded(1):
        again = torch.rand(3)
    with seeded(2):
        other = torch.rand(3)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_versions_name_what_a_result_depends_on() -> None:
    found = versions()
    assert {"python", "platform", "torch", "mujoco", "minari", "threads"} <= found.keys()
    assert found["torch"] == torch.__version__


def train_toy(checkpoint: Checkpoint, updates: int = 23) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Every kind of state: weights, a buffer, two moments, dropout and a generator of its own."""
    with seeded(0):
        net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)
        generator = torch.Generator().manual_seed(0)
        for step in checkpoint.steps(
            "toy",
            updates,
            modules={"net": net},
            optimizers={"adam": optimizer},
            generators={"batches": generator},
        ):
            loss = net(torch.randn(16, 3, generator=generator)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            checkpoint.log(step, {"loss": loss})
    return net, checkpoint.rows


@settings(max_examples=12)
@given(kills=st.lists(st.integers(0, 22), min_size=1, max_size=3), every=st.integers(1, 25))
def test_killed_run_continues_in_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], every: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "partial.safetensors"
    for kill_at in sorted(kills):
        with pytest.raises(Killed):
            train_toy(KilledCheckpoint(path, every, kill_at))
    resumed, rows = train_toy(Checkpoint(path, every=every, log_every=1))
    whole, expected_rows = train_toy(Checkpoint(None, log_every=1))
    assert same_bits(resumed, whole)
    assert rows == expected_rows


def test_resuming_does_not_repeat_finished_updates(tmp_path: Path) -> None:
    path = tmp_path / "partial.safetensors"
    with pytest.raises(Killed):
        train_toy(KilledCheckpoint(path, every=5, kill_at=12))
    made: list[int] = []

    class Counting(Checkpoint):
        def log(self, step: int, values: Mapping[str, Tensor]) -> None:
            made.append(step)

    train_toy(Counting(path))
    assert made == list(range(10, 23))


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "partial.safetensors"
    with pytest.raises(Killed):
        train_toy(KilledCheckpoint(path, every=5, kill_at=12))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"partial\.safetensors is damaged"):
        train_toy(Checkpoint(path))


VALUES = ValueConfig(updates=40, batch_size=8, width=8, fourier_features=4, actor_dropout=0.2)
MODEL = WorldModelConfig(
    members=3,
    elites=2,
    width=8,
    depth=1,
    updates=40,
    batch_size=8,
    evaluate_every=7,
    patience=2,
    fourier_features=4,
    learning_rate=1e-2,
)


def values_stage(checkpoint: Checkpoint, seed: int = 0) -> nn.Module:
    return train_values(
        small_dataset(), VALUES, seed=seed, position_dimensions=(0,), checkpoint=checkpoint
    )


def model_stage(checkpoint: Checkpoint, seed: int = 0) -> nn.Module:
    return train_world_model(
        small_dataset(),
        MODEL,
        seed=seed,
        known=Known(position_dimensions=(0,)),
        checkpoint=checkpoint,
    )


STAGES = pytest.mark.parametrize("stage", [values_stage, model_stage])


@STAGES
@pytest.mark.parametrize("kill_at", [4, 10, 23, 39])
def test_stage_killed_in_training_ends_in_the_same_bits(
    stage: Callable[..., nn.Module], kill_at: int, tmp_path: Path
) -> None:
    path = tmp_path / "partial.safetensors"
    with pytest.raises(Killed):
        stage(KilledCheckpoint(path, every=10, kill_at=kill_at))
    assert path.exists() == (kill_at >= 10)
    resumed = Checkpoint(path, every=10, log_every=1)
    whole = Checkpoint(None, log_every=1)
    assert same_bits(stage(resumed), stage(whole))
    assert resumed.rows == whole.rows


@STAGES
def test_same_seed_same_bits_whatever_ran_before(stage: Callable[..., nn.Module]) -> None:
    one = stage(Checkpoint.none())
    torch.manual_seed(1234)
    torch.rand(7)
    again, other = stage(Checkpoint.none()), stage(Checkpoint.none(), seed=1)
    assert same_bits(one, again)
    assert not same_bits(one, other)


@STAGES
def test_training_leaves_the_callers_randomness_alone(stage: Callable[..., nn.Module]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    stage(Checkpoint.none())
    assert torch.equal(torch.get_rng_state(), before)


@STAGES
@pytest.mark.parametrize("field", ["rewards", "observations", "next_observations"])
def test_numbers_that_explode_stop_the_stage_by_name(
    stage: Callable[..., nn.Module], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_dataset()
    infinite: dict[str, Any] = {field: torch.full_like(getattr(data, field), torch.inf)}
    huge = replace(data, **infinite)
    monkeypatch.setattr("tests.test_runs.small_dataset", lambda: huge)
    name = "values" if stage is values_stage else "world model"
    with pytest.raises(FloatingPointError, match=f"stage {name}, update 0: .* is not finite"):
        stage(Checkpoint.none())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [100, 119])
def test_bad_loss_stops_the_run_at_the_latest_at_its_end(bad: float, at: int) -> None:
    checkpoint = Checkpoint(None, log_every=100)

    def loss(step: int) -> dict[str, Tensor]:
        return {"fine": torch.zeros(()), "loss": torch.tensor(bad if step >= at else 1.0)}

    with pytest.raises(FloatingPointError, match=rf"stage toy, update {at}: loss is not finite"):
        for step in checkpoint.steps("toy", 120, modules={}, optimizers={}, generators={}):
            checkpoint.log(step, loss(step))
    assert [row["step"] for row in checkpoint.rows] == ([0] if at == 100 else [0, 100])


def test_stage_exists_only_once_everything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path / "values", {"stage": "values", "task": "toy"})
    assert not stage.done
    with pytest.raises(Killed):
        train_toy(KilledCheckpoint(tmp_path / "values" / "partial.safetensors", 5, 12))
    net, _ = train_toy(stage.checkpoint)
    monkeypatch.setattr("ipd_lite.study.storage.versions", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stage.store(net.state_dict(), {"updates": 23})
    assert not stage.done
    monkeypatch.undo()
    stage.store(net.state_dict(), {"updates": 23})
    assert Stage(tmp_path / "values", {"stage": "values"}).done
    tensors, meta = stage.load()
    assert meta == {"updates": 23}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in net.state_dict().items())
    assert sorted(path.name for path in (tmp_path / "values").iterdir()) == [
        "config.json",
        "log.csv",
        "result.safetensors",
    ]
    description = json.loads((tmp_path / "values" / "config.json").read_text())
    assert (description["task"], description["versions"]) == ("toy", versions())


def test_a_stage_is_found_whatever_it_was_computed_with(tmp_path: Path) -> None:
    net, _ = train_toy(Checkpoint.none())
    wanted = {"stage": "values", "seed": 3, "compute": [[False, False]], "after": []}
    stored = {**wanted, "compute": [[True, True]]}
    assert computed_otherwise(tmp_path, wanted) is None
    Stage(tmp_path / "values-1", {**stored, "seed": 4}).store(net.state_dict(), {})
    assert computed_otherwise(tmp_path, wanted) is None, "another seed is another stage"
    Stage(tmp_path / "values-2", stored).store(net.state_dict(), {})
    assert computed_otherwise(tmp_path, wanted) == tmp_path / "values-2"
    (tmp_path / "values-2" / "result.safetensors").unlink()
    assert computed_otherwise(tmp_path, wanted) is None, "unfinished"


def test_altered_numbers_are_damage(tmp_path: Path) -> None:
    file = tmp_path / "result.safetensors"
    save_tensors(file, {"weights": torch.arange(6.0)}, {"updates": 3})
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged \(its numbers are not those"):
        load_tensors(file)
