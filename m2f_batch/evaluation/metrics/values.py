"""Computes quotients and means for figures, which are None where there is nothing to measure."""

import numpy as np
from numpy.typing import NDArray

Values = dict[str, float | None]


def mean_of(values: NDArray[np.float64]) -> float | None:
    """Return the mean of what is not NaN, None of nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def ratio(part: NDArray[np.number], whole: NDArray[np.number]) -> NDArray[np.float64]:
    """Return quotients, float64 [K], NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def value_of(number: float) -> float | None:
    """A figure, None for NaN."""
    return None if np.isnan(number) else float(number)
