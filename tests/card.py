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

ACROSS = {"copy_", "__set__", "__setitem__", "_has_compatible_shallow_copy_type"}
"""Operations that may see tensors of both kinds."""
TO_NUMPY = {"numpy", "__array__", "__dlpack__"}


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
        if name == "__get__" and func == Tensor.device.__get__:
            return DEVICE if marked else func(*args, **kwargs)
        if name == "to":
            return self._move(args, kwargs)
        if name == "cpu":
            return func(*args, **kwargs).clone()
        if marked and name in TO_NUMPY and not kwargs.get("force"):
            raise TypeError("can't convert a tensor on the card to numpy: use .cpu() first")
        self._refuse_mixture(name, args, given, marked)
        wanted = kwargs.get("device")
        lands = marked if wanted is None else torch.device(wanted) == DEVICE
        if wanted is not None and lands:
            kwargs["device"] = "cpu"
        if getattr(kwargs.get("generator"), "on_card", lands) != lands:
            raise RuntimeError(f"{name}: the generator belongs to another device")
        result = func(*args, **kwargs)
        if name == "__set__" and marked:
            put(given[0])  # a parameter that was given its data
        return put(result) if lands else result

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
