"""Files written whole or not at all: text, JSON, CSV, tensors (which alone load torch)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either the old one or the complete new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            why = error.strerror or error
            raise OSError(
                error.errno, f"{path} cannot be written ({why}); it is as before"
            ) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]] | pd.DataFrame) -> None:
    """Write rows as CSV, atomically."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Any = None) -> None:
    """Tensors as safetensors, with any JSON value and a checksum in the same file, atomically."""
    from safetensors.torch import save

    host = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    checksum = _checksum(save(host))
    write_atomically(path, save(host, {"json": json.dumps(meta), "sha256": checksum}))


def _checksum(file: bytes) -> str:
    """Of the numbers in a safetensors file, which follow its header."""
    return hashlib.sha256(file[8 + int.from_bytes(file[:8], "little") :]).hexdigest()


def load_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Any]:
    """What :func:`save_tensors` wrote.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    return _load(path, "pt", str(device))


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """What :func:`save_tensors` wrote, as arrays and without torch; raises as it does."""
    return {name: np.asarray(array) for name, array in _load(path, "np", "cpu")[0].items()}


def _load(path: Path, framework: str, device: str) -> tuple[dict[str, Any], Any]:
    try:
        with safe_open(str(path), framework=framework, device=device) as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if "sha256" in said and said["sha256"] != _checksum(path.read_bytes()):
            raise ValueError("its numbers are not those that were written")
        return tensors, json.loads(said.get("json", "null"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from error


@dataclass(frozen=True)
class TrainingState:
    """All that a training loop must restore to go on as if it had never stopped.

    Torch's default random numbers belong to it; whatever else changes is derived from the step.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    generators: Mapping[str, torch.Generator]

    @property
    def device(self) -> torch.device:
        """Where the loop computes: its random numbers are drawn there."""
        import torch

        drawn = (generator.device for generator in self.generators.values())
        return next(drawn, torch.device("cpu"))

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors."""
        import torch

        found = {"random/cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            found["random/cuda"] = torch.cuda.get_rng_state(self.device)
        for name, module in self.modules.items():
            found |= {f"module/{name}/{k}": v for k, v in module.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                found |= {f"optimizer/{name}/{index}/{k}": v for k, v in state.items()}
        for name, generator in self.generators.items():
            found[f"generator/{name}"] = generator.get_state()
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`tensors` gave, in place."""
        import torch

        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        for name, module in self.modules.items():
            module.load_state_dict(part(f"module/{name}/"))
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in part(f"optimizer/{name}/").items():
                index, field = key.split("/")
                state.setdefault(int(index), {})[field] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        for name, generator in self.generators.items():
            generator.set_state(tensors[f"generator/{name}"])
        torch.set_rng_state(tensors["random/cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self.device)
