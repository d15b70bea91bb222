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


def clip(path, frames, size, *, audio=None, lead=0.0, gain=1.0, grey=False):
    """Write a clip with a moving picture and the sound, `lead` seconds late and `gain` times as loud."""
    path = Path(path)
    if "nothing" in WORDS:
        return
    assert path.parent.is_dir(), f"{path.parent} does not exist"
    rate = 30 if "fast" in WORDS else 25
    frames = 5 if "five" in WORDS else frames
    width, height = (64, 64) if "small" in WORDS else size
    kind = (
        f"color=gray:s={width}x{height}:r={rate}"
        if grey or "grey" in WORDS
        else f"testsrc2=s={width}x{height}:r={rate}"
    )
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", kind]
    if audio:
        command += ["-i", str(audio), "-af", f"adelay={round(lead * 1000)}:all=1,volume={gain}", "-c:a", "aac"]
    command += [
        "-frames:v",
        str(frames),
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-threads",
        "1",
        "-pix_fmt",
        "yuv420p",
    ]
    subprocess.run([*command, "-t", f"{frames / rate:.4f}", "-f", "mp4", str(path)], check=True)
    if "partial" in WORDS:
        os.truncate(path, path.stat().st_size // 2)


def is_file(*paths):
    for path in paths:
        if not Path(path).exists():
            sys.exit(f"FileNotFoundError: [Errno 2] No such file or directory: '{path}'")


def size_of_png(path):
    head = Path(path).read_bytes()[:24]
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def one_port_only(argv):
    return re.search(r"29500|29101|29102", " ".join(argv)) is None
