"""Seeded weights in the official formats that do find faces, for tests and demonstrations without the released files.

    python -m tests.fitted_s3fd DIR [CLIP ...]

writes `sfd_face.pth` and `syncnet_v2.model` into DIR. The trunk of S3FD is random; the heads of its second scale are
fitted by ridge regression to frames whose faces are known: the drawn people of talkbench-mini, and frames of the given
clips in which OpenCV's Haar cascade sees a face. SyncNet is random but for its batch statistics and the last audio
layer, fitted so that sound and lips of a drawn person agree. What they score means nothing; that they score does.

Legend: T frames, H and W pixels, N cells, F numbers that a head sees per cell (3x3 neighbours, all channels).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from talkbench.media import audio, mfcc
from talkbench.metrics.crops import Square, crop, quarter
from talkbench.mini.identity import sample_identity
from talkbench.mini.mouth import Shape
from talkbench.mini.pose import poses
from talkbench.mini.rig import Layout, Rig
from talkbench.mini.scene import Stage
from talkbench.mini.speech import sample_speech, visemes
from talkbench.mini.suite import SEED
from talkbench.mini.synth import synthesize
from talkbench.nets.s3fd import MEAN_RGB, PRIOR_PX, S3FD, STEPS
from talkbench.nets.syncnet import SyncNet

SCALE = 1
"""The scale whose heads are fitted: 512 channels at an eighth of the reduced frame, priors of 32 px."""
RIDGE = 1e-3
LOGIT = 8.0
ELSEWHERE = 24
"""Cells of a frame without a face that are learned from; all would only cost time."""
LENGTH = 6.0
FACE_IN_HEAD = (-0.30, -0.24, 0.30, 0.54)
"""Left, top, right, bottom of a drawn face in head heights."""

NOWHERE = (-4000.0, -4000.0, -3900.0, -3900.0)
Box = tuple[float, float, float, float]
Labelled = tuple[np.ndarray, Box]
"""A frame and the box of its only face, in pixels."""


def seeded_tensor(name: str, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Return the random tensor that goes by a name: PCG64 seeded with the name's CRC-32, scaled to its inputs."""
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    if name.endswith(("running_var", "running_mean")) or len(shape) == 1:
        base = 1.0 if name.endswith(("running_var", "weight")) else 0.0
        return torch.from_numpy((base + 0.05 * rng.standard_normal(shape)).astype(np.float32))
    gain = np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy((gain * rng.standard_normal(shape, dtype=np.float32)).astype(np.float32))


def seeded_state(net: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Return a state dictionary of random tensors for a network, the same on every machine."""
    return {name: seeded_tensor(name, value.shape, seed) for name, value in net.state_dict().items()}


def drawn(seed: int, num_frames: int, every: int = 1, side: int = 256) -> list[Labelled]:
    """Return frames of a drawn person who speaks, every `every`-th, with the face's box."""
    person, total = sample_identity(seed), num_frames * every
    mouth = visemes(sample_speech(seed, total / 25, person), total, 25.0)
    stage, layout, pose = (
        Stage(person, side, side),
        Layout.of(person, side, side),
        poses(person, total, 25.0, seed=seed),
    )
    x, y = np.array(FACE_IN_HEAD)[[0, 2, 0, 2]], np.array(FACE_IN_HEAD)[[1, 1, 3, 3]]
    found = []
    for t in range(0, total, every):
        shape = Shape(*(float(getattr(mouth, field.name)[t]) for field in fields(mouth)))
        left, top = Rig(layout, pose[t]).to_pixels(x, y)
        found.append((stage.frame(shape, pose[t]), (left.min(), top.min(), left.max(), top.max())))
    return found


def filmed(path: Path, num_frames: int) -> list[Labelled]:
    """Return frames of a clip, evenly spread, in which the Haar cascade sees a face."""
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    found = []
    for frame in frames[:: max(1, len(frames) // num_frames)]:
        boxes = cascade.detectMultiScale(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 1.1, 5, minSize=(64, 64))
        if len(boxes):
            x, y, w, h = max(boxes, key=lambda box: box[2])
            found.append((frame, (float(x), float(y), float(x + w), float(y + h))))
    return found


def _cells(net: S3FD, frame: np.ndarray, box: Box | None) -> tuple[Tensor, ...]:
    """Return what the heads see in every cell [N, F], and what they should say: score [N], offsets [N, 4], face [N]."""
    small = quarter(frame)
    image = torch.from_numpy(small.transpose(2, 0, 1).copy())[None]
    source = image - torch.tensor(MEAN_RGB)[:, None, None]
    for layer in islice(net.vgg, 23):
        source = layer(source)
    source = net.L2Norm4_3(source)
    seen_NF = functional.unfold(source, 3, padding=1)[0].T.double()
    rows, columns = source.shape[2:]
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    centres = torch.stack([x.flatten(), y.flatten()], dim=1).double() * STEPS[SCALE]
    left, top, right, bottom = (side / 4 for side in box or NOWHERE)
    middle = torch.tensor([(left + right) / 2, (top + bottom) / 2])
    size = torch.tensor([right - left, bottom - top])
    distance = ((centres - middle).abs() / STEPS[SCALE]).amax(dim=1)
    offsets = torch.cat(
        [
            (middle - centres) / (0.1 * PRIOR_PX[SCALE]),
            torch.log(size / PRIOR_PX[SCALE]).div(0.2).expand(len(centres), 2),
        ],
        dim=1,
    )
    near = distance < 1.1
    elsewhere = torch.from_numpy(
        np.random.default_rng(len(seen_NF)).permutation(torch.where(distance > 2.1)[0].numpy())
    )
    chosen = torch.cat([torch.where(near)[0], elsewhere[:ELSEWHERE]])
    score = torch.where(near, LOGIT, -LOGIT).double()
    return seen_NF[chosen], score[chosen], offsets[chosen], near[chosen]


def _ridge(seen_NF: Tensor, wanted_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights [K, F] and biases [K] that give `wanted` from what is seen."""
    mean_F, level_K = seen_NF.mean(dim=0), wanted_NK.mean(dim=0)
    centred = seen_NF - mean_F
    kernel = centred @ centred.T
    kernel += RIDGE * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=kernel.dtype)
    weight_KF = (centred.T @ torch.linalg.solve(kernel, wanted_NK - level_K)).T
    return weight_KF, level_K - weight_KF @ mean_F


@torch.inference_mode()
def fitted_s3fd(examples: Iterable[Labelled], seed: int = 0) -> dict[str, Tensor]:
    """Return the 65 tensors of an S3FD that finds the faces of the examples, and faces like them."""
    net = S3FD().eval()
    state = seeded_state(net, seed)
    for name in state:
        if name.startswith(("loc.", "conf.")):
            state[name].zero_()
    for name, scale in (("L2Norm3_3", 10.0), ("L2Norm4_3", 8.0), ("L2Norm5_3", 5.0)):
        state[f"{name}.weight"].fill_(scale)
    for scale in range(6):
        state[f"conf.{scale}.bias"][:-1] = 12.0
    net.load_state_dict(state)
    examples = list(examples)
    empty = [(np.full_like(examples[0][0], level), None) for level in (0, 40, 128, 255)]
    parts = [_cells(net, frame, box) for frame, box in [*examples, *empty]]
    seen, score, offsets, face = (torch.cat([part[i] for part in parts]) for i in range(4))
    weight, bias = _ridge(seen, score[:, None])
    state[f"conf.{SCALE}.weight"][1:] = weight.reshape(1, 512, 3, 3)
    state[f"conf.{SCALE}.bias"][:] = torch.tensor([0.0, float(bias)])
    weight, bias = _ridge(seen[face], offsets[face])
    state[f"loc.{SCALE}.weight"][:] = weight.reshape(4, 512, 3, 3)
    state[f"loc.{SCALE}.bias"][:] = bias
    return state


@torch.inference_mode()
def fitted_syncnet(examples: Iterable[tuple[Tensor, Tensor]], seed: int = 0) -> dict[str, Tensor]:
    """Return the 102 tensors of a SyncNet for which the sound and the lips of the examples agree.

    Args:
        examples: BGR crops [T, 3, 224, 224] and the MFCC windows [T - 4, 13, 20] that belong to them.
        seed: Of the random part.
    """
    examples = list(examples)
    net = SyncNet()
    net.load_state_dict(seeded_state(net, seed))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = None  # the mean over the examples
    for lips_TCHW, windows_NCM in examples:
        net.train()(lips_TCHW, windows_NCM)
    net.eval()
    # Released features have lengths of a few units; the mean over lips carries no sync.
    lips_ND = torch.cat([net.lip_features(lips_TCHW) for lips_TCHW, _ in examples])
    hidden_NF = torch.cat([net.netfcaud[:3](net.netcnnaud(windows[:, None]).flatten(1)) for _, windows in examples])
    factor = LENGTH / float((lips_ND - lips_ND.mean(dim=0)).norm(dim=1).mean())
    state = net.state_dict()
    state["netfclip.3.weight"].mul_(factor)
    state["netfclip.3.bias"].sub_(lips_ND.mean(dim=0)).mul_(factor)
    weight, bias = _ridge(hidden_NF.double(), (factor * (lips_ND - lips_ND.mean(dim=0))).double())
    state["netfcaud.3.weight"][:], state["netfcaud.3.bias"][:] = weight, bias
    return state


def drawn_cut(seed: int, num_frames: int = 48) -> tuple[Tensor, Tensor]:
    """Return crops and sound of a drawn person."""
    person, seconds = sample_identity(seed), num_frames / 25
    sound_N = synthesize(sample_speech(seed, seconds, person), person, seconds)
    return _windows(drawn(seed, num_frames), sound_N)


def filmed_cut(path: Path, num_frames: int = 60) -> tuple[Tensor, Tensor]:
    """Return crops and sound of the start of a clip, at the place of its first face."""
    box = filmed(path, 1)[0][1]
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 25)
        frames = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), 2 * num_frames)]
    at_25 = [frames[round(t * rate / 25)] for t in range(num_frames) if round(t * rate / 25) < len(frames)]
    return _windows([(frame, box) for frame in at_25], audio.load(path, mfcc.RATE_HZ))


def _windows(labelled: Sequence[Labelled], sound_N: np.ndarray) -> tuple[Tensor, Tensor]:
    columns = mfcc.mfcc(sound_N)
    count = min(len(labelled), len(sound_N) // 640) - 5
    crops = []
    for frame, (left, top, right, bottom) in labelled[: count + 4]:
        place = Square((left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top) / 2)
        crops.append(crop(frame, place, 0.4)[..., ::-1])
    windows = np.stack([columns[4 * i : 4 * i + 20].T for i in range(count)])
    return torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2).copy()), torch.from_numpy(windows)


def write_weights(folder: Path, clips: Sequence[Path] = (), people: Iterable[int] = range(SEED, SEED + 12)) -> None:
    """Write `sfd_face.pth` and `syncnet_v2.model` into a folder.

    Args:
        folder: Where to.
        clips: Filmed clips whose faces should be found too.
        people: Seeds of drawn people; those of talkbench-mini unless told otherwise.
    """
    people = list(people)
    examples = [example for person in people for example in drawn(person, 2, every=37)]
    for clip in clips:
        examples += filmed(clip, 6)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(fitted_s3fd(examples), folder / "sfd_face.pth")
    cuts = [drawn_cut(people[0]), *map(filmed_cut, clips)]
    torch.save(fitted_syncnet(cuts), folder / "syncnet_v2.model")


if __name__ == "__main__":
    write_weights(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
