"""kernel_us and kernel_share: the cases of `bench_kernels.py` in half precision, within a time.

Ours and the references of all cases first, torch.compile's as long as there is time, since it takes
seconds for each. That kernels are right is the tests' business (tests/test_kernels.py).
"""

import time
from collections.abc import Iterator

import torch
from bench_kernels import BATCHES, CASES, IMAGES, compiled, copy_bandwidth, exceeds_l2, timed
from rows import Out

from morse_engine.system.timing import Spread

BY_IMPORTANCE = (8, 1, 64)  # batches


def cases() -> Iterator[tuple[str, tuple[int, int, int], int]]:
    assert set(BY_IMPORTANCE) == set(BATCHES)
    for batch in BY_IMPORTANCE:
        for image in IMAGES:
            for name in CASES:
                yield name, image, batch


def measure(out: Out, seconds: float) -> None:
    started, bandwidth = time.perf_counter(), copy_bandwidth()
    missing = 0
    for variants in (("ours", "reference"), ("torch.compile",)):
        for name, image, batch in cases():
            for variant in variants:
                if time.perf_counter() - started > seconds:
                    missing += 1
                    continue
                with out.case(f"{name}, {variant}, {'x'.join(map(str, image))}, batch {batch}"):
                    row(out, bandwidth, name, image, batch, variant)
    if missing:
        out.note(f"kernels: {missing} cases did not fit in {seconds:.0f} s")


def row(out: Out, bandwidth: float, name: str, image, batch: int, variant: str) -> None:
    reference, ours, num_bytes = CASES[name](batch, image, torch.float16)
    function = {"ours": ours, "reference": reference}.get(variant) or compiled(reference)
    time_us = Spread(*timed(function))
    words = f"{name}, {variant}, {'exceeds' if exceeds_l2(num_bytes) else 'within'} L2"
    where = {"model": "x".join(map(str, image)), "batch": batch}
    out.row("kernel_us", words, time_us, **where)
    share = [num_bytes / us / 1e3 / bandwidth for us in time_us[:3]]
    out.row("kernel_share", words, Spread(share[0], share[2], share[1], time_us.n), **where)
