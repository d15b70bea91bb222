"""Weights in keys and rows: another file is another score, and only released ones share an output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from talkbench import api
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.metrics import base, pool
from talkbench.metrics.base import Needs, Output, Runner, Scores
from talkbench.metrics.series import Terms
from talkbench.stats.aggregate import known_outputs
from talkbench.store.run import Run
from talkbench.weights import store
from talkbench.weights.catalog import WeightFile
from talkbench.weights.read import BadWeights
from tests.support import make_clip


class Weighed(Runner):
    """Gives the size of its weight file."""

    name, version = "weighed", "1"
    outputs = (Output("toy.size", "Size", better="higher", series=True, description="Bytes of a file."),)
    needs = Needs(weights=("toy",))

    def start(self, clip: object) -> None:
        if self.context.weights["toy"].path.read_bytes() == b"wrong":
            raise BadWeights("toy.pth does not fit")
        self._terms = Terms()

    def update(self, batch: object) -> None:
        self._terms.add([float(self.context.weights["toy"].path.stat().st_size)], [0.0])

    def finish(self) -> Scores:
        return Scores({"toy.size": self._terms.mean()}, series={"toy.size": self._terms})


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Register the runner, and look for its weights in a folder without a catalog."""
    module = ModuleType("toy_runner")
    module.Weighed = Weighed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_runner", module)
    monkeypatch.setitem(base.RUNNERS._paths, "weighed", "toy_runner:Weighed")

    def locate(names: list[str], *, weights_dir: Path | None, allow_unverified: bool, drawn: bool) -> store.Located:
        found = store.Located()
        path = weights_dir / "toy.pth" if weights_dir else None
        if path is None or not path.is_file():
            found.missing["toy"] = "toy.pth is missing: `talkbench weights fetch toy`."
        elif path.read_bytes() == b"":
            found.damaged["toy"] = "toy.pth is empty."
        else:
            kind = "unverified" if allow_unverified else "released"
            found.files["toy"] = WeightFile("toy", path, path.read_bytes().hex().ljust(64, "0"), kind)
        return found

    monkeypatch.setattr(store, "locate", locate)
    make_clip(tmp_path / "clips" / "a.mp4", seconds=0.4)
    yield tmp_path
    base.RUNNERS._loaded.pop("weighed", None)


def score(folder: Path, content: bytes | None, **options: bool) -> dict[str, tuple[str, float | None, str | None]]:
    if content is not None:
        (folder / "toy.pth").write_bytes(content)
    summary = api.score(folder / "clips", folder / "run", metrics=["weighed"], weights_dir=folder, jobs=1, **options)
    rows = Run(summary.run).current_rows()
    return {row["output"]: (row["status"], row["value"], row["reason"]) for row in rows}


def test_missing_weights_are_a_reason_and_are_scored_once_they_are_there(toy: Path) -> None:
    assert score(toy, None) == {"toy.size": ("skipped", None, "no-weights")}
    assert score(toy, b"12") == {"toy.size": ("ok", 2.0, None)}
    assert api.status(toy / "run")["next"].startswith("talkbench report")


def test_another_file_is_another_score_and_the_same_one_is_not_computed_again(toy: Path) -> None:
    assert score(toy, b"12")["toy.size"][1] == 2.0
    assert score(toy, b"345")["toy.size"][1] == 3.0
    (toy / "toy.pth").write_bytes(b"345")
    again = api.score(toy / "clips", toy / "run", metrics=["weighed"], weights_dir=toy, jobs=1)
    assert again.written == {}


def test_losing_the_weights_does_not_lose_the_score(toy: Path) -> None:
    score(toy, b"12")
    (toy / "toy.pth").unlink()
    assert score(toy, None) == {"toy.size": ("ok", 2.0, None)}


def test_the_weights_of_another_network_do_not_displace_a_score(toy: Path) -> None:
    assert score(toy, b"wrong") == {"toy.size": ("failed", None, "bad-weights")}
    assert score(toy, b"12") == {"toy.size": ("ok", 2.0, None)}
    assert score(toy, b"wrong") == {"toy.size": ("ok", 2.0, None)}


def test_damaged_weights_fail_that_metric_alone_and_say_which_file(toy: Path) -> None:
    (toy / "toy.pth").write_bytes(b"")
    done = api.score(toy / "clips", toy / "run", metrics=["weighed", "flicker"], weights_dir=toy, jobs=1)
    assert done.written == {"failed": 1, "ok": 1}
    assert "toy.pth is empty" in str(done.unavailable["weighed"].message)


def test_unverified_weights_give_an_output_of_their_own(toy: Path) -> None:
    assert score(toy, b"12", allow_unverified=True) == {"toy.size@unverified": ("ok", 2.0, None)}
    known = known_outputs()
    assert known["toy.size@unverified"].label == "Size (unverified)"
    assert known["drift.slope.toy.size@unverified"].label.endswith("(unverified)")


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "cuda1", ""])
def test_an_unknown_device_is_refused(asked: str) -> None:
    with pytest.raises(TalkbenchError, match="unknown device"):
        pool.devices(asked)


def test_every_gpu_is_used_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert pool.devices("cuda") == ("cuda:0", "cuda:1", "cuda:2")
    assert pool.devices("cuda:2") == ("cuda:2",)
    assert pool.devices("cpu") == ("cpu",)
    with pytest.raises(PrerequisiteError, match="sees 3"):
        pool.devices("cuda:3")
