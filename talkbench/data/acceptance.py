"""Whether a fetched clip may be used: pure rules over what its files hold and what networks measured in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from talkbench.data import reference, sound
from talkbench.data.downloader import MIN_HEIGHT_PX
from talkbench.data.filters import MIN_SYNC, SHORT_SECONDS
from talkbench.data.manifest import Measured, Selected
from talkbench.errors import Unscorable
from talkbench.media import probe

MIN_SPEECH = {"short": 0.6, "long": 0.7}
MAX_GAP_SECONDS = {"short": 10.0, "long": 4.0}
MIN_FACE_SHARE = 0.005
"""Of the reference frame; below, a face is under 96 pixels high at 1080p and no crop can help."""


def media(path: Path, seconds: float) -> str | None:
    """Return why a fetched file cannot be used, or None: no picture, no sound, cut short, or too small."""
    try:
        found = probe.probe(path)
        with probe.open_clip(path) as container:
            lasts = container.duration / 1e6 if container.duration else None
    except Unscorable as error:
        return error.reason
    if found.audio is None:
        return "no-audio"
    if min(found.video.height, found.video.width) < MIN_HEIGHT_PX:
        return "too-small"
    if lasts is not None and lasts < seconds - sound.MAX_MISSING_SECONDS:
        return "cut-short"
    return None


def heard(entry: Selected, windows: Sequence[Path]) -> sound.Sound:
    """Return the sound of an entry.

    Raises:
        Unscorable: If it is silent or breaks off.
    """
    parts = [sound.Piece(path, s.seconds, s.pause_seconds) for path, s in zip(windows, entry.segments, strict=True)]
    return sound.prepare(parts, below_seconds=SHORT_SECONDS[1] if entry.tier == "short" else None)


def by_ear(entry: Selected, windows: Sequence[Path]) -> str | None:
    """Return what speaks against the sound of an entry."""
    try:
        found = heard(entry, windows)
    except Unscorable as error:
        return f"measured:{error.reason}"
    if found.speech_ratio < MIN_SPEECH[entry.tier]:
        return "measured:little-speech"
    if found.max_gap_s > MAX_GAP_SECONDS[entry.tier]:
        return "measured:long-gap"
    return None


def by_eye(path: Path) -> str | None:
    """Return what speaks against a reference clip as far as it can be said without networks."""
    try:
        reference.choose(path)
    except Unscorable as error:
        return f"reference-{error.reason}"
    return None


def by_networks(found: Measured) -> str | None:
    """Return what speaks against an entry by what networks measured in it."""
    if found.num_faces == 0:
        return "measured:no-face"
    if found.num_faces > 1:
        return "measured:several-faces"
    if found.face_share is not None and found.face_share < MIN_FACE_SHARE:
        return "measured:small-face"
    if found.sync_problem is not None:
        return f"measured:sync-{found.sync_problem}"
    if found.sync_confidence is not None and found.sync_confidence < MIN_SYNC:
        return "measured:low-sync"
    return None
