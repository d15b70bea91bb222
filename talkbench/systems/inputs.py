"""What a system is given for an item: a picture as PNG and speech as 16 kHz mono WAV, in the scratch folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.ids import sha256_file
from talkbench.manifests.fetch import obtain
from talkbench.media import audio
from talkbench.media.clip import Frames, Samples
from talkbench.mini.suite import AUDIO_RATE_HZ, Performance
from talkbench.schema import Asset, Item
from talkbench.systems.known import recorded_sound


@dataclass(frozen=True)
class Inputs:
    """Files of one job.

    Attributes:
        image: PNG, RGB.
        audio: WAV, 16 kHz, mono, 16-bit.
        audio_seconds: Its length.
    """

    image: Path
    audio: Path
    audio_seconds: float


def write_inputs(item: Item, folder: Path, assets: Path | None) -> Inputs:
    """Write the inputs of an item into a folder.

    Args:
        item: What to make a clip of; drawn by talkbench, or with an image and an audio file.
        folder: Exists.
        assets: Folder that the item's paths are relative to; not needed for items that are drawn.

    Raises:
        TalkbenchError: If a file is missing, is not the one that the manifest means, or cannot be read.
    """
    image_HWC, audio_N = _drawn(item) if item.generator and item.image is None else _recorded(item, assets)
    image, sound = folder / "image.png", folder / "audio.wav"
    Image.fromarray(image_HWC).save(image)
    sound.write_bytes(audio.wav(audio_N, AUDIO_RATE_HZ))
    return Inputs(image, sound, audio_N.size / AUDIO_RATE_HZ)


def _drawn(item: Item) -> tuple[Frames, Samples]:
    performance = Performance(item)
    return next(performance.frames()), recorded_sound(performance)


def _recorded(item: Item, assets: Path | None) -> tuple[Frames, Samples]:
    image, sound = _file(item, "image", item.image, assets), _file(item, "audio", item.audio, assets)
    try:
        with Image.open(image) as picture:
            image_HWC: Frames = np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise TalkbenchError(f"item {item.id}: {image} is no picture that can be read: {error}") from error
    try:
        audio_N: Samples = np.concatenate(list(audio.blocks(sound, AUDIO_RATE_HZ)) or [np.zeros(0, np.float32)])
    except Unscorable as error:
        raise TalkbenchError(f"item {item.id}: {sound}: {error.message}.") from error
    if not audio_N.size:
        raise TalkbenchError(f"item {item.id}: {sound} holds no sound.")
    return image_HWC, audio_N


def _file(item: Item, kind: str, asset: Asset | None, assets: Path | None) -> Path:
    if asset is None:
        raise TalkbenchError(f"item {item.id} has no {kind}: a system cannot make a clip of it.")
    if assets is None and item.generator:
        return obtain(item, asset)
    if assets is None:
        raise TalkbenchError(
            f"item {item.id}: give the suite by the path of its .jsonl, so that {asset.path} is found."
        )
    path = assets / asset.path
    if not path.is_file():
        raise TalkbenchError(f"item {item.id}: {path} does not exist.")
    found = sha256_file(path)
    if found != asset.sha256:
        raise TalkbenchError(f"item {item.id}: {path} has sha256 {found}, the manifest says {asset.sha256}.")
    return path
