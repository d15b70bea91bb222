"""Imitates StableAvatar: no sound, 4k+1 frames, grey under 81 frames, no end from 81 to 84."""

import argparse
import time
from pathlib import Path

import fake

parser = argparse.ArgumentParser()
for name in (
    "config_path", "pretrained_model_name_or_path", "transformer_path", "pretrained_wav2vec_path",
    "validation_reference_path", "validation_driven_audio_path", "validation_prompts", "output_dir", "GPU_memory_mode",
):  # fmt: skip
    parser.add_argument(f"--{name}", required=True)
for name in (
    "seed", "sample_steps", "width", "height", "overlap_window_length", "clip_sample_n_frames", "motion_frame",
    "ulysses_degree", "ring_degree",
):  # fmt: skip
    parser.add_argument(f"--{name}", type=int, required=True)
for name in ("sample_text_guide_scale", "sample_audio_guide_scale"):
    parser.add_argument(f"--{name}", type=float, required=True)
given = parser.parse_args()
fake.is_file(
    given.config_path, given.pretrained_model_name_or_path, given.transformer_path, given.pretrained_wav2vec_path
)
assert (given.width, given.height) in {(512, 512), (480, 832), (832, 480)}
assert fake.size_of_png(given.validation_reference_path) == (given.width, given.height), "it would be stretched"
fake.begin()
frames = int(25 * fake.seconds(given.validation_driven_audio_path))
if 81 <= frames <= 84:
    time.sleep(600)
fake.bar(given.sample_steps)
Path(given.output_dir, "animated_images").mkdir()
target = Path(given.output_dir, "video_without_audio.mp4")
fake.clip(target, (frames - 1) // 4 * 4 + 1, (given.width, given.height),
          image=given.validation_reference_path, grey=frames < 81)  # fmt: skip
