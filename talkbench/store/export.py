"""A run's rows as one table file."""

from __future__ import annotations

import os
from pathlib import Path

from talkbench.store.frame import to_frame
from talkbench.store.rows import validate
from talkbench.store.run import Run


def export(run: Run, path: Path) -> int:
    """Write the current rows to `path` (`.parquet` or `.csv`); return how many there are."""
    rows = run.current_rows()
    validate(rows)
    frame = to_frame(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if path.suffix == ".parquet":
        frame.to_parquet(partial, index=False)
    else:
        frame.to_csv(partial, index=False)
    partial.replace(path)
    return len(frame)
