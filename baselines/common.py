# ruff: noqa: B905, RUF012, S603, S607, UP022 - Python 3.8 has no strict zip; plans stay as they are; no shell is used
"""What the workers of other people's systems share: one attempt in a private folder, and a clip out of what it left.

Runs in the environment of a system, beside `talkbench/workers/shim.py`; Python 3.8 and its standard library only.
A worker has one function, `build(job, places) -> Plan`: the official command line, and what the system leaves behind.
The official code is started once per clip, so that no clip depends on another one. How long that may take is the
host's affair (`patience` in adapter.yaml); whatever an attempt has started is gone when it ends, however it ends.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import secrets
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
import wave
from array import array
from collections import deque
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Errors = Sequence[tuple[str, str]]

FRAME_RATE = 25
HERE = Path(__file__).resolve().parent
_TOKEN = "TALKBENCH_ATTEMPT"  # noqa: S105 - the name of a variable
_NOTE_SECONDS = 5.0
_POLL_SECONDS = 0.02
_KILL_SECONDS = 20.0
_LAST_READS = 64
_KEPT_LINES = 60
_COMPARED_SECONDS = 30
_HOP = 160
"""Samples (10 ms at 16 kHz) per value of the loudness curves that are compared: finer than a frame."""
_MAX_LAG = 100
_SAME_SOUND = 0.8
_SAME_TIME_SECONDS = 0.04
_SAME_LEVEL_DB = 1.0
"""Likeness from which, and shift and gain up to which, the system's own sound track is the benchmark's."""
EVENTS = ("spawn", "import_end", "load_end", "cond_end", "first_frames", "gen_end", "encode_end", "exit")
"""What the host keeps with the clip's timing; markers may have other names, which are kept in the details only."""

ERRORS: Errors = (
    ("oom-gpu", r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED"),
    ("oom-host", r"MemoryError|Cannot allocate memory|DefaultCPUAllocator: can't allocate"),
    ("disk-full", r"No space left on device"),
    ("no-gpu", r"No CUDA GPUs are available|not compiled with CUDA|Found no NVIDIA driver|no CUDA-capable device"),
    ("port-taken", r"Address already in use|EADDRINUSE"),
    ("nccl", r"\bNCCL\b.*(error|timeout|abort)|ncclSystemError|ncclInternalError"),
    ("missing-weight", r"No such file or directory.*\.(pth?|pkl|onnx|engine|safetensors|json|bin)\b"),
    ("missing-module", r"ModuleNotFoundError|ImportError"),
    ("ffmpeg", r"ffmpeg.*(not found|[Ee]rror|failed)|Error (opening|writing|muxing)"),
)
"""Kinds of failure and what systems print then, the first that matches. Kinds without a text are raised here:
`no-output`, `several-outputs`, `unreadable`, `wrong-size`, `too-few-frames`, `killed`, `exit`, `refused`; all of them
are explained in `talkbench/workers/faults.py`."""


class AttemptFailedError(Exception):
    """An attempt that came to nothing; the message begins with the kind of failure."""


class Places(NamedTuple):
    """Where things are: the interpreter, the checkout, the folder of weight folders, and how many GPUs there are."""

    python: str
    source: str
    weights: str
    gpus: int
    system: str


class Cycles(NamedTuple):
    """How a system's own output tells of the frames it makes.

    Attributes:
        begins: Regular expression of the line that it prints when a cycle begins; the one before is over then, and its
            frames are on the host.
        first_frames: New frames of the first cycle.
        later_frames: New frames of every later one. The last one may have fewer, and nothing tells of its end.
    """

    begins: str
    first_frames: int
    later_frames: int


class Plan(NamedTuple):
    """One attempt.

    Attributes:
        argv: The official command line. It is run in `work/`, a folder full of links to the checkout.
        output: Where its clip lies afterwards, as a pattern relative to the scratch folder. A folder of `work/` that
            it begins with is the attempt's own, whatever the checkout has there.
        env: Variables besides the inherited ones.
        links: Name in `work/` -> what it stands for, instead of what the checkout has in the folder it begins with.
        files: Name in the scratch folder -> text, written first.
        copies: Name in the scratch folder -> file, copied first.
        prepare: Commands run before, in the scratch folder.
        size: Width and height that it must have, if known.
        lead_frames: Frames at its start that are not the benchmark's.
        spare_frames: How many frames too many are left as they are; more are cut off.
        markers: Event (see `EVENTS`) -> regular expression of the first line that tells of it. One that nothing is
            known to tell of is left out, and what needs it has no value then.
        cycles: How its cycles can be seen, if they can.
        errors: Kinds of failure of this system, looked for before the common ones.
        settings: Choices made here that are not in the command line.
    """

    argv: list[str]
    output: str
    env: dict[str, str] = {}
    links: dict[str, str] = {}
    files: dict[str, str] = {}
    copies: dict[str, str] = {}
    prepare: Sequence[list[str]] = ()
    size: tuple[int, int] | None = None
    lead_frames: int = 0
    spare_frames: int = 4
    markers: dict[str, str] = {}
    cycles: Cycles | None = None
    errors: Errors = ()
    settings: dict[str, Any] = {}


def main(build: Callable[[Any, Places], Plan], packages: Sequence[str]) -> None:
    """Serve a system: `worker.py NAME --source CHECKOUT --weights FOLDER --gpus N`.

    Args:
        build: Says how a clip is made.
        packages: Whose versions can move a pixel.
    """
    from talkbench_shim import serve

    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("--source", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--gpus", type=int, default=1)
    given = parser.parse_args()
    for program in ("ffmpeg", "ffprobe"):
        if shutil.which(program) is None:
            raise AttemptFailedError(f"refused: {program} is not on PATH; the system and its worker need it")
    places = Places(sys.executable, given.source, given.weights, given.gpus, given.system)
    serve(
        lambda job, report: make(build(job, places), job, places, report),
        name=given.system,
        device=_device(),
        num_devices=max(1, given.gpus),
        versions=_versions(packages),
        details={"mode": "cli"},
    )


def make(plan: Plan, job: Any, places: Places, report: Any) -> dict[str, Any]:
    """Carry out a plan, write the clip of a job, and return what should be kept beside it.

    Raises:
        AttemptFailedError: If no clip came of it.
    """
    scratch = Path(job.scratch)
    _lay_out(plan, scratch, places)
    began = time.monotonic()
    for command in plan.prepare:
        _tool(command, scratch)
    events, seconds = _Attempt(plan, scratch, report).run()
    native = _only(plan, scratch)
    facts = probe(native)
    if facts["sound"]:
        facts.update(compare_sound(native, job.audio))
    report.generated(facts["frames"])
    clip = _finish(plan, job, native, facts)
    return {
        "argv": plan.argv,
        "settings": plan.settings,
        "events": events,
        "command_seconds": round(seconds, 3),
        "total_seconds": round(time.monotonic() - began, 3),
        "native": facts,
        "clip": clip,
    }


def path(*parts: Any) -> str:
    """Return a path as it stands in a command line."""
    return str(Path(*parts))


def stem(job: Any) -> str:
    """Return a file name for a job that no system stumbles over."""
    return "s" + sha256(job.id.encode()).hexdigest()[:12]


def num_frames(seconds: float) -> int:
    """Return how many frames a clip of some seconds has."""
    return round(seconds * FRAME_RATE)


def picture_size(image: str) -> tuple[int, int]:
    """Return width and height of a PNG."""
    with Path(image).open("rb") as file:
        head = file.read(24)
    if head[12:16] != b"IHDR":
        raise AttemptFailedError(f"refused: {image} is no PNG")
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def nearest(size: tuple[int, int], choices: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the choice (width, height) whose shape is nearest to that of a picture."""
    ratio = size[0] / size[1]
    return min(choices, key=lambda choice: abs(math.log(choice[0] / choice[1] / ratio)))


def cropped(image: str, size: tuple[int, int], name: str) -> list[str]:
    """Return the command that cuts a picture, centred, to the shape of `size` and scales it to that."""
    width, height = size
    shape = f"crop=min(iw\\,ih*{width}/{height}):min(ih\\,iw*{height}/{width}),scale={width}:{height}:flags=lanczos"
    return ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", image, "-vf", shape, "-frames:v", "1", name]


def padded(audio: str, seconds: float, name: str) -> list[str]:
    """Return the command that lengthens a sound with silence to some seconds."""
    return ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", audio, "-af", f"apad=whole_dur={seconds:g}", name]


def torchrun(places: Places, *arguments: str) -> list[str]:
    """Return the beginning of a command line that starts one process per GPU."""
    return [places.python, "-m", "torch.distributed.run", *arguments]


def require(condition: bool, text: str) -> None:
    """Refuse a job that the system would misunderstand.

    Raises:
        AttemptFailedError: If the condition does not hold.
    """
    if not condition:
        raise AttemptFailedError("refused: " + text)


def probe(video: Path) -> dict[str, Any]:
    """Return frames, rate, size and the presence of sound of a file.

    Raises:
        AttemptFailedError: If it is no video.
    """
    told = _tool(
        ["ffprobe", "-v", "error", "-count_packets", "-show_entries",
         "stream=codec_type,codec_name,width,height,r_frame_rate,nb_read_packets", "-of", "json", str(video)],
        video.parent,
    )  # fmt: skip
    streams = json.loads(told)["streams"]
    picture = next((stream for stream in streams if stream["codec_type"] == "video"), None)
    if picture is None:
        raise AttemptFailedError(f"unreadable: {video.name} has no picture")
    return {
        "name": video.name,
        "frames": int(picture.get("nb_read_packets", 0)),
        "rate": picture["r_frame_rate"],
        "size": [picture["width"], picture["height"]],
        "codec": picture["codec_name"],
        "sound": any(stream["codec_type"] == "audio" for stream in streams),
    }


def compare_sound(clip: Path, audio: str) -> dict[str, Any]:
    """Return by how many seconds the sound of a clip comes late, and how much louder it is in dB; None if unknown."""
    # It is the proof of a lead, or of a levelling, that the clip's own sound track no longer shows.
    nothing = {"sound_likeness": None, "sound_late_seconds": None, "sound_gain_db": None}
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-nostdin", "-i", str(clip), "-t", str(_COMPARED_SECONDS), "-vn", "-ac", "1",
         "-ar", "16000", "-f", "s16le", "-"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
    ).stdout  # fmt: skip
    with wave.open(audio, "rb") as file:
        given = _loudness(file.readframes(_COMPARED_SECONDS * 16000))
    found = _loudness(raw)
    if not any(given) or not any(found):
        return nothing
    lag = max(range(-_MAX_LAG, _MAX_LAG + 1), key=lambda late: (round(_likeness(given, found, late), 3), -abs(late)))
    pairs = _pairs(given, found, lag)
    power = [sum(value * value for value in column) for column in zip(*pairs)]
    if not power or not all(power):
        return nothing
    return {
        "sound_likeness": round(_likeness(given, found, lag), 3),
        "sound_late_seconds": round(lag * _HOP / 16000, 3),
        "sound_gain_db": round(10 * math.log10(power[1] / power[0]), 2),
    }


def _loudness(raw: bytes) -> list[float]:
    samples = array("h", raw[: len(raw) // 2 * 2])
    return [sum(map(abs, samples[at : at + _HOP])) / _HOP for at in range(0, len(samples) - _HOP + 1, _HOP)]


def _pairs(given: list[float], found: list[float], late: int) -> list[tuple[float, float]]:
    return list(zip(given, found[late:])) if late >= 0 else list(zip(given[-late:], found))


def _likeness(given: list[float], found: list[float], late: int) -> float:
    """Return the correlation of two loudness curves, so that an offset is not taken for likeness."""
    pairs = _pairs(given, found, late)
    if len(pairs) < 2:
        return -1.0
    mean_a, mean_b = (sum(column) / len(pairs) for column in zip(*pairs))
    both = sum((a - mean_a) * (b - mean_b) for a, b in pairs)
    power_a, power_b = sum((a - mean_a) ** 2 for a, _ in pairs), sum((b - mean_b) ** 2 for _, b in pairs)
    return both / math.sqrt(power_a * power_b) if power_a and power_b else -1.0


class _Attempt:
    """The official code, running."""

    def __init__(self, plan: Plan, scratch: Path, report: Any) -> None:
        self._plan = plan
        self._scratch = scratch
        self._work = scratch / "work"
        self._report = report
        self._token = secrets.token_hex(16)
        self._lines = deque(maxlen=_KEPT_LINES)  # type: ignore[var-annotated]
        self._begun, self._begun_told = b"", False
        self._num_cycles = 0
        self._events: dict[str, float] = {}
        self._noted = self._began = time.monotonic()

    def run(self) -> tuple[dict[str, float], float]:
        """Run it to its end; return when it told of what, and how long it took, in seconds.

        Raises:
            AttemptFailedError: If it says that it failed.
        """
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        own = {"PYTHONPATH": str(self._work), "TMPDIR": str(self._scratch)}
        environment = {**kept, **own, **self._plan.env, _TOKEN: self._token}
        guard = subprocess.Popen(
            [sys.executable, "-S", str(HERE / "common.py"), self._token],
            stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            process = subprocess.Popen(
                self._plan.argv, cwd=str(self._work), env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
            )  # fmt: skip
            self._tell("spawn")
            self._follow(process)
            code = process.wait()
            self._tell("exit")
        except OSError as error:
            raise AttemptFailedError(f"exit: cannot start {self._plan.argv[0]}: {error.strerror}") from error
        finally:
            guard.stdin.close()  # type: ignore[union-attr]
            guard.wait()
        if code:
            raise AttemptFailedError(explain(self._lines, code, self._plan.errors))
        return self._events, time.monotonic() - self._began

    def _follow(self, process: Any) -> None:
        """Pass on what it prints until it ends; children that outlive it may hold its output open."""
        descriptor, left = process.stdout.fileno(), _LAST_READS
        while left:
            ended = process.poll() is not None
            if select.select([descriptor], [], [], _POLL_SECONDS)[0]:
                data = os.read(descriptor, 1 << 16)
                if not data:
                    break
                os.write(2, data)
                self._read(data)
                left -= ended
            elif ended:
                break
        process.stdout.close()

    def _read(self, data: bytes) -> None:
        """Look at what it prints as it comes: a progress bar ends its line when the next one begins."""
        *lines, rest = re.split(rb"[\r\n]+", self._begun + data)
        told = self._begun_told
        for line in lines:
            text = _text(line)
            if text:
                self._lines.append(text)
                told = told or self._look(text)
            told = False
        self._begun, self._begun_told = rest[-4096:], told or self._look(_text(rest))
        now = time.monotonic()
        if now - self._noted > _NOTE_SECONDS:
            self._noted = now
            self._report.note(self._lines[-1] if self._lines else "it prints")

    def _look(self, text: str) -> bool:
        """Pass on what a line tells of; return whether it does."""
        found = [event for event, pattern in self._plan.markers.items() if re.search(pattern, text)]
        for event in found:
            self._tell(event)
        cycles = self._plan.cycles
        if cycles is None or not re.search(cycles.begins, text):
            return bool(found)
        self._num_cycles += 1
        if self._num_cycles > 1:
            self._report.cycle(cycles.first_frames if self._num_cycles == 2 else cycles.later_frames)
        return True

    def _tell(self, event: str) -> None:
        """Note an event, the first time."""
        if event in self._events:
            return
        self._events[event] = round(time.monotonic() - self._began, 3)
        if event in EVENTS:
            self._report.mark(event)


def _text(line: bytes) -> str:
    return line[:500].decode("utf-8", "replace").strip()


def explain(lines: Sequence[str], code: int, errors: Errors) -> str:
    """Return why a command failed: the kind of failure, how it ended, and the last line that it printed."""
    last = lines[-1] if lines else "it printed nothing"
    how = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    for kind, pattern in (*errors, *ERRORS):
        if any(re.search(pattern, line) for line in lines):
            return f"{kind}: {how}: {last}"
    return f"{'exit' if code >= 0 else 'killed'}: {how}: {last}"


def _lay_out(plan: Plan, scratch: Path, places: Places) -> None:
    """Make the private working folder: links to the checkout, so that what the system writes beside itself is ours."""
    work = scratch / "work"
    work.mkdir()
    # Through a link to them we would write into the user's checkout, and take the clip of another run for this one's.
    own = {".git", *(Path(name).parts[0] for name in plan.links)}
    if plan.output.startswith("work/"):
        own.add(Path(plan.output).parts[1])
    links = {entry.name: str(entry) for entry in Path(places.source).iterdir() if entry.name not in own}
    for name, target in {**links, **plan.links}.items():
        link = work / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    for name, text in plan.files.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_text(text, encoding="utf-8")
    for name, origin in plan.copies.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, str(scratch / name))


def _only(plan: Plan, scratch: Path) -> Path:
    """Return the one file that the system must have left: exit codes prove nothing."""
    found = [entry for entry in sorted(scratch.glob(plan.output)) if entry.stat().st_size]
    if not found:
        raise AttemptFailedError(f"no-output: exit code 0, but there is no {plan.output} that holds anything")
    if len(found) > 1:
        raise AttemptFailedError("several-outputs: {} match {}".format(", ".join(p.name for p in found), plan.output))
    return found[0]


def _finish(plan: Plan, job: Any, native: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the clip: the system's own file, as far as picture and sound of it are the benchmark's.

    Frames that are not are cut off, which takes a second encoding; sound that is not the benchmark's gives way to it.
    """
    if plan.size is not None and tuple(facts["size"]) != tuple(plan.size):
        raise AttemptFailedError("wrong-size: {}x{}, {}x{} asked for".format(*facts["size"], *plan.size))
    expected = num_frames(job.audio_seconds)
    surplus = facts["frames"] - plan.lead_frames - expected
    if expected + surplus < 1:
        raise AttemptFailedError("too-few-frames: {}".format(facts["frames"]))
    cut = plan.lead_frames > 0 or surplus > plan.spare_frames
    own = not cut and native.suffix == ".mp4" and _has_the_sound(facts)
    if own:
        shutil.copyfile(str(native), job.output)
    else:
        end = plan.lead_frames + expected if surplus > plan.spare_frames else facts["frames"]
        # What is encoded again afterwards loses nothing here.
        crf = "0" if job.encode == "tap" else "10"
        window = f"trim=start_frame={plan.lead_frames}:end_frame={end},setpts=PTS-STARTPTS"
        again = ["-vf", window, "-c:v", "libx264", "-crf", crf, "-preset", "veryfast", "-pix_fmt", "yuv420p"]
        command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", str(native), "-i", job.audio, "-map", "0:v:0",
                   "-map", "1:a:0", *(again if cut else ["-c:v", "copy"])]  # fmt: skip
        _tool([*command, "-c:a", "aac", "-b:a", "128k", "-movflags", "+faststart", job.output], native.parent)
    return {
        "lead_frames_cut": plan.lead_frames,
        "frames_minus_expected": surplus,
        "encoded_again": cut,
        "sound": "native" if own else "benchmark",
    }


def _has_the_sound(facts: dict[str, Any]) -> bool:
    """Tell whether the system's own sound track is the benchmark's sound, in its place and as loud."""
    likeness = facts.get("sound_likeness")
    return (
        likeness is not None
        and likeness >= _SAME_SOUND
        and abs(facts["sound_late_seconds"]) <= _SAME_TIME_SECONDS
        and abs(facts["sound_gain_db"]) <= _SAME_LEVEL_DB
    )


def _tool(command: list[str], folder: Path) -> str:
    result = subprocess.run(
        command, cwd=str(folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False
    )
    if result.returncode:
        last = result.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        raise AttemptFailedError(f"unreadable: {command[0]} says {last[0]}")
    return result.stdout.decode("utf-8", "replace")


def _device() -> str:
    """Return the name of the first GPU that the worker sees."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no GPU (nvidia-smi is not here)"
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    command = [program, "--query-gpu=name", "--format=csv,noheader"] + (["-i", chosen] if chosen else [])
    told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    lines = told.stdout.decode("utf-8", "replace").strip().splitlines()
    return lines[0].strip() if lines else "no GPU (nvidia-smi finds none)"


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _guard(token: str) -> None:
    """Wait until the worker closes our stdin, by will or by death; then end all that carries the token.

    What hangs in the kernel (a dead disk, a lost GPU) no signal ends: it is named, and left.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.read()
    end = time.monotonic() + _KILL_SECONDS
    while True:
        pids = _carrying(f"{_TOKEN}={token}".encode())
        if not pids:
            return
        if time.monotonic() > end:
            sys.stderr.write("processes that do not end, even by kill -9: {}\n".format(", ".join(map(str, pids))))
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(_POLL_SECONDS)


def _carrying(entry: bytes) -> list[int]:
    """Return the processes, no zombies, that have an entry in their environment; needs Linux."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
            if alive and entry in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


if __name__ == "__main__":
    _guard(sys.argv[1])
