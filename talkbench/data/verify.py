"""Stage 8: is a version what its manifest says, and how much of it is here?"""

from __future__ import annotations

import json
import re
import wave
from collections import Counter
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from talkbench.data import truth
from talkbench.data.folder import Build, read_json
from talkbench.data.manifest import Sample, json_schema
from talkbench.data.render import achieved
from talkbench.errors import TalkbenchError, Unscorable
from talkbench.ids import sha256_file

MAJOR = 1
"""The major version of the manifests that this code reads; results of different ones are never averaged."""

_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)


@dataclass
class VerifyReport:
    """What was found.

    Attributes:
        coverage: Tier -> [samples whose files are all here and unchanged, slots].
        problems: (sample or file, what is wrong).
        missing: (sample or slot, why it is not here): lower coverage, not a mistake.
    """

    folder: str
    manifest_sha256: str
    coverage: dict[str, list[int]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)


def find(name: str, build: Build) -> tuple[Path, str | None]:
    """Return the folder of a release and the tier asked for: `short.v1`, `long.v1`, a version, or a folder.

    A whole version, as `1.0.0` or `short.v1.0.0`, means that one; a major alone the newest of it.

    Raises:
        TalkbenchError: If there is none.
    """
    if (Path(name) / "manifest.jsonl").is_file():
        return Path(name), None
    there = {p.parent.name: p.parent for p in build.release("").glob("*/manifest.jsonl")}
    versions = sorted((name for name in there if _VERSION.fullmatch(name)), key=_numbers)
    wanted = re.fullmatch(r"(?:(short|long)\.v)?(\d+(?:\.\d+\.\d+)?)", name, re.ASCII)
    if wanted is not None:
        tier, version = wanted.groups()
        found = [each for each in versions if version in {each, each.partition(".")[0]}]
        if found:
            return there[found[-1]], tier
    raise TalkbenchError(
        f"no rendered version {name!r} below {build.release('')} (there: {', '.join(versions) or 'none'}): run "
        "`talkbench data render`, or give its folder."
    )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def verify(folder: Path, tier: str | None = None) -> VerifyReport:
    """Check schema, digests, decoded lengths and sizes, uniqueness of persons and sources, and strata.

    Args:
        folder: A release.
        tier: Only this one.

    Raises:
        TalkbenchError: If the manifest cannot be read, or is of another major version.
    """
    path = folder / "manifest.jsonl"
    strata = read_json(folder / "strata.json", "talkbench data render")
    report = VerifyReport(str(folder), sha256_file(path))
    samples = _samples(path, report)
    _check_sums(folder, report)
    if (folder / "manifest.schema.json").is_file() and (folder / "manifest.schema.json").read_text(
        "utf-8"
    ) != json_schema():
        report.problems.append(("manifest.schema.json", "is not the schema of this version of talkbench"))
    for what in ("id", "person", "source"):
        counted = Counter(_unique(sample, what) for sample in samples)
        report.problems += [(key, f"{what} stands {n} times") for key, n in counted.items() if n > 1]
    whole = Counter[str]()
    for sample in samples:
        if tier is not None and sample.tier != tier:
            continue
        before = len(report.problems) + len(report.missing)
        _check_files(folder, sample, report)
        whole[sample.tier] += before == len(report.problems) + len(report.missing)
    _check_strata(samples, strata, tier, report, whole)
    return report


def _samples(path: Path, report: VerifyReport) -> list[Sample]:
    found = []
    try:
        lines = StringIO(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise TalkbenchError(f"{path} is not UTF-8: {error}.") from error
    for number, text in enumerate(lines, 1):
        try:
            entry: Any = json.loads(text)
        except ValueError as error:
            report.problems.append((f"line {number}", f"not JSON ({error})"))
            continue
        _refuse_other_major(entry, path, number)
        try:
            found.append(Sample.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            name = entry.get("id", f"line {number}") if isinstance(entry, dict) else f"line {number}"
            report.problems.append((str(name), f"{where}: {first['msg']}"))
    return found


def _refuse_other_major(entry: Any, path: Path, number: int) -> None:
    version = entry.get("version") if isinstance(entry, dict) else None
    major = version.partition(".")[0] if isinstance(version, str) else ""
    if major.isdigit() and int(major) != MAJOR:
        raise TalkbenchError(
            f"{path}, line {number}: version {version} is of another major version than is read here ({MAJOR}); "
            "use the release of talkbench that goes with it. Results of different majors are never averaged."
        )


def _check_sums(folder: Path, report: VerifyReport) -> None:
    """Check the files of the version as a whole; those of samples are checked against the manifest."""
    sums = folder / "MANIFEST.sha256"
    if not sums.is_file():
        report.problems.append(("MANIFEST.sha256", "is not there"))
        return
    for entry in sums.read_text(encoding="utf-8").splitlines():
        sha256, _, name = entry.partition("  ")
        path = folder / name
        if name.startswith("samples/"):
            continue
        if not path.is_file():
            report.problems.append((name, "is not there"))
        elif sha256_file(path) != sha256:
            report.problems.append((name, "is not the file that MANIFEST.sha256 lists"))


def _unique(sample: Sample, what: str) -> str:
    return {"id": sample.id, "person": sample.source.person_key, "source": sample.source.source_key}[what]


def _check_files(folder: Path, sample: Sample, report: VerifyReport) -> None:
    audio, reference = sample.audio, sample.reference
    for name, sha256 in sample.files:
        if not (folder / name).is_file():
            report.missing.append((sample.id, f"{name} is not there"))
        elif sha256_file(folder / name) != sha256 and not _same_pixels(folder, sample, name):
            report.problems.append((sample.id, f"{name} has another sha256 than the manifest says"))
    if (folder / audio.path).is_file():
        try:
            with wave.open(str(folder / audio.path)) as file:
                facts = (file.getnframes() / file.getframerate(), file.getframerate(), file.getnchannels())
            if facts != (audio.seconds, audio.sample_rate, audio.channels):
                report.problems.append((sample.id, f"{audio.path} holds {facts[0]:.3f} s at {facts[1]} Hz"))
        except (wave.Error, EOFError) as error:
            report.problems.append((sample.id, f"{audio.path} cannot be decoded: {error}"))
    if (folder / reference.path).is_file():
        try:
            with Image.open(folder / reference.path) as picture:
                picture.load()
                if picture.size != reference.size:
                    report.problems.append((sample.id, f"{reference.path} is {picture.size}, not {reference.size}"))
        except (UnidentifiedImageError, OSError) as error:
            report.problems.append((sample.id, f"{reference.path} cannot be decoded: {error}"))


def _same_pixels(folder: Path, sample: Sample, name: str) -> bool:
    """Tell whether a ground truth that another encoder wrote shows the same pixels in as many frames."""
    expected = sample.ground_truth
    if expected is None or name != expected.path:
        return False
    try:
        return truth.pixels(folder / name) == expected.pixels_digest
    except Unscorable:
        return False


def _check_strata(
    samples: list[Sample], strata: dict[str, Any], tier: str | None, report: VerifyReport, whole: Counter[str]
) -> None:
    try:
        for name, (listed, slots) in strata["coverage"].items():
            if tier in {None, name}:
                report.coverage[name] = [whole[name], slots]
                if listed != sum(sample.tier == name for sample in samples):
                    report.problems.append((name, f"strata.json counts {listed} samples, the manifest has others"))
                if strata["achieved"][name] != achieved(samples, name):
                    report.problems.append((name, "the samples' strata are not those of strata.json"))
        prefix = {"short": "tbs", "long": "tbl"}.get(tier or "", "tb")
        report.missing += [(slot, why) for slot, why in strata["missing"].items() if slot.startswith(prefix)]
    except (KeyError, TypeError, ValueError) as error:
        raise TalkbenchError(f"{report.folder}/strata.json is not that of a version: {error!r}.") from error
