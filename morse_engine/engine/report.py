"""What a sampler runs, and what it costs."""

from dataclasses import dataclass

from ..runtime.captures import Ledger
from ..runtime.speed import Speed
from ..sampling.plan import Plan

STEADY = 1.25  # between the 20 % and 80 % quantiles of equal work: nothing else keeps it busy


@dataclass(frozen=True, kw_only=True)
class Report(Ledger):
    """What a sampler runs: backend, plan, memory, and latencies when they were measured.

    Attributes:
        backend, why: what the last run used, and why that; the backend asked for before any run.
        not_available: the other backends and what they lack.
        dash_bytes, dot_bytes: of the models' weights.
        layouts: memory formats of the models' convolutions, in words; empty for plain functions.
        chosen: where the plan comes from, if a budget bought it.
        speed: latencies at `batch_size`; None if they were not measured.

    Those of a `Ledger` besides.
    """

    backend: str
    why: str
    not_available: list[str]
    plan: Plan
    chosen: str
    solver: str
    device: str
    dash_bytes: int
    dot_bytes: int
    layouts: str
    batch_size: int
    speed: Speed | None

    @property
    def lsd_ms(self) -> float | None:
        """Milliseconds of a Dash step of a batch."""
        return self.speed.lsd_ms if self.speed else None

    @property
    def dot_ms(self) -> float | None:
        """Milliseconds of a Dot step of a batch."""
        return self.speed.dot_ms if self.speed else None

    @property
    def dot_speed(self) -> float | None:
        """N = lsd_ms / dot_ms."""
        return self.speed.dot_speed if self.speed else None

    @property
    def cost_lsd(self) -> float | None:
        """The plan's price in LSD."""
        if not self.plan.num_dot:
            return float(self.plan.num_dash)
        return self.plan.lsd(self.dot_speed) if self.dot_speed else None

    def __str__(self) -> str:
        lines = [
            f"plan      {self.plan}   ({self.plan.counts})",
            *([f"          chosen {self.chosen}"] if self.chosen else []),
            f"solver    {self.solver}",
            f"backend   {self.backend} on {self.device}" + (f" ({self.why})" if self.why else ""),
            *(f"          not {reason}" for reason in self.not_available),
            f"memory    Dash {_mib(self.dash_bytes)}, Dot {_mib(self.dot_bytes)} more"
            + (f", captured steps {_mib(self.graph_bytes)}" if self.captures else ""),
            *([f"          {self.layouts}"] if self.layouts else []),
        ]
        if self.captures:
            lines.append(f"captures  {self.captures}, {self.replays} launches since the last")
            if self.capture_s is not None:
                lines[-1] += f", which took {self.capture_s:.2f} s"
            if self.launches:
                nodes = ", ".join(f"{name} {count}" for name, count in self.launches.items())
                lines[-1] += f"; nodes: {nodes}"
            if self.layout:
                lines.append(f"loop      {self.layout}, in one launch")
                lines += [
                    f"          not {layout}: {why.splitlines()[0]}"
                    for layout, why in self.refused.items()
                ]
            if self.recaptured_because:
                lines.append(f"          anew, because {self.recaptured_because}")
            if self.evicted:
                lines.append(f"          {self.evicted} dropped for lack of memory")
        if self.speed is None:
            lines.append("latency   not measured: report(measure=True)")
        else:
            lines.append(f"latency   LSD {self.lsd_ms:.2f} ms at batch {self.batch_size}")
            if self.dot_ms and self.dot_speed:
                lines[-1] += f", Dot {self.dot_ms:.2f} ms, N = {self.dot_speed:.1f}"
                gain = self.plan.gain(self.dot_speed)
                lines.append(
                    f"cost      {self.cost_lsd:.2f} LSD for {len(self.plan)} steps: "
                    f"at most {gain:.2f}x against Dash alone"
                )
            low, high = self.speed.spreads.get("lsd_ms", (1.0, 1.0))
            if high > STEADY * low:
                lines.append(
                    f"          this machine is busy: a Dash step takes from {low:.2f} to "
                    f"{high:.2f} ms; measure again when nothing else runs"
                )
        return "\n".join(lines)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
