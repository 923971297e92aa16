"""Parts of an output that the rest of it drowns: boxes of hundreds and scores of 0 to 1 that are one tensor, say.

A ratio of noise to signal over the whole of such a tensor is that of the large part: the small one may be lost, and no
digit of the figure shows it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FAR = 32.0
"""How many times smaller than the largest value of a tensor a part is that is looked at by itself: integers of 8 bits
over the whole range leave it 3 bits."""

GAP = 8.0
"""How many times larger the next channel must be, so that a part ends there; channels that fade out are one part."""


def channel_axes(dimensions: int) -> tuple[int, ...]:
    """Return the dimensions of an output, samples first, along which parts of other meaning may lie.

    Of images they are the channels, (N, C, H, W); else the first and the last one behind the samples.

    >>> channel_axes(1), channel_axes(2), channel_axes(3), channel_axes(4), channel_axes(5)
    ((), (1,), (1, 2), (1,), (1, 4))
    """
    if dimensions < 2:
        return ()
    return (1,) if dimensions in (2, 4) else (1, dimensions - 1)


def drowned(peaks: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which channels, of these largest absolute values, are far smaller than the others, with a gap between.

    Channels that are 0 throughout are none of them.

    >>> drowned(np.array([640.0, 480.0, 0.9, 0.2, 0.0])).tolist()
    [False, False, True, True, False]
    >>> drowned(np.array([640.0, 160.0, 40.0, 10.0])).any()  # no gap
    np.False_
    """
    known = np.sort(peaks[peaks > 0])[::-1]
    ends = (below for above, below in pairwise(known) if above >= GAP * below and known[0] >= FAR * below)
    largest = next(ends, 0.0)
    return (peaks > 0) & (peaks <= largest)
