"""Imitates OmniAvatar: a lead of silence and one frame, sound late by both, a name with a time in it."""

import argparse
import os
from pathlib import Path

import fake

assert "RANK" in os.environ, "it must be started by torchrun"
parser = argparse.ArgumentParser()
for name in ("config", "input_file", "hp"):
    parser.add_argument(f"--{name}", required=True)
given = parser.parse_args()
fake.is_file(given.config, "pretrained_models/Wan2.1-T2V-14B", "pretrained_models/OmniAvatar-14B/config.json",
             "pretrained_models/wav2vec2-base-960h")  # fmt: skip
chosen = dict(pair.split("=") for pair in given.hp.split(","))
assert int(chosen["sp_size"]) == int(os.environ["WORLD_SIZE"])
if os.environ["RANK"] == "0":
    (line,) = Path(given.input_file).read_text().splitlines()
    prompt, image, audio = line.split("@@")
    fake.is_file(image, audio)
    fake.begin()
    silence = float(chosen["silence_duration_s"])
    frames = round(25 * (silence + fake.seconds(audio))) + 1
    width, height = fake.size_of_png(image)
    size = (720, 720) if width == height else (400, 720) if width < height else (720, 400)
    first, later = (57, 44) if width == height else (105, 92)
    count = 1 + max(0, -(-(frames - first) // later))
    for number in range(count):
        print(f"[{number}/{count}]", flush=True)
        fake.bar(50)
    folder = Path("demo_out", "exp", f"res_list_seed{chosen['seed']}_step50_cfg4.5_ovlp13_30000_25_2025-12-30")
    (folder / "audio").mkdir(parents=True)
    fake.clip(folder / "result_000_wav.mp4", frames, size, image=image, audio=audio, lead=silence + 0.04)
