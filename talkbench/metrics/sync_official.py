"""Lip sync through the official chain of programs and codecs, for comparison with published numbers.

The steps of joonson/syncnet_python (run_pipeline.py, run_syncnet.py, SyncNetInstance.py), with the `ffmpeg` program and
its defaults where they are the definition:

1. the clip becomes an AVI at 25 frames per second, MPEG-4 and MP3; from it a JPEG per frame, and 16 kHz sound. One
   thread encodes: by default each picture is cut into as many slices as there are cores, which moves the score;
2. faces, scenes, tracks and crops from the JPEGs, with 100 frames and 100 px as limits;
3. each crop becomes an XVID AVI with its piece of the sound; from it JPEGs again, at ffmpeg's default quality, and
   sound again; SyncNet sees those. A track whose piece of the sound is silent or too short does not count.

The chain repeats the first frame and delays the sound by 25 ms, so that perfect input scores an offset of 0 or 1.
Quality and delays depend on the version of ffmpeg, which is recorded. The official script prints one score per track;
the one with the highest confidence counts here.

Everything between the steps lies in a temporary folder; memory does not grow with the clip.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from talkbench.errors import NotApplicable, Unscorable
from talkbench.media.clip import ClipFacts, Frames, Samples
from talkbench.media.mfcc import RATE_HZ
from talkbench.metrics.base import Needs, Runner, Scores
from talkbench.metrics.crops import CROP_PX, Square, crop
from talkbench.metrics.cuts import CutParams, Cuts
from talkbench.metrics.faces import FaceFinder
from talkbench.metrics.lipsync import BATCH_WINDOWS, FRAME_RATE, Match, Sound, load_syncnet
from talkbench.metrics.sync import GROUP_FRAMES, MAX_TRACKS_LISTED, Scored, SyncParams, refuse_smallness, why_not
from talkbench.metrics.sync_frame import outputs, refuse_brevity, refuse_silence, scores
from talkbench.metrics.tracks import Track, Tracker
from talkbench.nets.batches import Batch

PCM = ("-ac", "1", "-vn", "-acodec", "pcm_s16le", "-ar", str(RATE_HZ))


@dataclass(frozen=True)
class OfficialParams(SyncParams):
    """As `SyncParams`, with the official limits.

    Attributes:
        min_track_frames: run_pipeline.py, `min_track`.
        min_face_px: run_pipeline.py, `min_face_size`.
        original_sound: Take the sound from the clip instead of the AVI's MP3, as syncnet-python 0.2.3 does (with 50 as
            `min_track_frames`; the scores of MoChaBench).
    """

    min_track_frames: int = 100
    min_face_px: float = 100.0
    original_sound: bool = False


class ChainError(RuntimeError):
    """The ffmpeg program did not do its part."""


def run_ffmpeg(*arguments: str | Path) -> None:
    """Run the program with a list of arguments, never through a shell.

    Raises:
        ChainError: With the program's last words.
    """
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ChainError(f"ffmpeg: {said[-1]}")


def ffmpeg_version() -> str:
    """Return what the program calls its version."""
    said = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout  # noqa: S607
    return said.splitlines()[0].removeprefix("ffmpeg version ").split(" ")[0]


def from_disk(path: Path) -> str:
    """Return a path so that ffmpeg takes it for a file whatever its name looks like."""
    return f"file:{path.resolve()}"


def pictures(folder: Path) -> list[Path]:
    """Return a folder's JPEGs in order."""
    return sorted(folder.glob("*.jpg"))


def opened(path: Path) -> Frames:
    """Return a JPEG as RGB [H, W, 3]; the decoder is libjpeg-turbo, as OpenCV's."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def seconds_of(path: Path) -> Iterator[Samples]:
    """Yield a 16-bit mono file a second at a time."""
    with wave.open(str(path), "rb") as file:
        while data := file.readframes(RATE_HZ):
            yield np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def write_xvid(path: Path, crops: Iterator[Frames]) -> None:
    """Write crops as `cv2.VideoWriter` with XVID does at 25 frames per second.

    Found by trying: the same decoded pixels as OpenCV 5.0 where both carry the same libavcodec, else the same but for
    rounding that grows from one key frame to the next (4.14: none in smooth pictures, 0.03 of a level on average in
    coarse noise). OpenCV encodes with one thread.
    """
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE, options={"qmin": "3"})
        stream.width = stream.height = CROP_PX
        stream.pix_fmt = "yuv420p"
        stream.codec_context.codec_tag = "XVID"
        stream.codec_context.gop_size = 12
        stream.codec_context.thread_count = 1
        stream.bit_rate = 64 * FRAME_RATE * CROP_PX * CROP_PX
        stream.time_base = stream.codec_context.time_base = Fraction(1, FRAME_RATE)
        for crop_HWC in crops:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(crop_HWC[..., ::-1]), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def scene_starts(avi: Path, params: SyncParams) -> tuple[set[int], int]:
    """Return the frames that begin a scene, and the number of frames, as a reader of the AVI counts them.

    That is fewer than there are JPEGs: ffmpeg fills the gap it has itself left after the first frame, PySceneDetect
    reads through OpenCV and sees only what was encoded. The official pipeline uses the one count on the other's list,
    so that the last frames belong to no scene and are never looked at.
    """
    cuts, starts, num_frames = Cuts(CutParams(params.cut_threshold, params.cut_min_frames)), set(), 0
    with av.open(str(avi)) as container:
        for frame in container.decode(video=0):
            rgb_HWC: Frames = frame.to_ndarray(format="rgb24")  # type: ignore[assignment]
            if (start := cuts.look(rgb_HWC)) is not None:
                starts.add(start)
            num_frames += 1
    return starts, num_frames


@dataclass
class _Cut:
    """A track and where to crop each of its frames."""

    track: Track
    places: list[Square] = field(default_factory=list)


class SyncOfficialRunner(Runner):
    """`sync.official.*`: SyncNet after the official chain of codecs."""

    name = "sync_official"
    version = "3"
    outputs = outputs("sync.official", "official")
    needs = Needs(frames=False, file=True, weights=("s3fd", "syncnet"))
    params_type = OfficialParams

    def start(self, clip: ClipFacts) -> None:
        """Take the file.

        Raises:
            NotApplicable: If there is no file, or no ffmpeg.
            Unscorable: If the clip has no sound, or is too small for the face detector.
        """
        if shutil.which("ffmpeg") is None:
            raise NotApplicable("no-ffmpeg", "the official chain is made of the ffmpeg program: install ffmpeg")
        if not clip.has_audio:
            raise Unscorable("no-audio", "the clip has no audio track")
        if clip.path is None:
            raise NotApplicable("no-file", "the official chain needs the clip as a file")
        refuse_smallness(clip, self.params)
        self._path = clip.path
        self._batch = Batch(BATCH_WINDOWS)
        self._finder = FaceFinder(self.context, self.params.min_score, self.params.detector_scale, GROUP_FRAMES)

    def finish(self) -> Scores:
        """Run the chain and return the scores of the track that fits its sound best."""
        with tempfile.TemporaryDirectory(prefix="talkbench-sync-") as folder:
            return self._run(Path(folder))

    def _run(self, folder: Path) -> Scores:
        self._unpack(folder)
        refuse_silence(max((float(np.abs(part_N).max()) for part_N in seconds_of(folder / "audio.wav")), default=0.0))
        params: OfficialParams = self.params
        starts, num_frames = scene_starts(folder / "video.avi", params)
        cuts = self._follow(pictures(folder / "frames")[:num_frames], starts)
        counting = [cut for cut in cuts if cut.track.num_faces > params.min_track_frames]
        large = [cut for cut in counting if cut.track.face_px > params.min_face_px]
        if not large:
            most = max((cut.track.num_faces for cut in cuts), default=0)
            raise why_not(params, num_frames, most, max((cut.track.face_px for cut in counting), default=0.0))
        scorable: list[Scored] = []
        refusals: list[Unscorable] = []
        for number, cut in enumerate(large):
            try:
                scorable.append(self._score(folder, number, cut))
            except Unscorable as refusal:
                refusals.append(refusal)
        if not scorable:
            raise refusals[0]
        best = max(scorable, key=lambda scored: scored.agreement.confidence)
        details = {
            "num_tracks": len(large),
            "tracks": [scored.summary() for scored in scorable[:MAX_TRACKS_LISTED]],
            "face_px": round(best.face_px, 1),
            "ffmpeg": ffmpeg_version(),
            **self._batch.halved(),
            **self._finder.batch.halved("face_batch"),
        }
        return scores("sync.official", best.agreement, details)

    def _unpack(self, folder: Path) -> None:
        """Make the AVI, its JPEGs and its sound."""
        source, avi, sound = from_disk(self._path), folder / "video.avi", folder / "audio.wav"
        (folder / "frames").mkdir()
        run_ffmpeg("-i", source, "-qscale:v", "2", "-async", "1", "-r", str(FRAME_RATE), "-threads", "1", avi)
        run_ffmpeg("-i", avi, "-qscale:v", "2", "-threads", "1", "-f", "image2", folder / "frames" / "%06d.jpg")
        run_ffmpeg("-i", source if self.params.original_sound else avi, *PCM, sound)

    def _follow(self, files: list[Path], starts: set[int]) -> list[_Cut]:
        """Return every track of every scene in the order in which they end."""
        params: OfficialParams = self.params
        tracker = Tracker(params.max_gap_frames)
        live: dict[int, _Cut] = {}
        done: list[_Cut] = []

        def end(tracks: list[Track]) -> None:
            for track in tracks:
                cut = live.pop(id(track))
                cut.places += [place for _, place in track.squares(ended=True)]
                done.append(cut)

        for start in range(0, len(files), GROUP_FRAMES):
            frames_THWC = np.stack([opened(path) for path in files[start : start + GROUP_FRAMES]])
            found = self._finder.find(frames_THWC)
            for number, boxes_F4 in enumerate(found, start):
                if number in starts:
                    end(tracker.cut())
                took, ended = tracker.step(number, boxes_F4)
                end(ended)
                for track in took:
                    cut = live.setdefault(id(track), _Cut(track))
                    cut.places += [place for _, place in track.squares()]
        end(tracker.cut())
        return done

    def _score(self, folder: Path, number: int, cut: _Cut) -> Scored:
        """Put a track through the second half of the chain and compare what comes out.

        Raises:
            Unscorable: If its piece of the sound is silent, or too short.
        """
        place, track = folder / f"crop{number}", cut.track
        (place / "frames").mkdir(parents=True)
        silent, heard, both = place / "silent.avi", place / "piece.wav", place / "crop.avi"
        files = pictures(folder / "frames")[track.first_frame : track.last_frame + 1]
        margin = self.params.crop_margin
        write_xvid(silent, (crop(opened(path), at, margin) for path, at in zip(files, cut.places, strict=True)))
        first, last = track.first_frame / FRAME_RATE, (track.last_frame + 1) / FRAME_RATE
        run_ffmpeg("-i", folder / "audio.wav", "-ss", f"{first:.3f}", "-to", f"{last:.3f}", heard)
        run_ffmpeg("-i", silent, "-i", heard, "-c:v", "copy", "-c:a", "copy", both)
        run_ffmpeg("-i", both, "-threads", "1", "-f", "image2", place / "frames" / "%06d.jpg")
        run_ffmpeg("-i", both, "-async", "1", *PCM, place / "audio.wav")
        net = load_syncnet(self.context)
        sound = Sound(net, self._batch)
        for part_N in seconds_of(place / "audio.wav"):
            sound.hear(part_N)
        sound.close()
        refuse_silence(sound.peak, f"the sound from {first:.2f} to {last:.2f} s, while the face is seen,")
        match = Match(net, sound, 0, self._batch)
        for path in pictures(place / "frames"):
            match.push(opened(path))
        match.end()
        shutil.rmtree(place)
        refuse_brevity(match.result(), sound)
        return Scored(match.result(), track.face_px, track.first_frame)
