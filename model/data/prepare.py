r"""Clips to encoded samples in shards, which training reads: filter, cut to buckets, encode.

    python -m model.data.prepare --source tiny --recipe tiny --clips 320 --out data/tiny --jobs 2
    python -m model.data.prepare --source tiny --recipe tiny --clips 40 --held-out --out data/tiny-held-out
    python -m model.data.prepare --source talkvid --root /data/talkvid --exclude exclusions.json \
        --recipe flashtalk_14b --weights-dir weights --device cuda --jobs 8 --out /data/latents
    python -m model.data.prepare --source folder --root my-clips --recipe tiny --out data/mine --dry-run

TalkVid and SpeakerVid-5M give metadata; the clips are fetched with the sets' own programs, one file per clip, named by
the clip's id, anywhere below --root. A clip gives one sample: a window of 33 frames, and 28 for each further chunk, at
25 frames a second, with a picture of the person from just outside it.

A run that was stopped goes on where it was when it is started again; at most the shards being written are lost. The
bytes depend on what was asked for alone, not on the number of processes. Every clip that is not used is counted by
reason: in summary.json, and those that were opened one by one in rejections.jsonl.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from talkbench import atomic
from talkbench.errors import Interrupted, PrerequisiteError, TalkbenchError
from talkbench.progress import Logged

from .. import PACKAGE
from ..config import Recipe
from ..recipes import recipe as recipe_named
from ..tiny import world
from . import buckets, listed, shards, work
from .drawn import Drawn
from .footage import Source
from .recorded import Recorded
from .sample import num_frames

SETS = ("talkvid", "speakervid")
SUMMARY, TABLE = "summary.json", "metadata"
TALKVID_FILES = "filtered_video_clips*.json"
NOT_IN_COMMAND = ("out", "jobs", "dry_run")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """What there is to encode.

    Attributes:
        source: Of the clips.
        refused: Clips that will not be opened, by reason.
    """

    source: Source
    refused: Counter[str] = field(default_factory=Counter)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    try:
        summary = run(_parser().parse_args(arguments))
    except TalkbenchError as error:
        sys.stderr.write(f"talkbench: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("talkbench: stopped. Run the same again to go on; what is finished is kept.\n")
        sys.exit(Interrupted.exit_code)
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prepare what was asked for; return the summary, which is also kept in the folder.

    Raises:
        TalkbenchError: If an option is missing, there is no clip, or the folder holds other data.
    """
    recipe = _recipe(arguments.recipe)
    asked = _asked(arguments, recipe)
    counts = {"refused": dict(asked.refused.most_common()), "clips": len(asked.source.ids)}
    if not asked.source.ids:
        raise TalkbenchError(f"no clip is left to encode: {counts['refused']}. See `--help` for what is looked for.")
    if arguments.dry_run:
        num_shards = work.num_shards(asked.source)
        return counts | {"shards": num_shards, "shards_missing": len(work.missing(arguments.out, num_shards))}
    if arguments.device != "cpu" and not torch.cuda.is_available():
        raise PrerequisiteError("PyTorch finds no CUDA device here. Use --device cpu.")
    header = work.header_of(asked.source, recipe, arguments.weights_dir, arguments.chunks, _command(arguments))
    to_do = work.Work(arguments.out, asked.source, recipe, arguments.weights_dir, arguments.device)
    outcomes = work.prepare(to_do, header, jobs=arguments.jobs, progress=Logged(every_seconds=10))
    summary = counts | {"outcomes": dict(outcomes.most_common()), "buckets": _buckets(arguments.out, recipe)}
    atomic.write_text(arguments.out / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def _recipe(name: str) -> Recipe:
    try:
        return recipe_named(name)
    except ValueError as error:
        raise TalkbenchError(f"{error}.") from error


def _asked(arguments: argparse.Namespace, recipe: Recipe) -> Asked:
    if arguments.source == "tiny":
        if (recipe.stream.height, recipe.stream.width) != (world.SIDE, world.SIDE):
            size = f"{recipe.stream.height}x{recipe.stream.width}"
            raise TalkbenchError(f"--source tiny draws {world.SIDE}x{world.SIDE}; recipe {recipe.name} wants {size}.")
        return Asked(Drawn(recipe, arguments.clips or 320, arguments.chunks, held_out=arguments.held_out))
    if arguments.root is None:
        raise TalkbenchError(f"--source {arguments.source} needs --root, the folder with the clips.")
    captions = None if arguments.captions is None else listed.read_captions(arguments.captions)
    if arguments.source == "folder":
        clips, refused = listed.in_folder(arguments.root, captions, recipe.stream.prompt)
    else:
        rows, refused = listed.candidates(_metadata(arguments, recipe), Logged())
        clips, more = listed.with_files(rows, arguments.root, captions, recipe.stream.prompt)
        refused += more
    chosen = tuple(clips[: arguments.clips])
    refused["beyond --clips"] += len(clips) - len(chosen)
    return Asked(Recorded(recipe, chosen, arguments.chunks, arguments.min_stillness), +refused)


def _metadata(arguments: argparse.Namespace, recipe: Recipe) -> listed.Metadata:
    if arguments.exclude is None and not arguments.no_exclusions:
        raise TalkbenchError(
            f"--source {arguments.source} needs --exclude exclusions.json: nobody may train on what is tested. "
            "`talkbench data select` writes it below its build folder. --no-exclusions goes without, knowingly."
        )
    if arguments.no_exclusions:
        _log.warning("NO EXCLUSIONS: what is trained on this may have seen the benchmark's people. Do not report it.")
    return listed.Metadata(
        dataset=arguments.source,
        paths=tuple(arguments.metadata or _metadata_below(arguments.root, arguments.source)),
        table=arguments.out / TABLE,
        excluded=None if arguments.no_exclusions else listed.read_exclusions(arguments.exclude),
        min_seconds=float(num_frames(recipe, arguments.chunks) / recipe.stream.frame_rate),
    )


def _metadata_below(root: Path, dataset: str) -> list[Path]:
    """Return a set's metadata in the folder of its clips."""
    if dataset == "speakervid":
        return [root]
    if not (found := sorted(root.rglob(TALKVID_FILES))):
        raise TalkbenchError(f"no {TALKVID_FILES} below {root}. Name TalkVid's metadata with --metadata.")
    return found


def _buckets(folder: Path, recipe: Recipe) -> dict[str, int]:
    """Return the samples per bucket; say which have none."""
    found = Counter(entry.bucket for entry in shards.read_index(folder))
    counts = {str(bucket): found[str(bucket)] for bucket in buckets.of(recipe)}
    if empty := [name for name, count in counts.items() if not count]:
        _log.info("no sample of %s: nothing will be learnt at these sizes", ", ".join(empty))
    return counts


def _command(arguments: argparse.Namespace) -> str:
    """Return the command that was given, but for the folder and the number of processes."""
    parts = [f"python -m {PACKAGE}.data.prepare"]
    for name, value in vars(arguments).items():
        if name in NOT_IN_COMMAND or value in (None, False):
            continue
        option = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, list) else [value]
        parts += [option] if value is True else [f"{option} {shlex.quote(str(each))}" for each in values]
    return " ".join(parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {PACKAGE}.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what is encoded")
    what.add_argument("--source", choices=["tiny", *SETS, "folder"], required=True, help="where clips come from")
    what.add_argument("--recipe", default="tiny", help="whose encoders and sizes; default: tiny")
    what.add_argument("--chunks", type=_positive, default=5, help="per sample; default: 5, what stage 2 rolls out")
    what.add_argument("--clips", type=_positive, help="tiny: how many are drawn (320); others: how many at most")
    what.add_argument("--held-out", action="store_true", help="tiny: people to test on, not those to train on")
    real = parser.add_argument_group("recorded clips")
    real.add_argument("--root", type=Path, help="folder with one media file per clip")
    real.add_argument("--metadata", type=Path, action="append", help="of the set, if not below --root; may be repeated")
    real.add_argument("--captions", type=Path, help="JSON with `id` and `caption` (or TalkVid's `description`) each; "
                      "clips without one are left out. By default all have the recipe's prompt")  # fmt: skip
    real.add_argument("--exclude", type=Path, help="exclusions.json of the benchmark")
    real.add_argument("--no-exclusions", action="store_true", help="train on the benchmark's people too, knowingly")
    real.add_argument("--min-stillness", type=float, help="leave out clips whose background moves: the similarity, 1 "
                      "at most, that the border must keep; 0.96 is usual")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--out", type=Path, required=True, help="folder of the shards; a begun one is gone on with")
    how.add_argument(
        "--weights-dir", type=Path, help="the encoders' weights; `tiny` brings its own, `small` has random ones"
    )
    how.add_argument("--device", default="cpu", help="cpu, cuda (all GPUs in turn) or one as cuda:1")
    how.add_argument("--jobs", type=_positive, default=1, help="processes; each loads the encoders")
    how.add_argument("--dry-run", action="store_true", help="read metadata and look for files; encode nothing")
    return parser


def _positive(given: str) -> int:
    if (value := int(given)) < 1:
        raise argparse.ArgumentTypeError(f"{given} is less than 1")
    return value


if __name__ == "__main__":
    main()
