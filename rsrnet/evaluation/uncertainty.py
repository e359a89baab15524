"""How far a mean over images would move with other photographs.

Composites of one photograph (or scene) resemble each other: they are no independent observations. So residuals are
summed within each photograph before they are squared (Liang and Zeger, "Longitudinal data analysis using
generalized linear models", 1986). Where every image is of a photograph of its own, this is the usual standard error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def standard_error(
    values: NDArray[np.float64], photographs: Sequence[str] | NDArray[np.generic]
) -> NDArray[np.float64]:
    """Standard error of the mean over the first axis, the images; NaN for a single photograph.

    Args:
        values: (N, ...).
        photographs: what each image was made from, (N,).

    Returns:
        (...), 0-dimensional for (N,).
    """
    return error_of_sum((values - values.mean(axis=0)) / len(values), photographs)


def error_of_sum(
    influences: NDArray[np.float64], photographs: Sequence[str] | NDArray[np.generic]
) -> NDArray[np.float64]:
    """Standard error of an estimate that every image moves by so much, such as a difference of two means.

    Args:
        influences: (N, ...); over all images they add up to 0.
        photographs: what each image was made from, (N,).

    Returns:
        (...), 0-dimensional for (N,); NaN for fewer than two photographs.
    """
    names, number = np.unique(photographs, return_inverse=True)
    count = len(names)
    if count < 2:
        return np.full(influences.shape[1:], np.nan)
    sums = np.zeros((count, *influences.shape[1:]))
    np.add.at(sums, number, influences)
    return np.asarray(np.sqrt(count / (count - 1) * np.square(sums).sum(axis=0)))
