"""A run's files: configuration, versions, checkpoints, logs. Atomic, resumable, never a pickle.

Every result is written beside its place and renamed, so a killed run leaves whole files only. How
a killed training continues is said in `paper/training.py`, :class:`Checkpoint`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from ipd_lite.files import load_tensors, save_tensors, write_csv, write_json
from ipd_lite.paper.training import Checkpoint
from ipd_lite.study.names import Damaged, read_json, same

PACKAGES = (
    "torch",
    "numpy",
    "gymnasium",
    "gymnasium-robotics",
    "mujoco",
    "minari",
    "safetensors",
)


LOCK = ".lock"
RESULT = "result.safetensors"
"""A stage's finished result."""


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
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
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
    if in_use(folder):
        print(f"waiting for another process that works in {folder}", file=sys.stderr, flush=True)
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


def pack(result: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A stage's result as tensors and JSON values.

    Args:
        result: a module, a dataclass of tensors, a dataclass of plain values, or a tuple of such.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, part in enumerate(result if isinstance(result, tuple) else (result,)):
        values = part.state_dict() if isinstance(part, nn.Module) else vars(part)
        for name, value in values.items():
            target: dict[str, Any] = tensors if isinstance(value, Tensor) else plain
            target[f"{index}:{name}"] = value
    return tensors, plain


def unpack(
    template: Any, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], device: torch.device
) -> Any:
    """What :func:`pack` packed. `template`: untrained modules, and classes of the dataclasses."""

    def part(index: int, kind: Any) -> Any:
        prefix = f"{index}:"
        stored = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if isinstance(kind, nn.Module):
            kind.to(device).load_state_dict(stored)
            return kind.eval().requires_grad_(False)
        values = {k[len(prefix) :]: v for k, v in plain.items() if k.startswith(prefix)}
        return kind(**stored, **values)

    if not isinstance(template, tuple):
        return part(0, template)
    return tuple(part(index, kind) for index, kind in enumerate(template))


def computed_otherwise(root: Path, description: Mapping[str, Any]) -> Path | None:
    """The folder of a finished stage that differs in what it was computed with alone: a machine of
    other abilities (`paper/training.py`, :class:`Compute`) trained it."""
    wanted = {name: value for name, value in description.items() if name != "compute"}
    for file in sorted(root.glob(f"{description['stage']}-*/config.json")):
        with contextlib.suppress(Damaged):
            if (file.parent / RESULT).exists() and same(read_json(file), wanted):
                return file.parent
    return None


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
        return self.folder / RESULT

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
