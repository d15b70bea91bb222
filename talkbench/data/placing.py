"""Which clip fills which slot, given what could be fetched: a pure function of selection and snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from talkbench.data.manifest import Selected

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Placed:
    """A slot of the benchmark and the clip that fills it; None if its stratum and the reserve are exhausted."""

    slot: Selected
    entry: Selected | None


def key(entry: Selected) -> Key:
    """Return what a clip is known by in the snapshot."""
    return entry.tier, entry.dataset, entry.clip_id


def place(selection: Sequence[Selected], usable: Mapping[Key, bool]) -> list[Placed]:
    """Fill every slot with its own clip, or else with the first reserve entry of its stratum, or else of its tier.

    Joined sound only ever takes the place of joined sound, so that their number cannot grow.

    Args:
        selection: Accepted clips and reserve, in order.
        usable: Clip -> whether it could be used; clips that are not in it count as usable.
    """
    reserve = [entry for entry in selection if entry.slot is None and usable.get(key(entry), True)]
    placed = []
    for slot in (entry for entry in selection if entry.slot is not None):
        if usable.get(key(slot), True):
            placed.append(Placed(slot, slot))
            continue
        uncut = slot.assembly == "continuous"
        same_tier = [e for e in reserve if e.tier == slot.tier and (e.assembly == "continuous" or not uncut)]
        ranked = sorted(same_tier, key=lambda entry: (entry.stratum != slot.stratum, entry.xl != slot.xl))
        chosen = ranked[0] if ranked else None
        if chosen is not None:
            reserve.remove(chosen)
        placed.append(Placed(slot, chosen))
    return placed
