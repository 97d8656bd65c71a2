"""What every op promises about its derivatives and transforms, one function for each promise.

Everywhere ``function`` is the public call as a function of its differentiable tensors alone (close over the
rest), ``reference`` the same in plain torch, and ``inputs`` small float64 tensors, away from kinks. Both
return a tensor or a tuple of tensors. Functions with dropout go through ``seeded`` first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

Function = Callable[..., Any]
GRANTED = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
LEAST_COSINE = {
    torch.float64: 1 - 1e-12,
    torch.float32: 1 - 1e-6,
    torch.bfloat16: 0.999,
    torch.float16: 0.999,
}


def seeded(function: Function, seed: int = 7) -> Function:
    """The function with the same random numbers in every call."""

    def with_seed(*tensors: Tensor) -> Any:
        torch.manual_seed(seed)
        return function(*tensors)

    return with_seed


def leaves(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies that ask for gradients; views (transposed, say) keep their strides."""
    return tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)


def outputs(function: Function, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    results = function(*inputs)
    return results if isinstance(results, tuple) else (results,)


def number(function: Function) -> Function:
    """A number made from all outputs, whose derivatives of every order differ from zero."""

    def summed(*inputs: Tensor) -> Tensor:
        return sum((out * 0.7).sin().sum() for out in outputs(function, inputs))

    return summed


def results(
    function: Function, inputs: Sequence[Tensor], arriving: Sequence[Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Outputs, then the gradients of all inputs, for these gradients of the outputs (None: their own)."""
    own = leaves(inputs)
    found = outputs(function, own)
    directions = [arriving_gradient(out) for out in found] if arriving is None else arriving
    return (*(out.detach() for out in found), *torch.autograd.grad(found, own, directions))


def arriving_gradient(out: Tensor) -> Tensor:
    """Of the sum of the sines of 0.7 times the output."""
    return (0.7 * (0.7 * out.detach().double()).cos()).to(out.dtype)


def all_subsets(count: int) -> list[tuple[int, ...]]:
    """Of range(count), without the empty one."""
    return [chosen for size in range(1, count + 1) for chosen in itertools.combinations(range(count), size)]


def check_first_order(function: Function, inputs: Sequence[Tensor], *, batched: bool = True) -> None:
    """Reverse and forward mode against finite differences. ``batched``: not for dropout."""
    assert gradcheck(
        function,
        leaves(inputs),
        check_forward_ad=True,
        check_batched_grad=batched,
        check_batched_forward_grad=batched,
    )


def check_second_order(
    function: Function, inputs: Sequence[Tensor], *, batched: bool = True, fast_mode: bool = False
) -> None:
    """Reverse over reverse and forward over reverse against finite differences."""
    assert gradgradcheck(
        function,
        leaves(inputs),
        check_fwd_over_rev=True,
        check_batched_grad=batched and not fast_mode,
        fast_mode=fast_mode,
    )


def check_nestings(
    function: Function, reference: Function, inputs: Sequence[Tensor], orders: Sequence[int] = (1, 2)
) -> None:
    """Every nesting of jacrev and jacfwd, and the Hessian, against the reference. Order 3: tiny inputs."""
    own = tuple(tensor.detach() for tensor in inputs)
    places = tuple(range(len(own)))
    for order in orders:
        for transforms in itertools.product((jacrev, jacfwd), repeat=order):
            tested, expected = number(function), number(reference)
            for transform in transforms:
                tested, expected = transform(tested, argnums=places), transform(expected, argnums=places)
            label = " of ".join(transform.__name__ for transform in reversed(transforms))
            torch.testing.assert_close(
                tested(*own), expected(*own), msg=lambda text, label=label: f"{label}: {text}"
            )
    tested, expected = (hessian(number(f), argnums=places)(*own) for f in (function, reference))
    torch.testing.assert_close(tested, expected)


def check_vmap(
    function: Function,
    inputs: Sequence[Tensor],
    *,
    subsets: Sequence[tuple[int, ...]] | None = None,
    samples: int = 3,
) -> None:
    """vmap over the outputs and over the gradients of all inputs, against a loop; grad of vmap.

    Every subset of the inputs is batched once (or those given), along the last dimension.
    """
    places = tuple(range(len(inputs)))
    for chosen in all_subsets(len(inputs)) if subsets is None else subsets:

        def labelled(text: str, chosen: tuple[int, ...] = chosen) -> str:
            return f"inputs {chosen} batched: {text}"

        stacked = list(inputs)
        for place in chosen:
            others = [torch.roll(inputs[place], i, -1) * (1 + i / 8) for i in range(samples)]
            stacked[place] = torch.stack(others, -1).detach()
        dims = tuple(-1 if place in chosen else None for place in places)
        each = [
            tuple(t.select(-1, i) if place in chosen else t for place, t in enumerate(stacked))
            for i in range(samples)
        ]
        tested = outputs(vmap(function, in_dims=dims), stacked)
        expected = tuple(map(torch.stack, zip(*(outputs(function, own) for own in each), strict=True)))
        torch.testing.assert_close(tested, expected, msg=labelled)
        gradients = grad(number(function), argnums=places)
        tested = vmap(gradients, in_dims=dims)(*stacked)
        expected = tuple(map(torch.stack, zip(*(gradients(*own) for own in each), strict=True)))
        torch.testing.assert_close(tested, expected, msg=labelled)
        through = grad(lambda *own, dims=dims: number(vmap(function, in_dims=dims))(*own), argnums=places)
        joined = tuple(
            torch.stack(parts, -1) if place in chosen else sum(parts)
            for place, parts in enumerate(zip(*(gradients(*own) for own in each), strict=True))
        )
        torch.testing.assert_close(through(*stacked), joined, msg=labelled)


def check_batched_gradients(function: Function, inputs: Sequence[Tensor]) -> None:
    """torch.autograd.grad(is_grads_batched=True) against one direction after the other."""
    own = leaves(inputs)
    out = outputs(function, own)[0]
    directions = torch.randn(4, *out.shape, dtype=out.dtype)
    tested = torch.autograd.grad(out, own, directions, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(out, own, direction, retain_graph=True) for direction in directions]
    torch.testing.assert_close(tested, tuple(map(torch.stack, zip(*each, strict=True))))


def check_derivatives_without_recording(function: Function, inputs: Sequence[Tensor]) -> None:
    """Where autograd records nothing, derivatives of derivatives pass all the same: a pullback called outside
    of its transform, batched, and forward mode over a backward."""
    own = leaves(inputs)
    plain = tuple(tensor.detach() for tensor in own)
    out, pull = vjp(number(function), *plain)
    with_graph = pull(torch.ones_like(out))
    with torch.no_grad():
        torch.testing.assert_close(pull(torch.ones_like(out)), with_graph)
        batched = vmap(pull)(torch.ones(2, dtype=out.dtype))
        torch.testing.assert_close(batched, tuple(torch.stack([g, g]) for g in with_graph))
    directions = tuple(map(torch.randn_like, plain))
    first = torch.autograd.grad(number(function)(*own), own, create_graph=True)
    expected = torch.autograd.grad(first, own, directions)
    with forward_ad.dual_level():
        duals = tuple(map(forward_ad.make_dual, own, directions))
        gradients = torch.autograd.grad(number(function)(*duals), duals)
        tested = tuple(forward_ad.unpack_dual(gradient).tangent for gradient in gradients)
    torch.testing.assert_close(tested, expected)


def check_wanted_gradients(function: Function, reference: Function, inputs: Sequence[Tensor]) -> None:
    """Every subset of the inputs asks for gradients, in first and second order."""
    for chosen in all_subsets(len(inputs)):
        found = []
        for f in (function, reference):
            own = [t.detach().clone().requires_grad_(place in chosen) for place, t in enumerate(inputs)]
            wanted = [own[place] for place in chosen]
            first = torch.autograd.grad(number(f)(*own), wanted, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
            found.append((*first, *second))
        torch.testing.assert_close(*found, msg=lambda text, chosen=chosen: f"inputs {chosen}: {text}")


class _Stop(torch.autograd.Function):
    """Its input has no gradient, although it asked for one."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> None:
        return None


def check_absent_gradients(function: Function, inputs: Sequence[Tensor]) -> None:
    """Where no gradient arrives, none comes out: in first and second order."""
    own = leaves(inputs)
    stopped = sum(_Stop.apply(out).sum() for out in outputs(function, own))
    assert torch.autograd.grad(stopped, own, allow_unused=True) == (None,) * len(own)
    first = torch.autograd.grad(number(function)(*own), own, create_graph=True)
    stopped = sum(_Stop.apply(gradient).sum() for gradient in first)
    assert torch.autograd.grad(stopped, own, allow_unused=True) == (None,) * len(own)


def check_repeatable(function: Function, inputs: Sequence[Tensor]) -> None:
    """Bitwise: again from the start, from a retained graph, through a graph of the gradient; inputs stay."""
    own = leaves(inputs)
    before = [tensor.detach().clone() for tensor in own]
    total = number(function)(*own)
    first = torch.autograd.grad(total, own, retain_graph=True)
    recorded = torch.autograd.grad(total, own, create_graph=True)
    products = sum(g.square().sum() for g in recorded)
    second = torch.autograd.grad(products, own, retain_graph=True)
    again = torch.autograd.grad(total, own, retain_graph=True)
    second_again = torch.autograd.grad(products, own)
    torch.testing.assert_close((*first, *first, *second), (*recorded, *again, *second_again), rtol=0, atol=0)
    torch.testing.assert_close(results(function, inputs), results(function, inputs), rtol=0, atol=0)
    torch.testing.assert_close([tensor.detach() for tensor in own], before, rtol=0, atol=0)


def check_poisoned(function: Function, inputs: Sequence[Tensor]) -> None:
    """The same bits whether fresh memory is full of NaN or not."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(False)
        expected = results(function, inputs)
        torch.use_deterministic_algorithms(True, warn_only=True)
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert bool(torch.empty(3).isnan().all())
        torch.testing.assert_close(results(function, inputs), expected, rtol=0, atol=0)
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)


def check_checkpoint(function: Function, inputs: Sequence[Tensor]) -> None:
    """Recomputing in backward changes nothing, random bits included (do not pass a ``seeded`` function)."""
    expected = None
    for use_reentrant in (None, False, True):
        own = leaves(inputs)
        torch.manual_seed(3)
        if use_reentrant is None:
            found = outputs(function, own)
        else:
            found = outputs(lambda *t, r=use_reentrant: checkpoint(function, *t, use_reentrant=r), own)
        sum(out.sin().sum() for out in found).backward()
        gradients = tuple(tensor.grad for tensor in own)
        if expected is None:
            expected = gradients
        torch.testing.assert_close(gradients, expected, rtol=0, atol=0)


def check_compile(
    function: Function, inputs: Sequence[Tensor], *, op: str = "", dynamic: bool = True
) -> None:
    """One graph with gradients, as eager; ``op``: which is in it, such as "linear_forward"."""
    torch.compiler.reset()
    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, example: list) -> Callable:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return torch._dynamo.lookup_backend("aot_eager")(graph, example)

    compiled = torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)
    torch.testing.assert_close(results(compiled, inputs), results(function, inputs))
    if op:
        assert any(f"seo_kernels.{op}" in target for target in targets), targets
    with torch.no_grad():
        torch.testing.assert_close(outputs(compiled, inputs), outputs(function, inputs))


def check_compile_with_transforms(function: Function, inputs: Sequence[Tensor]) -> None:
    """Transforms inside compiled code, and around it: derivatives, no silent zeros."""
    own = tuple(tensor.detach() for tensor in inputs)
    directions = tuple(torch.randn_like(tensor) for tensor in own)
    places = tuple(range(len(own)))
    transformed: dict[str, Callable[[Function], Any]] = {
        "grad": lambda f: grad(number(f), argnums=places)(*own),
        "jvp": lambda f: jvp(f, own, directions)[1],
        "vmap": lambda f: vmap(f)(*(torch.stack([t, 2 * t]) for t in own)),
        "hessian": lambda f: hessian(number(f))(*own),
    }
    for name, apply in transformed.items():
        expected = apply(function)
        torch.compiler.reset()
        inside = torch.compile(lambda apply=apply: apply(function), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(inside(), expected, msg=lambda text, name=name: f"in code, {name}: {text}")
        around = torch.compile(function, backend="aot_eager")
        outputs(around, own)  # compiled before any transform
        torch.testing.assert_close(apply(around), expected, msg=lambda text, name=name: f"{name}: {text}")


def check_export(function: Function, inputs: Sequence[Tensor], *, op: str = "") -> None:
    """torch.export of a module that calls the function, strict and not; ``op`` is in the graph."""

    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Any:
            return function(*tensors)

    own = tuple(tensor.detach() for tensor in inputs)
    for strict in (False, True):
        exported = torch.export.export(Module(), own, strict=strict)
        torch.testing.assert_close(exported.module()(*own), function(*own))
        targets = [str(node.target) for node in exported.graph.nodes]
        assert any(f"seo_kernels.{op}" in target for target in targets), targets


def saved_tensors(function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What autograd keeps for backward beyond the inputs themselves, as memory (storages), not as views."""
    own = leaves(inputs)
    held = {tensor.untyped_storage().data_ptr() for tensor in own}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = outputs(function, own)
    assert len(kept) > 0
    return [tensor for pointer, tensor in found.items() if pointer not in held and tensor.numel() > 0]


def check_error(
    function: Function, reference: Function, inputs: Sequence[Tensor], dtype: torch.dtype
) -> None:
    """At this dtype outputs and gradients are at most twice as far from float64 as the reference formula's.

    All start from the same rounded inputs, and backwards from the same gradient of the outputs, in which the
    roundings of the outputs would else come back. The direction of every result has to agree too.
    """
    rounded = [tensor.detach().to(dtype) for tensor in inputs]
    arriving = [arriving_gradient(out) for out in outputs(reference, rounded)]
    exact = results(reference, [tensor.double() for tensor in rounded], [g.double() for g in arriving])
    plain, tested = (results(f, rounded, arriving) for f in (reference, function))
    for place, (want, usual, got) in enumerate(zip(exact, plain, tested, strict=True)):
        assert got.dtype == usual.dtype, f"result {place}: {got.dtype}, expected {usual.dtype}"
        assert got.shape == want.shape, f"result {place}: {got.shape}, expected {want.shape}"
        allowed = max(2 * relative_error(usual, want), GRANTED[dtype])
        assert relative_error(got, want) <= allowed, (
            f"result {place}: error {relative_error(got, want)}, at most {allowed}"
        )
        norms = got.double().norm() * want.norm()
        if norms > 0:
            cosine = float((got.double() * want).sum() / norms)
            assert cosine >= LEAST_COSINE[dtype], f"result {place}: cosine {cosine}"


def check_extreme(function: Function, reference: Function, inputs: Sequence[Tensor]) -> None:
    """Inputs with infinities, NaN, huge and denormal entries: the reference's outputs are not finite in the
    same places, and the rest is at most twice as far from float64 as the reference."""
    exact = outputs(reference, [tensor.double() for tensor in inputs])
    plain, tested = outputs(reference, inputs), outputs(function, inputs)
    for want, usual, got in zip(exact, plain, tested, strict=True):
        special = ~usual.isfinite()
        torch.testing.assert_close(got[special], usual[special], equal_nan=True)
        want, usual, got = (torch.where(special, 0.0, t.double()) for t in (want, usual, got))
        assert relative_error(got, want) <= max(2 * relative_error(usual, want), GRANTED[inputs[0].dtype])


def with_extremes(tensor: Tensor) -> Tensor:
    """A copy of a matrix of at least 6 rows and 3 columns, its first rows of extreme numbers."""
    changed = tensor.clone()
    changed[0, 0], changed[1, 1], changed[2, 2], changed[5, 0] = 1e4, torch.inf, torch.nan, -torch.inf
    changed[3], changed[4] = 1e-40, -1e4
    return changed


def relative_error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||, absolute where that is zero."""
    difference, norm = (found.detach().double() - expected.detach()).norm(), expected.detach().norm()
    return float(difference / norm) if norm > 0 else float(difference)
