"""Attention kernels that a CPU can run, against the formula; the CUDA ones as far as fake tensors go."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention

from model.attention import masked_attention
from model.kernels import FlashKernel, Kernel, MathKernel, PackageKernel, check_kernel, make_kernel
from talkbench.errors import TalkbenchError

ON_CPU = ("flash", "math")
CPU = torch.device("cpu")


def case(queries: int = 37, keys: int = 53, width: int = 20, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries)
    return [
        torch.randn(2, n, 3, width, generator=generator, dtype=torch.float64).to(dtype) for n in (queries, keys, keys)
    ]


def by_loops(q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> tuple[Tensor, Tensor]:
    """Return output and log-sum-exp, one batch entry and head at a time."""
    out_BNAd, lse_BAN = torch.zeros_like(q_BNAd), q_BNAd.new_zeros(q_BNAd.shape[0], q_BNAd.shape[2], q_BNAd.shape[1])
    for b in range(q_BNAd.shape[0]):
        for a in range(q_BNAd.shape[2]):
            weights_NM = torch.exp(q_BNAd[b, :, a] @ k_BMAd[b, :, a].T / q_BNAd.shape[-1] ** 0.5)
            out_BNAd[b, :, a] = weights_NM @ v_BMAd[b, :, a] / weights_NM.sum(1, keepdim=True)
            lse_BAN[b, a] = weights_NM.sum(1).log()
    return out_BNAd, lse_BAN


@pytest.mark.parametrize("name", ON_CPU)
def test_output_and_log_sum_exp_are_those_of_the_formula(name: str) -> None:
    kernel = make_kernel(name)
    q, k, v = case()
    out, lse = by_loops(q, k, v)
    torch.testing.assert_close(kernel(q, k, v), out, rtol=0, atol=1e-13)
    torch.testing.assert_close(kernel.with_lse(q, k, v), (out, lse), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_log_sum_exp_stays_in_fp32_whatever_the_input(name: str, dtype: torch.dtype) -> None:
    q, k, v = case(dtype=dtype)
    out, lse = make_kernel(name).with_lse(q, k, v)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(lse.double(), by_loops(q.double(), k.double(), v.double())[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ON_CPU)
def test_gradients_of_two_blocks_of_keys_add_up_to_those_of_all_keys(name: str) -> None:
    kernel = make_kernel(name)
    q, k, v = (x.requires_grad_() for x in case())
    out = kernel(q, k, v)
    grad = torch.randn_like(out)
    out.backward(grad)
    with torch.no_grad():
        final = kernel.with_lse(q, k, v)
        first = kernel.backward(grad, q, k[:, :20], v[:, :20], *final)
        second = kernel.backward(grad, q, k[:, 20:], v[:, 20:], *final)
    torch.testing.assert_close(first[0] + second[0], q.grad, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.cat((first[1], second[1]), 1), k.grad, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.cat((first[2], second[2]), 1), v.grad, rtol=0, atol=1e-13)


def test_gradients_of_the_math_kernel_are_those_of_torch() -> None:
    inputs = [x.requires_grad_() for x in case()]
    grad = torch.randn_like(inputs[0])
    out = scaled_dot_product_attention(*(x.transpose(1, 2) for x in inputs)).transpose(1, 2)
    expected = torch.autograd.grad(out, inputs, grad)
    for found in (
        torch.autograd.grad(MathKernel()(*inputs), inputs, grad),
        MathKernel().backward(grad, *inputs, *MathKernel().with_lse(*inputs)),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ON_CPU)
def test_large_scores_do_not_overflow(name: str) -> None:
    q, k, v = case(dtype=torch.float32)
    assert make_kernel(name)(q * 1000, k * 1000, v).isfinite().all()


@pytest.mark.parametrize("name", ON_CPU)
def test_a_kernel_traces_into_one_graph(name: str) -> None:
    kernel = make_kernel(name)
    q, k, v = case(dtype=torch.float32)

    def block(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernel(q.sin(), k, v) + 1

    compiled = torch.compile(block, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), block(q, k, v), rtol=0, atol=1e-6)


class Wrong(FlashKernel):
    """A kernel with one defect."""

    def __init__(self, **defects: Callable) -> None:
        self.defects = defects

    def __call__(self, *args: Tensor) -> Tensor:
        return self.defects.get("call", lambda out: out)(super().__call__(*args))

    def with_lse(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = super().with_lse(*args)
        return out, self.defects.get("lse", lambda lse: lse)(lse)

    def backward(self, *args: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.defects.get("backward", lambda *grads: grads)(*super().backward(*args))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (Wrong(call=lambda out: out * 1.05), "output"),
        (Wrong(call=lambda out: out * float("nan")), "output"),
        (Wrong(lse=torch.zeros_like), "log-sum-exp"),
        (Wrong(backward=lambda q, k, v: (q, v, k)), "gradient of k"),
    ],
    ids=["scaled", "nan", "no lse", "swapped gradients"],
)
def test_the_start_up_check_finds_a_wrong_kernel(wrong: Kernel, what: str, dtype: torch.dtype) -> None:
    with pytest.raises(TalkbenchError, match=f"{what} is off by"):
        check_kernel(wrong, device=CPU, dtype=dtype, head_dim=16, ring=True)


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_start_up_check_passes_right_kernels(name: str, dtype: torch.dtype) -> None:
    check_kernel(make_kernel(name), device=CPU, dtype=dtype, head_dim=128, ring=True)


def test_without_a_ring_log_sum_exp_and_gradients_are_not_asked_for() -> None:
    asked: list[str] = []
    defects = {name: lambda *given, name=name: asked.append(name) or given for name in ("lse", "backward")}
    check_kernel(Wrong(**defects), device=CPU, dtype=torch.float32, head_dim=16)
    assert asked == []


@pytest.mark.parametrize("name", ["flash", "cudnn"])
def test_torchs_cuda_operators_accept_what_the_kernels_pass(name: str) -> None:
    kernel = make_kernel(name)
    with FakeTensorMode():
        q, k, v = (torch.empty(1, n, 5, 128, device="cuda", dtype=torch.bfloat16) for n in (192, 256, 256))
        assert kernel(q, k, v).shape == q.shape
        out, lse = kernel.with_lse(q, k, v)
        assert (out.shape, lse.shape, lse.dtype) == (q.shape, (1, 5, 192), torch.float32)
        grads = kernel.backward(out, q, k, v, out, lse)
        assert [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]


@pytest.mark.parametrize(("name", "num_outputs"), [("fa3", 2), ("fa2", 3)])
def test_a_flash_attention_package_is_called_on_our_layout(
    name: str, num_outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, return_attn_probs: bool = False) -> Tensor | tuple:
        results = (*FlashKernel().with_lse(q, k, v), None)
        return results[:num_outputs] if return_attn_probs else results[0]

    module = {"fa3": "flash_attn_interface", "fa2": "flash_attn"}[name]
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(flash_attn_func=flash_attn_func))
    kernel = make_kernel(name)
    assert isinstance(kernel, PackageKernel)
    assert kernel.name == name
    q, k, v = case()
    torch.testing.assert_close(kernel(q, k, v), by_loops(q, k, v)[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(kernel.with_lse(q, k, v), by_loops(q, k, v), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("start", "stop"), [(0, 30), (0, 8), (8, 15), (7, 23), (29, 30)])
def test_masked_attention_of_any_shard_is_attention_per_frame(start: int, stop: int) -> None:
    frames, tokens_per_frame, audio_per_frame = 3, 10, 4
    q, k, v = case(frames * tokens_per_frame, frames * audio_per_frame)
    expected = torch.cat(
        [
            by_loops(q[:, f * 10 : f * 10 + 10], k[:, f * 4 : f * 4 + 4], v[:, f * 4 : f * 4 + 4])[0]
            for f in range(frames)
        ],
        dim=1,
    )
    mask_NM = torch.arange(start, stop)[:, None] // tokens_per_frame == torch.arange(12)[None] // audio_per_frame
    found = masked_attention(q[:, start:stop], k, v, mask_NM)
    torch.testing.assert_close(found, expected[:, start:stop], rtol=0, atol=1e-13)
