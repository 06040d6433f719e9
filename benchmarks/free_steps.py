"""What a free step costs on a CPU, as a share of a Dash step: `python benchmarks/free_steps.py`.

    value = (time of "-" and 16 free steps - time of "-") / 16 / time of Dash

of the bundled digits model, the three timed in turns; in the first two Dash is a stub, so that its
spread does not hide what is measured. It is the processor's time of one thread, on which other
processes have little influence. Rows go to benchmarks/results/free-steps.json.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

import morse_engine
from morse_engine import zoo
from morse_engine.sampling import noise
from morse_engine.system.machine import commit, machine, now
from morse_engine.system.timing import Spread

FREE, ROUNDS, UNTIMED = 16, 11, 2
RESULTS = Path(__file__).parent / "results" / "free-steps.json"


def processor_ms(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return 1e3 * (time.process_time() - before)


def cost(backend: str, solver: str, batch: int) -> dict:
    """One row."""
    unet = zoo.digits_dash()
    start = noise.normal(range(batch), noise.INITIAL, (1, 32, 32))
    t = torch.tensor(500)
    with torch.no_grad():
        z = unet(start, t).sample
    of = {"scheduler": zoo.digits_scheduler(solver), "shape": (1, 32, 32), "clean_range": (-1, 1)}
    calls = {"dash": torch.no_grad()(lambda: unet(start, t))}
    for name, plan in (("call", "-"), ("free", "-" + FREE * ":")):
        sampler = morse_engine.compile(lambda x, t: z, plan=plan, backend=backend, **of)
        calls[name] = lambda run=sampler: run(start)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(UNTIMED + ROUNDS):
        for name, call in calls.items():
            ms = processor_ms(call)
            if i >= UNTIMED:
                times[name].append(ms)
    free = [(b - a) / FREE for a, b in zip(times["call"], times["free"], strict=True)]
    dash_ms = Spread.of(times["dash"]).value
    value, low, high, n = Spread.of([ms / dash_ms for ms in free])
    return {
        "bench": "free_step",
        "model": "digits",
        "variant": f"{backend}, {solver}",
        "batch": batch,
        "value": round(value, 5),
        "unit": "share of a Dash step",
        "low": round(low, 5),
        "high": round(high, 5),
        "n": n,
        "free_us": round(1e3 * Spread.of(free).value, 1),
        "dash_ms": round(dash_ms, 3),
        "threads": torch.get_num_threads(),
        **machine(),
        "commit": commit(Path(__file__).parent),
        "date": now(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = []
    for solver in ("dpm", "dpm-sde"):
        for backend in ("eager", "host"):
            for batch in (1, 8):
                rows.append(cost(backend, solver, batch))
                row = rows[-1]
                print(
                    f"{row['variant']}, batch {batch}: {row['free_us']} us, {row['value']:.2%} "
                    f"({row['low']:.2%} to {row['high']:.2%}) of {row['dash_ms']} ms",
                    flush=True,
                )
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
