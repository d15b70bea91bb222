"""Stages 4 and 5: choose candidates so that every marginal quota is met as nearly as the candidates allow.

Each step takes the candidate that leaves the smallest sum of squared deviations from the quotas, over all axes; of
equals the one of lowest rank. No person and no source is taken twice, in any tier. Once the tier is full all quotas
double, and what follows is the reserve, in order.

Sound that was joined from pieces is a last resort: candidates of that kind wait until no other is left, and both
accepted samples and reserve hold at most a stated number that was joined in any way.
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
        joined_N: Whether the sound is put together from pieces.
        last_N: Whether the candidate waits until no other is left.
    """

    cells_NA: NDArray[np.int16]
    position_N: NDArray[np.int64]
    persons_N: NDArray[np.uint64]
    sources_N: NDArray[np.uint64]
    joined_N: NDArray[np.bool_]
    last_N: NDArray[np.bool_]


def allocate(pool: Pool, quotas: Sequence[Sequence[int]], size: int, used: Used, *, max_joined: int = 0) -> list[int]:
    """Return the indices of accepted candidates and then of the reserve, at most 2 x `size`; fewer if none is left.

    Args:
        pool: The candidates.
        quotas: Per axis the wanted number in each cell.
        size: Samples of the tier.
        used: What other tiers took; what is taken here is added.
        max_joined: Joined candidates among the accepted, and as many again in the reserve.
    """
    if not pool.position_N.size:
        return []
    flags_N2 = np.stack([pool.last_N, pool.joined_N], axis=1).astype(np.int16)
    kinds_KB, kind_N = np.unique(np.hstack([pool.cells_NA, flags_N2]), axis=0, return_inverse=True)
    queue_N = np.lexsort((pool.position_N, kind_N.reshape(-1)))
    starts = np.searchsorted(kind_N.reshape(-1)[queue_N], np.arange(len(kinds_KB) + 1))
    heads, ends = starts[:-1].copy(), starts[1:]
    deviations = [-np.asarray(quota, np.int64) for quota in quotas]
    taken: list[int] = []
    num_joined = 0
    while len(taken) < 2 * size:
        if len(taken) == size:
            deviations = [d - np.asarray(quota) for d, quota in zip(deviations, quotas, strict=True)]
            num_joined = 0
        allowed_K = (kinds_KB[:, -1] == 0) | (num_joined < max_joined)
        best = _best(pool, kinds_KB, allowed_K, queue_N, heads, ends, deviations, used)
        if best is None:
            break
        taken.append(best)
        num_joined += int(pool.joined_N[best])
        used.persons.add(int(pool.persons_N[best]))
        used.sources.add(int(pool.sources_N[best]))
        for axis, deviation in enumerate(deviations):
            deviation[pool.cells_NA[best, axis]] += 1
    return taken


def _best(
    pool: Pool,
    kinds_KB: NDArray[np.int16],
    allowed_K: NDArray[np.bool_],
    queue_N: NDArray[np.int64],
    heads: NDArray[np.int64],
    ends: NDArray[np.int64],
    deviations: Sequence[NDArray[np.int64]],
    used: Used,
) -> int | None:
    """Return the candidate whose acceptance adds least to the squared deviations.

    Legend: K kinds of candidate; B their axes, then whether they wait and whether they are joined.
    """
    # Raising a deviation d by one changes its square by 2d + 1, so the smallest sum of d over the axes wins.
    cost_K = np.sum([deviation[kinds_KB[:, axis]] for axis, deviation in enumerate(deviations)], axis=0)
    last_K = kinds_KB[:, -2]
    for last, cost in np.unique(np.stack([last_K, cost_K], axis=1)[allowed_K], axis=0):
        best = None
        for kind in np.flatnonzero(allowed_K & (last_K == last) & (cost_K == cost)):
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
