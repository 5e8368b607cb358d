"""Measured time and memory of a network on this machine: one inference, one training step."""

from __future__ import annotations

import copy
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import binom
from torch import nn

from archscout.errors import UserError
from archscout.space import Shape

BLOCKS = 8
GAIN = 0.1  # by which bfloat16 must be faster to be worth its rounding
BATCH_MEANS = (
    2.365 / 7**0.5
)  # Student's t with 7 degrees of freedom, over the root of 8, of a deviation that divides by 7

try:
    import resource

    _THREAD: int | None = resource.RUSAGE_THREAD
except (ImportError, AttributeError):  # Windows and macOS do not count preemptions of a thread
    _THREAD = None


@dataclass(frozen=True)
class Latency:
    """The time of one inference, in milliseconds, with what it was measured on.

    median:      the latency. low and high: between them another measurement is expected, 95 of 100 times: the
                 interval of the median (see `interval`), which reaches on to the speeds that the machine has had where
                 a reference network tells of them (see `speed`). `high` is the safe end that limits are held against.
    p95:         95 of 100 repeats were at most this slow.
    repeats:     timed runs, after the warm-up.
    noise:       standard deviation of the medians of eight consecutive blocks, relative to the median: what the
                 machine did meanwhile. Above about .1 another measurement may differ by as much.
    interrupted: share of the repeats in which the system gave the core to another process; of those the time on
                 the core counts (one thread, Linux), otherwise the wall clock does.
    batch:       images in an inference; the times are those of all of them together.
    slowdown:    median of the last quarter of the repeats over that of the first, minus 1. Well above zero the machine
                 grew hot or busy under way.
    usual:       the median brought to the usual speed of the machine, by a reference network timed among the repeats
                 (see `speed`): compare networks measured at different times by it. None where no reference ran.
    """

    median: float
    low: float
    high: float
    p95: float
    repeats: int
    noise: float
    device: str
    runtime: str
    threads: int
    interrupted: float = 0.0
    batch: int = 1
    slowdown: float = 0.0
    usual: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name; `Latency(**mapping)` is the inverse."""
        return asdict(self)


def measure_latency(
    model: nn.Module,
    input_shape: Shape,
    *,
    device: str = "cpu",
    threads: int = 1,
    seconds: float = 0.5,
    min_repeats: int = 20,
    on_begin: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> Latency:
    """The latency of a network in PyTorch: batch 1, evaluation mode, inference mode, channels-last, no compilation.

    Use it to check a predicted latency, or as the number to report. It takes about 1.3 x `seconds`, or `min_repeats`
    runs if those take longer (at most 5 x `seconds`, then at least 5 runs). `input_shape` is (channels, height, width).
    A copy is measured; the model, the thread count and the random state are left as found. `on_begin` is called after
    the warm-up and `after` after each run, with the thread count of the measurement.
    """
    where = checked_device(device)
    with _copied(model, where, training=False) as network, torch.inference_mode():
        image = _images(1, input_shape, where)
        with limited_threads(threads):
            return timed(
                lambda: network(image),
                seconds=seconds,
                min_repeats=min_repeats,
                device=device_name(where),
                runtime="torch",
                threads=threads,
                wait=_waiter(where),
                on_begin=on_begin,
                after=after,
            )


def measure_training(
    model: nn.Module,
    input_shape: Shape,
    classes: int,
    *,
    batch: int = 64,
    threads: int = 1,
    device: str = "cpu",
    seconds: float = 0.5,
    min_repeats: int = 3,
    precision: str = "32-true",
) -> float:
    """Milliseconds per image of one training step: forward, cross-entropy, backward, SGD with momentum.

    Use it to foretell how long a training takes. It needs about `seconds`, or `min_repeats` steps if those take longer.
    `input_shape` is (channels, height, width). A copy is trained; the model, the thread count and the random state
    are left as found. precision: "32-true", or "bf16-mixed", in which the forward pass is under torch.autocast.
    """
    where = checked_device(device)
    with _copied(model, where, training=True) as network:
        images = _images(batch, input_shape, where)
        labels = (torch.arange(batch) % classes).to(where)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                logits = network(images)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()

        with limited_threads(threads):
            found = timed(
                step,
                seconds=seconds,
                min_repeats=min_repeats,
                device=device_name(where),
                runtime="torch",
                threads=threads,
                wait=_waiter(where),
            )
    return found.median / batch


def precisions(device: str = "cpu") -> tuple[str, ...]:
    """The precisions in which a training may be fastest on a device; which one is, depends on the network.

    Beside "32-true" that is "bf16-mixed" on processors with instructions for bfloat16: dense convolutions are then up
    to twice as fast, depthwise ones up to three times slower.
    """
    quick = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # no public function tells it
    return ("32-true", "bf16-mixed") if checked_device(device).type == "cpu" and quick() else ("32-true",)


def fastest_training(
    model: nn.Module,
    input_shape: Shape,
    classes: int,
    *,
    among: Sequence[tuple[int, str]],
    turns: int = 1,
    **settings: Any,
) -> tuple[float, int, str]:
    """The least milliseconds per image of a training step, and the threads and the precision that have them.

    among: threads and precision of each way to try.  turns: how often each is measured; the least counts, so that what
    disturbs the machine for a moment does not decide.  settings: what else `measure_training` takes, the same for all.
    A precision that the network cannot compute in is passed over, unless it is the first; and one other than the first
    is taken only where it is faster by GAIN, since the first is the most exact.
    """
    found: list[tuple[float, int, str]] = []
    for threads, precision in [*among] * turns:
        try:
            ms = measure_training(model, input_shape, classes, threads=threads, precision=precision, **settings)
        except RuntimeError:
            if precision == among[0][1]:
                raise
            continue
        found.append((ms, threads, precision))
    exact = min(one for one in found if one[2] == among[0][1])
    best = min(found)
    return best if best[0] < (1 - GAIN) * exact[0] else exact


def measure_memory(model: nn.Module, input_shape: Shape, *, device: str = "cpu") -> int:
    """Bytes that one inference really holds at its peak: weights, input, activations and work space of the kernels.

    Use it to see how far the counted `memory` is from what PyTorch allocates on a device: kernels take work space that
    no count knows. One profiled run. Memory of the libraries themselves (the process) is not in it.
    `input_shape` is (channels, height, width).
    """
    where = checked_device(device)
    with _copied(model, where, training=False) as network, torch.inference_mode(), limited_threads(1):
        image = _images(1, input_shape, where)
        network(image)
        held = image.nbytes + sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
        if where.type == "cuda":
            torch.cuda.synchronize(where)
            before = torch.cuda.memory_allocated(where)
            torch.cuda.reset_peak_memory_stats(where)
            network(image)
            torch.cuda.synchronize(where)
            return held + torch.cuda.max_memory_allocated(where) - before
        if where.type != "cpu":
            raise UserError(f"memory is measured on cpu or cuda, got '{device}'")
        return held + _peak_allocated(lambda: network(image))


def timed(
    run: Callable[[], object],
    *,
    seconds: float,
    min_repeats: int,
    device: str,
    runtime: str,
    threads: int,
    wait: Callable[[], None] | None = None,
    on_begin: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> Latency:
    """The time of calling `run`, in milliseconds: warm-up until stable, then repeats until `seconds` have passed.

    `wait` blocks until the device has finished. Garbage collection pauses meanwhile. Where the machine is shared, a
    repeat in which the system took the core away (an involuntary context switch of this thread) counts with the time
    that the thread was on the core; this needs one thread on Linux.
    """
    if seconds <= 0 or min_repeats < 1:
        raise UserError(f"a measurement needs seconds > 0 and at least one repeat, got {seconds} and {min_repeats}")
    samples, interrupted = sampled(
        run,
        enough=lambda found, passed: (
            passed >= seconds
            and (len(found) >= min_repeats or (passed >= 5 * seconds and len(found) >= min(5, min_repeats)))
        ),
        warm_up=0.3 * seconds,
        wait=wait,
        on_core=threads == 1,
        on_begin=on_begin,
        after=after,
    )
    return summary(samples, interrupted, device=device, runtime=runtime, threads=threads)


def sampled(
    run: Callable[[], object],
    *,
    enough: Callable[[Sequence[float], float], bool],
    warm_up: float,
    wait: Callable[[], None] | None = None,
    on_core: bool = False,
    on_begin: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> tuple[list[float], int]:
    """The milliseconds of repeated calls of `run`, in order, and how many of them were interrupted; see `timed`.

    enough: (samples so far, seconds since the first) -> whether to stop, asked after each.  warm_up: most seconds
    before the first.  on_core: whether an interrupted call counts with its time on the core, where the system can tell.
    on_begin: called after the warm-up.  after: called after each repeat.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        _warm_up(run, wait, warm_up)
        samples: list[float] = []
        interrupted = 0
        on_begin()
        begin = time.perf_counter()
        while True:
            spent, disturbed = once(run, wait, on_core)
            samples.append(spent)
            interrupted += disturbed
            after()
            if enough(samples, time.perf_counter() - begin):
                return samples, interrupted
    finally:
        if collecting:
            gc.enable()


def once(run: Callable[[], object], wait: Callable[[], None] | None, on_core: bool) -> tuple[float, bool]:
    """The milliseconds of one call, and whether it was interrupted: then they are those on the core; see `sampled`."""
    on_core = on_core and wait is None and _THREAD is not None
    switches = _switches() if on_core else 0
    core = time.thread_time_ns() if on_core else 0
    start = time.perf_counter_ns()
    run()
    if wait:
        wait()
    spent = time.perf_counter_ns() - start
    if on_core and _switches() > switches:
        return min(spent, time.thread_time_ns() - core) / 1e6, True
    return spent / 1e6, False


def summary(
    samples: Sequence[float], interrupted: int, *, device: str, runtime: str, threads: int, batch: int = 1
) -> Latency:
    """What a list of milliseconds, in the order in which they were taken, says."""
    median, low, high = interval(samples)
    ordered = sorted(samples)
    return Latency(
        median=median,
        low=low,
        high=high,
        p95=ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        repeats=len(samples),
        noise=_noise(samples),
        device=device,
        runtime=runtime,
        threads=threads,
        interrupted=interrupted / len(samples),
        batch=batch,
        slowdown=slowdown(samples),
    )


def slowdown(samples: Sequence[float]) -> float:
    """How much longer the last quarter of some repeats took than the first, by their medians; 0 below eight repeats.

    0 also where it may be chance: where the 95 % intervals of the two medians overlap.
    """
    quarter = len(samples) // 4
    if quarter < 2:
        return 0.0
    first, last = median_interval(samples[:quarter]), median_interval(samples[-quarter:])
    apart = last[1] > first[2] or last[2] < first[1]
    return last[0] / first[0] - 1 if apart else 0.0


def interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """The median of repeats in the order of measuring, and a 95 % interval that knows of a restless machine.

    The wider, at either end, of two: `median_interval`, as if the repeats were independent; and, as repeats near in
    time are disturbed alike, the median +- t s / 8^.5 with the standard deviation s of the medians of eight consecutive
    blocks and t = 2.36 (batch means: Schmeiser 1982, "Batch size effects in the analysis of simulation output", doi
    10.1287/opre.30.3.556). No end lies outside the repeats. What differs from process to process is not in it.
    """
    median, low, high = median_interval(samples)
    half = BATCH_MEANS * _noise(samples) * median
    return median, max(min(samples), min(low, median - half)), min(max(samples), max(high, median + half))


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The median and the order statistics that enclose the true median with at least this confidence.

    With n independent samples the count below the true median is Binomial(n, 1/2); the k-th smallest and k-th largest
    enclose it with probability 1 - 2 P(count < k). With fewer than six samples (at 95 %) the range is returned, which
    covers less.
    """
    ordered = sorted(samples)
    k = max(1, int(binom.ppf((1 - confidence) / 2, len(ordered), 0.5)))
    return statistics.median(ordered), ordered[k - 1], ordered[-k]


def device_name(device: torch.device) -> str:
    """The device as it is written beside a number: "cpu", or the name of the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def checked_device(device: str) -> torch.device:
    """The torch device of a name, or a UserError if there is none such here."""
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no device '{device}' here ({reason}); wanted cpu, or cuda where there is a card") from None
    return where


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """PyTorch computes with this many threads inside the block, and with as many as before after it."""
    if threads < 1:
        raise UserError(f"threads is at least 1, got {threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _switches() -> int:
    """How often the system has taken the core away from this thread."""
    return resource.getrusage(_THREAD).ru_nivcsw if _THREAD is not None else 0


def _warm_up(run: Callable[[], object], wait: Callable[[], None] | None, most: float) -> None:
    """Calls until the best of three is within 5 % of the best of the three before, or `most` seconds are used."""
    best = float("inf")
    begin = time.perf_counter()
    while True:
        previous, best = best, float("inf")
        for _ in range(3):
            start = time.perf_counter()
            run()
            if wait:
                wait()
            best = min(best, time.perf_counter() - start)
            if time.perf_counter() - begin > most:
                return
        if best > 0.95 * previous:
            return


def _noise(samples: Sequence[float]) -> float:
    size = max(1, len(samples) // BLOCKS)
    medians = [statistics.median(samples[at : at + size]) for at in range(0, len(samples) - size + 1, size)]
    return statistics.pstdev(medians) / statistics.median(samples)


@contextmanager
def _copied(model: nn.Module, device: torch.device, *, training: bool) -> Iterator[nn.Module]:
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        yield copy.deepcopy(model).train(training).to(device=device).to(memory_format=torch.channels_last)


def _images(batch: int, input_shape: Shape, device: torch.device) -> torch.Tensor:
    images = torch.randn(batch, *input_shape, generator=torch.Generator().manual_seed(0))
    return images.to(device).contiguous(memory_format=torch.channels_last)


def _waiter(device: torch.device) -> Callable[[], None] | None:
    if device.type == "cpu":
        return None
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: torch.accelerator.synchronize(device)


def _peak_allocated(run: Callable[[], object]) -> int:
    """Largest sum of bytes that PyTorch's CPU allocator has handed out at once while `run` ran."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with _quiet_stderr(), torch.profiler.profile(activities=cpu, profile_memory=True) as record:
        run()
    results = record.profiler.kineto_results if record.profiler else None
    if results is None:
        raise RuntimeError("the profiler recorded nothing")
    held = peak = 0
    for event in sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """What the profiler's C++ code writes to the console inside the block is thrown away."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
