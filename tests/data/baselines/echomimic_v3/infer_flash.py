"""Imitates EchoMimic-V3 flash: one window; the name is cut at its first dot; an output that exists is left."""

import argparse
import sys
from pathlib import Path

import fake

parser = argparse.ArgumentParser()
for name in ("image_path", "audio_path", "prompt", "model_name", "transformer_path", "wav2vec_model_dir", "save_path"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--config_path", default="config/config_that_is_not_there.yaml")
parser.add_argument("--video_length", type=int, default=81)
for name in ("num_inference_steps", "seed"):
    parser.add_argument(f"--{name}", type=int)
for name in ("guidance_scale", "audio_guidance_scale"):
    parser.add_argument(f"--{name}", type=float)
parser.add_argument("--sample_size", type=int, nargs=2)
given = parser.parse_args()
fake.is_file(given.config_path, given.model_name, given.transformer_path, given.wav2vec_model_dir)
target = Path(given.save_path) / (Path(given.image_path).name.split(".")[0] + "_output.mp4")
if target.exists():
    sys.exit(0)
fake.begin()
fake.bar(given.num_inference_steps)
frames = min(int(25 * fake.seconds(given.audio_path)), given.video_length)
fake.clip(target, (frames - 1) // 4 * 4 + 1, (256, 256), image=given.image_path, audio=given.audio_path)
