"""Gradients, and what else PyTorch and JAX make of a function: every algorithm is a composition of their operations.

All numbers are small integers, so that a gradient is the same float in whatever order it was summed, and equality
with the library's own convolution is exact; methods that round are compared once their errors have been found small
enough, and taken away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from backends import COMPILED
from spy import only
from strategies import values
from tolerance import settled

import polyconv as pc

ALGORITHMS = tuple(name for name in pc.algorithms() if name not in COMPILED)


@dataclass(frozen=True)
class Problem:
    """The shapes of images (NCHW) and kernel (OIHW), and polyconv's keywords. Small: ``naive`` runs them all."""

    images: tuple[int, int, int, int] = (2, 2, 4, 5)
    kernel: tuple[int, int, int, int] = (2, 2, 3, 2)
    keywords: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> list[np.ndarray]:
        """Images, kernel and bias."""
        rng = np.random.default_rng(0)
        shapes = (self.images, self.kernel, self.kernel[:1])
        return [values(rng, shape, "int8").astype(np.float64) for shape in shapes]

    def weights(self) -> np.ndarray:
        """What the outputs are weighted with, to make one number of them."""
        rng = np.random.default_rng(1)
        return values(rng, pc.conv2d(*self.arrays(), **self.keywords).shape, "int8").astype(np.float64)

    def plan(self, algorithm: str, asarray: Callable[[np.ndarray], Any], layout: str = "NCHW") -> pc.Plan:
        """What is planned in a library, by which its result may be off."""
        x, w, _ = self.arrays()
        if layout == "NHWC":
            x, w = x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0)
        return pc.plan(asarray(x), asarray(w), layout=layout, algorithm=algorithm, **self.keywords)

    def able(self) -> list[str]:
        x, w, _ = self.arrays()
        rows = pc.plan(x, w, **self.keywords).candidates
        return [row.name for row in rows if row.reason is None and row.name in ALGORITHMS]


PROBLEMS = {
    "plain": Problem(),
    "strided": Problem(keywords={"stride": (2, 3), "padding": ((1, 0), (2, 1))}),
    "dilated": Problem(keywords={"dilation": (1, 2), "padding": "same"}),
    "grouped": Problem((2, 4, 4, 3), (2, 2, 2, 2), {"groups": 2, "stride": 2, "padding": 1}),
    "depthwise": Problem((2, 2, 4, 4), (4, 1, 2, 3), {"groups": 2, "dilation": (2, 1), "padding": (1, 0)}),
    "pointwise": Problem((2, 3, 4, 3), (2, 3, 1, 1), {"stride": (1, 2)}),
    "flipped": Problem(keywords={"flip_kernel": True}),
    **{
        mode: Problem((1, 2, 3, 4), keywords={"padding": ((1, 2), (2, 0)), "padding_mode": mode})
        for mode in ("reflect", "symmetric", "edge", "wrap")
    },
}


def settled_gradients(problem: Problem, plan: pc.Plan, gradients: Any) -> list[Any]:
    """Gradients by images, kernel and bias without rounding errors, whose size is that of a convolution as well."""
    (x, w, _), weights = problem.arrays(), problem.weights()
    by_image, by_kernel, by_bias = gradients
    filters, positions = w[:, 0].size // problem.keywords.get("groups", 1), weights[:, 0].size
    copies, mode = 1, problem.keywords.get("padding_mode", "constant")
    if mode != "constant":  # a margin that repeats the image hands a pixel the gradients of all its copies
        for n, margin in zip(x.shape[2:], problem.keywords["padding"], strict=True):
            copies *= max(np.bincount(margin_of_indices(n, margin, mode)))
    return [
        settled(by_image, plan, weights, w, terms=copies**2 * filters),
        settled(by_kernel, plan, x, weights, terms=positions),
        by_bias,
    ]


EVERY = [
    pytest.param(problem, algorithm, id=f"{name}-{algorithm}")
    for name, problem in PROBLEMS.items()
    for algorithm in problem.able()
]
LAYOUTS = ["NCHW", "NHWC"]


def conv2d(problem: Problem, layout: str, algorithm: str, permute: Callable[..., Any]) -> Callable[..., Any]:
    """``polyconv.conv2d`` of NCHW images and an OIHW kernel, in NCHW, computed in ``layout``.

    ``permute`` is the library's own, so that derivatives pass through it as well.
    """
    convolve = functools.partial(pc.conv2d, layout=layout, algorithm=algorithm, **problem.keywords)
    if layout == "NCHW":
        return convolve

    def channels_last(x: Any, w: Any, bias: Any = None) -> Any:
        return permute(convolve(permute(x, (0, 2, 3, 1)), permute(w, (2, 3, 1, 0)), bias), (0, 3, 1, 2))

    return channels_last


def test_every_algorithm_has_a_problem() -> None:
    assert {parameter.values[1] for parameter in EVERY} == {*ALGORITHMS}


def margin_of_indices(n: int, margin: tuple[int, int], mode: str) -> np.ndarray:
    """Which element stands where along a padded axis, by NumPy."""
    return np.pad(np.arange(n), margin, mode=mode)


# -- PyTorch -------------------------------------------------------------------------------------------------


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def leaves(torch: Any, problem: Problem) -> list[Any]:
    """Images, kernel and bias, from which gradients are asked."""
    return [torch.tensor(a, requires_grad=True) for a in problem.arrays()]


def in_torch(torch: Any, problem: Problem, layout: str, algorithm: str) -> Callable[..., Any]:
    return conv2d(problem, layout, algorithm, lambda x, axes: x.permute(axes).contiguous())


def by_torch(torch: Any, x: Any, w: Any, bias: Any, keywords: dict[str, Any]) -> Any:
    """The problem by PyTorch alone; margins by indexing, since it has no function for all of them."""
    own = dict(keywords)
    padding, mode = own.pop("padding", 0), own.pop("padding_mode", "constant")
    if own.pop("flip_kernel", False):
        w = w.flip((2, 3))
    if mode != "constant":
        rows, columns = (margin_of_indices(n, pair, mode) for n, pair in zip(x.shape[2:], padding, strict=True))
        x, padding = x[:, :, torch.tensor(rows)][..., torch.tensor(columns)], 0
    elif isinstance(padding, tuple) and isinstance(padding[0], tuple):
        x, padding = torch.nn.functional.pad(x, (*padding[1], *padding[0])), 0
    return torch.nn.functional.conv2d(x, w, bias, padding=padding, **own)


def compare_in_torch(torch: Any, problem: Problem, plan: pc.Plan, y: Any, arrays: list[Any], weights: Any) -> None:
    """The result of a plan and its gradients are those of PyTorch's own convolution."""
    expected = by_torch(torch, *arrays, problem.keywords)
    x, w, _ = problem.arrays()
    assert torch.equal(settled(y.detach(), plan, x, w), expected)
    gradients = settled_gradients(problem, plan, torch.autograd.grad(y, arrays, weights))
    for gradient, other in zip(gradients, torch.autograd.grad(expected, arrays, weights), strict=True):
        assert torch.equal(gradient, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("problem", "algorithm"), EVERY)
def test_torch_gradients_are_those_of_its_own_convolution(
    torch: Any, problem: Problem, algorithm: str, layout: str
) -> None:
    arrays, weights = leaves(torch, problem), torch.tensor(problem.weights())
    with only(algorithm) as ran:
        y = in_torch(torch, problem, layout, algorithm)(*arrays)
    assert ran
    compare_in_torch(torch, problem, problem.plan(algorithm, torch.tensor, layout), y, arrays, weights)


# Forward differentiation makes PyTorch load decompositions that it has scripted itself.
SCRIPTED = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"


@pytest.mark.filterwarnings(SCRIPTED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("problem", "algorithm"), [p for p in EVERY if "naive" not in p.id or "strided" in p.id])
def test_torch_gradcheck(torch: Any, problem: Problem, algorithm: str, layout: str) -> None:
    """First derivatives backward and forward, and second ones, against differences along random directions."""
    torch.manual_seed(0)
    function, arrays = in_torch(torch, problem, layout, algorithm), leaves(torch, problem)
    assert torch.autograd.gradcheck(function, arrays, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, arrays, fast_mode=True)


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "naive"])
def test_torch_gradcheck_of_every_entry(torch: Any, algorithm: str) -> None:
    """The whole Jacobian, entry by entry; a thousand calls, so not of ``naive``."""
    problem = PROBLEMS[algorithm if algorithm in PROBLEMS else "strided"]
    assert torch.autograd.gradcheck(in_torch(torch, problem, "NCHW", algorithm), leaves(torch, problem))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_torch_requires_grad(torch: Any, algorithm: str) -> None:
    """A result requires a gradient where any argument does, unless gradients are off."""
    problem = PROBLEMS[algorithm if algorithm in PROBLEMS else "plain"]
    for wanted in range(-1, 3):
        arrays = [torch.tensor(a, requires_grad=i == wanted) for i, a in enumerate(problem.arrays())]
        function = in_torch(torch, problem, "NCHW", algorithm)
        assert function(*arrays).requires_grad == (wanted >= 0)
        with torch.no_grad():
            assert not function(*arrays).requires_grad


@pytest.mark.parametrize(("problem", "algorithm"), EVERY)
def test_torch_func_grad(torch: Any, problem: Problem, algorithm: str) -> None:
    arrays, weights = leaves(torch, problem), torch.tensor(problem.weights())
    function = in_torch(torch, problem, "NCHW", algorithm)
    with torch.no_grad():
        gradients = torch.func.grad(lambda *a: torch.sum(function(*a) * weights), argnums=(0, 1, 2))(*arrays)
    gradients = settled_gradients(problem, problem.plan(algorithm, torch.tensor), gradients)
    expected = torch.autograd.grad(by_torch(torch, *arrays, problem.keywords), arrays, weights)
    for gradient, other in zip(gradients, expected, strict=True):
        assert torch.equal(gradient, other)


def stacks(problem: Problem, which: tuple[int, ...]) -> list[np.ndarray]:
    """Images, kernel and bias, of which the arguments numbered in ``which`` are stacks of three different ones."""
    return [
        np.stack([np.roll(a, i) for i in range(3)]) if number in which else a
        for number, a in enumerate(problem.arrays())
    ]


# PyTorch takes one array after the other where a kernel's conjugate is asked for, and says so.
ONE_BY_ONE = "ignore:There is a performance drop because we have not yet implemented the batching rule:UserWarning"

STACKED = [(0,), (1,), (2,), (0, 1, 2)]


@pytest.mark.filterwarnings(ONE_BY_ONE)
@pytest.mark.parametrize("which", STACKED, ids=["images", "kernels", "biases", "all"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_torch_vmap(torch: Any, algorithm: str, which: tuple[int, ...]) -> None:
    problem = PROBLEMS["pointwise" if algorithm == "pointwise" else "strided"]
    if algorithm == "depthwise":
        problem = Problem((2, 2, 4, 4), (4, 1, 2, 3), {"groups": 2})
    function = in_torch(torch, problem, "NCHW", algorithm)
    tensors = [torch.tensor(a) for a in stacks(problem, which)]
    along = tuple(0 if number in which else None for number in range(3))
    y = torch.func.vmap(function, in_dims=along)(*tensors)
    y = settled(y, problem.plan(algorithm, torch.tensor), *tensors[:2])
    for i in range(3):
        one = [a[i] if number in which else a for number, a in enumerate(tensors)]
        assert torch.equal(y[i], by_torch(torch, *one, problem.keywords))


# Large enough that an array library without gradients would be convolved tile by tile.
LARGE = Problem((4, 8, 64, 64), (8, 8, 3, 3), {"padding": 1})
LARGE_ALGORITHMS = [name for name in LARGE.able() if name not in ("naive", "patch")]


@pytest.mark.parametrize("algorithm", LARGE_ALGORITHMS)
def test_torch_gradients_of_large_images(torch: Any, algorithm: str) -> None:
    arrays, weights = leaves(torch, LARGE), torch.tensor(LARGE.weights())
    y = in_torch(torch, LARGE, "NHWC", algorithm)(*arrays)
    compare_in_torch(torch, LARGE, LARGE.plan(algorithm, torch.tensor, "NHWC"), y, arrays, weights)


# -- JAX -----------------------------------------------------------------------------------------------------

# One problem for each algorithm, since each is compiled: every keyword at once, or what the algorithm is for.
AT_ONCE = Problem(
    (2, 4, 6, 5), (6, 2, 3, 2), {"stride": (2, 1), "dilation": (1, 2), "padding": ((1, 0), (2, 1)), "groups": 2}
)
UNROLLED = Problem((1, 2, 3, 3), (2, 2, 2, 2), {"stride": (2, 1), "padding": ((1, 0), (0, 0))})  # a loop in Python
JAX_PROBLEMS = dict.fromkeys(ALGORITHMS, AT_ONCE) | {
    "naive": UNROLLED,
    "patch": UNROLLED,
    "pointwise": PROBLEMS["pointwise"],
    "depthwise": PROBLEMS["depthwise"],
}


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax")


def in_jax(jax: Any, algorithm: str, layout: str = "NCHW") -> Callable[..., Any]:
    return conv2d(JAX_PROBLEMS[algorithm], layout, algorithm, jax.numpy.permute_dims)


def by_jax(jax: Any, x: Any, w: Any, bias: Any, keywords: dict[str, Any]) -> Any:
    """The problem by JAX alone."""
    padding = keywords.get("padding", 0)
    padding = [padding] * 2 if isinstance(padding, int) else padding
    padding = [pair if isinstance(pair, tuple) else (pair, pair) for pair in padding]
    stride, dilation = keywords.get("stride", (1, 1)), keywords.get("dilation", (1, 1))
    groups = keywords.get("groups", 1)
    y = jax.lax.conv_general_dilated(x, w, stride, padding, rhs_dilation=dilation, feature_group_count=groups)
    return y + bias[:, None, None]


def same(arrays: Any, others: Any) -> None:
    for a, other in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(a, other)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_jax_traces_by_shapes_alone(jax: Any, algorithm: str) -> None:
    """With descriptions for arguments there is no value to look at, neither in a call nor in a plan."""
    problem = JAX_PROBLEMS[algorithm]
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in problem.arrays()]
    expected = problem.weights().shape
    assert jax.eval_shape(in_jax(jax, algorithm), *shapes).shape == expected
    x, w, _ = map(jax.numpy.asarray, problem.arrays())
    plan = pc.plan(x, w, **problem.keywords, algorithm=algorithm)
    assert jax.eval_shape(plan, *shapes).shape == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_jax_jit(jax: Any, algorithm: str) -> None:
    problem = JAX_PROBLEMS[algorithm]
    arrays = [*map(jax.numpy.asarray, problem.arrays())]
    with only(algorithm) as ran:
        compiled = jax.jit(in_jax(jax, algorithm)).lower(*arrays).compile()
    assert ran
    y = compiled(*arrays)
    assert y.devices() == arrays[0].devices()
    y = settled(y, problem.plan(algorithm, jax.numpy.asarray), *arrays[:2])
    np.testing.assert_array_equal(y, by_jax(jax, *arrays, problem.keywords))


@pytest.mark.parametrize("algorithm", LARGE_ALGORITHMS)
def test_jax_jit_of_large_images(jax: Any, algorithm: str) -> None:
    arrays = [*map(jax.numpy.asarray, LARGE.arrays())]
    y = jax.jit(conv2d(LARGE, "NHWC", algorithm, jax.numpy.permute_dims))(*arrays)
    y = settled(y, LARGE.plan(algorithm, jax.numpy.asarray, "NHWC"), *arrays[:2])
    np.testing.assert_array_equal(y, by_jax(jax, *arrays, LARGE.keywords))


@pytest.mark.parametrize("algorithm", ["taps", "im2col"])
def test_jax_jit_of_a_plan(jax: Any, algorithm: str) -> None:
    """Made outside of the trace, for arrays, or inside of it, for tracers."""
    arrays = [*map(jax.numpy.asarray, AT_ONCE.arrays())]
    keywords = AT_ONCE.keywords | {"algorithm": algorithm}
    expected = by_jax(jax, *arrays, AT_ONCE.keywords)
    plan = pc.plan(*arrays[:2], **keywords)
    np.testing.assert_array_equal(jax.jit(plan)(*arrays), expected)
    inside = jax.jit(lambda x, w, bias: pc.plan(x, w, **keywords)(x, w, bias))
    np.testing.assert_array_equal(inside(*arrays), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_jax_grad(jax: Any, algorithm: str, layout: str) -> None:
    problem = JAX_PROBLEMS[algorithm]
    arrays, weights = [*map(jax.numpy.asarray, problem.arrays())], jax.numpy.asarray(problem.weights())

    def gradients(function: Callable[..., Any]) -> Any:
        loss = lambda *a: jax.numpy.sum(function(*a) * weights)  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)

    plan = problem.plan(algorithm, jax.numpy.asarray, layout)
    ours = settled_gradients(problem, plan, gradients(in_jax(jax, algorithm, layout)))
    same(ours, gradients(lambda *a: by_jax(jax, *a, problem.keywords)))


@pytest.mark.parametrize("which", STACKED, ids=["images", "kernels", "biases", "all"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_jax_vmap(jax: Any, algorithm: str, which: tuple[int, ...]) -> None:
    problem = JAX_PROBLEMS[algorithm]
    arrays = [*map(jax.numpy.asarray, stacks(problem, which))]
    along = tuple(0 if number in which else None for number in range(3))
    y = jax.jit(jax.vmap(in_jax(jax, algorithm), in_axes=along))(*arrays)
    y = settled(y, problem.plan(algorithm, jax.numpy.asarray), *arrays[:2])
    for i in range(3):
        one = [a[i] if number in which else a for number, a in enumerate(arrays)]
        np.testing.assert_array_equal(y[i], by_jax(jax, *one, problem.keywords))
