"""What a Dot step costs on a CPU, and what two things spare: `python benchmarks/dot_step.py`.

Of the bundled models, eager, on one thread: "as sampled"; "without the memo", where all that
depends on the times is made anew in each step (`dot/memo.py`); and "ops dispatched", also without
it, where the ops of our own go through torch's dispatcher, as they do on a GPU. Rows go to
results/dot-step.json; the machine should be quiet.
"""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from fidelity import ICONS, MINIATURE, subject_of
from quality import digits_bench

from morse_engine.evaluation.subject import Subject
from morse_engine.kernels.checks import in_mode
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine, now

OUT = Path(__file__).parent / "results" / "dot-step.json"
DIGITS, REPEATS = "digits", 40
BATCHES = {DIGITS: (1, 8, 100), ICONS: (1, 16), MINIATURE: (1, 16)}
AS_SAMPLED, NO_MEMO, DISPATCHED = "as sampled", "without the memo", "ops dispatched"


def subjects() -> dict[str, Subject]:
    """The bundled models by name; the miniature with guidance, as its Dot needs it."""
    bench = digits_bench()
    digits = Subject(bench.model, bench.models, bench.shape, bench.schedulers["ddim"])
    others = {model: subject_of(model, "ddim", 3.0) for model in (ICONS, MINIATURE)}
    return {DIGITS: digits, **others}


def rows_of(name: str, subject: Subject, repeats: int = REPEATS) -> list[dict]:
    """A row for each batch size and variant."""
    helper, found = subject.models.helper, []
    memo, about = helper.memo, {**machine(), "commit": commit(OUT.parent), "date": now()[:10]}
    for size in BATCHES[name]:
        for variant in (AS_SAMPLED, NO_MEMO, DISPATCHED):
            helper.memo = memo if variant == AS_SAMPLED else None
            with in_mode("ops") if variant == DISPATCHED else nullcontext():
                speed = asdict(subject.measure(size, repeats))
            row = {"bench": "dot step", "model": name, "variant": variant, "batch_size": size}
            row |= {"unit": "Dot steps in one LSD", "value": speed["dot_speed"], **speed, **about}
            found.append(row)
            print(
                f"{name}, batch {size}, {variant}: Dash {row['lsd_ms']:.2f} ms, Dot "
                f"{row['dot_ms']:.2f} ms, N = {row['value']:.2f}",
                flush=True,
            )
    helper.memo = memo
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_rows(OUT, [row for name, subject in subjects().items() for row in rows_of(name, subject)])
