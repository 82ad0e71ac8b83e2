"""Transposed convolution and both gradients: against PyTorch, and exactly by the identity that makes them adjoint."""

from __future__ import annotations

import math
import re
from typing import Any
from unittest import mock

import numpy as np
import pytest
from backends import FLOATS, SIGNED, Backend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import peak_of
from strategies import Case, cases

import polyconv as pc
from polyconv import transposed

RNG = np.random.default_rng(0)


def integers(*shape: int) -> np.ndarray:
    return RNG.integers(-9, 10, shape)


# -- the adjoint identity ------------------------------------------------------------------------------------


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(cases(dtypes=SIGNED, max_terms=600), st.integers(0, 2**32 - 1))
def test_gradients_are_adjoint_exactly(case: Case, seed: int) -> None:
    """<dy, conv(v, w)> = <dx, v> for any image v, and <dy, conv(x, v)> = <dw, v> for any kernel v: every keyword."""
    rng = np.random.default_rng(seed)

    def like(a: np.ndarray) -> np.ndarray:
        return rng.integers(-9, 10, a.shape)

    y = pc.conv(case.x, case.w, **case.keywords)
    dy = like(y)
    dx, dw, db = pc.conv_vjp(case.x, case.w, dy, **case.keywords)
    assert (dx.shape, dw.shape, dx.dtype, dw.dtype) == (case.x.shape, case.w.shape, np.int64, np.int64)
    image, kernel = like(case.x), like(case.w)
    assert (dy * pc.conv(image, case.w, **case.keywords)).sum() == (dx * image).sum()
    assert (dy * pc.conv(case.x, kernel, **case.keywords)).sum() == (dw * kernel).sum()
    assert (dy * y).sum() == (dx * case.x).sum() == (dw * case.w).sum()
    if case.bias is not None:
        assert db.shape == case.bias.shape
        plain = pc.conv(case.x, case.w, case.bias, **case.keywords) - y
        assert (dy * plain).sum() == (db * case.bias).sum()
    np.testing.assert_array_equal(pc.conv_input_grad(dy, case.w, case.x.shape, **case.keywords), dx)
    np.testing.assert_array_equal(pc.conv_weight_grad(case.x, dy, case.w.shape, **case.keywords), dw)


def test_gradients_on_every_library(library: Backend) -> None:
    x, w = integers(2, 4, 9, 8), integers(6, 2, 3, 2)
    for keywords in ({"stride": 2, "padding": 1}, {"padding": 2, "padding_mode": "reflect", "dilation": 2}):
        said: dict[str, Any] = {"groups": 2, **keywords}
        dy = integers(*pc.conv2d(x, w, **said).shape)
        expected = pc.conv_vjp(x, w, dy, **said)
        theirs = [library.asarray(a) for a in (x, w, dy)]
        for found, same in zip(pc.conv_vjp(*theirs, **said), expected, strict=True):
            assert library.home(found) == library.home(theirs[0])
            np.testing.assert_array_equal(library.to_numpy(found), same)
        t = library.asarray(integers(3, 4, 5, 6)), library.asarray(integers(4, 3, 3, 3))
        y = pc.conv_transpose2d(*t, stride=(2, 3), groups=2, dilation=2)
        plain = pc.conv_transpose2d(*map(library.to_numpy, t), stride=(2, 3), groups=2, dilation=2)
        np.testing.assert_array_equal(library.to_numpy(y), plain)


@pytest.mark.parametrize("algorithm", ["im2col", "winograd", "taps", "direct", "fft", "einsum"])
def test_gradients_by_named_algorithms(algorithm: str) -> None:
    """They are convolutions like any other."""
    x, w = RNG.standard_normal((4, 8, 18, 18)), RNG.standard_normal((8, 8, 3, 3))
    dy = RNG.standard_normal((4, 8, 18, 18))
    expected = pc.conv_vjp(x, w, dy, padding=1, algorithm="tensordot")
    dx = pc.conv_input_grad(dy, w, x.shape, padding=1, algorithm=algorithm)
    np.testing.assert_allclose(dx, expected[0], rtol=0, atol=1e-10)
    strided = {"padding": 1, "stride": 2}  # of whose phases not every algorithm takes all
    dx = [pc.conv_input_grad(dy[:, :, :9, :9], w, x.shape, **strided, algorithm=a) for a in (algorithm, "tensordot")]
    np.testing.assert_allclose(*dx, rtol=0, atol=1e-10)
    if algorithm != "winograd":  # whose kernels may not be as large as an image
        dw = pc.conv_weight_grad(x, dy, w.shape, padding=1, algorithm=algorithm)
        np.testing.assert_allclose(dw, expected[1], rtol=0, atol=1e-9)


# -- PyTorch -------------------------------------------------------------------------------------------------


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    ndim = draw(st.integers(1, 3))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(ndim))

    groups, kernel, stride, dilation, size = draw(st.integers(1, 3)), each(1, 4), each(1, 4), each(1, 3), each(1, 6)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    axes = zip(size, kernel, stride, dilation, extra, strict=True)
    full = [(n - 1) * s + (k - 1) * d + 1 + e for n, k, s, d, e in axes]
    padding = tuple(draw(st.integers(0, (length - 1) // 2)) for length in full)
    channels, filters = groups * draw(st.integers(1, 2)), draw(st.integers(1, 3))
    said = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "output_padding": extra}
    return {"x": (draw(st.integers(1, 2)), channels, *size), "w": (channels, filters, *kernel), "said": said}


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(calls())
def test_transposed_as_pytorch_means_it(call: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    said, ndim = call["said"], len(call["x"]) - 2
    x, w = (integers(*call[name]).astype("float64") for name in "xw")
    bias = integers(said["groups"] * w.shape[1]).astype("float64")
    theirs = getattr(torch.nn.functional, f"conv_transpose{ndim}d")
    expected = theirs(*map(torch.from_numpy, (x, w, bias)), **said).numpy()
    y = getattr(pc, f"conv_transpose{ndim}d")(x, w, bias, **said)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-8)
    order = (0, *range(2, ndim + 2), 1)
    last = pc.conv_transpose(
        x.transpose(order), w.transpose(*range(2, ndim + 2), 1, 0), bias, layout=f"N{'DHW'[3 - ndim :]}C", **said
    )
    np.testing.assert_allclose(last, expected.transpose(order), rtol=0, atol=1e-8)
    assert y.flags.c_contiguous
    assert last.flags.c_contiguous


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(cases(dtypes=FLOATS, max_terms=400))
def test_gradients_as_pytorchs_autograd_finds_them(case: Case) -> None:
    """Through polyconv's own steps, which autograd follows one by one."""
    torch = pytest.importorskip("torch")
    x, w = (torch.from_numpy(a.astype("float64")).requires_grad_() for a in (case.x, case.w))
    y = pc.conv(x, w, **case.keywords)
    dy = RNG.standard_normal(tuple(y.shape))
    y.backward(torch.from_numpy(dy))
    dx, dw, _ = pc.conv_vjp(case.x.astype("float64"), case.w.astype("float64"), dy, **case.keywords)
    scale = 1 + math.prod(case.w.shape)
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(dw, w.grad.numpy(), rtol=0, atol=1e-12 * (scale + y.numel()))


@pytest.mark.parametrize("keywords", [{}, {"stride": 2, "padding": 1}, {"groups": 4, "padding": 1}, {"dilation": 2}])
def test_gradients_as_pytorch_has_them(keywords: dict[str, Any]) -> None:
    """``torch.nn.grad``, whose code shares nothing with ours."""
    grad = pytest.importorskip("torch.nn.grad")
    torch = pytest.importorskip("torch")
    groups = keywords.get("groups", 1)
    x, w = RNG.standard_normal((3, 8, 15, 14)), RNG.standard_normal((12, 8 // groups, 3, 3))
    dy = RNG.standard_normal(pc.conv2d(x, w, **keywords).shape)
    tx, tw, tdy = map(torch.from_numpy, (x, w, dy))
    np.testing.assert_allclose(
        pc.conv_input_grad(dy, w, x.shape, **keywords), grad.conv2d_input(x.shape, tw, tdy, **keywords), atol=1e-10
    )
    np.testing.assert_allclose(
        pc.conv_weight_grad(x, dy, w.shape, **keywords), grad.conv2d_weight(tx, w.shape, tdy, **keywords), atol=1e-10
    )


# -- phases --------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls(), st.booleans())
def test_phases_apart_are_those_at_once(call: dict[str, Any], last: bool) -> None:
    """Exactly, with taps between which there are zeros and with phases that no tap meets."""
    said, x, w = call["said"], integers(*call["x"]), integers(*call["w"])
    bias = integers(said["groups"] * w.shape[1])
    if last:
        letters = "TDHW"[-(x.ndim - 2) :]
        x, w = np.moveaxis(x, 1, -1), np.moveaxis(w, (0, 1), (-1, -2))
        said = {**said, "layout": f"N{letters}C"}
    found = []
    for apart in (False, True):
        transposed._apart.cache_clear()
        with mock.patch.object(transposed, "_quicker", return_value=apart):
            found += [pc.conv_transpose(x, w, bias, **said), pc.conv_transpose(x, w, **said)]
    transposed._apart.cache_clear()
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])


# -- rounding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 150, 150, 3), (2, 128, 128, 32)])
@pytest.mark.parametrize("groups", [1, 0], ids=["dense", "depthwise"])
def test_long_sums_lose_no_more_than_a_matrix_product(shape: tuple[int, ...], groups: int) -> None:
    """The kernel's gradient sums over all positions of all images, a hundred thousand terms and more."""
    groups = groups or shape[-1]
    x = RNG.standard_normal(shape, dtype="float32")
    kernel = (3, 3, shape[-1] // groups, 16 if groups == 1 else groups)
    said: dict[str, Any] = {"layout": "NHWC", "groups": groups, "padding": 1}
    dy = RNG.standard_normal((*shape[:3], kernel[-1]), dtype="float32")
    exact = pc.conv_weight_grad(x.astype("float64"), dy.astype("float64"), kernel, **said)

    def off(dw: np.ndarray) -> float:
        return float(np.sqrt(np.mean((dw - exact) ** 2) / np.mean(exact**2)))

    product = off(pc.conv_weight_grad(x, dy, kernel, **said, algorithm="im2col"))
    for algorithm in ("auto", "direct"):
        assert off(pc.conv_weight_grad(x, dy, kernel, **said, algorithm=algorithm)) < 2 * product


# -- names, defaults, errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "stride", "dilation"), [(5, 3, 2, 1), (4, 2, 3, 1), (6, 4, 1, 1), (5, 3, 2, 2), (3, 5, 3, 1)]
)
def test_padding_by_name_as_keras_means_it(n: int, k: int, stride: int, dilation: int) -> None:
    """Its lengths; and "same" is the gradient of a "same" convolution of an image ``n * stride`` long."""
    span = (k - 1) * dilation + 1
    x, w = integers(2, 3, n), integers(3, 2, k)
    said: dict[str, Any] = {"stride": stride, "dilation": dilation}
    valid = pc.conv_transpose1d(x, w, padding="valid", **said)
    assert valid.shape == (2, 2, n * stride + max(span - stride, 0))
    same = pc.conv_transpose1d(x, w, padding="same", **said)
    expected = pc.conv_input_grad(x, w, (2, 2, n * stride), padding="same", **said)
    np.testing.assert_array_equal(same, expected)


def test_default_kernel_layouts() -> None:
    x, w = integers(2, 3, 5, 6), integers(3, 4, 2, 2)
    y = pc.conv_transpose2d(x, w, stride=2)
    np.testing.assert_array_equal(y, pc.conv_transpose2d(x, w, stride=2, kernel_layout="IOHW"))
    last = pc.conv_transpose2d(x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0), stride=2, layout="NHWC")
    np.testing.assert_array_equal(last, y.transpose(0, 2, 3, 1))
    plain = pc.conv_transpose(x[0, 0], w[0, 0], layout="HW", stride=2)
    np.testing.assert_array_equal(plain, pc.conv_transpose(x[:1, :1], w[:1, :1], stride=2)[0, 0])
    np.testing.assert_array_equal(pc.conv_transpose(x[0], w, layout="CHW", stride=2), y[0])


def test_transposed_undoes_the_shape_of_a_convolution() -> None:
    for size in (7, 8):
        y = pc.conv1d(integers(1, 2, size), integers(3, 2, 3), stride=2)
        extra = size - ((y.shape[-1] - 1) * 2 + 3)
        assert pc.conv_transpose1d(y, integers(3, 2, 3), stride=2, output_padding=extra).shape == (1, 2, size)


X, W = np.ones((2, 4, 5, 5)), np.ones((4, 3, 3, 3))


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"output_padding": 1}, "output_padding=1 of axis H must be less than its stride 1 or its dilation 1"),
        ({"output_padding": (0, 1, 0)}, "output_padding=(0, 1, 0) has 3 entries"),
        ({"padding": 9}, "padding (9, 9) leaves nothing of the result along axis H"),
        ({"padding": "full"}, "padding='full' is no padding by name"),
        ({"padding": "same", "stride": 2, "output_padding": 1}, "goes with a padding of numbers, not 'same'"),
        ({"groups": 3}, "groups=3 does not divide the 4 input channels of x"),
        ({"strides": 2}, "conv_transpose2d() got an unexpected keyword argument 'strides'; did you mean stride?"),
        ({"padding_mode": "reflect"}, "unexpected keyword argument 'padding_mode'"),
        ({"kernel_layout": "OIHW"}, "w takes 3 input channels, and x has 4"),
        ({"bias": np.ones(4)}, "bias has shape (4,), and must have (3,)"),
    ],
)
def test_errors_of_transposed_convolutions(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        pc.conv_transpose2d(X, W, **keywords)
    assert said in str(caught.value)


def test_errors_of_gradients() -> None:
    w = np.ones((3, 4, 3, 3))
    with pytest.raises(ValueError, match=r"dy has shape \(2, 3, 5, 5\), and the result \(2, 3, 3, 3\)"):
        pc.conv_vjp(X, w, np.ones((2, 3, 5, 5)))
    with pytest.raises(ValueError, match="w takes 4 input channels, and x has 5"):
        pc.conv_input_grad(np.ones((2, 3, 3, 3)), w, (2, 5, 5, 5))
    with pytest.raises(ValueError, match="dy has shape"):
        pc.conv_weight_grad(X, np.ones((2, 3, 3, 3)), (3, 4, 2, 2))
    for gradient, name in ((pc.conv_input_grad, "input_shape"), (pc.conv_weight_grad, "kernel_shape")):
        of: list[Any] = [np.ones((2, 3, 3, 3)), w] if gradient is pc.conv_input_grad else [X, np.ones((2, 3, 3, 3))]
        for shape, said in (
            (of[0], f"{name} must be a tuple of lengths, and is an array of shape {of[0].shape}"),
            (5, f"{name}=5 must be a tuple of lengths"),
            ((2, -1, 5, 5), f"{name}=(2, -1, 5, 5) must be a tuple of lengths"),
        ):
            with pytest.raises(TypeError, match=re.escape(said)):
                gradient(*of, shape)
    for no_array in ([1, 2], None, 3.0):
        for call in (
            lambda dy: pc.conv_vjp(X, w, dy),
            lambda dy: pc.conv_input_grad(dy, w, X.shape),
            lambda dy: pc.conv_weight_grad(X, dy, w.shape),
        ):
            with pytest.raises(TypeError, match=f"dy must be an array .* not {type(no_array).__name__}"):
                call(no_array)
    with pytest.raises(TypeError, match="w must be an array"):
        pc.conv_input_grad(np.ones((2, 3, 3, 3)), w.tolist(), X.shape)
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match="dy belongs to array_api_strict and w to numpy; convert w"):
        pc.conv_input_grad(strict.ones((2, 3, 3, 3)), w, X.shape)
    said = r"the kernel's gradient is a convolution of its own, and there algorithm='pointwise' cannot run this problem"
    with pytest.raises(ValueError, match=said):
        pc.conv_vjp(X, w[..., :1, :1], np.ones((2, 3, 5, 5)), algorithm="pointwise")
    with pytest.raises(TypeError, match=r"conv_vjp\(\) got an unexpected keyword argument 'strides'"):
        pc.conv_vjp(X, w, np.ones((2, 3, 3, 3)), strides=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("dtype", ["float32", "float64", float, np.float64, np.dtype("float32")])
def test_gradients_are_of_the_dtype_that_is_asked_for(dtype: Any) -> None:
    x, w = (RNG.standard_normal(shape).astype("float16") for shape in ((2, 4, 6, 6), (3, 4, 3, 3)))
    dy = RNG.standard_normal((2, 3, 4, 4)).astype("float16")
    expected = pc.conv_vjp(*(a.astype(dtype) for a in (x, w, dy)))
    for found, same in zip(pc.conv_vjp(x, w, dy, dtype=dtype), expected, strict=True):
        assert found.dtype == np.dtype(dtype)
        least = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(found, same, rtol=least, atol=least)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_biass_gradient_of_halves_is_summed_in_single_precision(layout: str, chunked: bool) -> None:
    shape = (4, 8, 64, 64) if layout == "NCHW" else (4, 64, 64, 8)
    x, w, dy = np.ones(shape, "float16"), np.ones((8, 8, 1, 1), "float16"), np.full(shape, 0.25, "float16")
    if chunked:
        da = pytest.importorskip("dask.array")
        x, dy = da.from_array(x, chunks=(2, *shape[1:])), da.from_array(dy)
    _, _, db = pc.conv_vjp(x, w, dy, layout=layout, kernel_layout="OIHW")
    assert db.dtype == np.float16
    np.testing.assert_array_equal(db, np.full(8, 4096.0))


def test_a_biass_gradient_of_many_outputs() -> None:
    dy = RNG.random((4, 500, 500, 3)).astype("float32")
    _, _, db = pc.conv_vjp(dy, np.ones((1, 1, 3, 3), "float32"), dy, layout="NHWC")
    np.testing.assert_allclose(db, dy.sum(axis=(0, 1, 2), dtype="float64"), rtol=2e-6)


@pytest.mark.parametrize(
    ("x", "w"),
    [
        ((1, 4, 0, 8), (3, 4, 3, 3)),  # margins alone
        ((0, 4, 5, 8), (3, 4, 3, 3)),
        ((2, 0, 5, 8), (3, 0, 3, 3)),
        ((2, 4, 5, 8), (0, 4, 3, 3)),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_nothing(x: tuple[int, ...], w: tuple[int, ...], stride: int) -> None:
    image, kernel = np.ones(x, "float32"), np.ones(w, "float32")
    dy = np.ones_like(pc.conv2d(image, kernel, padding=2, stride=stride))
    dx, dw, db = pc.conv_vjp(image, kernel, dy, padding=2, stride=stride)
    assert (dx.shape, dw.shape, db.shape) == (x, w, w[:1])
    assert dx.dtype == dw.dtype == db.dtype == np.float32
    assert not dw.any()  # no pixel is met
    assert not dx.any()  # no output is seen
    np.testing.assert_array_equal(db, np.full(w[0], dy[:, 0].size) if w[0] else [])


@pytest.mark.parametrize(("groups", "limit", "workers"), [(64, 8_600_000, 1), (1, 4_300_000, 1), (1, 4_300_000, 8)])
def test_kernel_gradients_keep_to_the_workspace(groups: int, limit: int, workers: int) -> None:
    """However the result's gradient lies in memory, and whatever threads share."""
    pytest.importorskip("numba")
    channels, filters = (64, 64) if groups > 1 else (16, 32)
    x = RNG.standard_normal((1, channels, 130, 130)).astype("float32")
    dy = RNG.standard_normal((1, filters, 128, 128)).astype("float32")[..., ::-1, :]
    shape = (filters, channels // groups, 3, 3)
    keywords: dict[str, Any] = {"groups": groups, "workers": workers}
    expected = pc.conv_weight_grad(x, dy, shape, **keywords)
    peak, found = peak_of(lambda: pc.conv_weight_grad(x, dy, shape, max_workspace=limit, **keywords), warm=False)
    assert peak - found.nbytes <= limit
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_kernel_gradients_need_no_convolution_to_fit() -> None:
    """Where an algorithm has a way of its own that does."""
    pytest.importorskip("numba")
    x, dy = np.ones((1, 16, 130, 130), "float32"), np.ones((1, 32, 128, 128), "float32")
    dw = pc.conv_weight_grad(x, dy, (32, 16, 3, 3), max_workspace=3_000_000)
    np.testing.assert_array_equal(dw, np.full((32, 16, 3, 3), 128.0 * 128))


def test_transposed_of_nothing() -> None:
    y = pc.conv_transpose2d(np.ones((1, 0, 4, 4)), np.ones((0, 2, 3, 3)), np.ones(2), stride=2)
    np.testing.assert_array_equal(y, np.ones((1, 2, 9, 9)))


def test_nothing_is_written_to() -> None:
    arrays = X.copy(), np.ones((3, 4, 3, 3)), np.ones((2, 3, 5, 5))
    for a in arrays:
        a.flags.writeable = False
    pc.conv_vjp(*arrays, padding=1, padding_mode="edge")
    pc.conv_transpose2d(arrays[0], np.ones((4, 3, 3, 3)), stride=2)


# -- Dask ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(cases(dtypes=SIGNED, max_terms=200), st.data())
def test_gradients_of_chunks_are_exact(case: Case, data: st.DataObject) -> None:
    da = pytest.importorskip("dask.array")
    y = pc.conv(case.x, case.w, **case.keywords)
    dy = integers(*y.shape)
    expected = pc.conv_vjp(case.x, case.w, dy, **case.keywords)
    chunks = [tuple(data.draw(st.integers(1, max(n, 1))) for n in a.shape) for a in (case.x, dy)]
    found = pc.conv_vjp(
        da.from_array(case.x, chunks=chunks[0]), case.w, da.from_array(dy, chunks=chunks[1]), **case.keywords
    )
    for theirs, ours in zip(expected, found, strict=True):
        assert isinstance(ours, da.Array)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_array_equal(ours.compute(scheduler="synchronous"), theirs)


def test_transposed_chunks() -> None:
    da = pytest.importorskip("dask.array")
    x, w, bias = integers(5, 4, 7, 8), integers(4, 3, 3, 4), integers(6)
    for said in ({"stride": 2}, {"stride": (3, 1), "dilation": 2, "output_padding": (1, 0)}, {"padding": "same"}):
        keywords: dict[str, Any] = {**said, "groups": 2}
        expected = pc.conv_transpose2d(x, w, bias, **keywords)
        for kernel, b in ((w, bias), (da.from_array(w, chunks=2), da.from_array(bias, chunks=2))):
            y = pc.conv_transpose2d(da.from_array(x, chunks=(2, 3, 3, 5)), kernel, b, **keywords)
            assert y.chunks[0] == (2, 2, 1)
            np.testing.assert_array_equal(y.compute(scheduler="synchronous"), expected)


def test_the_kernels_gradient_is_summed_as_a_tree() -> None:
    da = pytest.importorskip("dask.array")
    x = da.ones((64, 2, 6, 6), chunks=(1, 2, 6, 6))
    dw = pc.conv_weight_grad(x, da.ones((64, 3, 4, 4), chunks=(1, 3, 4, 4)), (3, 2, 3, 3))
    tasks = dict(dw.__dask_graph__())
    widest = max(len(task.dependencies) for task in tasks.values() if hasattr(task, "dependencies"))
    assert widest < 64
    np.testing.assert_array_equal(dw.compute(scheduler="synchronous"), np.full((3, 2, 3, 3), 64.0 * 16))
