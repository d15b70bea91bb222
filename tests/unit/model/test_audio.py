"""Speech encoder and windows: official files in, the numbers of a plain transcription out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from model.conditioning import audio, text
from model.config import SpeechConfig
from model.initial import fill
from model.recipes import recipe
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.weights.read import BadWeights

KEYS = Path(__file__).parents[2] / "data" / "keys"
CONFIG = recipe("tiny").speech
State = dict[str, torch.Tensor]


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32)


@pytest.fixture(scope="module")
def state() -> State:
    """Return the encoder of an official file of the tiny size."""
    encoder = audio.SpeechEncoder(CONFIG)
    fill(encoder, seed=3)
    return {name: tensor.clone() for name, tensor in audio.to_official(encoder.state_dict()).items()}


@pytest.fixture(scope="module")
def folder(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an official folder: the heads of the pre-training beside the encoder."""
    path = tmp_path_factory.mktemp("chinese-wav2vec2-base")
    heads = ("quantizer.codevectors", "quantizer.weight_proj.weight", "project_hid.bias", "project_q.weight")
    torch.save(state | dict.fromkeys(heads, torch.zeros(3)), path / "pytorch_model.bin")
    return path


def plain_wav2vec2(state: Mapping[str, torch.Tensor], samples_N: np.ndarray, frames: int, heads: int) -> torch.Tensor:
    """Return the outputs of all layers `[frames, layers, dim]`: the definition on official names."""
    w = {name.removeprefix("wav2vec2."): tensor for name, tensor in state.items()}

    def normed(x_FC: torch.Tensor, name: str) -> torch.Tensor:
        centred = x_FC - x_FC.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x_FC: torch.Tensor, name: str) -> torch.Tensor:
        return x_FC @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x_CS = torch.from_numpy(samples_N)[None]
    for i, (kernel, stride) in enumerate(zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True)):
        layer = f"feature_extractor.conv_layers.{i}"
        weight_OCK = w[f"{layer}.conv.weight"]
        x_CS = torch.einsum("ock,csk->os", weight_OCK, x_CS.unfold(1, kernel, stride))
        if i == 0:
            centred = x_CS - x_CS.mean(1, keepdim=True)
            x_CS = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
            x_CS = x_CS * w[f"{layer}.layer_norm.weight"][:, None] + w[f"{layer}.layer_norm.bias"][:, None]
        x_CS = functional.gelu(x_CS)

    x_FC = plain_interpolate(x_CS.T, frames)
    x_FC = linear(normed(x_FC, "feature_projection.layer_norm"), "feature_projection.projection")

    conv = "encoder.pos_conv_embed.conv"
    v_OCK, groups = w[f"{conv}.weight_v"], CONFIG.position_groups
    weight_OCK = w[f"{conv}.weight_g"] * v_OCK / v_OCK.pow(2).sum((0, 1), keepdim=True).sqrt()
    kernel = v_OCK.shape[-1]
    padded_CS = functional.pad(x_FC.T, (kernel // 2, kernel // 2 - 1))
    parts = zip(weight_OCK.chunk(groups), padded_CS.unfold(1, kernel, 1).chunk(groups), strict=True)
    position_CF = torch.cat([torch.einsum("ock,csk->os", own, seen) for own, seen in parts])
    x_FC = normed(x_FC + functional.gelu(position_CF + w[f"{conv}.bias"][:, None]).T, "encoder.layer_norm")

    outputs = []
    for i in range(CONFIG.num_layers):
        layer = f"encoder.layers.{i}"
        q, k, v = (linear(x_FC, f"{layer}.attention.{n}_proj").view(frames, heads, -1).transpose(0, 1) for n in "qkv")
        mixed_AFd = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        attended_FC = linear(mixed_AFd.transpose(0, 1).reshape(frames, -1), f"{layer}.attention.out_proj")
        x_FC = normed(x_FC + attended_FC, f"{layer}.layer_norm")
        hidden = functional.gelu(linear(x_FC, f"{layer}.feed_forward.intermediate_dense"))
        x_FC = normed(x_FC + linear(hidden, f"{layer}.feed_forward.output_dense"), f"{layer}.final_layer_norm")
        outputs.append(x_FC)
    return torch.stack(outputs, 1)


def plain_interpolate(x_SC: torch.Tensor, frames: int) -> torch.Tensor:
    rows = []
    for i in range(frames):
        position = i * (len(x_SC) - 1) / (frames - 1)
        below = min(int(position), len(x_SC) - 2)
        rows.append(x_SC[below] * (below + 1 - position) + x_SC[below + 1] * (position - below))
    return torch.stack(rows)


@pytest.mark.parametrize(("num_samples", "frames"), [(128_000, 200), (16_000, 25), (9_999, 15)])
def test_speech_is_encoded_as_the_formulas_say(state: State, folder: Path, num_samples: int, frames: int) -> None:
    samples_N = noise(num_samples)
    features_FLC = audio.load(CONFIG, folder).features(samples_N)
    assert features_FLC.shape == (frames, CONFIG.num_layers, CONFIG.dim)
    expected_FLC = plain_wav2vec2(state, samples_N, frames, CONFIG.num_heads)
    torch.testing.assert_close(features_FLC, expected_FLC, atol=1e-5, rtol=0)


def test_eight_seconds_give_399_vectors_and_200_frames() -> None:
    with torch.device("meta"):
        encoder = audio.SpeechEncoder(SpeechConfig())
        vectors_BCS = encoder.net.feature_extractor(torch.empty(1, 128_000))
        assert vectors_BCS.shape == (1, 512, 399)
        assert audio.interpolate(vectors_BCS, 200).shape == (1, 512, 200)


def test_vectors_are_interpolated_between_the_first_and_the_last() -> None:
    vectors_BCS = torch.randn(1, 5, 399, generator=torch.Generator().manual_seed(0))
    at_frames_BCF = audio.interpolate(vectors_BCS, 200)
    torch.testing.assert_close(at_frames_BCF[0].T, plain_interpolate(vectors_BCS[0].T, 200), atol=1e-5, rtol=0)
    assert torch.equal(at_frames_BCF[..., [0, -1]], vectors_BCS[..., [0, -1]])


def test_the_frame_rate_is_the_videos(folder: Path) -> None:
    assert len(audio.load(CONFIG, folder).features(noise(16_000), Fraction(30))) == 30


def test_the_encoder_does_not_normalise(folder: Path) -> None:
    """Only the first group norm sees the level, and its epsilon makes quiet sound differ from loud."""
    encoder, samples_N = audio.load(CONFIG, folder), noise(16_000)
    assert not torch.allclose(encoder.features(samples_N), encoder.features(samples_N * 1e-3), atol=1e-3)


def test_all_that_the_official_folders_may_hold_reads_the_same(state: State, folder: Path, tmp_path: Path) -> None:
    new = "parametrizations.weight.original"
    newer = {name.replace("weight_g", f"{new}0").replace("weight_v", f"{new}1"): t for name, t in state.items()}
    assert newer.keys() != state.keys()
    samples_N = noise(8_000)
    expected_FLC = audio.load(CONFIG, folder).features(samples_N)
    for number, tensors in enumerate((state, newer)):
        other = tmp_path / str(number)
        other.mkdir()
        save_file(tensors, other / "model.safetensors")
        assert torch.equal(audio.load(CONFIG, other).features(samples_N), expected_FLC)


def test_a_file_is_read_and_written_back_unchanged(state: State, folder: Path) -> None:
    encoder = audio.load(CONFIG, folder)
    written = audio.to_official(encoder.state_dict())
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training


def test_names_and_shapes_are_those_of_the_official_file() -> None:
    with torch.device("meta"):
        encoder = audio.SpeechEncoder(SpeechConfig())
    expected = json.loads((KEYS / "wav2vec2_base_hf.json").read_text())
    assert {name.removeprefix("net."): list(t.shape) for name, t in encoder.state_dict().items()} == expected
    official = audio.to_official(encoder.state_dict())
    assert list(official["wav2vec2.encoder.pos_conv_embed.conv.weight_g"].shape) == [1, 1, 128]
    assert list(official["wav2vec2.encoder.pos_conv_embed.conv.weight_v"].shape) == [768, 48, 128]
    assert audio.from_official(official).keys() == encoder.state_dict().keys()


def test_every_missing_extra_and_misshapen_tensor_is_named(state: State, tmp_path: Path) -> None:
    damaged = {name: tensor for name, tensor in state.items() if "final_layer_norm" not in name}
    damaged["wav2vec2.masked_spec_embed"] = torch.zeros(3)
    damaged["lm_head.weight"] = torch.zeros(2)
    torch.save(damaged, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadWeights) as error:
        audio.load(CONFIG, tmp_path)
    for expected in ("wav2vec2.encoder.layers.{0-1}.final_layer_norm.weight", "lm_head.weight",
                     "wav2vec2.masked_spec_embed [3] instead of [64]", "pytorch_model.bin"):  # fmt: skip
        assert expected in str(error.value)


def test_another_size_another_model_half_a_file_and_none_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="another shape"):
        audio.load(replace(CONFIG, ffn_dim=96), folder)
    with pytest.raises(
        PrerequisiteError, match=f"hf download TencentGameMate/chinese-wav2vec2-base --local-dir {tmp_path}"
    ):
        audio.load(CONFIG, tmp_path)
    path = tmp_path / "pytorch_model.bin"
    torch.save(text.to_official(text.TextEncoder(recipe("tiny").text).state_dict()), path)
    with pytest.raises(BadWeights, match="another model"):
        audio.load(CONFIG, tmp_path)
    path.write_bytes((folder / path.name).read_bytes()[:-1000])
    with pytest.raises(BadWeights, match="cut off"):
        audio.load(CONFIG, tmp_path)


@pytest.mark.parametrize(
    ("samples_N", "message"),
    [
        (np.zeros(0, np.float32), "0 samples.*at least 640"),
        (np.zeros(639, np.float32), "639 samples"),
        (np.zeros((2, 16_000), np.float32), "one channel"),
        (np.full(16_000, np.nan, np.float32), "16000 of 16000 .*not finite"),
    ],
)
def test_sound_that_cannot_be_encoded_is_refused(folder: Path, samples_N: np.ndarray, message: str) -> None:
    with pytest.raises(TalkbenchError, match=message):
        audio.load(CONFIG, folder).features(samples_N)


def test_silence_and_one_frame_are_encoded(folder: Path) -> None:
    encoder = audio.load(CONFIG, folder)
    assert torch.isfinite(encoder.features(np.zeros(128_000, np.float32))).all()
    assert len(encoder.features(noise(640))) == 1


@pytest.mark.parametrize(("first", "count"), [(167, 33), (0, 3), (0, 200), (199, 1)])
def test_windows_hold_the_neighbours_and_repeat_the_ends(first: int, count: int) -> None:
    features_FLC = torch.randn(200, 2, 3, generator=torch.Generator().manual_seed(0))
    windows_PFWLC = audio.windows(features_FLC, first, count, 5)
    assert windows_PFWLC.shape == (1, count, 5, 2, 3)
    for i in range(count):
        for j in range(5):
            source = min(max(first + i + j - 2, 0), 199)
            assert torch.equal(windows_PFWLC[0, i, j], features_FLC[source])


def test_windows_outside_the_features_or_without_a_middle_are_refused() -> None:
    features_FLC = torch.zeros(20, 1, 1)
    for first, count, window in ((0, 21, 5), (-1, 3, 5), (20, 1, 5), (0, 0, 5), (0, 5, 4)):
        with pytest.raises(ValueError, match="frames"):
            audio.windows(features_FLC, first, count, window)
