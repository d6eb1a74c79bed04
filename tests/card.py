"""An accelerator without one: tensors compute on the CPU, and refuse what a card would refuse.

Tensors "on the card" carry a mark, which their results inherit. Mixing them with others raises, and
so does looking at them with NumPy or drawing them with a generator of the CPU, as on CUDA. Unlike
"meta" tensors they have content, so that whole notebooks run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DEVICE = torch.device("xpu")
"""What the tensors call their device; no operation of the package asks for this kind by name."""

ACROSS = {
    "copy_",
    "to",
    "__set__",
    "__setitem__",
    "is_same_size",
    "_has_compatible_shallow_copy_type",
}
"""Operations that may see tensors of both kinds."""


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)
        elif isinstance(value, dict):
            yield from tensors(value.values())


def on_card(tensor: Any) -> bool:
    return getattr(tensor, "_on_card", False)


def put(result: Any) -> Any:
    """Mark every tensor of a result."""
    for tensor in tensors([result]):
        tensor._on_card = True  # type: ignore[attr-defined]
    return result


class Generator(torch.Generator):
    """Draws on the CPU, and knows for which device it was asked."""

    on_card: bool

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls)
        made.on_card = torch.device(device) == DEVICE
        return made


class Card(TorchFunctionMode):
    """While it is entered, `DEVICE` exists."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.__name__
        given = list(tensors([args, kwargs]))
        marked = any(map(on_card, given))
        if name in ("numpy", "__array__", "from_dlpack", "__dlpack__") and marked:
            if not kwargs.get("force"):
                raise TypeError("can't convert a tensor on the card to numpy: use .cpu() first")
        if name == "__get__" and func == Tensor.device.__get__:
            return DEVICE if marked else func(*args, **kwargs)
        if name == "cpu":
            return func(*args, **kwargs).clone()
        target = kwargs.get("device")
        if name == "to":
            return self._move(args, kwargs)
        self._refuse_mixture(name, args, given, marked)
        wanted = target is not None and torch.device(target) == DEVICE
        if wanted:
            kwargs["device"] = "cpu"
        lands = wanted or (marked and target is None)
        drawn = kwargs.get("generator")
        if isinstance(drawn, Generator) and drawn.on_card != lands:
            raise RuntimeError(f"{name}: the generator belongs to another device")
        result = func(*args, **kwargs)
        if name == "__set__" and marked and given:
            put(given[0])
        return put(result) if lands and result is not None else result

    def _move(self, args: Any, kwargs: Any) -> Tensor:
        """`Tensor.to`: to a device, to another tensor's, or to a type alone."""
        source, *rest = args
        lands, dtype = on_card(source), source.dtype
        for place in [*rest, kwargs.get("device"), kwargs.get("dtype")]:
            if isinstance(place, Tensor):
                lands, dtype = on_card(place), place.dtype
            elif isinstance(place, torch.dtype):
                dtype = place
            elif isinstance(place, str | torch.device):
                lands = torch.device(place) == DEVICE
        moved = source.type(dtype)
        if lands == on_card(source):
            return put(moved) if lands else moved
        moved = moved.clone()
        moved._on_card = lands
        return moved

    def _refuse_mixture(self, name: str, args: Any, given: list[Tensor], marked: bool) -> None:
        if not marked or name in ACROSS:
            return
        if name == "__getitem__" and on_card(args[0]):
            return  # an index may lie on the CPU
        if any(tensor.dim() and not on_card(tensor) for tensor in given):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
