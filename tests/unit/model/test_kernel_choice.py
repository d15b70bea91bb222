"""Which attention kernel is taken, over faked machines."""

from __future__ import annotations

import importlib
import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from model import attention
from model.attention import Machine, candidates, choose_kernel, survey
from model.kernels import NAMES, FlashKernel, Kernel
from talkbench.errors import TalkbenchError

BF16, FP32 = torch.bfloat16, torch.float32
FA3, FA2 = "flash_attn_interface", "flash_attn"
CPU = torch.device("cpu")


def gpu(capability: tuple[int, int], *modules: str, flash: bool = True, cudnn: bool = True) -> Machine:
    return Machine("cuda", capability, flash, cudnn, frozenset(modules))


@pytest.mark.parametrize(
    ("machine", "dtype", "head_dim", "expected"),
    [
        (Machine("cpu"), FP32, 128, ("flash", "math")),
        (Machine("cpu"), BF16, 20, ("flash", "math")),
        (Machine("mps"), FP32, 128, ("math",)),
        (gpu((9, 0), FA3, FA2), BF16, 128, ("fa3", "cudnn", "flash", "math")),
        (gpu((9, 0), FA2), BF16, 128, ("cudnn", "flash", "math")),
        (gpu((9, 0)), BF16, 128, ("cudnn", "flash", "math")),
        (gpu((9, 0), FA3), torch.float16, 128, ("fa3", "cudnn", "flash", "math")),
        (gpu((9, 0), FA3), FP32, 128, ("math",)),
        (gpu((9, 0), FA3), BF16, 20, ("math",)),
        (gpu((9, 0), FA3), BF16, 192, ("fa3", "flash", "math")),
        (gpu((9, 0), FA3), BF16, 512, ("math",)),
        (gpu((9, 0), cudnn=False), BF16, 128, ("flash", "math")),
        (gpu((9, 0), cudnn=False, flash=False), BF16, 128, ("math",)),
        (gpu((9, 0), FA3, cudnn=False, flash=False), BF16, 128, ("fa3", "math")),
        (gpu((8, 0), FA3, FA2), BF16, 128, ("flash", "cudnn", "math")),
        (gpu((8, 9)), BF16, 128, ("flash", "cudnn", "math")),
        (gpu((10, 0), FA3), BF16, 128, ("flash", "cudnn", "math")),
        (gpu((7, 5), FA2), torch.float16, 128, ("math",)),
    ],
)
def test_auto_tries_the_best_kernel_that_is_there_first(
    machine: Machine, dtype: torch.dtype, head_dim: int, expected: tuple[str, ...]
) -> None:
    assert candidates("auto", machine, dtype, head_dim) == expected


@pytest.mark.parametrize(
    ("request_", "machine", "dtype", "head_dim", "reason", "available"),
    [
        ("fa3", Machine("cpu"), FP32, 128, "it needs a CUDA device, this is cpu", "flash, math"),
        ("cudnn", Machine("cpu"), FP32, 128, "it needs a CUDA device", "flash, math"),
        ("fa3", gpu((9, 0)), BF16, 128, "package flash_attn_interface does not import", "cudnn, flash, math"),
        ("fa2", gpu((9, 0), FA3), BF16, 128, "package flash_attn does not import", "fa3, cudnn, flash, math"),
        ("fa3", gpu((10, 0), FA3), BF16, 128, r"needs compute capability 9.x, this GPU has 10\.0", "cudnn, flash"),
        ("flash", gpu((7, 5)), BF16, 128, r"needs compute capability 8.0 or later, this GPU has 7\.5", "math"),
        ("cudnn", gpu((9, 0), cudnn=False), BF16, 128, "this build of torch is without it", "flash, math"),
        ("flash", gpu((9, 0), flash=False), BF16, 128, "this build of torch is without it", "cudnn, math"),
        ("cudnn", gpu((9, 0)), FP32, 128, "needs bfloat16 or float16, not torch.float32", "math"),
        ("cudnn", gpu((9, 0)), BF16, 192, "multiple of 8 up to 128 channels, not 192", "flash, math"),
        ("sage", gpu((9, 0)), BF16, 128, "kernels are fa3, fa2, cudnn, flash, math", "cudnn, flash, math"),
    ],
)
def test_an_explicit_request_that_cannot_be_met_is_refused_and_told_what_is_there(
    request_: str, machine: Machine, dtype: torch.dtype, head_dim: int, reason: str, available: str
) -> None:
    with pytest.raises(TalkbenchError, match=rf"'{request_}' cannot be used: .*{reason}.*Available here: {available}"):
        candidates(request_, machine, dtype, head_dim)


@pytest.mark.parametrize("name", NAMES)
def test_an_explicit_request_that_can_be_met_has_no_substitute(name: str) -> None:
    assert candidates(name, gpu((9, 0), FA3, FA2), BF16, 128) == (name,)


def test_a_cpu_takes_torchs_attention_and_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="model.attention"):
        kernel = choose_kernel(device=CPU, dtype=FP32, head_dim=32)
    assert kernel.name == "flash"
    assert [record.getMessage() for record in caplog.records] == [
        "attention kernel: flash (cpu, torch.float32, asked for: auto)"
    ]


class Broken(FlashKernel):
    """Returns something else, as a wheel for another GPU might."""

    def __call__(self, *args: torch.Tensor) -> torch.Tensor:
        return super().__call__(*args) * 2


class Crashing(FlashKernel):
    """Fails as a driver would."""

    def __call__(self, *args: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(("kernel", "message"), [(Broken(), "off by"), (Crashing(), "no kernel image")])
def test_a_kernel_that_fails_its_check_is_refused_by_name_and_passed_over_aloud_by_auto(
    kernel: Kernel, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make = attention.make_kernel
    monkeypatch.setattr(attention, "make_kernel", lambda name: kernel if name == "flash" else make(name))
    with pytest.raises(TalkbenchError, match=f"'flash' fails its check on cpu: .*{message}"):
        choose_kernel("flash", device=CPU, dtype=FP32, head_dim=32)
    assert choose_kernel(device=CPU, dtype=FP32, head_dim=32).name == "math"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert message in warnings[0]


def test_the_survey_asks_torch_for_the_gpu_and_tries_the_imports(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = importlib.import_module

    def import_module(name: str) -> object:
        if name == FA2:
            raise ImportError("libcudart.so.12: cannot open shared object file")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setitem(sys.modules, FA3, SimpleNamespace(flash_attn_func=None))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: False)
    assert survey(torch.device("cuda", 3)) == gpu((9, 0), FA3, cudnn=False)
    assert "flash_attn is installed but does not load: libcudart" in caplog.text


def test_a_package_that_is_not_installed_is_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert not survey(torch.device("cuda", 0)).modules
    assert not caplog.records
