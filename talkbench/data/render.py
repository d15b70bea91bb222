"""Stage 7: pictures, sound and manifest of a version, from frozen snapshot and fetched media.

The same bytes on every run: nothing here looks at the clock, the order of files, or the machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError

from talkbench import atomic
from talkbench.data import acceptance, placing, protocol, reference, snapshot, sound, truth
from talkbench.data.folder import Build, read_json, write_json
from talkbench.data.manifest import (
    FRAME_RATE,
    SAMPLE_SCHEMA,
    AudioInfo,
    Availability,
    Expect,
    GroundTruth,
    Prompt,
    ReferenceInfo,
    Sample,
    SampleStrata,
    Selected,
    Selection,
    SourceInfo,
    json_schema,
    line,
)
from talkbench.data.placing import Placed
from talkbench.errors import TalkbenchError, Unscorable
from talkbench.ids import digest, sha256_file
from talkbench.progress import Progress, Silent
from talkbench.schema import Asset, Item

RENDER_VERSION = 2
"""Bumped whenever the same media would give other bytes."""

GENERIC_PROMPT = "A person talks to the camera; the camera does not move and the background stays still."

_HALF_WRITTEN = re.compile(r"\..+\.\d+\.([0-9a-f]{8}\.tmp|partial\.mp4)")
"""Hidden files under names of `atomic.replacing` and of the encoder, which a killed run leaves."""


@dataclass
class RenderReport:
    """What a version holds.

    Attributes:
        folder: The release.
        coverage: Tier -> [samples, slots].
        missing: Slot -> reason.
        manifest_sha256: Digest of `manifest.jsonl`.
    """

    folder: str
    coverage: dict[str, list[int]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    manifest_sha256: str = ""


def render(build: Build, *, version: str = "1.0.0", progress: Progress | None = None) -> RenderReport:
    """Write a version: samples, manifest, schema, strata, exclusions, digests, and the suites made of it.

    Raises:
        TalkbenchError: If a stage before is missing, the version is malformed, or another process is rendering it.
    """
    check_version(version)
    folder = build.release(version)
    with atomic.lock(folder.with_name(f".{version}.lock"), wait=False) as free:
        if not free:
            raise TalkbenchError(f"another process is rendering {folder}; run this again after it.")
        _remove_leftovers(folder)
        return _render(build, version, progress or Silent())


def _render(build: Build, version: str, progress: Progress) -> RenderReport:
    selection = snapshot.load_selection(build)
    states = snapshot.frozen(build, selection)
    usable = {key: state.status == "available" for key, state in states.items()}
    selected = read_json(build.select_report, "talkbench data select")
    indexed = read_json(build.index_report, "talkbench data index")
    slots = placing.place(selection, usable)
    folder = build.release(version)
    maker = _Maker(build, folder, version, selected["seed"], _revisions(indexed))
    report = RenderReport(str(folder))
    progress.start("render", len(slots))
    samples = []
    for placed in slots:
        name = str(placed.slot.slot)
        try:
            samples.append(maker.sample(placed, states))
        except Unscorable as error:
            report.missing[name] = error.reason
        progress.step(name, ok=name not in report.missing)
    progress.finish()
    samples.sort(key=lambda sample: sample.id)
    sizes = Counter(placed.slot.tier for placed in slots)
    report.coverage = {tier: [sum(s.tier == tier for s in samples), size] for tier, size in sorted(sizes.items())}
    _write(build, folder, samples, report, selected)
    report.manifest_sha256 = sha256_file(folder / "manifest.jsonl")
    return report


class _Maker:
    """Makes the files of samples; those of an earlier run with the same inputs are kept."""

    def __init__(self, build: Build, folder: Path, version: str, seed: int, revisions: dict[str, str]) -> None:
        self._build, self._folder, self._version = build, folder, version
        self._seed, self._revisions = seed, revisions

    def sample(self, placed: Placed, states: dict[placing.Key, Availability]) -> Sample:
        """Return one sample, with its files written.

        Raises:
            Unscorable: Why the slot stays empty.
        """
        if placed.entry is None:
            raise Unscorable("reserve-exhausted", "no clip is left for the slot")
        state = states[placing.key(placed.entry)]
        for path, sha256 in zip(
            snapshot.pieces(self._build, placed.entry), (*state.media_sha256, state.reference_sha256), strict=True
        ):
            if not path.is_file():
                raise Unscorable("media-missing", f"{path} is not there")
            if sha256_file(path) != sha256:
                raise Unscorable("changed-hash", f"{path} is not the file that was frozen")
        inputs = digest(
            [RENDER_VERSION, self._version, self._seed, self._revisions, *map(line, (placed.slot, placed.entry, state))]
        )
        folder = self._folder / "samples" / str(placed.slot.slot)
        return _kept(self._folder, folder, inputs) or self._made(placed.slot, placed.entry, state, folder, inputs)

    def _made(self, slot: Selected, entry: Selected, state: Availability, folder: Path, inputs: str) -> Sample:
        if slot.orientation is None:
            raise TalkbenchError(f"{self._build.selection}: slot {slot.slot} has no orientation; select again.")
        *windows, reference_file = snapshot.pieces(self._build, entry)
        heard = acceptance.heard(entry, windows)
        chosen = reference.choose(reference_file)
        face = state.measured.face_box if state.measured else None
        picture = reference.crop(chosen.frame_HWC, slot.orientation, face)
        full = Image.fromarray(chosen.frame_HWC)
        rows, columns = chosen.frame_HWC.shape[:2]
        atomic.write_bytes(folder / "audio.wav", heard.wav())
        atomic.write_bytes(folder / "ref.png", reference.png(picture))
        atomic.write_bytes(folder / "ref_full.png", reference.png(full))
        origin = entry.references[0]
        sample = Sample(
            schema=SAMPLE_SCHEMA,  # type: ignore[call-arg]  # the alias of schema_
            version=self._version,
            id=str(slot.slot),
            tier=entry.tier,
            assembly=entry.assembly,
            source=SourceInfo(
                dataset=entry.dataset,
                revision=self._revisions["talkvid" if entry.dataset == "talkvid-bench" else entry.dataset],
                platform="youtube",
                source_key=entry.source_key,
                person_key=entry.person_key,
                segments=entry.segments,
                gap_policy=None if entry.assembly == "continuous" else sound.GAP_POLICY,
                known_contaminated=entry.dataset in protocol.KNOWN_CONTAMINATED,
                licence=protocol.LICENCES[entry.dataset],
                retrieved=state.retrieved,
                media_sha256=state.media_sha256,
            ),
            strata=SampleStrata(**entry.strata.model_dump(), orientation=slot.orientation),
            audio=AudioInfo(
                path=f"samples/{slot.slot}/audio.wav",
                sha256=sha256_file(folder / "audio.wav"),
                seconds=heard.seconds,
                sample_rate=16_000,
                channels=1,
                lufs=heard.lufs,
                true_peak_dbfs=heard.true_peak_dbfs,
                original_lufs=heard.original_lufs,
                speech_ratio=heard.speech_ratio,
                max_gap_s=heard.max_gap_s,
            ),
            reference=ReferenceInfo(
                path=f"samples/{slot.slot}/ref.png",
                sha256=sha256_file(folder / "ref.png"),
                full_path=f"samples/{slot.slot}/ref_full.png",
                full_sha256=sha256_file(folder / "ref_full.png"),
                size=picture.size,
                source_key=origin.source_key,
                source_time=round(origin.start + chosen.seconds, 3),
                ref_rule=origin.rule,
                checks=reference.CHECKS + (reference.BY_NETWORKS if state.measured else ()),
                face_box=reference.in_crop(face, columns, rows, slot.orientation) if face else None,
                face_share=state.measured.face_share if state.measured else None,
            ),
            ground_truth=self._truth(slot, state, windows[0], folder, heard) if entry.filmed else None,
            prompt=Prompt(generic=GENERIC_PROMPT),
            expect=Expect(fps=FRAME_RATE, frames=round(heard.seconds * FRAME_RATE)),
            selection=Selection(
                protocol=protocol.VERSION,
                seed=self._seed,
                rank=entry.rank,
                stratum=slot.stratum,
                reserve_index=entry.reserve_index,
            ),
        )
        write_json(folder / "sample.json", {"inputs": inputs, "sample": json.loads(line(sample))})
        return sample

    def _truth(
        self, slot: Selected, state: Availability, window: Path, folder: Path, heard: sound.Sound
    ) -> GroundTruth:
        path = folder / "gt.mp4"
        orientation = str(slot.orientation)
        face = state.measured.window_face_box if state.measured else None
        num_frames = truth.write(window, path, orientation, face, heard.audio_N)
        return GroundTruth(
            path=f"samples/{slot.slot}/gt.mp4",
            sha256=sha256_file(path),
            pixels_digest=truth.pixels(path),
            size=reference.SIZES[orientation],
            fps=FRAME_RATE,
            frames=num_frames,
        )


def _kept(release: Path, folder: Path, inputs: str) -> Sample | None:
    """Return the sample of an earlier run if it was made from the same inputs and its files are whole."""
    try:
        stored: Any = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
        sample = Sample.model_validate(stored["sample"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, ValidationError):
        return None
    whole = all((release / path).is_file() and sha256_file(release / path) == sha256 for path, sha256 in sample.files)
    return sample if whole and stored["inputs"] == inputs else None


def _revisions(indexed: dict[str, Any]) -> dict[str, str]:
    """Return a short digest per source set over the metadata files that were pinned."""
    datasets = {entry["dataset"] for entry in indexed["files"]}
    return {
        dataset: digest(sorted(e["sha256"] for e in indexed["files"] if e["dataset"] == dataset))[:12]
        for dataset in sorted(datasets)
    }


def _write(build: Build, folder: Path, samples: list[Sample], report: RenderReport, selected: dict[str, Any]) -> None:
    """Write what belongs to the version as a whole."""
    atomic.write_text(folder / "manifest.jsonl", "".join(f"{line(sample)}\n" for sample in samples))
    atomic.write_text(folder / "manifest.schema.json", json_schema())
    atomic.write_bytes(folder / "exclusions.json", build.exclusions.read_bytes())
    write_json(
        folder / "strata.json",
        {
            "coverage": report.coverage,
            "missing": report.missing,
            "quotas": selected["quotas"],
            "achieved": {tier: achieved(samples, tier) for tier in report.coverage},
        },
    )
    numbers = ", ".join(f"{tier} {here}/{size}" for tier, (here, size) in report.coverage.items())
    version = folder.name
    atomic.write_text(
        folder / "CHANGELOG.md",
        f"# TalkBench {version}\n\nProtocol {protocol.VERSION}, seed {selected['seed']}. Samples: {numbers}.\n\n"
        "Non-commercial research. Demographic labels are perceived, from the source set.\n",
    )
    for tier in report.coverage:
        items = "".join(f"{_item(sample).to_json()}\n" for sample in samples if sample.tier == tier)
        atomic.write_text(folder / f"{tier}.v{version.partition('.')[0]}.jsonl", items)
    unlisted = {"MANIFEST.sha256", "sample.json"}
    listed = sorted(
        p for p in folder.rglob("*") if p.is_file() and p.name not in unlisted and not p.name.startswith(".")
    )
    current = {sample.id for sample in samples}
    listed = [p for p in listed if p.parent.parent.name != "samples" or p.parent.name in current]
    sums = "".join(f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in listed)
    atomic.write_text(folder / "MANIFEST.sha256", sums)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left half written; nobody else writes below a folder whose lock is held."""
    for path in sorted(folder.rglob(".*")):
        if _HALF_WRITTEN.fullmatch(path.name):
            path.unlink()


def achieved(samples: list[Sample], tier: str) -> dict[str, dict[str, int]]:
    """Return how many samples of a tier fall in each cell."""
    counted: dict[str, Counter[str]] = {}
    for sample in (sample for sample in samples if sample.tier == tier):
        strata = sample.strata
        cells = {
            "gender": strata.gender, "age": strata.age, "ethnicity": strata.ethnicity, "language": strata.language,
            "framing": strata.framing, "orientation": (strata.orientation,), "dataset": (sample.source.dataset,),
        }  # fmt: skip
        for axis, cell in cells.items():
            if cell is not None:
                counted.setdefault(axis, Counter())[cell[0]] += 1
    return {axis: dict(sorted(count.items())) for axis, count in sorted(counted.items())}


def _item(sample: Sample) -> Item:
    """Return the sample as `talkbench run` takes it."""
    return Item(
        id=sample.id,
        tier=sample.tier,
        identity=sample.source.person_key,
        duration_seconds=sample.audio.seconds,
        language=sample.strata.language[0],
        tags=(sample.strata.framing[0], sample.strata.orientation, sample.source.dataset),
        licence=f"{sample.source.licence}; perceived labels",
        seed=int(hashlib.sha256(sample.id.encode()).hexdigest()[:8], 16) >> 1,
        text=sample.prompt.generic,
        image=Asset(path=sample.reference.path, sha256=sample.reference.sha256),
        audio=Asset(path=sample.audio.path, sha256=sample.audio.sha256),
    )


def check_version(version: str) -> None:
    """Refuse a version that is not `major.minor.patch`.

    Raises:
        TalkbenchError: If it is not.
    """
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise TalkbenchError(f"version {version!r} is not major.minor.patch, as 1.0.0.")
