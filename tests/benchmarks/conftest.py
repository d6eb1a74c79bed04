"""One readable table under the benchmarks: rate, arithmetic, share of what the machine can do, and
how many times as fast as the usual implementation (`usual.py`), measured in the same run.

Every benchmark measures this machine's fp32 matrix product right before and after itself, so the
share means something on a busy machine too. Threads: OMP_NUM_THREADS, else torch's default.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

THREADS = torch.get_num_threads()


@dataclass
class Row:
    """What one benchmark found. rate: units per second. flops: per unit (0 = not counted).
    against: name of the row with the usual implementation ("" = none)."""

    name: str
    unit: str
    rate: float
    flops: float
    gemm: float
    memory: float
    note: str
    against: str


ROWS: list[Row] = []


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def on_gpu() -> bool:
    """Whether new tensors are made on a card."""
    return torch.get_default_device().type == "cuda"


def wait() -> None:
    """Until the card has done what it was told."""
    if on_gpu():
        torch.cuda.synchronize()


def gemm_rate(size: int = 768, seconds: float = 0.3, dtype: torch.dtype = torch.float32) -> float:
    """GFLOP/s of a square product on the processor, the mean over `seconds`: other processes slow
    it down just as they slow the benchmarks."""
    left, right = torch.randn(2, size, size, dtype=dtype, device="cpu")
    torch.mm(left, right)
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        torch.mm(left, right)
        count += 1
    return 2e-9 * size**3 * count / (time.perf_counter() - start)


@functools.cache
def bfloat16_pays() -> bool:
    """Whether this machine multiplies bfloat16 clearly faster than float32. Without units for it
    the options under autocast would take minutes."""
    rates = [gemm_rate(256, 0.1, dtype) for dtype in (torch.bfloat16, torch.float32)]
    return rates[0] > 1.2 * rates[1]


def _status(field: str) -> float:
    """MB from Linux's /proc/self/status; NaN elsewhere."""
    path = Path("/proc/self/status")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return float("nan")


def _forget_peak() -> None:
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


@pytest.fixture(params=DEVICES, autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything of a benchmark lies on the processor, and then, where there is one, on a card."""
    if request.param != "cpu" and request.node.get_closest_marker("simulator"):
        pytest.skip("simulators compute on the processor")
    with torch.device(request.param):
        yield


@pytest.fixture
def threads() -> Iterator[None]:
    """The user's number of threads (the suite itself runs with one)."""
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def measure(benchmark, threads) -> Callable[..., None]:  # type: ignore[no-untyped-def]
    """measure(name, work, units, unit=..., flops=...): time `work()`, which makes `units` units.

    As a test (benchmarks disabled) it runs `work` once.
    """

    def run(
        name: str,
        work: Callable[[], object],
        units: int,
        *,
        unit: str = "updates",
        flops: float = 0.0,
        rounds: int = 5,
        note: str = "",
        against: str = "",
    ) -> None:
        if benchmark.disabled:
            benchmark.pedantic(work)
            return
        before = gemm_rate()
        _forget_peak()
        benchmark.pedantic(lambda: (work(), wait()), rounds=rounds, warmup_rounds=1)
        memory = _status("VmHWM")
        if on_gpu():
            name, against = f"{name}, GPU", against and f"{against}, GPU"
            memory = torch.cuda.max_memory_allocated() / 2**20
            flops = 0.0  # launches, not products, take the time: a share of GEMM says nothing
        gemm = (before + gemm_rate()) / 2
        rate = units / benchmark.stats.stats.median
        benchmark.extra_info |= {
            f"{unit}_per_second": rate,
            "gflops": rate * flops / 1e9,
            "gemm_gflops": gemm,
            "memory_mb": memory,
        }
        ROWS.append(Row(name, unit, rate, flops, gemm, memory, note, against))

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ROWS:
        return
    gemm = statistics.median(row.gemm for row in ROWS)
    write = terminalreporter.write_line
    terminalreporter.section("speed")
    write(f"torch {torch.__version__}, {THREADS} thread(s), fp32 matrix product {gemm:.0f} GFLOP/s")
    if torch.cuda.is_available():
        write(f"GPU: {torch.cuda.get_device_name()}; memory there is torch's own, all benchmarks'")
    columns = ("of usual", "GFLOP/s", "of GEMM", "memory")
    write(f"{'':<50}{'rate':>10} {'':<14}" + "".join(f"{name:>9}" for name in columns))
    rates = {row.name: row.rate for row in ROWS}
    for row in ROWS:
        arithmetic = f"{'-':>9}{'-':>9}"
        if row.flops:
            speed = row.rate * row.flops / 1e9
            arithmetic = f"{speed:>9.1f}{speed / row.gemm:>9.0%}"
        times = f"{row.rate / rates[row.against]:.1f} x" if row.against in rates else "-"
        rate = f"{row.rate:,.0f}" if row.rate >= 100 else f"{row.rate:.1f}"
        write(
            f"{row.name:<50}{rate:>10} {row.unit + '/s':<14}{times:>9}{arithmetic}"
            f"{row.memory:>6.0f} MB"
        )
    for note in dict.fromkeys(row.note for row in ROWS if row.note):
        write(note)
    write("of usual: times the rate of the usual implementation, which does the same work")
    write("memory: peak of the whole process, Python and torch included")
