"""What the simulated systems share: how they misbehave, and a clip by way of ffmpeg. Standard library only.

`behaviour.txt` beside it holds words, each a way of misbehaving. Lies in the checkout of every simulated system.
"""

import os
import re
import subprocess
import sys
import time
import wave
from pathlib import Path

WORDS = set((Path(__file__).resolve().parent / "behaviour.txt").read_text().split())


def begin():
    """Misbehave before there is anything to show."""
    if "junk" in WORDS:
        print('{"type": "done", "job": "trial", "file_closed_ns": 1}', flush=True)
        os.write(1, b"\xff\xfe nonsense \r" * 200_000)
        os.write(2, b"warning: nothing of importance\n" * 20_000)
    if "children" in WORDS:
        pids = [subprocess.Popen(["sleep", "600"]).pid, subprocess.Popen(["sleep", "600"], start_new_session=True).pid]
        (Path(__file__).resolve().parent / "children.txt").write_text(" ".join(map(str, pids)))
    if "hang" in WORDS:
        time.sleep(600)
    if "oom" in WORDS:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if "no-weight" in WORDS:
        Path("/nowhere/diffusion_pytorch_model.safetensors").read_bytes()


def seconds(audio):
    with wave.open(str(audio), "rb") as file:
        assert (file.getframerate(), file.getnchannels()) == (16000, 1)
        return file.getnframes() / 16000


def bar(steps):
    """Print a progress bar as tqdm does: a line that is begun anew, and ended only with the last step."""
    for done in (0, steps):
        sys.stderr.write(f"\r{100 * done // steps:3d}%|{'#' * done:<{steps}}| {done}/{steps} [00:00<?, ?it/s]")
        sys.stderr.flush()
        time.sleep(0.03)
    print(file=sys.stderr, flush=True)


def clip(path, frames, size, *, image, audio=None, lead=0.0, gain=1.0, grey=False):
    """Write a clip that shows the picture, with a square moving over it, and the sound, late and louder as asked."""
    path = Path(path)
    if "nothing" in WORDS:
        return
    assert path.parent.is_dir(), f"{path.parent} does not exist"
    rate = 30 if "fast" in WORDS else 25
    frames = 5 if "five" in WORDS else frames
    width, height = (64, 64) if "small" in WORDS else size
    lead = {"late": 0.3, "no-lead": 0.0}.get(next(iter(WORDS & {"late", "no-lead"}), ""), lead)
    last = 0 if "still" in WORDS else 2 if "stops" in WORDS else frames
    flat = "gray" if grey or "grey" in WORDS else "black" if "black" in WORDS else None
    if flat:
        shown = ["-f", "lavfi", "-i", f"color={flat}:s={width}x{height}:r={rate}"]
    elif "stranger" in WORDS:
        shown = ["-f", "lavfi", "-i", f"testsrc2=s={width}x{height}:r={rate}"]
    else:
        shown = ["-loop", "1", "-framerate", str(rate), "-i", str(image), "-vf", _moving(width, height, last)]
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *shown[: shown.index("-i") + 2]]
    if audio and "mute" not in WORDS:
        command += ["-i", str(audio), "-af", f"adelay={round(lead * 1000)}:all=1,volume={gain}", "-c:a", "aac"]
    command += [*shown[shown.index("-i") + 2 :], "-frames:v", str(frames), "-c:v", "libx264", "-preset", "ultrafast"]
    command += ["-threads", "1", "-pix_fmt", "yuv420p", "-t", f"{frames / rate:.4f}", "-f", "mp4", str(path)]
    subprocess.run(command, check=True)
    if "partial" in WORDS:
        os.truncate(path, path.stat().st_size // 2)


def _moving(width, height, last):
    """Return the filter that cuts a picture to a size and moves a square over it until a frame."""
    return (
        f"scale={width}:{height}:force_original_aspect_ratio=increase,crop={width}:{height}[p];"
        f"color=white:s=16x16[s];[p][s]overlay=x='mod(9*min(n,{last}),W-w)':y=0:eval=frame:shortest=0"
    )


def is_file(*paths):
    for path in paths:
        if not Path(path).exists():
            sys.exit(f"FileNotFoundError: [Errno 2] No such file or directory: '{path}'")


def size_of_png(path):
    head = Path(path).read_bytes()[:24]
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def one_port_only(argv):
    return re.search(r"29500|29101|29102", " ".join(argv)) is None
