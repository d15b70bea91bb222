"""How good and how beautiful single frames look to Q-Align, the mean over frames sampled from the clip.

Source: Wu et al., "Q-Align", ICML 2024; Q-Future/Q-Align commit 14dfdff, pyiqa 0.1.16 (`qalign`). A language model sees
a frame and the start of a sentence about it; the score weighs the words excellent, good, fair, poor and bad, as likely
next words, by 5, 4, 3, 2 and 1. Three versions of the official code differ in prompt, start mark and resampling; here
all three are parameters or fixed, and no library that could change them has a part in it.

Published numbers use this score in several ways (every frame; a whole video in one prompt, quality only). A model that
does not understand its prompt gives all words the same probability and every clip the score 3.0: so each score comes
with the entropy of the five probabilities and is flagged when that is near its maximum.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch, Frames
from talkbench.metrics import networks
from talkbench.metrics.base import Needs, Output, Runner, Scores
from talkbench.metrics.sampling import UniformSample
from talkbench.metrics.series import Terms
from talkbench.nets.batches import Batch
from talkbench.weights import read

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from torch import Tensor

    from talkbench.nets.qalign import QAlign

WEIGHTS = "qalign"
TOKENIZER_FILE = "tokenizer.model"
LEVELS = ("excellent", "good", "fair", "poor", "bad")
LEVEL_POINTS = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
IMAGE_SLOT = "<|image|>"
HUB_PROMPT = (
    f"USER: How would you rate the {{task}} of this {{kind}}?\n{IMAGE_SLOT}\n"
    "ASSISTANT: The {task} of the {kind} is"
)  # fmt: skip
"""As in the model's own code on the hub; the repository's `model.score` swaps task and kind in the second line."""

UNINFORMATIVE_SHARE = 0.95
"""Of the greatest entropy, log2(5) = 2.32 bits; above it the words are told apart by less than a guess."""

MARGIN_RGB = (122, 116, 104)
BATCH = {"cpu": 2, "cuda": 8}

GpuPrecision = Literal["float16", "bfloat16"]


@dataclass(frozen=True)
class QAlignParams:
    """What decides the score beside weights and pixels.

    Attributes:
        prompt: With places for `{task}` and `{kind}` and one `<|image|>` (Q-Future/Q-Align: scorer classes).
        kind: What the prompt calls the picture; `video` belongs to prompts of many pictures.
        quality_word: Task of the quality question (same source).
        aesthetics_word: Task of the aesthetics question: `aesthetics` in the repository's evaluation scripts,
            `aesthetic` in pyiqa's example, a different number.
        bos_id: Start mark put before the prompt (LLaMA-2's); tokenizers of some libraries leave it out.
        frames_per_second: Frames sampled of a long clip (official video mode: 1).
        min_frames: Frames sampled of a short one; ours.
        gpu_precision: Type of the numbers on a GPU (official: float16); on a CPU it is always float32.
        int8_language: Store the language model's matrices as 8-bit integers, for machines with little memory; ours.
    """

    prompt: str = HUB_PROMPT
    kind: str = "image"
    quality_word: str = "quality"
    aesthetics_word: str = "aesthetics"
    bos_id: int = 1
    frames_per_second: float = 1.0
    min_frames: int = 8
    gpu_precision: GpuPrecision = "float16"
    int8_language: bool = False

    def __post_init__(self) -> None:
        known = get_args(GpuPrecision)
        if self.gpu_precision not in known:
            raise TalkbenchError(f"gpu_precision {self.gpu_precision!r} is not known. Known: {', '.join(known)}.")
        if not self.frames_per_second > 0:
            raise TalkbenchError(f"frames_per_second is {self.frames_per_second}; it must be above 0.")
        if not self.min_frames >= 1:
            raise TalkbenchError(f"min_frames is {self.min_frames}; it must be at least 1.")
        before, _, after = self.prompt.partition(IMAGE_SLOT)
        if not after or IMAGE_SLOT in after:
            raise TalkbenchError(f"prompt is {self.prompt!r}; it must have one {IMAGE_SLOT} with words after it.")
        try:
            for part in (before, after):
                part.format(task=self.quality_word, kind=self.kind)
        except (KeyError, IndexError, ValueError) as error:
            raise TalkbenchError(
                f"prompt is {self.prompt!r}; of braces it may have {{task}} and {{kind}} only."
            ) from error


@dataclass(frozen=True)
class Question:
    """Token ids of a prompt, around the picture."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def on_square(frame_HWC: Frames, side_px: int) -> Frames:
    """Return a frame centred on a grey-brown square and resized to `side_px` (Pillow bicubic, in 8 bits)."""
    height, width = frame_HWC.shape[:2]
    side = max(height, width)
    canvas = Image.new("RGB", (side, side), MARGIN_RGB)
    canvas.paste(Image.fromarray(frame_HWC), ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas.resize((side_px, side_px), Image.Resampling.BICUBIC))


def normalised(pictures_BHWC: Frames) -> NDArray[np.float32]:
    """Return 8-bit pictures as the network takes them, float32 [B, 3, H, W].

    Scaling by 1/255 happens in float64 and is rounded to float32 before mean and deviation are applied: any other
    order gives other last bits than the official processor.
    """
    from talkbench.nets.clip import CLIP_MEAN, CLIP_STD

    levels = (np.arange(256) * (1 / 255)).astype(np.float32)
    mean_C1, std_C1 = np.array([CLIP_MEAN, CLIP_STD], dtype=np.float32)[..., None]
    table_C256 = (levels - mean_C1) / std_C1
    return np.stack([table[pictures_BHWC[..., channel]] for channel, table in enumerate(table_C256)], axis=1)


def judged(logits_BA: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the score in [1, 5] and the entropy in bits of each picture, from the logits of the five words."""
    powers = np.exp(logits_BA.astype(np.float64) - logits_BA.max(axis=1, keepdims=True))
    share = powers / powers.sum(axis=1, keepdims=True)
    entropy = -np.sum(share * np.log2(np.maximum(share, np.finfo(np.float64).tiny)), axis=1)
    # Shares sum to 1 only up to rounding.
    return np.clip(share @ LEVEL_POINTS, LEVEL_POINTS.min(), LEVEL_POINTS.max()), entropy


def question(words: SentencePieceProcessor, params: QAlignParams, task: str) -> Question:
    """Return the ids of the prompt about `task`; the pieces before and after the picture are tokenised apart."""
    before, _, after = params.prompt.partition(IMAGE_SLOT)
    first, second = (part.format(task=task, kind=params.kind) for part in (before, after))
    return Question((params.bos_id, *words.encode(first)), tuple(words.encode(second)))


def level_ids(words: SentencePieceProcessor, path: Path) -> tuple[int, ...]:
    """Return the token ids of the five words.

    Raises:
        BadWeights: If a word is not one token, as it is in the released tokenizer.
    """
    pieces = [words.encode(level) for level in LEVELS]
    if broken := [level for level, ids in zip(LEVELS, pieces, strict=True) if len(ids) != 1]:
        raise read.BadWeights(f"{path} is not the tokenizer of one-align: {', '.join(broken)} must be one token each.")
    return tuple(ids[0] for ids in pieces)


def vocabulary(path: Path) -> SentencePieceProcessor:
    """Read a sentencepiece file.

    Raises:
        BadWeights: If it is absent or damaged.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise read.BadWeights(f"{path} cannot be read as a sentencepiece model: {error}.") from error


def build(folder: Path, device: str, precision: str, int8: bool) -> QAlign:
    """Return the network of a checkpoint folder, read tensor by tensor into its place on the device.

    Raises:
        BadWeights: If the folder is not a Q-Align checkpoint, or not a whole one.
    """
    import torch

    from talkbench.nets import qalign

    try:
        sizes = qalign.Sizes.from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        net = qalign.empty(sizes, getattr(torch, precision), device, int8)
        net.fill(read.shards(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise read.BadWeights(f"{folder} is not a Q-Align checkpoint ({type(error).__name__}: {error}).") from error
    return net


class QAlignRunner(Runner):
    """`qalign.aesthetics` (ASE) and `qalign.quality` (IQA) in [1, 5]; frames are chosen by `UniformSample`."""

    name = "qalign"
    version = "1"
    outputs = (
        Output(
            "qalign.aesthetics",
            "ASE",
            better="higher",
            bounds=(1.0, 5.0),
            series=True,
            sampled=True,
            description="Aesthetics of sampled frames by Q-Align, 1 (bad) to 5 (excellent); 3.0 may mean no opinion.",
        ),
        Output(
            "qalign.quality",
            "IQA",
            better="higher",
            bounds=(1.0, 5.0),
            series=True,
            sampled=True,
            description="Picture quality of sampled frames by Q-Align, 1 (bad) to 5 (excellent); "
            "3.0 may mean no opinion.",
        ),
    )
    needs = Needs(weights=(WEIGHTS,))
    params_type = QAlignParams
    params: QAlignParams
    _ready = False

    def start(self, clip: ClipFacts) -> None:
        """Forget the previous clip; load the network before the first one."""
        del clip
        if not self._ready:
            self._net = self._prepare()
            self._ready = True
        self._batch = Batch(self._whole_batch)
        self._sample: UniformSample[Frames] = UniformSample(self.params.frames_per_second, self.params.min_frames)
        self._waiting: list[tuple[float, Frames]] = []
        self._terms = {output.id: Terms() for output in self.outputs}
        self._entropies: dict[str, list[float]] = {output.id: [] for output in self.outputs}

    def update(self, batch: FrameBatch) -> None:
        """Offer each frame to the sample, and score those that are certain."""
        side = self._net.sizes.vision.image_px
        for frame_HWC, at in zip(batch.frames_THWC, batch.seconds_T, strict=True):
            self._waiting += self._sample.offer(float(at), partial(on_square, frame_HWC, side))
            while len(self._waiting) >= self._whole_batch:
                self._score_some()

    def finish(self) -> Scores:
        """Return the means over the sample."""
        self._waiting += self._sample.rest()
        while self._waiting:
            self._score_some()
        num_frames = len(self._terms[self.outputs[0].id])
        if not num_frames:
            raise Unscorable("no-frames", "the clip has no frame to look at")
        entropy = {name: float(np.mean(values)) for name, values in self._entropies.items()}
        limit = UNINFORMATIVE_SHARE * float(np.log2(len(LEVELS)))
        details: dict[str, Any] = {
            "num_frames": num_frames,
            "entropy_bits": {name: round(value, 4) for name, value in entropy.items()},
            "uninformative": {name: value > limit for name, value in entropy.items()},
            "precision": f"{self._precision}, int8 language" if self.params.int8_language else self._precision,
            **self._batch.halved(),
        }
        return Scores({name: terms.mean() for name, terms in self._terms.items()}, details=details, series=self._terms)

    def _prepare(self) -> QAlign:
        """Settle what depends on device and weights, and return the network."""
        kind = self.context.device.partition(":")[0]
        self._whole_batch = BATCH.get(kind, BATCH["cpu"])
        self._precision = "float32" if kind == "cpu" else self.params.gpu_precision
        path = self.context.weights[WEIGHTS].path / TOKENIZER_FILE
        words = vocabulary(path)
        self._answers = level_ids(words, path)
        tasks = (self.params.aesthetics_word, self.params.quality_word)
        self._questions = {
            output.id: question(words, self.params, task) for output, task in zip(self.outputs, tasks, strict=True)
        }
        device, precision, int8 = self.context.device, self._precision, self.params.int8_language
        variant = f"{precision}-int8" if int8 else precision
        return networks.load(self.context, WEIGHTS, lambda folder: build(folder, device, precision, int8), variant)

    def _score_some(self) -> None:
        """Score the first batch of what waits."""
        some, self._waiting = self._waiting[: self._whole_batch], self._waiting[self._whole_batch :]
        logits_BQA = self._batch.run(self._logits, np.stack([picture for _, picture in some])).numpy()
        seconds = [at for at, _ in some]
        for name, logits_BA in zip(self._questions, logits_BQA.swapaxes(0, 1), strict=True):
            if not np.isfinite(logits_BA).all():
                raise FloatingPointError(f"{name}: the network gave numbers that are not finite ({self._precision})")
            scores, entropies = judged(logits_BA)
            self._terms[name].add(scores.tolist(), seconds)
            self._entropies[name].extend(entropies.tolist())

    def _logits(self, pictures_BHWC: Frames) -> Tensor:
        """Return the logits of the five words after each of the Q questions, float32 [B, Q, A]."""
        import torch

        image_BKD = self._net.look(torch.from_numpy(normalised(pictures_BHWC)))
        asked = self._questions.values()
        return torch.stack([self._net.ask(image_BKD, q.before, q.after, self._answers) for q in asked], dim=1).cpu()
