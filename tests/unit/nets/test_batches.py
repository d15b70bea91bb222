"""Batches that a device has no memory for: halved, never lost, and told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from talkbench.metrics.vbench import VBenchParams, casting
from talkbench.nets.batches import Batch


def test_a_batch_too_large_for_cuda_is_halved_for_good_and_loses_nothing() -> None:
    seen = []

    def forward(x: Tensor) -> Tensor:
        seen.append(len(x))
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return x * 2

    batch = Batch(8)
    assert batch.run(forward, torch.arange(7)).tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert batch.run(forward, torch.arange(3)).tolist() == [0, 2, 4]
    assert seen == [7, 4, 2, 2, 2, 1, 2, 1]
    assert batch.halved() == {"batch": 2}
    assert batch.halved("other") == {"other": 2}


def test_float32_is_whole_inside_networks_and_the_callers_choice_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    def forward(x: Tensor) -> Tensor:
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        return x

    Batch(2).run(forward, torch.arange(3))
    assert torch.backends.cudnn.allow_tf32


def test_a_batch_that_fits_is_not_worth_a_word() -> None:
    batch = Batch(2)
    assert batch.run(lambda x: x, torch.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert batch.halved() == {}


def test_rows_of_several_kinds_are_cut_at_the_same_places() -> None:
    def forward(numbers: np.ndarray, places: range, words: tuple[str, ...]) -> Tensor:
        return torch.tensor([[n, p, len(w)] for n, p, w in zip(numbers, places, words, strict=True)])

    found = Batch(2).run(forward, np.arange(3), range(10, 13), ("a", "bb", "ccc"))
    assert found.tolist() == [[0, 10, 1], [1, 11, 2], [2, 12, 3]]


def test_memory_that_does_not_suffice_for_one_item_is_an_error() -> None:
    def forward(x: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        Batch(4).run(forward, torch.arange(3))


def test_a_network_is_run_without_gradients() -> None:
    weight = torch.ones(3, requires_grad=True)
    assert Batch(4).run(lambda x: x * weight, torch.ones(2, 3)).requires_grad is False


def test_bfloat16_is_used_for_products_only_when_asked_for() -> None:
    weight, kinds = torch.rand(8, 8), []
    for precision in ("fp32", "bf16"):
        with casting(VBenchParams(precision=precision), "cpu"):
            kinds.append((weight @ weight).dtype)
    assert kinds == [torch.float32, torch.bfloat16]
