"""A plan: the order of Dash, Dot and free steps of a run, written in Morse code."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..system.checks import integer, number, positive, shown
from ..system.errors import Refused

DASH, DOT, FREE = "-", ".", ":"
MOST_STEPS = 1_000_000


@dataclass(frozen=True, repr=False)
class Plan:
    """The order of the steps of one run: `Plan("-.:.:-.:.:")`, `-` Dash, `.` Dot, `:` a free step.

    Dash and Dot are models that are called; a free step continues the line through what the last
    two calls have said of the image (`sampling/free.py`) and takes next to no time.

    A budget of n LSD (latencies of one Dash step) buys (n - k) Dash and N*k Dot steps, where N, the
    Dot speed, is the number of Dot steps that take as long as one Dash step. That is
    n - k + N*k steps in the time of n, so the gain is at most (n - k + N*k) / n steps per LSD.

    A plan is fixed before the run, immutable, hashable, and the same as its string:
    `Plan(str(plan)) == plan`. `len(plan)` is the number of steps, `iter(plan)` goes through them.

    Raises:
        Refused: no steps, a first step that is not a Dash (a Dot corrects the last estimate of
            Dash, so there has to be one), or a character other than `-`, `.` and `:`.

    Source: Morse (ICML 2025, arXiv 2506.18251).
    """

    morse: str

    def __post_init__(self) -> None:
        if not isinstance(self.morse, str):
            raise Refused(
                f"Plan({shown(self.morse)}): a plan is a string such as '-...-...'; "
                "use Plan.from_budget for a number of LSD"
            )
        if not self.morse:
            raise Refused("Plan(''): a plan has at least one step, the shortest is '-'")
        if len(self.morse) > MOST_STEPS:
            raise Refused(f"Plan({shown(self.morse)}): at most {MOST_STEPS} steps")
        for i, mark in enumerate(self.morse):
            if mark not in (DASH, DOT, FREE):
                raise Refused(
                    f"Plan({shown(self.morse)}): character {mark!r} at position {i}; "
                    "write '-' for a Dash step, '.' for a Dot step and ':' for a free step"
                )
        if self.morse[0] != DASH:
            raise Refused(
                f"Plan({shown(self.morse)}): the first step has to be a Dash ('-'), "
                "the others start from the estimate of an earlier Dash step"
            )

    def __str__(self) -> str:
        return self.morse

    def __repr__(self) -> str:
        return f'Plan("{self.morse}")'

    def __len__(self) -> int:
        return len(self.morse)

    def __iter__(self) -> Iterator[str]:
        return iter(self.morse)

    @property
    def num_dash(self) -> int:
        """Number of Dash steps, at least 1."""
        return self.morse.count(DASH)

    @property
    def num_dot(self) -> int:
        """Number of Dot steps."""
        return self.morse.count(DOT)

    @property
    def num_free(self) -> int:
        """Number of free steps."""
        return self.morse.count(FREE)

    @property
    def counts(self) -> str:
        """How many steps of each kind, in words: "2 Dash, 4 Dot, 6 free"."""
        free = f", {self.num_free} free" if self.num_free else ""
        return f"{self.num_dash} Dash, {self.num_dot} Dot{free}"

    def free_behind(self, i: int) -> int:
        """How many free steps follow step i directly."""
        behind = self.morse[i + 1 :]
        return len(behind) - len(behind.lstrip(FREE))

    def whole(self, k: int) -> int:
        """The first k steps and the free steps behind them: these are made in one with a call."""
        return k + self.free_behind(k - 1)

    def with_free(self, each: int) -> "Plan":
        """The same model calls with `each` free steps behind every one.

        Raises:
            Refused: `each` is not an integer, or below 0.
        """
        behind = FREE * integer("each", each, 0, MOST_STEPS // len(self))
        calls = self.morse.replace(FREE, "")
        return Plan("".join(call + behind for call in calls))

    @property
    def dash_positions(self) -> tuple[int, ...]:
        """Positions of the Dash steps in order, counted from 0; the first is 0."""
        return tuple(i for i, mark in enumerate(self.morse) if mark == DASH)

    @property
    def dot_positions(self) -> tuple[int, ...]:
        """Positions of the Dot steps in order, counted from 0."""
        return tuple(i for i, mark in enumerate(self.morse) if mark == DOT)

    def lsd(self, dot_speed: float) -> float:
        """The latency of the run: num_dash + num_dot / dot_speed, in LSD; free steps cost nothing.

        Args:
            dot_speed: N, how many Dot steps take as long as one Dash step; a measured number.

        Raises:
            Refused: `dot_speed` is not a positive finite number.
        """
        return _lsd(self.num_dash, self.num_dot, positive("dot_speed", dot_speed))

    def gain(self, dot_speed: float) -> float:
        """The most that this plan can gain over Dash alone in the same time: len / lsd.

        With n = `lsd(N)` and k = num_dot / N this is the bound (n - k + N*k) / n, in steps per LSD.
        It is reached where a Dot step is worth as much to the image as a Dash step.

        Raises:
            Refused: `dot_speed` is not a positive finite number.
        """
        return len(self) / self.lsd(dot_speed)

    @classmethod
    def spread(cls, num_dash: int, num_dot: int) -> "Plan":
        """The plan with Dash steps spread evenly: Dash j is step ceil(j * num_steps / num_dash).

        The runs of Dot steps behind each Dash differ in length by at most one, the longer ones are
        distributed evenly among the shorter ones, the first run is one of the longest and the last,
        which ends on the image, one of the shortest.

        Raises:
            Refused: `num_dash` below 1, `num_dot` below 0, or either not an integer.
        """
        num_dash = integer("num_dash", num_dash, 1, MOST_STEPS)
        num_steps = num_dash + integer("num_dot", num_dot, 0, MOST_STEPS)
        # -(-a // b) is ceil(a / b) in integers; a float quotient would misplace steps.
        dash = (-(-j * num_steps // num_dash) for j in range(num_dash))
        return cls.from_positions(num_steps, dash)

    @classmethod
    def from_positions(cls, num_steps: int, dash: Iterable[int]) -> "Plan":
        """The plan of `num_steps` steps whose Dash steps are at the positions `dash`, from 0.

        Raises:
            Refused: `num_steps` below 1, a position outside the plan or named twice, none at 0.
        """
        marks = [DOT] * integer("num_steps", num_steps, 1, MOST_STEPS)
        try:
            positions = iter(dash)
        except TypeError:
            raise Refused(
                f"dash={shown(dash)}: has to be positions of Dash steps, such as [0, 3]"
            ) from None
        for position in positions:
            position = integer("position of a Dash", position, 0)
            if position >= num_steps:
                raise Refused(
                    f"Dash at position {position} is outside a plan of {num_steps} steps; "
                    f"positions go from 0 to {num_steps - 1}"
                )
            if marks[position] == DASH:
                raise Refused(f"Dash at position {position} is named twice")
            marks[position] = DASH
        return cls("".join(marks))

    @classmethod
    def from_budget(cls, lsd: float, dot_speed: float, *, dots_per_dash: float = 2.0) -> "Plan":
        """The plan that spends a budget of `lsd` latencies of a Dash step and never exceeds it.

            num_dot  = floor((lsd - num_dash) * dot_speed)
            num_dash = the one with the least |num_dot - dots_per_dash * num_dash|

        Both steps are spread evenly. What is left of the budget is less than one Dot step, and the
        budget of a plan, `plan.lsd(dot_speed)`, buys all of its steps.

        Args:
            lsd: the budget in LSD, at least 1.
            dot_speed: N, how many Dot steps take as long as one Dash step; a measured number.
            dots_per_dash: how many Dot steps are wanted for each Dash step; the plan comes as near
                to this ratio as whole steps allow.

        Raises:
            Refused: `lsd` below 1 or not finite, `dot_speed` not a positive finite number,
                `dots_per_dash` negative or not finite.

        Source: Morse (ICML 2025, arXiv 2506.18251), with the ratio of Dot to Dash steps left free.
        """
        dot_speed = positive("dot_speed", dot_speed)
        lsd = number("lsd", lsd, "a budget: a finite number, 1 (one Dash step) or more")
        if not 1 <= lsd <= MOST_STEPS or not lsd * max(dot_speed, 1) <= MOST_STEPS:
            raise Refused(
                f"lsd={lsd:g} with dot_speed={dot_speed:g}: a budget is 1 (one Dash step) or more "
                f"and buys at most {MOST_STEPS} steps"
            )
        wanted = "a finite number, 0 or more"
        dots_per_dash = number("dots_per_dash", dots_per_dash, wanted)
        if dots_per_dash < 0:
            raise Refused(f"dots_per_dash={dots_per_dash:g}: has to be {wanted}")

        def dots(num_dash: int) -> int:
            return _largest(
                (lsd - num_dash) * dot_speed, lambda n: _lsd(num_dash, n, dot_speed) <= lsd
            )

        # Fewer Dash steps mean more Dot steps: the whole numbers around the exact one suffice.
        exact = math.floor(lsd / (1 + dots_per_dash / dot_speed))
        around = sorted({min(max(1, n), math.floor(lsd)) for n in (exact, exact + 1)})
        num_dash = min(around, key=lambda n: abs(dots(n) - dots_per_dash * n))
        return cls.spread(num_dash, dots(num_dash))


def _lsd(num_dash: float, num_dot: float, dot_speed: float) -> float:
    return num_dash + num_dot / dot_speed


def _largest(quotient: float, fits: Callable[[int], bool]) -> int:
    # The floor of a quotient, corrected by the one step that rounding can cost or give:
    # (4 + 6 / 7 - 4) * 7 is 5.999..., yet six steps fit by the very sum that `lsd` computes.
    count = math.floor(quotient)
    if fits(count + 1):
        return count + 1
    return count if fits(count) else count - 1
