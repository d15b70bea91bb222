"""Imitates InfiniteTalk: a stem for a name, sound at another level, an assertion under 82 frames, 40 s at most."""

import argparse
import json
from pathlib import Path

import fake

parser = argparse.ArgumentParser()
for name in (
    "ckpt_dir",
    "wav2vec_dir",
    "infinitetalk_dir",
    "lora_dir",
    "input_json",
    "size",
    "audio_save_dir",
    "save_file",
):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--mode", default="clip")
parser.add_argument("--max_frame_num", type=int, default=1000)
for name in ("motion_frame", "frame_num", "sample_steps", "base_seed"):
    parser.add_argument(f"--{name}", type=int, required=True)
for name in ("lora_scale", "sample_shift", "sample_text_guide_scale", "sample_audio_guide_scale"):
    parser.add_argument(f"--{name}", type=float, required=True)
parser.add_argument("--offload_model", default="True")
given = parser.parse_args()
fake.is_file(given.ckpt_dir, given.wav2vec_dir, given.infinitetalk_dir, given.lora_dir)
asked = json.loads(Path(given.input_json).read_text())
audio = asked["cond_audio"]["person1"]
fake.is_file(asked["cond_video"], audio)
assert given.offload_model == "False" and given.lora_scale == 1.0
print("Creating infinitetalk pipeline.", flush=True)
fake.begin()
frames = int(25 * fake.seconds(audio))
assert frames > 81, "Audio file not exists or length not satisfies frame nums."
folder = Path(given.audio_save_dir, Path(asked["cond_video"]).stem)
folder.mkdir()
(folder / "1.pt").touch()
assert not Path(given.save_file + "-cropaudio.wav").exists(), "ffmpeg asks whether to overwrite, and nobody answers"
Path(given.save_file + "-cropaudio.wav").touch()
print("Generating video ...", flush=True)
for _ in range(0, max(1, frames - 9), 72):
    fake.bar(given.sample_steps)
frames = min(frames, 81 if given.mode == "clip" else given.max_frame_num)
fake.clip(given.save_file + ".mp4", frames, (160, 160), image=asked["cond_video"], audio=audio, gain=0.4)
print("Saving generated video to", given.save_file + ".mp4", flush=True)
