"""Values counted in equal bins: what is left of a column of any length."""

import numpy as np
from jaxtyping import Float


class Bins:
    """A histogram that grows. Values beyond its ends are counted in the outermost bins; NaN is not counted."""

    def __init__(self, low: float, high: float, count: int) -> None:
        self.edges = np.linspace(low, high, count + 1)
        self.counts = np.zeros(count, np.int64)
        self.least, self.most = np.inf, -np.inf
        self.squares = 0.0

    def __len__(self) -> int:
        return int(self.counts.sum())

    def add(self, values: Float[np.ndarray, "N"]) -> None:
        """Count more values."""
        values = np.asarray(values, np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            return
        inside = values.clip(self.edges[0], self.edges[-1])
        self.counts += np.histogram(inside, self.edges)[0]
        self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))
        self.squares += float((values**2).sum())

    @property
    def rms(self) -> float:
        """Root of the mean square; NaN of nothing."""
        return float(np.sqrt(self.squares / len(self))) if len(self) else float("nan")

    def quantile(self, share: float) -> float:
        """The value below which this share of all lies, to a bin's width and within what was seen; NaN of nothing."""
        if not len(self):
            return float("nan")
        below = np.concatenate(([0], np.cumsum(self.counts)))
        value = float(np.interp(share * below[-1], below, self.edges))
        return min(max(value, self.least), self.most)
