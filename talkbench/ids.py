"""Names that follow from content: canonical JSON, digests, and the keys of clips and scores.

Equal content gives equal keys on every machine, so resume, caching and de-duplication are one lookup.
Device and date are provenance, not identity, and enter no key.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

KEY_DIGITS = 32
_BLOCK_BYTES = 1 << 20


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: If `value` holds a NaN or an infinity.
        TypeError: If `value` holds something that is not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 of the canonical JSON of `value`, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def key(value: Any) -> str:
    """Return a 32-digit key for `value`: short enough to read, long enough never to collide."""
    return digest(value)[:KEY_DIGITS]


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file's bytes, as 64 hex digits, reading 1 MiB at a time."""
    total = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            total.update(block)
    return total.hexdigest()


def clip_key(*, suite: str, item_digest: str, system: str, clip_sha256: str) -> str:
    """Return the key of one clip of one system on one item of one suite version."""
    return key({"suite": suite, "item": item_digest, "system": system, "clip": clip_sha256})


def score_key(
    *,
    clip_sha256: str,
    metric: str,
    metric_version: str,
    params: str,
    decode_policy: str,
    weights: dict[str, str],
    inputs: dict[str, str],
) -> str:
    """Return the key under which a metric's rows for a clip are stored and found again.

    Args:
        clip_sha256: Digest of the file's bytes.
        metric: Runner name.
        metric_version: Bumped by the runner whenever a published number can move.
        params: Digest of the runner's parameters.
        decode_policy: `talkbench.media.decode.POLICY`: how frames became pixels.
        weights: Weight file name -> sha256.
        inputs: Digests of what else the runner read (ground truth, timing events).
    """
    return key(
        {
            "clip": clip_sha256,
            "metric": metric,
            "version": metric_version,
            "params": params,
            "decode": decode_policy,
            "weights": weights,
            "inputs": inputs,
        }
    )
