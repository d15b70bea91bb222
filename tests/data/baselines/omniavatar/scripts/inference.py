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
    print("[0/1]", flush=True)
    folder = Path("demo_out", "exp", f"res_list_seed{chosen['seed']}_step50_cfg4.5_ovlp13_30000_25_2025-12-30")
    (folder / "audio").mkdir(parents=True)
    frames = round(25 * (silence + fake.seconds(audio))) + 1
    fake.clip(folder / "result_000_wav.mp4", frames, (144, 144), audio=audio, lead=silence + 0.04)
