"""What a command may take of this machine, and how it is stopped from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM (`kill`, a batch system) stop workers and say what Ctrl+C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_amounts(options: Mapping[str, object]) -> None:
    """Refuse numbers of threads, workers and episodes that cannot be.

    Raises:
        ValueError: names the option and what was expected.
    """
    for name, least in (("threads", 0), ("workers", 1), ("episodes", 1)):
        value = options.get(name)
        if isinstance(value, int) and value < least:
            raise ValueError(f"{name} = {value}: expected a whole number, at least {least}")
    most, threads = 8 * (os.cpu_count() or 1), options.get("threads")
    if isinstance(threads, int) and threads > most:
        raise ValueError(f"threads = {threads}: expected at most {most} on this machine")
