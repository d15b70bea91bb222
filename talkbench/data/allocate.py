"""Stages 4 and 5: choose candidates so that every marginal quota is met as nearly as the candidates allow.

Each step takes the candidate that leaves the smallest sum of squared deviations from the quotas, over all axes; of
equals the one of lowest rank. No person and no source is taken twice, in any tier. Once the tier is full all quotas
double, and what follows is the reserve, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Used:
    """Persons and sources that are taken, as hashes."""

    persons: set[int] = field(default_factory=set)
    sources: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Pool:
    """Candidates as arrays. Legend: N candidates, A axes.

    Attributes:
        cells_NA: Cell of each candidate on each axis.
        position_N: Place of each candidate in the order of ranks.
        persons_N: Hashed person keys.
        sources_N: Hashed source keys.
    """

    cells_NA: NDArray[np.int16]
    position_N: NDArray[np.int64]
    persons_N: NDArray[np.uint64]
    sources_N: NDArray[np.uint64]


def allocate(pool: Pool, quotas: Sequence[Sequence[int]], size: int, used: Used) -> list[int]:
    """Return the indices of accepted candidates and then of the reserve, at most 2 x `size`; fewer if none is left.

    Args:
        pool: The candidates.
        quotas: Per axis the wanted number in each cell.
        size: Samples of the tier.
        used: What other tiers took; what is taken here is added.
    """
    if not pool.position_N.size:
        return []
    kinds_KA, kind_N = np.unique(pool.cells_NA, axis=0, return_inverse=True)
    queue_N = np.lexsort((pool.position_N, kind_N.reshape(-1)))
    starts = np.searchsorted(kind_N.reshape(-1)[queue_N], np.arange(len(kinds_KA) + 1))
    heads, ends = starts[:-1].copy(), starts[1:]
    deviations = [-np.asarray(quota, np.int64) for quota in quotas]
    taken: list[int] = []
    while len(taken) < 2 * size:
        if len(taken) == size:
            deviations = [d - np.asarray(quota) for d, quota in zip(deviations, quotas, strict=True)]
        best = _best(pool, kinds_KA, queue_N, heads, ends, deviations, used)
        if best is None:
            break
        taken.append(best)
        used.persons.add(int(pool.persons_N[best]))
        used.sources.add(int(pool.sources_N[best]))
        for axis, deviation in enumerate(deviations):
            deviation[pool.cells_NA[best, axis]] += 1
    return taken


def _best(
    pool: Pool,
    kinds_KA: NDArray[np.int16],
    queue_N: NDArray[np.int64],
    heads: NDArray[np.int64],
    ends: NDArray[np.int64],
    deviations: Sequence[NDArray[np.int64]],
    used: Used,
) -> int | None:
    """Return the candidate whose acceptance adds least to the squared deviations."""
    # Raising a deviation d by one changes its square by 2d + 1, so the smallest sum of d over the axes wins.
    cost_K = np.sum([deviation[kinds_KA[:, axis]] for axis, deviation in enumerate(deviations)], axis=0)
    for cost in np.unique(cost_K):
        best = None
        for kind in np.flatnonzero(cost_K == cost):
            head = _advance(pool, queue_N, heads, ends, int(kind), used)
            if head is not None and (best is None or pool.position_N[head] < pool.position_N[best]):
                best = head
        if best is not None:
            return best
    return None


def _advance(
    pool: Pool,
    queue_N: NDArray[np.int64],
    heads: NDArray[np.int64],
    ends: NDArray[np.int64],
    kind: int,
    used: Used,
) -> int | None:
    """Drop candidates whose person or source is taken from the front of a queue; return its head."""
    while heads[kind] < ends[kind]:
        head = int(queue_N[heads[kind]])
        if int(pool.persons_N[head]) not in used.persons and int(pool.sources_N[head]) not in used.sources:
            return head
        heads[kind] += 1
    return None
