"""SyncNet's shape, and that one run over the frame axis equals the windows of the official code."""

from __future__ import annotations

import json

import torch

from talkbench.nets import syncnet
from tests.support import ROOT


def small() -> syncnet.SyncNet:
    torch.manual_seed(0)
    return syncnet.SyncNet(channel_divisor=16, num_features=32).eval()


def test_names_and_shapes_are_those_of_the_released_file() -> None:
    keys = json.loads((ROOT / "tests/data/keys/syncnet_v2.json").read_text())
    with torch.device("meta"):
        net = syncnet.SyncNet()
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == keys


@torch.inference_mode()
def test_one_run_over_the_frames_equals_every_window_of_five() -> None:
    net, frames = small(), torch.rand(9, 3, 224, 224) * 255
    whole = net.lip_features(frames)
    windows = torch.cat([net.lip_features(frames[i : i + 5]) for i in range(5)])
    assert whole.shape == (5, 32)
    assert (whole - windows).abs().max() < 1e-5


@torch.inference_mode()
def test_sound_windows_give_one_feature_each() -> None:
    assert small().audio_features(torch.rand(3, 13, 20)).shape == (3, 32)


@torch.inference_mode()
def test_bytes_and_floats_are_the_same_pixels() -> None:
    net, frames = small(), torch.randint(0, 256, (5, 3, 224, 224), dtype=torch.uint8)
    assert torch.equal(net.lip_features(frames), net.lip_features(frames.float()))


def test_a_net_takes_its_size_from_a_state_dictionary() -> None:
    state = small().state_dict()
    syncnet.sized_like(state).load_state_dict(state, strict=True)
    with torch.device("meta"):
        assert syncnet.sized_like({}).num_features == 1024
