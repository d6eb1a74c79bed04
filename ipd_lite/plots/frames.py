"""Frames as one small animated picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

NEAREST = Image.Resampling.NEAREST
COLOURS = 127
"""Of an animation's palette; the next index stands for "as before"."""


def frame_of(figure: Figure) -> Image.Image:
    """The figure as it is now."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def encode(frames: Sequence[Image.Image], kind: str, milliseconds: int) -> bytes:
    """Frames as one file; the last one stays for two seconds."""
    # Of all frames: a colour that is on a few of them only must not be lost.
    halves = [frame.resize((frame.width // 2, frame.height // 2), NEAREST) for frame in frames]
    every = Image.fromarray(np.concatenate([np.asarray(half) for half in halves]))
    palette = every.quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    inks = np.array(palette.getpalette()).reshape(-1, 3)
    inks[inks.min(1) > 240] = 255  # paper stays white
    palette.putpalette(inks.ravel().tolist())
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    settings: dict[str, Any] = {"disposal": 1}
    if kind == "png":  # Pillow writes whole frames; what did not change compresses better unseen
        indices = [np.asarray(frame) for frame in small]
        colours = [*(small[0].getpalette() or [])[: 3 * COLOURS], 0, 0, 0]
        small[0].putpalette(colours)
        for frame, before, after in zip(small[1:], indices, indices[1:], strict=False):
            frame.frombytes(np.where(after == before, COLOURS, after).astype(np.uint8).tobytes())
            frame.putpalette(colours)
        settings = {"disposal": 0, "blend": 1, "transparency": COLOURS}
    result = io.BytesIO()
    small[0].save(
        result,
        kind.upper(),
        save_all=True,
        append_images=small[1:],
        loop=0,
        duration=[milliseconds] * (len(small) - 1) + [2000],
        **settings,
    )
    return result.getvalue()
