"""What only a GPU can show: streams, graphs, several devices, failing launches, the bits of dropout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import seo_kernels as sk
from seo_kernels import _library

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not _library.available("cuda"),
    reason="there is no GPU, or no kernels for it",
)


def attention(query: Tensor) -> Tensor:
    layout = torch.eye(3, dtype=torch.bool, device="cpu")
    pattern = sk.Local(20) | sk.BlockSparse(layout, 64)
    relative = sk.RelativePosition(bias=torch.linspace(0, 1, 82, device=query.device).view(2, 41))
    return sk.attention(query, query.sin(), query.cos(), pattern=pattern, relative=relative, dropout_p=0.1)


def lora(input: Tensor) -> Tensor:
    flat = input.flatten(0, 2)
    weight = torch.linspace(-1, 1, 24 * 32, device=input.device).view(24, 32)
    return sk.lora_linear(flat, weight, None, weight[:4], weight.t()[:24, :4], scaling=2.0, dropout_p=0.2)


def cross_entropy(hidden: Tensor) -> Tensor:
    flat = hidden.flatten(0, 2)
    target = torch.arange(flat.shape[0], device=hidden.device) % 40
    weight = torch.linspace(-1, 1, 40 * 32, device=hidden.device).view(40, 32)
    return sk.linear_cross_entropy(flat, weight, target, label_smoothing=0.1)


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "attention": attention,
    "bias_act": lambda input: sk.bias_act(input, input[0, 0, 0].detach(), "gelu"),
    "gated_act": lambda input: sk.gated_act(input, "silu"),
    "linear": lambda input: sk.linear(input, input[0, 0, :9], None, "gelu"),
    "lora_linear": lora,
    "linear_cross_entropy": cross_entropy,
    "huber_loss": lambda input: sk.huber_loss(input, input.detach() ** 2),
}
each_call = pytest.mark.parametrize("name", CALLS)


def step(name: str, input: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient, with the same dropout bits each time."""
    torch.manual_seed(3)
    leaf = input.detach().requires_grad_()
    out = CALLS[name](leaf)
    (gradient,) = torch.autograd.grad(out.sin().sum(), leaf)
    return out.detach(), gradient


@pytest.fixture
def input() -> Tensor:
    return torch.randn(2, 2, 150, 32, device="cuda")


@each_call
def test_a_stream_of_its_own(name: str, input: Tensor) -> None:
    expected = step(name, input)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # what runs on another stream would run before
        late = input * 1.0
        found = step(name, late)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@each_call
def test_captured_in_a_graph(name: str, input: Tensor) -> None:
    static = input.clone()

    def forward_and_backward() -> tuple[Tensor, Tensor]:
        leaf = static.detach().requires_grad_()
        out = CALLS[name](leaf)
        return out.detach(), torch.autograd.grad(out.sin().sum(), leaf)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as torch asks for: plans and work buffers are made now
        for _ in range(3):
            forward_and_backward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward_and_backward()
    static.copy_(input + 1)
    graph.replay()
    assert all(bool(tensor.isfinite().all()) for tensor in captured)
    if name not in ("attention", "lora_linear"):  # without dropout
        torch.testing.assert_close(captured, step(name, input + 1), rtol=0, atol=0)


@each_call
def test_same_bits_again(name: str, input: Tensor) -> None:
    torch.testing.assert_close(step(name, input), step(name, input), rtol=0, atol=0)


@each_call
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_another_device_than_the_current(name: str, input: Tensor) -> None:
    expected = step(name, input)
    torch.testing.assert_close(step(name, input.to("cuda:1")), tuple(t.to("cuda:1") for t in expected))


@each_call
def test_close_to_the_cpu(name: str, input: Tensor) -> None:
    if name in ("attention", "lora_linear"):
        pytest.skip("the seeds of dropout come from the device's own generator: see test_dropout_bits")
    torch.testing.assert_close(
        tuple(t.cpu() for t in step(name, input)), step(name, input.cpu()), rtol=1e-4, atol=1e-5
    )


def test_dropout_bits_are_those_of_the_cpu() -> None:
    """The same op with the same seed tensor."""
    query = torch.randn(1, 2, 70, 16, dtype=torch.float64)
    seed = torch.tensor(1234567890123)
    found = []
    for device in ("cpu", "cuda"):
        operands = [query.to(device)] * 3
        out, _ = torch.ops.seo_kernels.attention_forward(
            *operands, "dense", *[None] * 10, seed.to(device), 0.3, 0.25, 0.0, 0
        )
        found.append(out.cpu())
    torch.testing.assert_close(*found)


@each_call
def test_autocast(name: str, input: Tensor) -> None:
    with torch.autocast("cuda", torch.bfloat16):
        out = CALLS[name](input)
    assert bool(out.isfinite().all())


def test_tensors_on_different_devices() -> None:
    with pytest.raises(ValueError, match="key is on cpu, expected the query's device cuda:0"):
        sk.attention(
            torch.zeros(1, 1, 4, 8, device="cuda"), *torch.zeros(2, 1, 1, 4, 8, device="cpu").unbind()
        )


def test_out_of_memory_is_raised() -> None:
    query = torch.zeros(1, 1, 1, 8, device="cuda").expand(1 << 10, 1 << 10, 1 << 16, 8)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        sk.attention(query, query, query, pattern=sk.Local(0))


def test_misaligned_and_odd_strides(input: Tensor) -> None:
    buffer = torch.randn(2 * 40 * 33 + 1, device="cuda")
    odd = buffer[1:].view(2, 40, 33)[..., :32]
    for name in ("bias_act", "gated_act"):
        torch.testing.assert_close(step(name, odd[None]), step(name, odd[None].contiguous()))


def test_values_are_checked_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, target = torch.randn(4, 5, device="cuda"), torch.tensor([0, 1, 2, 7], device="cuda")
    monkeypatch.setenv("SEO_KERNELS_CHECK", "1")
    with pytest.raises(ValueError, match="target is 7 in row 3"):
        sk.cross_entropy(scores, target)
