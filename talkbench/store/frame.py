"""Rows as a pandas DataFrame, for notebooks and export."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

CATEGORIES = ("system", "tier", "identity", "metric", "output", "unit", "status", "env", "device")
_JSON = ("details", "windows", "weights")


def to_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one line per row; nested fields as JSON text, names as categories, `written_at` as UTC time."""
    flat = [row | {name: json.dumps(row[name]) if row[name] else None for name in _JSON} for row in rows]
    frame = pd.DataFrame(flat)
    if frame.empty:
        return frame
    frame["value"] = frame["value"].astype("float64")
    frame["written_at"] = pd.to_datetime(frame["written_at"], utc=True)
    return frame.astype(dict.fromkeys(CATEGORIES, "category"))
