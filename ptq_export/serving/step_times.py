"""How long a step takes by its number of rows: measured at the start, followed while serving."""

import time
from collections.abc import Callable

__all__ = ["StepTimes"]

CALLS, LONGEST_S = 10, 2.0
COMMON, OWN = 0.05, 0.25
NEAR_BEST, LONGEST_STEP = 1.05, 3.5


class StepTimes:
    """Seconds per step of 1, 2, 4, ... rows, in between in proportion."""

    def __init__(self, measured: dict[int, float]) -> None:
        self._seconds = dict(sorted(measured.items()))

    @classmethod
    def measure(cls, step: Callable[[int], None], most: int) -> "StepTimes":
        """Time `step(rows)` for 1, 2, 4, ... `most` rows; no larger ones once a step takes 2 s."""
        found: dict[int, float] = {}
        rows = 1
        while True:
            found[rows] = _least_seconds(step, rows)
            if rows == most or found[rows] > LONGEST_S:
                return cls(found)
            rows = min(2 * rows, most)

    def seconds(self, rows: int) -> float:
        """Of one step of so many rows."""
        sizes = list(self._seconds)
        above = next((size for size in sizes if size >= rows), None)
        if above is None:
            return self._seconds[sizes[-1]] * rows / sizes[-1]
        if above == rows or above == sizes[0]:
            return self._seconds[above]
        below = sizes[sizes.index(above) - 1]
        share = (rows - below) / (above - below)
        return (1 - share) * self._seconds[below] + share * self._seconds[above]

    def saw(self, rows: int, seconds: float) -> None:
        """Follow a step that was served: a little of what surprises is the machine's, and so true of all sizes."""
        if rows not in self._seconds:
            return
        surprise = seconds / self._seconds[rows]
        for each in self._seconds:
            self._seconds[each] *= surprise**COMMON
        self._seconds[rows] *= surprise**OWN

    @property
    def best_rows(self) -> int:
        """The fewest rows whose time per row is within 5 % of the best, of steps that take at most 3.5 x as long as one
        of a single row: so long does a newcomer wait."""
        single = self.seconds(1)
        per_row = {rows: took / rows for rows, took in self._seconds.items() if took <= LONGEST_STEP * single}
        return min((rows for rows, each in per_row.items() if each <= NEAR_BEST * min(per_row.values())), default=1)


def _least_seconds(step: Callable[[int], None], rows: int) -> float:
    """Of several calls: what else the machine does only adds to it."""
    step(rows)
    spent: list[float] = []
    while len(spent) < CALLS and sum(spent) < LONGEST_S:
        began = time.perf_counter()
        step(rows)
        spent.append(time.perf_counter() - began)
    return min(spent)
