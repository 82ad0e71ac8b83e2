"""Which dtype a convolution sums in and returns, on every library."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import pytest
import reference
from backends import COMPILED, COMPLEX, FLOATS, ON_NUMPY, SIGNED, UNSIGNED, Backend
from tolerance import FACTOR, beyond_direct

import polyconv as pc
from polyconv import dtypes
from polyconv.arrays import describe

INTEGERS = (*SIGNED, *UNSIGNED)
ALGORITHMS = pc.algorithms()


def module(library: Backend) -> Any:
    """The library's namespace, under its own names."""
    own = {
        "cuda-on-cpu": "numpy",
        "jax": "jax.numpy",
        "array-api-strict-cpu": "array_api_strict",
        "array-api-strict-device1": "array_api_strict",
    }
    return importlib.import_module(own.get(library.name, library.name))


def has(library: Backend, *names: str) -> bool:
    return all(hasattr(module(library), name) for name in names)


def cast(library: Backend, values: np.ndarray, dtype: str) -> Any:
    """``values`` as the library's dtype of that name, which need not be NumPy's."""
    x = library.asarray(values)
    own = getattr(module(library), dtype, dtype)
    if library.name == "torch":
        return x.to(own)
    return x.astype(own) if hasattr(x, "astype") else module(library).astype(x, own)


def dtype_of(y: Any) -> str:
    """The dtype's name, said independently of the library under test."""
    return str(y.dtype).rpartition(".")[2]


def whole(*shape: int) -> np.ndarray:
    """0, 1, 2 or 3: few enough that any dtype but bool holds their sums exactly."""
    return np.random.default_rng(0).integers(0, 4, shape)


@functools.cache
def product(*ones: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, a kernel and their convolution; of ones and zeros where asked for."""
    x, w = whole(1, 2, 3, 4), whole(2, 2, 2, 2)
    x, w = (a > 1 if one else a for a, one in zip((x, w), ones, strict=True))
    x, w = x.astype("int64"), w.astype("int64")
    along = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0))}
    return x, w, reference.convolve(x, w, layout="NCHW", kernel_layout="OIHW", **along)


def check(library: Backend, x_dtype: str, w_dtype: str, result: str, **keywords: Any) -> None:
    """The result has the dtype named, its values are exact, and the image is where it was."""
    quarter = "float8" in x_dtype + w_dtype + result  # which has no whole number beyond 8
    x, w, expected = product(x_dtype == "bool" or quarter, w_dtype == "bool" or quarter)
    image = cast(library, x, x_dtype)
    y = pc.conv2d(image, cast(library, w, w_dtype), **keywords)
    assert dtype_of(y) == result
    assert library.home(y) == library.home(image)
    wide = cast_to_numpy(library, y)
    np.testing.assert_array_equal(wide, expected.astype(wide.dtype))


def cast_to_numpy(library: Backend, y: Any) -> np.ndarray:
    """A result as NumPy has it; what NumPy lacks, as float32."""
    if library.name == "torch" and dtype_of(y).startswith(("bfloat", "float8")):
        y = y.float()
    if library.name == "jax" and dtype_of(y).startswith(("bfloat", "float8")):
        y = y.astype("float32")
    return library.to_numpy(y)


# -- the table -----------------------------------------------------------------------------------------------

PROMOTED = [
    ("float32", "float32", "float32"),
    ("float32", "float64", "float64"),
    ("float64", "float32", "float64"),
    ("float32", "complex64", "complex64"),
    ("float64", "complex64", "complex128"),
    ("complex64", "float32", "complex64"),
    ("complex64", "complex128", "complex128"),
    # integers and bools take the floating dtype they meet
    ("int64", "float32", "float32"),
    ("float32", "int64", "float32"),
    ("uint8", "float64", "float64"),
    ("bool", "float32", "float32"),
    ("float32", "bool", "float32"),
    ("int32", "complex64", "complex64"),
    ("complex64", "uint8", "complex64"),
    # half precision
    ("float16", "float16", "float16"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("float16", "bfloat16", "float32"),
    ("float16", "float32", "float32"),
    ("float64", "bfloat16", "float64"),
    ("float16", "int64", "float16"),
    ("uint8", "bfloat16", "bfloat16"),
    ("bool", "float16", "float16"),
    ("float16", "complex64", "complex64"),
    ("bfloat16", "complex64", "complex64"),
    # quarter precision
    ("float8_e4m3fn", "float8_e4m3fn", "float8_e4m3fn"),
    ("int8", "float8_e5m2", "float8_e5m2"),
]


@pytest.mark.parametrize(("x", "w", "result"), PROMOTED)
def test_floats_promote_and_integers_follow(library: Backend, x: str, w: str, result: str) -> None:
    if not has(library, x, w):
        assert "float16" in x + w or "float8" in x + w
        pytest.skip(f"{library} lacks {x} or {w}")
    check(library, x, w, result)


# What sums of integers are, by NumPy's rules, and where PyTorch's differ.
SUMMED = [
    *((name, name, "int64") for name in SIGNED),
    *((name, name, "uint64") for name in UNSIGNED),
    ("bool", "bool", "int64"),
    ("bool", "int8", "int64"),
    ("uint8", "bool", "uint64"),
    ("int8", "uint8", "int64"),
    ("uint32", "int32", "int64"),
    ("int8", "int64", "int64"),
    ("uint8", "uint16", "uint64"),
    ("uint64", "uint8", "uint64"),
]


@pytest.mark.parametrize(("x", "w", "result"), SUMMED)
def test_integers_are_summed_as_the_library_sums(library: Backend, x: str, w: str, result: str) -> None:
    if library.name == "torch":
        if x != w and {x, w} & {"uint16", "uint32", "uint64"}:
            pytest.skip("torch promotes none of its newer unsigned dtypes")
        result = "int64"  # its only dtype of integer sums
    check(library, x, w, result)
    if x == w != "bool":
        assert result == dtype_of(module(library).sum(cast(library, whole(3), x)))


def test_numpy_integers_that_promote_to_floats_have_nothing_in_common(library: Backend) -> None:
    x, w, _ = product(False, False)
    image, kernel = cast(library, x, "uint64"), cast(library, w, "int64")
    with pytest.raises(TypeError, match="x of dtype uint64 and w of dtype int64 have no integral dtype in common"):
        pc.conv2d(image, kernel)
    with pytest.raises(TypeError, match="x of dtype int64 and w of dtype uint64"):
        pc.conv2d(cast(library, x, "int64"), cast(library, w, "uint64"))
    for dtype in ("int64", "float64"):
        assert dtype_of(pc.conv2d(image, kernel, dtype=dtype)) == dtype


def test_floats_that_do_not_promote_have_nothing_in_common(library: Backend) -> None:
    if not has(library, "float8_e4m3fn"):
        pytest.skip(f"{library} has no quarter precision")
    x, w, _ = product(False, False)
    image, kernel = cast(library, x, "float8_e4m3fn"), cast(library, w, "float32")
    with pytest.raises(
        TypeError, match=r"float8_e4m3fn and w of dtype float32 have no real floating .*dtype='float64'"
    ):
        pc.conv2d(image, kernel)
    check(library, "float8_e4m3fn", "float32", "float32", dtype="float32")


def test_integer_sums_are_exact_where_floats_are_not(library: Backend) -> None:
    big = 2**53
    x = np.asarray([[[big, 1, -big, 1]]], dtype=np.int64)
    w = np.ones((1, 1, 2), dtype=np.int64)
    y = library.to_numpy(pc.conv1d(library.asarray(x), library.asarray(w)))
    assert y.tolist() == [[[big + 1, 1 - big, 1 - big]]]


# -- dtype= --------------------------------------------------------------------------------------------------


def spellings(library: Backend, dtype: str) -> dict[str, Any]:
    """Every way to name a dtype to a library."""
    return {
        "text": dtype,
        "numpy dtype": np.dtype(dtype),
        "numpy class": getattr(np, dtype),
        "its own": getattr(module(library), dtype),
        "foreign byte order": np.dtype(dtype).newbyteorder(),
        "array's": cast(library, np.ones(1), dtype).dtype,
    }


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int32", "uint8"])
def test_dtype_may_be_spelled_in_many_ways(library: Backend, dtype: str) -> None:
    for spelled in spellings(library, dtype).values():
        check(library, "uint8", "uint8", dtype, dtype=spelled)


def test_python_types_are_dtypes(library: Backend) -> None:
    for python, dtype in ((int, "int64"), (float, "float64"), (complex, "complex128")):
        check(library, "int8", "uint8", dtype, dtype=python)


@pytest.mark.parametrize(
    ("x", "w", "dtype"),
    [
        ("float64", "float64", "float32"),  # narrower, of the same kind: as asked
        ("float32", "float32", "float64"),
        ("float64", "int8", "complex64"),
        ("complex128", "complex64", "complex64"),
        ("int64", "int64", "int8"),
        ("int64", "uint8", "float32"),
        ("uint8", "uint8", "int16"),
        ("bool", "bool", "uint8"),
        ("bool", "bool", "int8"),
        ("float64", "float64", "float16"),
        ("float32", "float32", "bfloat16"),
        ("int64", "bool", "bfloat16"),
        ("float32", "float32", "float8_e4m3fn"),
    ],
)
def test_dtype_overrides(library: Backend, x: str, w: str, dtype: str) -> None:
    if not has(library, dtype):
        assert "float16" in dtype or "float8" in dtype
        with pytest.raises(TypeError, match=f"dtype='{dtype}' is not a numeric dtype of"):
            pc.conv2d(*(cast(library, a, d) for a, d in zip(product(False, False), (x, w), strict=False)), dtype=dtype)
    else:
        check(library, x, w, dtype, dtype=dtype)
        check(library, x, w, dtype, dtype=getattr(module(library), dtype))


@pytest.mark.parametrize(
    ("x", "w", "dtype", "complaint"),
    [
        ("float32", "float32", "int64", "dtype=int64 is integral, a lower kind than real floating"),
        ("int64", "float32", "uint8", "dtype=uint8 is integral, a lower kind than real floating"),
        ("float64", "complex64", "float64", "dtype=float64 is real floating, a lower kind than complex floating"),
        ("uint8", "uint8", "bool", "dtype=bool is bool, a lower kind than integral"),
        ("bool", "bool", "bool", "dtype=bool is bool, a lower kind than integral"),
        ("int8", "bool", "uint64", "dtype=uint64 is unsigned"),
        ("uint8", "int64", "uint8", "dtype=uint8 is unsigned"),
    ],
)
def test_dtype_loses_nothing_silently(library: Backend, x: str, w: str, dtype: str, complaint: str) -> None:
    image, kernel, _ = product(False, False)
    with pytest.raises(TypeError, match=complaint) as caught:
        pc.conv2d(cast(library, image, x), cast(library, kernel, w), dtype=dtype)
    assert f"x ({x})" in str(caught.value)
    assert f"w ({w})" in str(caught.value)


@pytest.mark.parametrize("dtype", ["flaot32", "", "str", "object", "sum", "pi", "linalg", 3, 1.5, [1], "M8[s]", len])
def test_unknown_dtypes(library: Backend, dtype: Any) -> None:
    x, w, _ = product(False, False)
    with pytest.raises(TypeError, match="is not a numeric dtype of"):
        pc.conv2d(library.asarray(x), library.asarray(w), dtype=dtype)


# -- half precision ------------------------------------------------------------------------------------------


def halves(library: Backend) -> list[str]:
    return [name for name in ("float16", "bfloat16") if has(library, name)]


def test_half_precision_is_summed_in_float32(library: Backend) -> None:
    """4128 ones: a running sum in float16 stops at 2048 and one in bfloat16 at 256; both dtypes have 4128."""
    if not halves(library):
        pytest.skip(f"{library} has no half precision")
    for dtype in halves(library):
        x, w = cast(library, np.ones((1, 1, 4128)), dtype), cast(library, np.ones((1, 1, 4128)), dtype)
        assert dtypes.name(pc.plan(x, w).call.dtypes.total) == "float32"
        for algorithm in ("auto", "im2col", "einsum", *(("naive", "taps") if library.name != "jax" else ())):
            y = pc.conv1d(x, w, algorithm=algorithm)
            assert dtype_of(y) == dtype
            assert float(y[0, 0, 0]) == 4128, algorithm


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "pointwise"])
def test_half_precision_does_not_overflow_on_the_way(library: Backend, algorithm: str) -> None:
    """256 * 256 is more than float16 holds, and 65536 + 1 more digits than either half has."""
    if not halves(library):
        pytest.skip(f"{library} has no half precision")
    if library.lacks(algorithm):
        pytest.skip("compiled for other libraries' arrays")
    for dtype in halves(library):
        x, w = np.asarray([[[256.0, 1.0, 256.0]]]), np.asarray([[[256.0, 1.0, -256.0]]])
        given = cast(library, x, dtype), cast(library, w, dtype)
        beyond = beyond_direct(pc.plan(*given, algorithm=algorithm), x, w)
        assert beyond < 0.5
        y = pc.conv1d(*given, algorithm=algorithm)
        assert dtype_of(y) == dtype
        assert abs(float(y[0, 0, 0]) - 1.0) <= beyond
        for asked in (dtype, getattr(module(library), dtype)):  # and where the inputs are wide
            y = pc.conv1d(cast(library, x, "float64"), cast(library, w, "float32"), dtype=asked, algorithm=algorithm)
            assert dtype_of(y) == dtype
            assert abs(float(y[0, 0, 0]) - 1.0) <= beyond


def test_bias_is_added_before_the_one_rounding(library: Backend) -> None:
    """2049 - 1: float16 has no 2049, so that rounding before the bias would give 2047."""
    if not has(library, "float16"):
        pytest.skip(f"{library} has no half precision")
    x, w, bias = np.asarray([[[2048.0, 1.0]]]), np.ones((1, 1, 2)), np.asarray([-1.0])
    y = pc.conv1d(*(cast(library, a, "float16") for a in (x, w, bias)))
    assert float(y[0, 0, 0]) == 2048.0


# -- bias ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "bias", "result"),
    [
        ("float32", "float64", "float32"),  # a bias never widens the result
        ("float32", "int64", "float32"),
        ("float64", "bool", "float64"),
        ("complex64", "float32", "complex64"),
        ("int8", "uint8", "int64"),
        ("int8", "bool", "int64"),
        ("uint8", "uint8", "uint64"),
        ("uint8", "bool", "uint64"),
    ],
)
def test_bias_takes_the_dtype_of_the_result(library: Backend, x: str, bias: str, result: str) -> None:
    image, kernel, expected = product(False, False)
    offsets = np.asarray([0, 1])
    y = pc.conv2d(cast(library, image, x), cast(library, kernel, x), cast(library, offsets, bias))
    assert dtype_of(y) == ("int64" if library.name == "torch" and result == "uint64" else result)
    wide = library.to_numpy(y)
    np.testing.assert_array_equal(wide, (expected + offsets[:, None, None]).astype(wide.dtype))


@pytest.mark.parametrize(
    ("x", "bias", "asked"),
    [
        ("int64", "float32", None),
        ("float64", "complex64", None),
        ("float32", "complex64", "float32"),
        ("bool", "float64", "int8"),
        ("uint8", "int8", "uint8"),  # negative values would wrap
    ],
)
def test_bias_is_of_no_higher_kind_than_the_result(library: Backend, x: str, bias: str, asked: str | None) -> None:
    image, kernel, expected = product(x == "bool", x == "bool")
    call = cast(library, image, x), cast(library, kernel, x), cast(library, np.asarray([-1, 1]), bias)
    with pytest.raises(TypeError, match=f"bias has dtype {bias}, which is .*; pass dtype=") as caught:
        pc.conv2d(*call, dtype=asked)
    advice = str(caught.value).rpartition("pass dtype=")[2].strip("'")
    y = library.to_numpy(pc.conv2d(*call, dtype=advice))
    np.testing.assert_array_equal(y, (expected + np.asarray([-1, 1])[:, None, None]).astype(y.dtype))


# -- NumPy's own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["auto", *ON_NUMPY])
@pytest.mark.parametrize("dtype", ["i2", "u4", "f2", "f4", "f8", "c8", "c16"])
def test_foreign_byte_order_comes_back_native(dtype: str, algorithm: str) -> None:
    foreign = np.dtype(dtype).newbyteorder()
    kernel = (3, 1, 1, 2 if algorithm == "winograd" else 1)
    x, w, bias = (whole(*shape).astype(dtype) for shape in ((2, 1, 4, 5), kernel, (3,)))
    try:
        beyond = beyond_direct(pc.plan(x, w, algorithm=algorithm), x, w)
    except ValueError as refusal:  # of integers, or of complex numbers
        assert np.dtype(dtype).kind in ("c" if algorithm in COMPILED else "iu")
        pytest.skip(str(refusal))
    expected = pc.conv2d(x, w, bias, accuracy="strict")
    for told in ({}, {"dtype": expected.dtype.newbyteorder()}):
        arrays = (a.astype(foreign) for a in (x, w, bias))
        y = pc.conv2d(*arrays, algorithm=algorithm, **told)
        assert y.dtype.isnative
        assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
        assert np.max(np.abs(y - expected)) <= beyond  # whole numbers: exact where it is zero


@pytest.mark.parametrize("algorithm", ["fft", "winograd"])
@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble])
def test_long_doubles_in_transformed_blocks(dtype: Any, algorithm: str) -> None:
    """Thirds, of which no float64 on the way would come so close."""
    x, w = (np.arange(1, n + 1, dtype=dtype).reshape(1, 1, n) / 3 for n in (12, 3))
    expected = pc.conv1d(x, w, algorithm="taps")
    plan = pc.plan(x, w, algorithm=algorithm)
    beyond = beyond_direct(plan, x, w)
    y = plan(x, w)
    assert y.dtype == dtype
    assert np.max(np.abs(y - expected)) <= beyond
    if np.finfo(dtype).eps < np.finfo(np.float64).eps:
        narrow = np.result_type(np.complex128 if np.issubdtype(dtype, np.complexfloating) else np.float64)
        assert np.max(np.abs(pc.conv1d(x.astype(narrow), w.astype(narrow), algorithm="taps") - expected)) > beyond


@pytest.mark.parametrize(
    "algorithm", ["auto", *(name for name in ALGORITHMS if name not in ("pointwise", *COMPILED, *FACTOR))]
)
@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble])
def test_long_doubles(dtype: Any, algorithm: str) -> None:
    """1 + the least step of a long double, which a float64 on the way would drop."""
    step = np.finfo(np.longdouble).eps
    if step == np.finfo(np.float64).eps:
        pytest.skip("a long double is a double on this machine")
    x, w = np.asarray([[[1, step, 1]]], dtype=dtype), np.ones((1, 1, 2), dtype=dtype)
    expected = np.full((1, 1, 2), 1 + step, dtype=dtype)
    assert expected[0, 0, 0] != 1
    np.testing.assert_array_equal(pc.conv1d(x, w, algorithm=algorithm), expected, strict=True)
    mixed = pc.conv1d(x, np.ones((1, 1, 2), "int8"), np.zeros(1, "float32"), algorithm=algorithm)
    np.testing.assert_array_equal(mixed, expected, strict=True)


def test_long_doubles_on_request() -> None:
    for spelled in (np.longdouble, "longdouble", np.dtype(np.longdouble)):
        assert pc.conv1d(np.ones((1, 1, 3)), np.ones((1, 1, 2)), dtype=spelled).dtype == np.longdouble


# -- the functions -------------------------------------------------------------------------------------------


def own_dtypes(library: Backend) -> dict[str, Any]:
    names = ("bool", *INTEGERS, *FLOATS, *COMPLEX, "float16", "bfloat16", "float8_e4m3fn")
    return {name: getattr(module(library), name) for name in names if has(library, name)}


def test_names(library: Backend) -> None:
    for name, dtype in own_dtypes(library).items():
        assert dtypes.name(dtype) == name
        assert dtypes.name(cast(library, np.ones(1), name).dtype) == name
    assert dtypes.name(np.dtype(">f4")) == "float32"


def test_kinds(library: Backend) -> None:
    xp = describe(library.asarray(np.ones(1)), "x").xp
    for name, dtype in own_dtypes(library).items():
        word = "bool" if name == "bool" else next(w for w in ("int", "float", "complex") if w in name)
        expected = {"bool": 0, "int": 1, "float": 2, "complex": 3}[word]
        assert dtypes.kind(dtype, xp) == expected
        assert dtypes.kind(cast(library, np.ones(1), name).dtype, xp) == expected
    for nothing in (None, 3, len, "float64.", np, np.dtype("M8[s]"), np.dtype(object), np.dtype([("a", "f4")])):
        assert dtypes.kind(nothing, xp) == -1


def test_signed_values_and_unsigned_dtypes(library: Backend) -> None:
    xp = describe(library.asarray(np.ones(1)), "x").xp
    for given in SIGNED + UNSIGNED:
        for result in SIGNED + UNSIGNED:
            lost = dtypes.unsigns(*(cast(library, np.ones(1), name).dtype for name in (given, result)), xp)
            assert lost is (given in SIGNED and result in UNSIGNED)


def test_dtypes_of_two_libraries_are_never_compared() -> None:
    """Their hashes may be equal, and array-api-strict objects to the comparison."""
    strict = pytest.importorskip("array_api_strict")
    for name in ("float32", "int64", "bool"):
        assert hash(getattr(strict, name)) == hash(np.dtype(name)), "the hazard is gone, and this test with it"
        for dtype in (np.dtype(name), getattr(strict, name), np.dtype(name)):
            assert dtypes.name(dtype) == name
    for library in (np, strict, np):
        x = library.asarray(whole(1, 1, 3, 3), dtype=library.int8)
        assert dtype_of(pc.conv2d(x, x)) == "int64"
