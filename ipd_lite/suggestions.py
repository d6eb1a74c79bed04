"""What to say about a name that nobody knows."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

FEW = 12
"""As many names fit into one message."""


def unknown(kind: str, name: str, known: Collection[str], command: str = "") -> KeyError:
    """The error to raise: the nearest names, else all of them if they are few.

    Args:
        kind: what the name should have been, "task" for instance.
        command: the shell command that lists all names.
    """
    alike = [one for one in known if one.lower() == name.lower()]
    near = alike or get_close_matches(name, known, 3, 0.5)
    more = f"; `{command}` lists all" if command else ""
    if near:
        return KeyError(f"unknown {kind} {name!r}: did you mean {' or '.join(near)}?{more}")
    if len(known) <= FEW or not command:
        return KeyError(f"unknown {kind} {name!r}: expected one of {', '.join(known)}")
    return KeyError(f"unknown {kind} {name!r}{more}")
