"""What every training loop shares: seeds, a checkpointed loop, schedules, speed."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ipd_lite.files import TrainingState, load_tensors, save_tensors


def require(condition: bool, field_name: str, value: object, expected: str) -> None:
    """A rule of a configuration: raise a ValueError that names field, value and expectation."""
    if not condition:
        raise ValueError(f"{field_name} = {value!r}: expected {expected}")


class Compute(NamedTuple):
    """How the training steps of a stage are computed: the same algorithm, other roundings."""

    compile: bool = False
    autocast: bool = False


AS_WRITTEN = Compute()
"""Every operation by itself, in float32."""

REPAYS_COMPILING = 50_000
"""Updates from which the minute that torch.compile takes is won back on a CPU."""
WIDE_ENOUGH = {"cpu": 256, "cuda": 1024}
"""Widths from which matrix products, not launches and casts, take most of the time."""


@dataclass(frozen=True)
class ComputeConfig:
    """Speed of the training steps; None leaves each choice to a rule, see :meth:`chosen`."""

    compile: bool | None = None
    """torch.compile the losses (None: where a stage has at least 50,000 updates)."""
    autocast: bool | None = None
    """bfloat16 in the matrix products of losses and planning, values end in float32 (None: where
    the processor multiplies bfloat16 and networks are at least 256 wide; 1,024 on a GPU)."""

    def chosen(self, updates: int, width: int, device: torch.device) -> Compute:
        """What a stage of so many updates with networks so wide is computed with."""
        compile, autocast = self.compile, self.autocast
        if compile is None:
            possible = device.type != "cpu" or _has_compiler()
            compile = possible and updates >= REPAYS_COMPILING
        if autocast is None:
            wide = width >= WIDE_ENOUGH.get(device.type, 1024)
            autocast = wide and multiplies_bfloat16(device)
        return Compute(compile, autocast)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has units for bfloat16 products (emulating them is slower)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and "amx_bf16" in _processor_flags()


@functools.cache
def _processor_flags() -> frozenset[str]:
    """The processor's features as Linux lists them; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


P = ParamSpec("P")


R = TypeVar("R")


def packed_parameters(module: nn.Module) -> nn.Parameter:
    """All trainable parameters of `module` as one flat parameter (P,), its gradient likewise.

    The module's own parameters become views of it and work as before. The optimizer, clipping and
    clearing of gradients are then one operation each instead of one per layer. Call it after the
    module is on its device; gradients must stay views, so never set them to None.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    packed = nn.Parameter(torch.cat([p.detach().flatten() for p in trained]))
    packed.grad = torch.zeros_like(packed)
    sizes = [p.numel() for p in trained]
    pieces = packed.detach().split(sizes), packed.grad.split(sizes)
    for parameter, weights, gradient in zip(trained, *pieces, strict=True):
        parameter.data = weights.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return packed


def accelerated(loss: Callable[P, R], device: torch.device, compute: Compute) -> Callable[P, R]:
    """`loss` compiled, and under bfloat16 autocast, where asked for.

    Parameters, gradients and the optimizer stay float32.

    Raises:
        RuntimeError: compilation for the CPU was asked for and there is no C++ compiler.
    """
    if compute.compile and device.type == "cpu" and not _has_compiler():
        raise RuntimeError(
            "compute.compile on the CPU needs a C++ compiler (g++ or clang++) on the PATH; "
            "install one, or set --compute.compile False"
        )
    if compute.compile and device.type == "cuda":  # TF32 would keep 10 of 23 bits: not asked for
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    chosen = loss
    if compute.autocast:

        def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                return loss(*args, **kwargs)

    return torch.compile(chosen) if compute.compile else chosen


def _has_compiler() -> bool:
    names = [os.environ.get("CXX", ""), "g++", "clang++"]
    return any(shutil.which(name) for name in names if name)


@torch.no_grad()
def average_into(target: nn.Module, source: nn.Module, rate: float) -> None:
    """target <- (1 - rate) * target + rate * source, parameter by parameter, in place."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)


class Schedule(Protocol):
    """The fields of a stage's configuration that set its learning rate."""

    @property
    def updates(self) -> int:
        """Updates in all."""

    @property
    def learning_rate(self) -> float:
        """Rate of the first update."""

    @property
    def final_learning_rate(self) -> float:
        """Rate of the last update, as a fraction of the first."""


def cosine_rate(step: int, schedule: Schedule) -> float:
    """Learning rate at `step`: from the first down to the last along half a cosine."""
    fraction = 0.5 * (1 + math.cos(math.pi * min(step / schedule.updates, 1.0)))
    final = schedule.final_learning_rate
    return schedule.learning_rate * (final + (1 - final) * fraction)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, schedule: Schedule) -> None:
    """Set the rate of every parameter group for update `step`."""
    rate = cosine_rate(step, schedule)
    for group in optimizer.param_groups:
        group["lr"] = rate


class Descent:
    """AdamW on all trainable parameters of a module as one tensor, its rate falling as scheduled.

    Args:
        weight_decay: decoupled; 0 makes it Adam.
        clip: largest norm of the gradient, None = any.
    """

    def __init__(
        self,
        module: nn.Module,
        schedule: Schedule,
        *,
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        self.schedule, self.clip = schedule, clip
        self.norm = torch.zeros(())
        self.packed = packed_parameters(module)
        self.optimizer = torch.optim.AdamW(
            [self.packed], lr=schedule.learning_rate, weight_decay=weight_decay, fused=True
        )

    def step(self, step: int, loss: Tensor) -> None:
        """One update down the gradient of `loss`; where it clips, `norm` is the gradient's."""
        set_learning_rate(self.optimizer, step, self.schedule)
        self.optimizer.zero_grad(set_to_none=False)  # gradients are views and must stay so
        loss.backward()
        if self.clip is not None:
            self.norm = nn.utils.clip_grad_norm_([self.packed], self.clip)
        self.optimizer.step()


class Snapshots(nn.Module):
    """Copies of a policy along its training, (snapshots, ...) per parameter."""

    def __init__(self, policy: nn.Module, count: int, updates: int) -> None:
        super().__init__()
        # Never more copies than updates: one that is not taken would stay zero.
        self.count = count = min(count, updates)
        self.updates = updates
        for name, parameter in policy.named_parameters():
            stack = parameter.detach().new_zeros(count, *parameter.shape)
            self.register_buffer(name.replace(".", "/"), stack)

    @torch.no_grad()
    def keep(self, step: int, policy: nn.Module) -> None:
        """Copy the policy's parameters if a snapshot is due after update `step` (from 0)."""
        for index in range(self.count):
            if step + 1 == self.updates * (index + 1) // self.count:
                for name, parameter in policy.named_parameters():
                    getattr(self, name.replace(".", "/"))[index] = parameter

    @torch.no_grad()
    def restore(self, index: int, policy: nn.Module) -> None:
        """Copy row `index` back into `policy`."""
        for name, parameter in policy.named_parameters():
            parameter.copy_(getattr(self, name.replace(".", "/"))[index])


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """What every training runs in, undone afterwards: torch's default generators (initial weights,
    dropout) are seeded, and gradients are recorded though the caller may be inside no_grad."""
    device = torch.device(device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.enable_grad():
        torch.manual_seed(seed)
        yield


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
        state = TrainingState(modules, optimizers, generators)
        first = self._restore(state)
        self._started = time.perf_counter()
        bar = tqdm(total=total, initial=first, desc=stage, unit="update", disable=not self.progress)
        with bar:
            for step in range(first, total):
                yield step
                bar.update()
                if self.path and (step + 1) % self.every == 0 and step + 1 < total:
                    self._save(step + 1, state)

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

    def _save(self, step: int, state: TrainingState) -> None:
        assert self.path
        seconds = self.seconds_before + time.perf_counter() - self._started
        device = state.device.type
        meta = {"step": step, "rows": self.rows, "seconds": seconds, "device": device}
        save_tensors(self.path, state.tensors(), meta)

    def _restore(self, state: TrainingState) -> int:
        if self.path is None or not self.path.exists():
            return 0
        tensors, meta = load_tensors(self.path)
        device = state.device.type
        if meta["device"] != device:  # random states of one kind mean nothing to the other
            raise ValueError(
                f"{self.path} was begun on {meta['device']} and cannot go on on {device}; use "
                f"--device {meta['device']}, or delete it to begin again"
            )
        state.load(tensors)
        self.rows, self.seconds_before = list(meta["rows"]), float(meta["seconds"])
        return int(meta["step"])
