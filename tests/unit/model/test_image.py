"""Reference image: pixels by the stated geometry; image tower: official file in, plain transcription's numbers out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from model.conditioning import image, text
from model.config import ImageEncoderConfig
from model.initial import fill
from model.recipes import recipe
from talkbench.errors import TalkbenchError
from talkbench.weights.read import BadWeights

KEYS = Path(__file__).parents[2] / "data" / "keys"
CONFIG = recipe("tiny").image
State = dict[str, torch.Tensor]


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return smooth colours with some noise."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 17 + i) * np.cos(y / 11 - i) for i in range(3)], -1)
    pixels = 128 + 100 * waves + noise.normal(0, 8, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def triangle_weights(num_in: int, num_out: int) -> np.ndarray:
    """Return PIL's bilinear filter as a matrix: a triangle that is as wide as an output pixel when shrinking."""
    scale = num_in / num_out
    width = max(1.0, scale)
    centres = (np.arange(num_out)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(num_in) + 0.5 - centres) / width)
    return weights / weights.sum(1, keepdims=True)


def plain_prepare(picture_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = picture_HWC.shape[:2]
    s = max(height / rows, width / columns)
    new_rows, new_columns = math.ceil(s * rows), math.ceil(s * columns)
    across_CHW = picture_HWC.transpose(2, 0, 1) @ triangle_weights(columns, new_columns).T
    scaled_CHW = triangle_weights(rows, new_rows) @ across_CHW
    top, left = round((new_rows - height) / 2), round((new_columns - width) / 2)
    return (scaled_CHW[:, top : top + height, left : left + width] / 255 - 0.5) * 2


@pytest.mark.parametrize(
    ("width", "height"), [(416, 720), (512, 512), (300, 800), (1000, 400), (97, 131), (1313, 2001)]
)
def test_an_image_covers_the_size_and_its_centre_is_kept(width: int, height: int) -> None:
    source = picture(width, height)
    prepared_CHW = image.prepare(source, 180, 104)
    assert prepared_CHW.shape == (3, 180, 104)
    assert prepared_CHW.dtype == torch.float32
    # PIL rounds to whole steps of 8 bits after each direction.
    expected_CHW = plain_prepare(np.asarray(source, float), 180, 104)
    np.testing.assert_allclose(prepared_CHW.numpy(), expected_CHW, atol=1.1 * 2 / 255)


def test_an_image_of_the_size_is_taken_pixel_by_pixel() -> None:
    source = picture(104, 180)
    expected_CHW = (torch.from_numpy(np.array(source)).permute(2, 0, 1).float() / 255 - 0.5) * 2
    assert torch.equal(image.prepare(source, 180, 104), expected_CHW)


@pytest.mark.parametrize(("surplus", "first"), [(1, 0), (3, 2), (5, 2)])
def test_an_odd_surplus_is_cut_at_the_even_half(surplus: int, first: int) -> None:
    """`round` goes to the even neighbour: 0.5 to 0, 1.5 to 2, 2.5 to 2."""
    ramp = np.broadcast_to(np.arange(32 + surplus, dtype=np.uint8)[None, :, None], (32, 32 + surplus, 3))
    prepared_CHW = image.prepare(Image.fromarray(ramp), 32, 32)
    assert round(float((prepared_CHW[0, 0, 0] / 2 + 0.5) * 255)) == first


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr", "RGBA", "LA", "PA"])
def test_images_of_other_modes_are_converted(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    source = picture(64, 64).convert("RGBA" if mode == "PA" else "RGB").convert(mode)
    prepared_CHW = image.prepare(source, 64, 64)
    expected_CHW = (torch.from_numpy(np.array(source.convert("RGB"))).permute(2, 0, 1).float() / 255 - 0.5) * 2
    assert torch.equal(prepared_CHW, expected_CHW)
    assert not caplog.records


def test_transparent_parts_are_laid_on_white_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    source = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    source.paste((255, 0, 0, 255), (0, 0, 16, 32))
    with caplog.at_level(logging.WARNING):
        prepared_CHW = image.prepare(source, 32, 32)
    assert prepared_CHW[:, 5, 5].tolist() == [1, -1, -1]
    assert prepared_CHW[:, 5, 25].tolist() == [1, 1, 1]
    assert "white" in caplog.text


def test_a_palette_image_with_a_transparent_colour_is_laid_on_white(tmp_path: Path) -> None:
    source = Image.new("P", (32, 32), 1)
    source.putpalette([255, 0, 0, 0, 0, 255])
    source.paste(0, (0, 0, 16, 32))
    source.save(tmp_path / "palette.png", transparency=1)
    with Image.open(tmp_path / "palette.png") as opened:
        prepared_CHW = image.prepare(opened, 32, 32)
    assert prepared_CHW[:, 5, 5].tolist() == [1, -1, -1]
    assert prepared_CHW[:, 5, 25].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Image.new("RGBA", (64, 64), (9, 9, 9, 0)), "wholly transparent"),
        (Image.new("RGB", (15, 64)), "15x64 px"),
        (Image.new("L", (16_385, 2_100)), "16385x2100 px"),
        (Image.new("RGB", (161, 20)), "8:1"),
        (Image.new("I;16", (64, 64)), "mode I;16"),
        (Image.new("F", (64, 64)), "mode F"),
    ],
)
def test_images_that_cannot_be_meant_are_refused(source: Image.Image, message: str) -> None:
    with pytest.raises(TalkbenchError, match=message):
        image.prepare(source, 64, 64)


def test_a_truncated_image_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    picture(200, 200).save(path)
    path.write_bytes(path.read_bytes()[:20_000])
    with Image.open(path) as opened, pytest.raises(TalkbenchError, match="cannot be decoded"):
        image.prepare(opened, 64, 64)


@pytest.fixture(scope="module")
def state() -> State:
    """Return the image tower of an official file of the tiny size."""
    encoder = image.ImageEncoder(CONFIG)
    fill(encoder, seed=2)
    return {name: tensor.clone() for name, tensor in image.to_official(encoder.state_dict()).items()}


@pytest.fixture(scope="module")
def file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an official file: the text tower and the scale beside the image tower."""
    path = tmp_path_factory.mktemp("image") / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    beside = {"log_scale": torch.tensor(2.6), "textual.token_embedding.weight": torch.zeros(9, 4)}
    torch.save(beside | state, path)
    return path


def cubic_weights(num_in: int, num_out: int) -> torch.Tensor:
    """Return bicubic interpolation (a = -0.75, borders repeated, never wider than four pixels) as a matrix."""
    weights = torch.zeros(num_out, num_in, dtype=torch.float64)
    for i in range(num_out):
        position = (i + 0.5) * num_in / num_out - 0.5
        for tap in range(math.floor(position) - 1, math.floor(position) + 3):
            d = abs(position - tap)
            near = (1.25 * d - 2.25) * d * d + 1
            far = ((-0.75 * d + 3.75) * d - 6) * d + 3
            weights[i, min(max(tap, 0), num_in - 1)] += near if d <= 1 else far
    return weights


def plain_pixels(image_CHW: torch.Tensor, size: int) -> torch.Tensor:
    rows, columns = (cubic_weights(side, size) for side in image_CHW.shape[1:])
    squashed_CHW = rows @ image_CHW.double() @ columns.T
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    return ((squashed_CHW * 0.5 + 0.5 - mean) / std).float()


def plain_clip(state: Mapping[str, torch.Tensor], pixels_CHW: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return the states after the last block but one: the definition of the tower on official names."""
    w = {name.removeprefix("visual."): tensor for name, tensor in state.items()}
    dim, patch = w["patch_embedding.weight"].shape[0], w["patch_embedding.weight"].shape[-1]
    patches_CrPcP = pixels_CHW.unfold(1, patch, patch).unfold(2, patch, patch)
    patches_MX = patches_CrPcP.permute(1, 2, 0, 3, 4).reshape(-1, 3 * patch * patch)
    x_MD = torch.cat([w["cls_embedding"][0], patches_MX @ w["patch_embedding.weight"].view(dim, -1).T])

    def normed(x_MD: torch.Tensor, name: str) -> torch.Tensor:
        centred = x_MD - x_MD.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x_MD: torch.Tensor, name: str) -> torch.Tensor:
        return x_MD @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x_MD = normed(x_MD + w["pos_embedding"][0], "pre_norm")
    for i in range(sum(name.endswith("to_qkv.weight") for name in w) - 1):
        block = f"transformer.{i}"
        thirds_M3D = linear(normed(x_MD, f"{block}.norm1"), f"{block}.attn.to_qkv")
        q, k, v = (third.view(len(x_MD), num_heads, -1).transpose(0, 1) for third in thirds_M3D.split(dim, -1))
        weights_AMM = (q @ k.transpose(1, 2) / math.sqrt(dim / num_heads)).softmax(-1)
        x_MD = x_MD + linear((weights_AMM @ v).transpose(0, 1).reshape(-1, dim), f"{block}.attn.proj")
        hidden_MF = linear(normed(x_MD, f"{block}.norm2"), f"{block}.mlp.0")
        x_MD = x_MD + linear(functional.gelu(hidden_MF), f"{block}.mlp.2")
    return x_MD


@pytest.mark.parametrize(("height", "width"), [(96, 64), (40, 50), (56, 56)])
def test_an_image_is_encoded_as_the_formulas_say(state: State, file: Path, height: int, width: int) -> None:
    image_CHW = image.prepare(picture(300, 280), height, width)
    encoded_BMD = image.load(CONFIG, file).encode(image_CHW)
    assert encoded_BMD.shape == (1, CONFIG.num_tokens, CONFIG.dim)
    expected_MD = plain_clip(state, plain_pixels(image_CHW, CONFIG.image_size), CONFIG.num_heads)
    torch.testing.assert_close(encoded_BMD[0], expected_MD, atol=2e-5, rtol=0)


def test_the_last_block_the_final_norm_and_the_projection_are_not_used(
    state: State, file: Path, tmp_path: Path
) -> None:
    last = f"visual.transformer.{CONFIG.num_layers - 1}."
    unused = [name for name in state if name.startswith((last, "visual.post_norm", "visual.head"))]
    assert len(unused) == 15
    torch.save(state | {name: torch.full_like(state[name], torch.nan) for name in unused}, tmp_path / "other.pth")
    image_CHW = image.prepare(picture(64, 64), 64, 64)
    same_BMD, other_BMD = (image.load(CONFIG, path).encode(image_CHW) for path in (file, tmp_path / "other.pth"))
    assert torch.equal(same_BMD, other_BMD)


def test_a_file_is_read_and_written_back_unchanged(state: State, file: Path) -> None:
    encoder = image.load(CONFIG, file)
    written = image.to_official(encoder.state_dict())
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_names_and_shapes_are_those_of_the_official_file() -> None:
    with torch.device("meta"):
        encoder = image.ImageEncoder(ImageEncoderConfig())
    expected = json.loads((KEYS / "clip_visual_vit_h14.json").read_text())
    assert {name: list(shape) for name, shape in image.official_shapes(encoder).items()} == expected
    assert image.from_official(image.to_official(encoder.state_dict())).keys() == encoder.state_dict().keys()


def test_half_precision_weights_give_half_precision_states(file: Path) -> None:
    image_CHW = image.prepare(picture(64, 64), 64, 64)
    half_BMD, exact_BMD = (image.load(CONFIG, file, dtype=d).encode(image_CHW) for d in (torch.bfloat16, torch.float32))
    assert half_BMD.dtype == torch.bfloat16
    assert (half_BMD - exact_BMD).norm() / exact_BMD.norm() < 0.02


def test_every_missing_extra_and_misshapen_tensor_is_named(state: State, tmp_path: Path) -> None:
    damaged = {name: tensor for name, tensor in state.items() if "norm1" not in name}
    damaged["visual.transformer.1.attn.to_qkv.weight"] = torch.zeros(3, 5)
    damaged["visual.cls_embedding"] = torch.zeros(64)
    damaged["visual.extra"] = torch.zeros(2)
    torch.save(damaged, tmp_path / "weights.pth")
    with pytest.raises(BadWeights) as error:
        image.load(CONFIG, tmp_path / "weights.pth")
    for expected in ("visual.transformer.{0-2}.norm1.weight", "visual.transformer.{0-2}.norm1.bias",
                     "visual.transformer.1.attn.to_qkv.weight [3, 5] instead of [192, 64]",
                     "visual.cls_embedding [64] instead of [1, 1, 64]", "visual.extra"):  # fmt: skip
        assert expected in str(error.value)


def test_another_size_another_model_and_half_a_file_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=r"visual.pos_embedding \[1, 17, 64\] instead of \[1, 5, 64\]"):
        image.load(replace(CONFIG, image_size=28), file)
    other = tmp_path / "t5.pth"
    torch.save(text.to_official(text.TextEncoder(recipe("tiny").text).state_dict()), other)
    with pytest.raises(BadWeights, match="another model"):
        image.load(CONFIG, other)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BadWeights, match="cut off"):
        image.load(CONFIG, cut)
