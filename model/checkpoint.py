"""The released checkpoint, read strictly; nothing in a file is executed.

    WEIGHTS_DIR/SoulX-FlashTalk-14B/      config.json, DiT shards, VAE, umT5, CLIP, google/umt5-xxl/
    WEIGHTS_DIR/chinese-wav2vec2-base/    config.json, pytorch_model.bin or model.safetensors

Sources: huggingface.co/Soul-AILab/SoulX-FlashTalk-14B, huggingface.co/TencentGameMate/chinese-wav2vec2-base.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from talkbench import atomic
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.weights import read

from .config import DiTConfig, Recipe
from .dit import DiT
from .parallel.mesh import is_first

MODEL_REPOSITORY = "Soul-AILab/SoulX-FlashTalk-14B"
SPEECH_REPOSITORY = "TencentGameMate/chinese-wav2vec2-base"
VAE_FILE = "Wan2.1_VAE.pth"
TEXT_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
IMAGE_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
TOKENIZER_FOLDER = "google/umt5-xxl"
DIT_INDEX = "diffusion_pytorch_model.safetensors.index.json"
AUDIO_FILE = "infinitetalk.safetensors"
SHARD_BYTES = 10 << 30
DEFAULT = Path("weights")
"""Where weights are looked for, unless told."""

SIZES = {
    "dim": "dim",
    "num_heads": "num_heads",
    "num_layers": "num_layers",
    "ffn_dim": "ffn_dim",
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "freq_dim": "freq_dim",
    "text_len": "text_len",
    "eps": "eps",
}


@dataclass(frozen=True)
class Files:
    """Where the parts of a checkpoint lie.

    Attributes:
        model: Folder of the DiT, the autoencoder, text and image encoders.
        speech: Folder of the speech encoder.
    """

    model: Path
    speech: Path

    @classmethod
    def below(cls, folder: Path) -> Files:
        """Return the layout of a weights folder, whether or not anything is there."""
        return cls(folder / MODEL_REPOSITORY.partition("/")[2], folder / SPEECH_REPOSITORY.partition("/")[2])

    @property
    def vae(self) -> Path:
        """The autoencoder."""
        return self.model / VAE_FILE

    @property
    def text(self) -> Path:
        """The text encoder."""
        return self.model / TEXT_FILE

    @property
    def image(self) -> Path:
        """The image encoder."""
        return self.model / IMAGE_FILE

    @property
    def tokenizer(self) -> Path:
        """The text tokenizer's folder."""
        return self.model / TOKENIZER_FOLDER


def shipped(folder: str) -> Path:
    """Return where trained weights lie that come with the package, in the layout of the released ones."""
    return Path(__file__).parent / "weights" / folder


def source(wanted: Recipe, weights_dir: Path | None) -> Path | None:
    """Return the folder that a recipe's weights are read from: what is named, what comes with it, or `DEFAULT`.

    None if the recipe has random weights only.
    """
    if weights_dir is not None:
        return weights_dir
    if wanted.shipped is not None:
        return shipped(wanted.shipped)
    return DEFAULT if wanted.weights_seed is None else None


def locate(weights_dir: Path | None) -> Files:
    """Return where the parts lie under a folder.

    Raises:
        PrerequisiteError: If something is absent; names all of it, and the commands that fetch it.
    """
    folder = weights_dir or DEFAULT
    files = Files.below(folder)
    needed = (files.model / "config.json", files.vae, files.text, files.image, files.speech / "config.json")
    if absent := [str(path) for path in needed if not path.is_file()]:
        raise PrerequisiteError(
            f"the released weights are not complete in {folder}: no {', '.join(absent)}. Fetch them (54 GB) with\n"
            f"  hf download {MODEL_REPOSITORY} --local-dir {files.model}\n"
            f"  hf download {SPEECH_REPOSITORY} --local-dir {files.speech}\n"
            "and name the folder with --weights-dir, or try the `tiny` recipe, or --random-weights to measure speed."
        )
    return files


def load_dit(dit: DiT, folder: Path, put: Callable[[Tensor, Tensor], object] = Tensor.copy_) -> None:
    """Copy a checkpoint into a network, one tensor at a time; every tensor must be there and no other.

    The folder holds the merged release (DiT shards and index). If it also holds `infinitetalk.safetensors`, it is the
    base model of the training instead: the union of both is loaded, the audio file's tensors winning.

    Args:
        dit: In any precision.
        folder: Of the checkpoint.
        put: Writes a whole tensor (its second argument) into a parameter, or into the part of it that is here.

    Raises:
        BadWeights: If a file is absent or damaged, or names or shapes differ; every difference is named.
        TalkbenchError: If `config.json` describes another network.
    """
    _refuse_other_sizes(dit.config, folder / "config.json")
    own = dict(dit.named_parameters())
    shapes: dict[str, torch.Size] = {}
    with torch.no_grad():
        for name, tensor in _tensors(folder):
            shapes[name] = tensor.shape
            if name in own and own[name].shape == tensor.shape:
                put(own[name], tensor)
    read.refuse_mismatch(DiT.__name__, {name: value.shape for name, value in own.items()}, shapes, folder)


def load(net: nn.Module, path: Path) -> None:
    """Copy a weight file into a network by name; every tensor must be there and no other.

    Raises:
        BadWeights: If the file is damaged, or names or shapes differ.
    """
    read.load_strict(net, read.state_dict(path), path)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    yield from read.shards(folder)
    if (folder / AUDIO_FILE).is_file():
        yield from read.state_dict(folder / AUDIO_FILE).items()


def _refuse_other_sizes(config: DiTConfig, path: Path) -> None:
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TalkbenchError(f"{path} cannot be read: {error}. Fetch it again from {MODEL_REPOSITORY}.") from error
    if not isinstance(stated, dict):
        raise TalkbenchError(f"{path} is not a configuration: expected an object, found {type(stated).__name__}.")
    differing = [
        f"{key} {stated[key]} instead of {getattr(config, name)}"
        for key, name in SIZES.items()
        if key in stated and stated[key] != getattr(config, name)
    ]
    if differing:
        raise TalkbenchError(f"{path} describes another network than the recipe: {', '.join(differing)}.")


def write_dit(dit: DiT, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write a network's weights as shards with an index and `config.json`; every process calls it.

    The first process writes, and holds one shard at a time. Other DiT shards in the folder are removed.

    Args:
        dit: Sharded or not; averages are written inside `Ema.applied`.
        folder: Created if absent.
        dtype: Of the file.

    Returns:
        The shards.
    """
    first = is_first()
    weights = dict(dit.named_parameters())
    shards = _shards({name: weight.numel() * dtype.itemsize for name, weight in weights.items()})
    where: dict[str, str] = {}
    if first:
        folder.mkdir(parents=True, exist_ok=True)
    for number, names in enumerate(shards, 1):
        file = f"diffusion_pytorch_model-{number:05}-of-{len(shards):05}.safetensors"
        where |= dict.fromkeys(names, file)
        tensors = {name: _whole(weights[name], dtype, wanted=first) for name in names}
        if first:
            partial = folder / f".{file}.tmp"
            save_file(tensors, partial, metadata={"format": "pt"})
            partial.replace(folder / file)
    if first:
        _describe(dit, folder, where, sum(weight.numel() for weight in weights.values()) * dtype.itemsize)
    return [folder / file for file in dict.fromkeys(where.values())]


def _shards(sizes: dict[str, int]) -> list[list[str]]:
    """Return names in order, in groups of at most `SHARD_BYTES`, or of one larger tensor."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if shards[-1] and held + size > SHARD_BYTES:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


@torch.no_grad()
def _whole(weight: Tensor, dtype: torch.dtype, *, wanted: bool) -> Tensor:
    """Return the whole of a weight on the CPU, contiguous; all processes take part, one wants it."""
    part = weight.to(dtype)
    whole = part.full_tensor() if isinstance(part, DTensor) else part
    return whole.cpu().contiguous() if wanted else whole.new_empty(0)


def _describe(dit: DiT, folder: Path, where: dict[str, str], total_bytes: int) -> None:
    index = {"metadata": {"total_size": total_bytes}, "weight_map": where}
    sizes = {key: getattr(dit.config, name) for key, name in SIZES.items()}
    atomic.write_text(folder / DIT_INDEX, json.dumps(index, indent=1))
    atomic.write_text(folder / "config.json", json.dumps({"model_type": "i2v", **sizes}, indent=1))
    for old in folder.glob("diffusion_pytorch_model*.safetensors"):
        if old.name not in where.values():
            old.unlink()
