"""Imitates Ditto: input size, ceil(25 s) frames, AAC; hangs after an error, five frames with the wrong config."""

import argparse
import math
import threading
import time
from pathlib import Path

import fake
import numpy
import torch

parser = argparse.ArgumentParser()
for name in ("data_root", "cfg_pkl", "audio_path", "source_path", "output_path"):
    parser.add_argument(f"--{name}", required=True)
given = parser.parse_args()
assert numpy.random.seeds and torch.seeds, "nothing was seeded"
fake.is_file(given.data_root, given.cfg_pkl)
threading.Thread(target=time.sleep, args=(600,)).start()  # its workers are no daemons
fake.begin()
if "no-face" in fake.WORDS:
    first, second = None
partial = Path(given.output_path + ".tmp.mp4")
frames = 5 if "online" in given.cfg_pkl else math.ceil(25 * fake.seconds(given.audio_path))
fake.clip(partial, frames, fake.size_of_png(given.source_path), image=given.source_path)
fake.clip(given.output_path, frames, fake.size_of_png(given.source_path), image=given.source_path,
          audio=given.audio_path)  # fmt: skip
