"""Segments of suboptimal steps, for the course's pictures."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Segments(NamedTuple):
    """Maximal runs of suboptimal steps inside one episode: first transition (S,), length (S,), and
    the mean shortfall (S,) over the run."""

    first: Tensor
    length: Tensor
    gain: Tensor


def find_segments(suboptimal: Tensor, last: Tensor, shortfalls: Tensor) -> Segments:
    """Group suboptimal steps into segments that never cross the end of an episode."""
    previous_ends = torch.cat([torch.ones_like(last[:1]), last[:-1]])
    previous_marked = torch.cat([torch.zeros_like(suboptimal[:1]), suboptimal[:-1]])
    begins = suboptimal & (previous_ends | ~previous_marked)
    number = begins.long().cumsum(0) - 1
    first = begins.nonzero().squeeze(1)
    member = number[suboptimal]
    length = torch.zeros_like(first).index_add(0, member, torch.ones_like(member))
    total = torch.zeros(len(first), dtype=shortfalls.dtype, device=shortfalls.device)
    gain = total.index_add(0, member, shortfalls[suboptimal]) / length
    return Segments(first, length, gain)
