"""Files written whole or not at all: text, JSON, CSV, tensors (which alone load torch)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
    from safetensors.torch import save

    host = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    write_atomically(path, save(host, metadata={"json": json.dumps(meta)}))


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
            meta = json.loads((file.metadata() or {}).get("json", "null"))
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from error
