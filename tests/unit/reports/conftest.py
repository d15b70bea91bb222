"""A run folder written record by record: no clip is decoded, so tests say exactly what is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from talkbench.ids import key
from talkbench.schema import (
    AudioFacts,
    ClipRecord,
    DecodedFacts,
    Item,
    Problem,
    ScoreRow,
    Suite,
    SystemRecord,
    TierRule,
    VideoFacts,
    Windows,
)
from talkbench.store.rows import RowWriter
from talkbench.store.run import Run
from tests.support import row

FLICKER, MOTION, FPS = "vbench.temporal_flickering", "motion.amount", "speed.fps"
TIERS = (TierRule(name="short", title="Short"), TierRule(name="long", title="Long"))
TOYS = Suite(name="toy", version=1, title="Toy", description="Toys.", licence="CC0", tiers=TIERS)


class RunMaker:
    """Adds systems, clips and rows to a run folder."""

    def __init__(self, path: Path, items: Sequence[Item] | None = None, suite: Suite = TOYS) -> None:
        self.run = Run.open_or_create(path, suite.model_copy(update={"items": items and tuple(items)}))

    def system(self, name: str, kind: Any = "folder") -> None:
        self.run.add_system(SystemRecord(name=name, kind=kind, path=f"/clips/{key(name)}"))

    def clip(self, system: str, item: str, path: Path | None = None, **changes: Any) -> ClipRecord:
        """Add a clip; without a path its file is made, empty, under the run's parent folder."""
        if path is None:
            path = self.run.path.parent / "clips" / key(system) / f"{item}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        facts: dict[str, Any] = {
            "clip_key": key([system, item]), "system": system, "item": item, "tier": "short", "identity": item,
            "path": str(path), "size_bytes": 1, "modified_ns": 1, "sha256": "0" * 64,
            "video": VideoFacts(
                codec="h264", width=64, height=48, frame_rate="25", num_frames=50, pixel_format="yuv420p", bit_depth=8,
                has_alpha=False, colour_matrix="bt709", colour_range="limited", colour_tagged=True,
            ),
            "audio": AudioFacts(codec="aac", rate_hz=16_000, num_channels=1, duration_seconds=2.0),
            "decoded": DecodedFacts(
                num_frames=50, duration_seconds=2.0, variable_frame_rate=False, pixels_digest="d",
                waveform=(0.0, 0.5, 1.0),
            ),
        }  # fmt: skip
        record = ClipRecord(**facts | changes)
        self.run.put_clip(record)
        return record

    def broken(self, system: str, item: str, message: str = "no video stream") -> None:
        """Add a clip that cannot be used, as a scan records it, and its failed row."""
        path = self.run.path.parent / "clips" / f"{item}.mp4"
        problem = Problem(status="failed", reason="not-a-video", message=message)
        self.clip(system, item, path, problem=problem, video=None, audio=None, decoded=None)
        self.score(system, item, None, status="failed", reason="not-a-video", message=problem.message)

    def score(self, system: str, item: str, value: float | None, output: str = FLICKER, **changes: Any) -> None:
        metric = {FLICKER: "flicker", MOTION: "motion", FPS: "speed"}.get(output, "flicker")
        base = row(system, item, value, output=output, metric=metric, clip_key=key([system, item]))
        writer = RowWriter(self.run.path / "rows")
        writer.write([ScoreRow.model_validate(base | {"score_key": key([metric, system, item])} | changes)])
        writer.close()

    def drifting(self, system: str, item: str, values: Sequence[float], *, stable: float, failed: bool) -> None:
        """Add a long clip with a curve and its drift rows."""
        self.clip(system, item, tier="long")
        self.score(
            system, item, sum(values) / len(values), tier="long", windows=Windows(seconds=1.0, values=tuple(values))
        )
        details = {"never_failed": not failed, "seam_period_frames": 28}
        for kind, value in (("slope", -0.01), ("stable_seconds", stable), ("seam_strength", 4.0)):
            self.score(system, item, value, f"drift.{kind}.{FLICKER}", tier="long", details=details)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunMaker]:
    """Return a maker of runs below a temporary folder."""
    return lambda items=None: RunMaker(tmp_path / "run", items)


@pytest.fixture
def small_run(make_run: Callable[..., RunMaker]) -> Run:
    """Two systems, four identities, one long clip each, speed, one broken clip."""
    maker = make_run()
    for s, system in enumerate(("ours", "theirs")):
        maker.system(system)
        for number in range(4):
            item = f"item-{number}"
            maker.clip(system, item)
            maker.score(system, item, 0.95 + 0.01 * s + 0.002 * number)
            maker.score(system, item, 0.5 + s, MOTION)
            maker.score(system, item, 10.0 + 15 * s + number, FPS)
        level = 0.98 - 0.01 * s
        curve = [level - (0.001 * at if s else 0) for at in range(32)]
        maker.drifting(system, "long-0", curve, stable=12.0 if s else 32.0, failed=bool(s))
    maker.broken("ours", "item-9")
    return maker.run
