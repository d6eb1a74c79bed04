"""A run's files: configuration, versions, checkpoints, logs. Atomic, resumable, never a pickle.

Every result is written beside its place and renamed, so a killed run leaves whole files only. A
training loop iterates over :meth:`Checkpoint.steps`; killed and started again, it continues from
its last checkpoint and ends in the same bits as a run that was never interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

PACKAGES = (
    "torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "minari", "safetensors",
)  # fmt: skip


LOCK = ".lock"


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's default generators (initial weights, dropout) and restore them afterwards."""
    device = torch.device(device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either the old one or the complete new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    data = content.encode() if isinstance(content, str) else content
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]] | pd.DataFrame) -> None:
    """Write rows as CSV, atomically."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Any = None) -> None:
    """Tensors as safetensors, with any JSON value beside them in the same file, atomically."""
    host = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    write_atomically(path, save(host, metadata={"json": json.dumps(meta)}))


def load_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Any]:
    """What :func:`save_tensors` wrote.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            meta = json.loads((file.metadata() or {}).get("json", "null"))
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from error


def key_of(*parts: Any) -> str:
    """Twelve hexadecimal digits that change whenever any of the JSON-able parts does."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """What a result depends on besides its configuration."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found["threads"] = str(torch.get_num_threads())
    return found


def provenance() -> dict[str, Any]:
    """Where a result comes from: commit, versions, processor and accelerator of this machine."""
    cuda = torch.cuda.is_available()
    return {
        "commit": _commit(),
        "versions": versions(),
        "processor": _processor(),
        "accelerator": torch.cuda.get_device_name() if cuda else None,
        "threads": torch.get_num_threads(),
    }


@functools.cache
def _commit() -> str | None:
    """The commit of the package's checkout, "+" behind it with changes; None if it has none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40",
               "--dirty=+", "--exclude=*"]  # fmt: skip
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@functools.cache
def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; another process that wants it waits here."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        yield


def in_use(folder: Path) -> bool:
    """Whether a living process holds the folder's lock."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def reset_peak_memory() -> None:
    """Let :func:`peak_memory` begin anew, where the system can (Linux; CUDA everywhere)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> dict[str, float]:
    """Most memory since the last reset in MB: of the whole process, and allocated on the GPU.

    Empty where the operating system does not tell.
    """
    found = {}
    if torch.cuda.is_available():
        found["gpu"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                found["process"] = round(int(line.split()[1]) / 1e3, 1)
    return found


def _device_of(generators: Mapping[str, torch.Generator]) -> torch.device:
    """Where a stage is computed: its random numbers are drawn there."""
    return next((generator.device for generator in generators.values()), torch.device("cpu"))


class Checkpoint:
    """Progress, log and resumption of one training stage.

    Args:
        path: file of the unfinished stage (None = keep nothing on disk).
        every: updates between two checkpoints.
        log_every: updates between two rows of the log.
        progress: show a progress bar.
    """

    def __init__(
        self, path: Path | None, every: int = 2_000, log_every: int = 100, progress: bool = False
    ) -> None:
        self.path, self.every, self.log_every, self.progress = path, every, log_every, progress
        self.rows: list[dict[str, float]] = []
        self.stage, self.total = "", 0
        self.seconds_before = 0.0

    @classmethod
    def none(cls) -> Checkpoint:
        """No files and no progress bar."""
        return cls(None)

    def steps(
        self,
        stage: str,
        total: int,
        *,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        generators: Mapping[str, torch.Generator],
    ) -> Iterator[int]:
        """Yield the updates that are still to be made, saving all state every `every` updates.

        Saved: weights and buffers, optimizer moments, the given generators and torch's default
        ones, the log. The caller must derive everything else from the step number.
        """
        self.stage, self.total = stage, total
        first = self._restore(modules, optimizers, generators)
        self._started = time.perf_counter()
        bar = tqdm(total=total, initial=first, desc=stage, unit="update", disable=not self.progress)
        with bar:
            for step in range(first, total):
                yield step
                bar.update()
                if self.path and (step + 1) % self.every == 0 and step + 1 < total:
                    self._save(step + 1, modules, optimizers, generators)

    def log(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Keep the scalars of every `log_every`-th step and of the last; one host copy per row.

        Raises:
            FloatingPointError: one of them is NaN or infinite.
        """
        if step % self.log_every and step + 1 != self.total:
            return
        numbers = torch.stack([v.detach().float() for v in values.values()]).tolist()
        row = dict(zip(values, numbers, strict=True))
        bad = [
            name for name, number in row.items() if number != number or abs(number) == float("inf")
        ]
        if bad:
            raise FloatingPointError(
                f"stage {self.stage}, update {step}: {', '.join(bad)} is not finite; "
                "lower the learning rate or look for extreme rewards in the data"
            )
        self.rows.append({"step": step, **row})

    def finish(self) -> None:
        """Forget the unfinished state: the result is stored elsewhere now."""
        if self.path:
            self.path.unlink(missing_ok=True)

    def _save(
        self,
        step: int,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        generators: Mapping[str, torch.Generator],
    ) -> None:
        assert self.path
        tensors = {"random/cpu": torch.get_rng_state()}
        device = _device_of(generators)
        if device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(device)
        for name, module in modules.items():
            tensors |= {f"module/{name}/{k}": v for k, v in module.state_dict().items()}
        for name, optimizer in optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{index}/{k}": v for k, v in state.items()}
        for name, generator in generators.items():
            tensors[f"generator/{name}"] = generator.get_state()
        seconds = self.seconds_before + time.perf_counter() - self._started
        meta = {"step": step, "rows": self.rows, "seconds": seconds, "device": device.type}
        save_tensors(self.path, tensors, meta)

    def _restore(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        generators: Mapping[str, torch.Generator],
    ) -> int:
        if self.path is None or not self.path.exists():
            return 0
        tensors, meta = load_tensors(self.path)
        device = _device_of(generators)
        if meta["device"] != device.type:  # random states of one kind mean nothing to the other
            raise ValueError(
                f"{self.path} was begun on {meta['device']} and cannot go on on {device.type}; use "
                f"--device {meta['device']}, or delete it to begin again"
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        for name, module in modules.items():
            module.load_state_dict(part(f"module/{name}/"))
        for name, optimizer in optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in part(f"optimizer/{name}/").items():
                index, field = key.split("/")
                state.setdefault(int(index), {})[field] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        for name, generator in generators.items():
            generator.set_state(tensors[f"generator/{name}"])
        torch.set_rng_state(tensors["random/cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], device)
        self.rows = list(meta["rows"])
        self.seconds_before = float(meta["seconds"])
        return int(meta["step"])


class Stage:
    """Folder of one stage's result, shared by every run whose configuration asks for the same.

    Files: config.json (what the key stands for), result.safetensors, log.csv, and, while it is
    unfinished, partial.safetensors.
    """

    def __init__(
        self, folder: Path, description: Mapping[str, Any], progress: bool = False
    ) -> None:
        self.folder = folder
        self.description = dict(description)
        self.checkpoint = Checkpoint(folder / "partial.safetensors", progress=progress)
        self.start()

    @property
    def name(self) -> str:
        """The stage's name."""
        return str(self.description["stage"])

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Keep other processes out while the result is missing: who waits then finds it done.

        A lock of the operating system: it is gone when its process is, however that ends.
        """
        if self.done:
            yield
            return
        with exclusive(self.folder):
            self.start()  # waiting was no work
            yield

    def start(self) -> None:
        """Start the stage's clock, and its record of memory."""
        self._started = time.perf_counter()
        reset_peak_memory()

    def seconds(self) -> float:
        """Wall seconds of this stage, those before an interruption included."""
        return round(time.perf_counter() - self._started + self.checkpoint.seconds_before, 3)

    @property
    def result(self) -> Path:
        """The finished stage's file."""
        return self.folder / "result.safetensors"

    @property
    def log(self) -> Path:
        """The finished stage's training log."""
        return self.folder / "log.csv"

    @property
    def done(self) -> bool:
        """Whether the result is there."""
        return self.result.exists()

    def load(self, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Any]:
        """Tensors and JSON value of the finished stage."""
        return load_tensors(self.result, device)

    def store(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Write the result last of all, so that it exists only if everything else does."""
        write_json(self.folder / "config.json", {**self.description, "versions": versions()})
        if self.checkpoint.rows:
            write_csv(self.log, self.checkpoint.rows)
        save_tensors(self.result, tensors, meta)
        self.checkpoint.finish()
