"""Invented metadata in the form of the source sets, as many records as asked, the same ones every time."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

LANGUAGES = ("English", "Chinese", "Arabic", "Polish", "German", "Russian", "French", "Korean", "Portuguese",
             "Japanese", "Thai", "Spanish", "Italian", "Hindi", "Others")  # fmt: skip
CODES = ("en", "zh", "ar", "pl", "de", "ru", "fr", "ko", "pt", "ja", "th", "es", "it", "hi", "und")
AGES = ("0-19", "19-30", "31-45", "46-60", "60+")
ETHNICITIES = ("White", "Asian", "African/Black", "Others")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def video_id(number: int, kind: str = "T") -> str:
    """Return an invented eleven-character video id."""
    letters = ""
    for _ in range(10):
        number, digit = divmod(number * 7 + 3 if not letters else number, 64)
        letters += _LETTERS[digit]
    return kind + letters


def _age(random: np.random.Generator) -> int:
    """Return an age group; one person in twenty-five is of the youngest."""
    return 0 if random.uniform() < 0.04 else 1 + int(random.integers(4))


def talkvid(
    count: int, *, seed: int = 0, clips_per_source: int = 10, bench: bool = False, gap_seconds: float = 20.0
) -> Iterator[dict[str, Any]]:
    """Yield TalkVid records, grouped by source video; of four sources one has all its clips, the others four."""
    random = np.random.default_rng(seed)
    number, source = 0, -1
    while number < count:
        source += 1
        here = clips_per_source if source % 4 == 0 else min(4, clips_per_source)
        person = {
            "Person ID": "" if bench else str(10_000 + source),
            "Ethnicity": ETHNICITIES[random.integers(4)],
            "Age Group": AGES[_age(random)],
            "Gender": ("Female", "Male")[random.integers(2)],
            "Video Link": f"https://www.youtube.com/watch?v={video_id(source, 'B' if bench else 'T')}",
            "Language": LANGUAGES[random.integers(15)],
            "Video Category": "Education",
        }
        start = 30.0
        face = float(np.exp(random.uniform(np.log(20), np.log(600))))
        for scene in range(min(here, count - number)):
            seconds = round(float(random.uniform(3.0, 14.0)), 3)
            yield _talkvid_record(person, number, scene, start, seconds, face, random, bench=bench)
            start = round(start + seconds + float(random.uniform(1.0, gap_seconds)), 3)
            number += 1


def _talkvid_record(
    person: dict[str, str], number: int, scene: int, start: float, seconds: float, face: float,
    random: np.random.Generator, *, bench: bool,
) -> dict[str, Any]:  # fmt: skip
    end = round(start + seconds, 3)
    video = person["Video Link"][-11:]
    record = {
        "id": f"videovideo{video}-scene{scene + 1}-scene1", "height": 1080, "width": 1920, "fps": 25.0,
        "start-time": start, "start-frame": round(start * 25), "end-time": end, "end-frame": round(end * 25),
        "durations": f"{seconds:.3f}s", "info": person, "description": "A person explains something to the camera.",
        "dover_scores": round(float(random.uniform(6.0, 10.0)), 3),
        "cotracker_ratio": round(float(random.uniform(0.88, 0.999)), 4),
        "head_detail": {"scores": {
            "avg_movement": 97.0, "min_movement": 84.0, "avg_rotation": 92.5, "min_rotation": 71.3,
            "avg_completeness": 100.0, "min_completeness": 100.0, "avg_resolution": round(face, 2),
            "min_resolution": round(face * 0.9, 2), "avg_orientation": round(float(random.uniform(70, 95)), 2),
            "min_orientation": 70.2}},
    }  # fmt: skip
    if bench:
        record |= {"video-path": f"age/videos/{number}.mp4", "audio-path": f"age/audios/{number}.wav"}
    return record


def speakervid(count: int, *, seed: int = 1, clips_per_source: int = 4) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield SpeakerVid clip names and annotations."""
    random = np.random.default_rng(seed)
    for number in range(count):
        source, scene = divmod(number, clips_per_source)
        video = video_id(source, "S")
        start, seconds = round(40.0 + scene * 25 + float(random.uniform(0, 5)), 2), round(random.uniform(3.0, 14.0), 2)
        name = f"{video}_full_video_1920×1080_{scene:03d}_{'AB'[scene % 2]}"
        yield name, {
            "video_name": video, "num_frames": round(seconds * 25), "is_talking": int(random.uniform() < 0.9),
            "clip_speaker_num": 1 + int(random.uniform() < 0.1), "org_start_seconds": start,
            "video_total_duration": seconds + 0.4, "start_new": round(start + 0.2, 2), "duration_new": seconds,
            "bbox": [0.21, 0.05, 0.63, 0.99], "conf": 5.7, "sync": {"0": [[5.7, 7.9, 0]]}, "speaker": ["A"],
            "clear": 2.4, "dover": round(float(random.uniform(0.5, 0.9)), 3), "raw_video_height": 1080,
            "raw_video_width": 1920, "clip_video_height": 1014, "clip_video_width": 806,
        }  # fmt: skip


def estimates(names: Iterable[str], *, seed: int = 2) -> Iterator[dict[str, Any]]:
    """Yield estimated labels for SpeakerVid clips."""
    random = np.random.default_rng(seed)
    for name in names:
        yield {
            "clip_id": name, "gender": ("Female", "Male")[random.integers(2)], "age": AGES[_age(random)],
            "ethnicity": ETHNICITIES[random.integers(4)], "language": CODES[random.integers(15)],
            "face_share": round(float(np.exp(random.uniform(np.log(0.008), np.log(0.2)))), 5),
        }  # fmt: skip


def write_array(path: Path, records: Iterable[Any]) -> Path:
    """Write records as one JSON array, one record a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, record in enumerate(records):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(record, ensure_ascii=False))
        file.write("\n]\n")
    return path


def write_speakervid(root: Path, annotations: Iterable[tuple[str, Any]], *, per_archive: int = 100_000) -> list[str]:
    """Write annotations as the hub does, with a test split of every second clip; return all names."""
    folder = root / "merged_anno"
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    clips = iter(annotations)
    for batch in itertools.count():
        here = list(itertools.islice(clips, per_archive))
        if not here:
            break
        with tarfile.open(folder / f"tar_batch_{batch}.tar.gz", "w:gz", compresslevel=1) as archive:
            for name, record in here:
                data = json.dumps(record).encode()
                member = tarfile.TarInfo(f"merged_anno/{name}.json")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
                names.append(name)
    (root / "testset.json").write_text(json.dumps(names[::2]), encoding="utf-8")
    return names


def write_all(root: Path, *, num_talkvid: int = 4000, num_bench: int = 400, num_speakervid: int = 1200) -> Path:
    """Write a small complete set: talkvid/*.json, speakervid/, estimates.jsonl."""
    write_array(root / "talkvid" / "filtered_video_clips.json", talkvid(num_talkvid, clips_per_source=20))
    write_array(root / "talkvid" / "bench.json", talkvid(num_bench, seed=9, clips_per_source=2, bench=True))
    names = write_speakervid(root / "speakervid", speakervid(num_speakervid))
    lines = (json.dumps(line, ensure_ascii=False) for line in estimates(names))
    (root / "estimates.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
