"""The end of `make gpu`: what was measured, where a goal is missed, what was left out."""

OVERHEAD_US, START_US, DOT_SPEED, SHARE = 5.0, 150.0, 8.0, 0.85


def find(rows: list[dict], bench: str) -> list[dict]:
    return [row for row in rows if row["bench"] == bench]


def where(row: dict) -> str:
    return f"{row['model']}, batch {row['batch']}"


def number(row: dict) -> str:
    return f"{row['value']:.4g} ({row['low']:.4g} .. {row['high']:.4g})"


def missed(rows: list[dict]) -> list[str]:
    """A line for each goal that a row misses; they are goals for GPUs."""
    rows = [row for row in rows if row["gpu"]]
    lines = []
    for row in find(rows, "loop_overhead"):
        ours = row["variant"].startswith(("device", "host"))
        started = row["variant"].endswith("started run")  # a start has a goal of its own
        if ours and started and row["value"] > OVERHEAD_US:
            text = f"{row['variant']}: {number(row)} us/step, goal {OVERHEAD_US:g}"
            lines.append(f"overhead, {where(row)}, {text}")
    for row in find(rows, "start"):
        if row["value"] > START_US:
            text = f"{row['variant']}: {number(row)} us, goal {START_US:g}"
            lines.append(f"start, {where(row)}, {text}")
    best: dict[str, dict] = {}
    for row in find(rows, "dot_speed"):
        if where(row) not in best or row["value"] > best[where(row)]["value"]:
            best[where(row)] = row
    for row in best.values():
        if row["value"] < DOT_SPEED:
            lines.append(f"N, {where(row)}, best is {row['variant']}: {number(row)}, goal 8")
    return lines + missed_by_kernels(rows)


def missed_by_kernels(rows: list[dict]) -> list[str]:
    def key(row: dict) -> tuple[str, str]:
        return row["variant"].split(", ")[0], where(row)

    lines = []
    times = {
        variant: {
            key(row): row["value"]
            for row in find(rows, "kernel_us")
            if row["variant"].split(", ")[1] == variant
        }
        for variant in ("ours", "torch.compile")
    }
    slower: dict[str, list[str]] = {}
    for (kernel, place), us in times["ours"].items():
        theirs = times["torch.compile"].get((kernel, place))
        if theirs is not None and us > theirs:
            slower.setdefault(kernel, []).append(f"{place} {us:.1f} us to {theirs:.1f}")
    lines += [
        f"{kernel} is slower than torch.compile: {'; '.join(p)}" for kernel, p in slower.items()
    ]
    low: dict[str, list[str]] = {}
    for row in find(rows, "kernel_share"):
        kernel, variant, cache = row["variant"].split(", ")
        if variant == "ours" and cache.startswith("exceeds") and row["value"] < SHARE:
            low.setdefault(kernel, []).append(f"{where(row)} {100 * row['value']:.0f} %")
    lines += [f"{kernel} is below 85 % of a copy: {'; '.join(p)}" for kernel, p in low.items()]
    return lines


def measured(rows: list[dict]) -> list[str]:
    """The numbers that matter, some lines for each model."""
    lines = []
    for row in find(rows, "launch_us"):
        if row["variant"].endswith(("per step", "fixed")):
            lines.append(f"launch, {row['variant']}: {number(row)} us")
    for bench in ("loop_overhead", "start", "dot_speed", "run_ms"):
        for row in find(rows, bench):
            if bench != "loop_overhead" or not row["variant"].startswith("eager"):
                lines.append(f"{bench}, {where(row)}, {row['variant']}: {number(row)}")
    kernels = {
        row["variant"].split(", ")[0] for row in find(rows, "kernel_us") if "ours" in row["variant"]
    }
    if kernels:
        count = len(find(rows, "kernel_us"))
        lines.append(f"kernels: {count} rows of {', '.join(sorted(kernels))}")
    return lines


def text(rows: list[dict], notes: list[str], skipped: list[str], out) -> str:
    """The whole summary.

    Args:
        notes: what went wrong or is worth a look, one line each.
        skipped: cases that there was no time for.
    """
    parts = {"measured: value (20 % .. 80 %)": measured(rows)}
    parts |= {"NOTES, no rows from these": notes, "SKIPPED, no time": skipped}
    parts["GOALS MISSED"] = missed(rows)
    lines = []
    for title, entries in parts.items():
        lines += [f"== {title}", *(f"   {entry}" for entry in entries)] if entries else []
    goals = len(parts["GOALS MISSED"])
    lines.append(
        f"== {len(rows)} rows in {out}; {goals} goals missed, {len(notes)} notes, "
        f"{len(skipped)} skipped"
    )
    return "\n".join(lines)
