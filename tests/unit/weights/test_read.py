"""Weight files of every format become tensors; hostile, damaged and foreign ones become messages."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from talkbench.weights import read
from talkbench.weights.containers import LEGACY_MAGIC
from talkbench.weights.read import BadWeights

FORMATS = pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Parameter(torch.randn(4, 2).half(), requires_grad=False)
        self.register_buffer("table", torch.arange(6).reshape(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.proj.float() + self.table.sum()


class Net(nn.Module):
    """Names like those of CLIP: nested, numbered, in half precision, with buffers and shared numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("input_resolution", torch.tensor(224))
        self.visual = Inner()
        self.blocks = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU())
        self.head = nn.Linear(5, 3).bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(self.blocks(x).mean((2, 3)))


def save(value: object, path: Path, *, as_zip: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=as_zip)
    return path


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@FORMATS
def test_a_plain_state_dict_comes_back_bit_for_bit(tmp_path: Path, as_zip: bool) -> None:
    state = Net().state_dict()
    assert_equal(read.state_dict(save(state, tmp_path / "net.pth", as_zip=as_zip)), state)


@FORMATS
@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrappers_and_training_state_fall_away(tmp_path: Path, as_zip: bool, wrapper: str) -> None:
    net = Net()
    optimiser = torch.optim.Adam(net.head.parameters())
    checkpoint = {
        "epoch": 3, wrapper: net.state_dict(), "optim": optimiser.state_dict(), "best": np.float64(1.5),
        "curve": np.arange(3.0), "args": argparse.Namespace(lr=1e-4), "path": Path("x"), "kind": np.dtype("f4"),
        "generator": torch.get_rng_state(), "device": torch.device("cpu"), "shape": torch.Size([1]),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimiser, 1),
    }  # fmt: skip
    assert_equal(read.state_dict(save(checkpoint, tmp_path / "net.pth", as_zip=as_zip)), net.state_dict())


@FORMATS
def test_views_parameters_and_shared_storages_keep_their_numbers(tmp_path: Path, as_zip: bool) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"whole": whole, "turned": whole.T, "corner": whole[1:3, 2:5], "scalar": torch.tensor(3, dtype=torch.int16),
             "none": torch.empty(0, 4), "learned": nn.Parameter(torch.ones(2))}  # fmt: skip
    found = read.state_dict(save(state, tmp_path / "net.pth", as_zip=as_zip))
    assert_equal(found, {name: tensor.detach() for name, tensor in state.items()})


def test_a_torchscript_archive_is_named_by_the_path_of_its_modules(tmp_path: Path) -> None:
    net = Net().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(net).save(str(tmp_path / "scripted.pt"))
        torch.jit.trace(net, torch.rand(1, 3, 8, 8)).save(str(tmp_path / "traced.pt"))
        official = torch.jit.load(tmp_path / "traced.pt", map_location="cpu").state_dict()
    assert_equal(read.state_dict(tmp_path / "scripted.pt"), net.state_dict())
    assert_equal(read.state_dict(tmp_path / "traced.pt"), dict(official))


def test_code_in_a_torchscript_archive_is_not_even_parsed(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Net()).save(str(whole))
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(broken, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"not TorchScript(" if "/code/" in name else source.read(name))
    assert_equal(read.state_dict(broken), Net().state_dict())


def test_a_common_module_prefix_goes_but_a_partial_one_stays(tmp_path: Path) -> None:
    one = torch.ones(1)
    assert set(read.state_dict(save({"module.a": one, "module.b.c": one}, tmp_path / "all.pth"))) == {"a", "b.c"}
    assert set(read.state_dict(save({"module.a": one, "b": one}, tmp_path / "some.pth"))) == {"module.a", "b"}


def test_a_file_that_python_2_wrote_is_read(tmp_path: Path) -> None:
    """Protocol 2, byte strings for names, entries of an ordered dictionary as the argument of a call."""
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x011U\x03cpuK\x03Nt"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"QK\x00K\x03\x85K\x01\x85tR"
    saved = b"\x80\x02ccollections\nOrderedDict\n]](U\x0bconv.weight" + tensor + b"ea\x85R."
    head = [pickle.dumps(value, 2) for value in (LEGACY_MAGIC, 1001, {})]
    numbers = struct.pack("<q3f", 3, 1.0, 2.0, 3.0)
    path = tmp_path / "old.model"
    path.write_bytes(b"".join([*head, saved, pickle.dumps(["1"], 2), numbers]))
    assert_equal(read.state_dict(path), {"conv.weight": torch.tensor([1.0, 2.0, 3.0])})


class Evil:
    """Touches a file when it is unpickled the ordinary way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@FORMATS
def test_a_hostile_pickle_runs_nothing_and_its_tensors_are_read(tmp_path: Path, as_zip: bool) -> None:
    touched = tmp_path / "touched"
    state = {"weight": torch.ones(2), "evil": Evil(touched), "nested": [Evil(touched)]}
    path = save({"state_dict": state, "again": Evil(touched)}, tmp_path / "net.pth", as_zip=as_zip)
    assert_equal(read.state_dict(path), {"weight": torch.ones(2)})
    assert not touched.exists()
    torch.load(path, weights_only=False)
    assert touched.exists(), "the file was harmless, so the test showed nothing"


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch {}'\ntR.",
        b"(S'touch {}'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch {}'\no.",
        b'\x80\x02cbuiltins\neval\n(S\'open("{}", "w")\'\ntR.',
        b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'touch {}'\ntR.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\n(S'touch {}'\ntRK\x00)K\x01\x85tR.",
        b"\x80\x02ccollections\nOrderedDict\n)R}S'__setstate__'\ncos\nsystem\nsbS'touch {}'\nb.",
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN(S'touch {}'\ntNtR.",
    ],
)
def test_no_way_of_calling_something_from_a_pickle_works(tmp_path: Path, program: bytes) -> None:
    touched = tmp_path / "touched"
    program = program.replace(b"{}", str(touched).encode())
    buffer = tmp_path / "net.pth"
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}(S'a'\n" + program.lstrip(b"\x80\x02\x04")[:-1] + b"u.")
    with pytest.raises(BadWeights):
        read.state_dict(buffer)
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("net/data.pkl", program)
    with pytest.raises(BadWeights):
        read.state_dict(buffer)
    buffer.write_bytes(b"\x80\x02" + program.lstrip(b"\x80\x02\x04"))
    with pytest.raises(BadWeights):
        read.state_dict(buffer)
    assert not touched.exists()


def _saved(*, as_zip: bool) -> bytes:
    buffer = io.BytesIO()
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half(), "c": nn.Parameter(torch.ones(1))}
    torch.save({"state_dict": state, "args": argparse.Namespace(x=1)}, buffer, _use_new_zipfile_serialization=as_zip)
    return buffer.getvalue()


SAVED = {as_zip: _saved(as_zip=as_zip) for as_zip in (True, False)}


@FORMATS
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_gives_tensors_or_a_message_naming_it_and_nothing_else(
    tmp_path: Path, as_zip: bool, data: st.DataObject
) -> None:
    damaged = bytearray(SAVED[as_zip])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "net.pth"
    path.write_bytes(damaged)
    try:
        found = read.state_dict(path)
    except BadWeights as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())


@FORMATS
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path, as_zip: bool) -> None:
    whole = SAVED[as_zip]
    path = tmp_path / "net.pth"
    for length in [*range(0, 200, 7), *range(200, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(BadWeights, match="net.pth"):
            read.state_dict(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"MZ not weights", "first bytes"),
        (pickle.dumps({"a": 1}), "not one that torch wrote"),
    ],
)
def test_what_is_not_a_weight_file_is_called_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(BadWeights, match=said) as caught:
        read.state_dict(path)
    assert str(path) in str(caught.value)


def test_absent_and_empty_of_tensors_are_said(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="cannot read .*gone.pth: No such file"):
        read.state_dict(tmp_path / "gone.pth")
    with pytest.raises(BadWeights, match="holds no tensors by name"):
        read.state_dict(save({"epoch": 1}, tmp_path / "empty.pth"))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(BadWeights, match="not one that torch wrote"):
        read.state_dict(tmp_path / "other.zip")


def test_a_wrong_checksum_inside_a_zip_is_noticed(tmp_path: Path) -> None:
    path = save({"a": torch.full((1000,), 7.0)}, tmp_path / "net.pth")
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 7.0) * 4) + 400] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadWeights, match="is damaged: Bad CRC-32"):
        read.state_dict(path)


def test_loading_copies_by_name_and_keeps_the_precision_of_the_network() -> None:
    source, target = Net(), Net()
    with torch.no_grad():
        for tensor in target.parameters():
            tensor.zero_()
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in source.state_dict().items()
    }
    read.load_strict(target, state, Path("net.pth"))
    assert_equal(target.state_dict(), source.state_dict())


def test_batch_counters_may_be_absent_and_ignored_names_too_many() -> None:
    state = {name: tensor for name, tensor in Net().state_dict().items() if not name.endswith("num_batches_tracked")}
    state |= {"text.a": torch.ones(1), "vocab_size": torch.ones(1)}
    read.load_strict(Net(), state, Path("net.pth"), ignore=("text.*", "vocab_size"))
    with pytest.raises(BadWeights, match=r"1 not expected \(vocab_size\)"):
        read.load_strict(Net(), state, Path("net.pth"), ignore=("text.*",))


def test_another_model_is_refused_with_names_and_shapes() -> None:
    state = Net().state_dict()
    del state["blocks.0.weight"], state["blocks.0.bias"]
    state |= {"fc.weight": torch.ones(2), "head.weight": torch.ones(5, 3)}
    with pytest.raises(BadWeights) as caught:
        read.load_strict(Net(), state, Path("folder/net.pth"))
    message = str(caught.value)
    assert "folder/net.pth does not fit Net (13 tensors)" in message
    assert "2 missing (blocks.0.weight, blocks.0.bias)" in message
    assert "1 not expected (fc.weight)" in message
    assert "1 of another shape (head.weight [5, 3] instead of [3, 5])" in message
    assert "another model?" in message


def checkpoint(folder: Path, kind: str, state: dict[str, torch.Tensor]) -> Path:
    """Write two shards and their index."""
    folder.mkdir(exist_ok=True)
    stem, index = ("model", "model.safetensors.index.json") if kind == "safetensors" else (
        "pytorch_model", "pytorch_model.bin.index.json")  # fmt: skip
    weight_map = {}
    for number, names in enumerate((sorted(state)[::2], sorted(state)[1::2]), 1):
        file = f"{stem}-{number:05d}-of-00002.{kind}"
        part = {name: state[name].contiguous() for name in names}
        save_file(part, folder / file) if kind == "safetensors" else torch.save(part, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_give_every_tensor_once(tmp_path: Path, kind: str) -> None:
    state = Net().state_dict()
    found = list(read.shards(checkpoint(tmp_path / "net", kind, state)))
    assert len(found) == len(state)
    assert_equal(dict(found), state)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_of_one_file_needs_no_index(tmp_path: Path, name: str) -> None:
    state = {"a": torch.ones(3)}
    save_file(state, tmp_path / name) if name.endswith("safetensors") else save(state, tmp_path / name)
    assert_equal(dict(read.shards(tmp_path)), state)
    assert_equal(read.state_dict(tmp_path / name), state)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_incomplete_or_damaged_checkpoint_is_refused(tmp_path: Path, kind: str) -> None:
    folder = checkpoint(tmp_path / "net", kind, Net().state_dict())
    second = next(folder.glob(f"*2-of-00002.{kind}"))
    second.write_bytes(second.read_bytes()[:-200])
    with pytest.raises(BadWeights, match="2-of-00002"):
        list(read.shards(folder))
    second.unlink()
    with pytest.raises(BadWeights, match="incomplete: .*lists .*2-of-00002.* not found"):
        list(read.shards(folder))
    with pytest.raises(BadWeights, match="holds no checkpoint"):
        list(read.shards(tmp_path))


@pytest.mark.parametrize(
    "index", ["[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../x.bin"}}', '{"weight_map": {"a": 1}}']
)
def test_an_index_that_is_none_or_leaves_its_folder_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    with pytest.raises(BadWeights, match="not an index of weight files"):
        list(read.shards(tmp_path))


def test_shards_hold_one_tensor_at_a_time(tmp_path: Path) -> None:
    save({f"layer.{number}": torch.rand(1 << 18) for number in range(32)}, tmp_path / "pytorch_model.bin")
    tracemalloc.start()
    try:
        total = sum(tensor.numel() for _, tensor in read.shards(tmp_path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 32 << 18
    assert peak < 8 << 20, "the file is 32 MB, one tensor 1 MB"
