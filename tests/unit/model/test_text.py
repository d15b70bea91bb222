"""Text encoder: official file in, and the numbers of a plain transcription that reads the same file."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from model.conditioning import text
from model.config import TextConfig
from model.initial import fill
from model.recipes import recipe
from talkbench.errors import PrerequisiteError
from talkbench.weights.read import BadWeights

KEYS = Path(__file__).parents[2] / "data" / "keys"
CONFIG = replace(recipe("tiny").text, max_tokens=48)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Return the tensors of an official file of the tiny size."""
    encoder = text.TextEncoder(CONFIG)
    fill(encoder, seed=1)
    return {name: tensor.clone() for name, tensor in text.to_official(encoder.state_dict()).items()}


@pytest.fixture(scope="module")
def file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "models_t5_umt5-xxl-enc-bf16.pth"
    torch.save(state, path)
    return path


def plain_rms(x_LD: torch.Tensor, weight_D: torch.Tensor) -> torch.Tensor:
    return x_LD / (x_LD.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight_D


def plain_bucket(distance: int) -> int:
    """Return the row of the position table for a key so many tokens after the query."""
    far = abs(distance)
    if far >= 8:
        far = min(15, 8 + int(math.log(far / 8) / math.log(128 / 8) * 8))
    return far + (16 if distance > 0 else 0)


def plain_umt5(state: Mapping[str, torch.Tensor], ids: list[int], num_heads: int) -> torch.Tensor:
    """Return the states of unpadded tokens: the definition of umT5 on official names."""
    x_LD = state["token_embedding.weight"][ids]
    num = len(ids)
    buckets = torch.tensor([[plain_bucket(key - query) for key in range(num)] for query in range(num)])
    for i in range(sum(name.endswith("attn.q.weight") for name in state)):
        w = {name.removeprefix(f"blocks.{i}.").removesuffix(".weight"): tensor for name, tensor in state.items()}
        u_LD = plain_rms(x_LD, w["norm1"])
        q, k, v = ((u_LD @ w[f"attn.{n}"].T).view(num, num_heads, -1).transpose(0, 1) for n in "qkv")
        scores_ALL = q @ k.transpose(1, 2) + w["pos_embedding.embedding"][buckets].permute(2, 0, 1)
        x_LD = x_LD + (scores_ALL.softmax(-1) @ v).transpose(0, 1).reshape(num, -1) @ w["attn.o"].T
        u_LD = plain_rms(x_LD, w["norm2"])
        gate_LF = functional.gelu(u_LD @ w["ffn.gate.0"].T, approximate="tanh")
        x_LD = x_LD + (u_LD @ w["ffn.fc1"].T * gate_LF) @ w["ffn.fc2"].T
    return plain_rms(x_LD, state["norm.weight"])


def byte_ids(prompt: str) -> list[int]:
    """Return the tokens of ByT5: bytes behind three special tokens, then the end."""
    return [byte + 3 for byte in prompt.encode()] + [1]


@pytest.mark.parametrize("prompt", ["a", "A person is talking, 一个人 in the room."])
def test_a_prompt_is_encoded_as_the_formulas_say_and_padding_changes_nothing(
    state: State, file: Path, prompt: str
) -> None:
    encoded_LD = text.load(CONFIG, file, Path("unused")).encode(prompt)
    expected_LD = plain_umt5(state, byte_ids(prompt), CONFIG.num_heads)
    assert encoded_LD.shape == (len(prompt.encode()) + 1, CONFIG.dim)
    torch.testing.assert_close(encoded_LD, expected_LD, atol=2e-5, rtol=0)


def test_a_file_is_read_and_written_back_unchanged(state: State, file: Path) -> None:
    encoder = text.load(CONFIG, file, Path("unused"))
    written = text.to_official(encoder.state_dict())
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.net.shared.weight is encoder.net.encoder.embed_tokens.weight


def test_names_and_shapes_are_those_of_the_official_file() -> None:
    with torch.device("meta"):
        encoder = text.TextEncoder(TextConfig())
    expected = json.loads((KEYS / "umt5_xxl_encoder.json").read_text())
    assert {name: list(shape) for name, shape in text.official_shapes(encoder).items()} == expected
    assert text.from_official(text.to_official(encoder.state_dict())).keys() == encoder.state_dict().keys()


def test_the_precision_of_the_file_is_kept_unless_another_is_asked_for(state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, path)
    assert text.load(CONFIG, path, tmp_path).encode("a").dtype == torch.bfloat16
    assert text.load(CONFIG, path, tmp_path, dtype=torch.float32).encode("a").dtype == torch.float32


def test_a_prompt_beyond_the_limit_is_cut_and_said_to_be(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = text.load(CONFIG, file, Path("unused"))
    with caplog.at_level(logging.WARNING):
        exactly_LD = encoder.encode("x" * (CONFIG.max_tokens - 1))
        assert not caplog.records
        beyond_LD = encoder.encode("x" * (CONFIG.max_tokens - 1) + "y")
    assert f"{CONFIG.max_tokens + 1} tokens" in caplog.text
    assert len(beyond_LD) == CONFIG.max_tokens
    assert torch.equal(exactly_LD, beyond_LD)


def test_an_empty_prompt_is_its_end_token(file: Path, state: State) -> None:
    encoded_LD = text.load(CONFIG, file, Path("unused")).encode("  ")
    torch.testing.assert_close(encoded_LD, plain_umt5(state, [1], CONFIG.num_heads), atol=2e-5, rtol=0)


def test_prompts_are_cleaned_as_in_training() -> None:
    assert text.clean("  a \n\t b\u3000c ") == "a b c"
    assert text.clean("Tom &amp;amp; Ann &lt;b&gt;") == "Tom & Ann <b>"
    assert text.clean("<b>Tom &amp;amp; Ann") == "<b>Tom & Ann"
    assert text.clean("doesnâ€™t") == "doesn't"
    assert text.clean("&nbsp;") == ""


def test_every_missing_extra_and_misshapen_tensor_is_named(state: State, tmp_path: Path) -> None:
    damaged = {name: tensor for name, tensor in state.items() if "norm1" not in name}
    damaged["blocks.1.attn.q.weight"] = torch.zeros(3, 5)
    damaged["norm.weight"] = torch.zeros(7)
    damaged["lm_head.weight"] = torch.zeros(2)
    torch.save(damaged, tmp_path / "weights.pth")
    with pytest.raises(BadWeights) as error:
        text.load(CONFIG, tmp_path / "weights.pth", tmp_path)
    for expected in ("blocks.{0-1}.norm1.weight", "blocks.1.attn.q.weight [3, 5] instead of [64, 64]",
                     "norm.weight [7] instead of [64]", "lm_head.weight", "weights.pth"):  # fmt: skip
        assert expected in str(error.value)


def test_a_file_of_another_size_is_refused(file: Path) -> None:
    with pytest.raises(BadWeights, match=r"token_embedding.weight \[384, 64\] instead of \[385, 64\]"):
        text.load(replace(CONFIG, vocab_size=385), file, Path("unused"))
    with pytest.raises(BadWeights, match="missing .*blocks.2.norm1.weight"):
        text.load(replace(CONFIG, num_layers=3), file, Path("unused"))


def test_a_truncated_file_is_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BadWeights, match="cut off"):
        text.load(CONFIG, path, tmp_path)


def test_an_absent_tokenizer_names_the_command_that_fetches_it(file: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, tokenizer="umt5")
    folder = tmp_path / "SoulX" / "google" / "umt5-xxl"
    with pytest.raises(
        PrerequisiteError, match=f"hf download Soul-AILab/SoulX-FlashTalk-14B --local-dir {folder.parents[1]}"
    ):
        text.load(config, file, folder)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(PrerequisiteError, match="cannot be read"):
        text.tokenizer(config, folder)


def test_the_official_tokenizer_folder_is_read_without_a_network(
    file: Path, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same make as google/umt5-xxl, with a vocabulary of a few words."""
    from transformers import T5Tokenizer

    folder = tmp_path / "google" / "umt5-xxl"
    words = ["<pad>", "</s>", "<unk>", "▁a", "▁person", "▁talks"]
    T5Tokenizer(vocab=[(word, -1.0 * i) for i, word in enumerate(words)], extra_ids=0).save_pretrained(folder)
    encoder = text.load(replace(CONFIG, tokenizer="umt5"), file, folder)
    encoded_LD = encoder.encode("a  person talks")
    torch.testing.assert_close(encoded_LD, plain_umt5(state, [3, 4, 5, 1], CONFIG.num_heads), atol=2e-5, rtol=0)
