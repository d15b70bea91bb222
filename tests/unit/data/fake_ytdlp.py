"""Imitates yt-dlp: copies a prepared clip, or misbehaves as `plan.json` beside it says for a video.

python fake_ytdlp.py ... --download-sections *A-B --output FOLDER/piece.%(ext)s -- ADDRESS
"""

import json
import shutil
import sys
import time
from pathlib import Path

here = Path(sys.argv[0]).resolve().parent
arguments = sys.argv[1:]
video = arguments[-1].rpartition("=")[2]
start, end = arguments[arguments.index("--download-sections") + 1].lstrip("*").split("-")
target = Path(arguments[arguments.index("--output") + 1].replace("%(ext)s", "mkv"))
with (here / "calls.txt").open("a") as calls:
    calls.write(f"{video} {start} {end}\n")
plan = json.loads((here / "plan.json").read_text()) if (here / "plan.json").exists() else {}
what = plan.get(video, plan.get("*", "ok"))
if what == "gone":
    sys.exit("ERROR: [youtube] Video unavailable. This video has been removed by the uploader")
if what == "blocked":
    sys.exit("ERROR: [youtube] Sign in to confirm you're not a bot")
if what == "hang":
    time.sleep(600)
if what == "nothing":
    sys.exit(0)
seconds = float(end) - float(start)
templates = {float(path.stem): path for path in here.glob("*.mkv") if path.stem.isdigit()}
fitting = [length for length in templates if length >= seconds]
shutil.copyfile(here / f"{what}.mkv" if what != "ok" else templates[min(fitting)], target)
