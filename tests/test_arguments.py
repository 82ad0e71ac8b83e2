"""What callers may say and may not: every error comes before any work, and says what to do about it."""

from __future__ import annotations

import contextlib
import dataclasses
import decimal
import fractions
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from backends import ON_NUMPY, Backend, read_only, reversed_view, sparse_view
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spy import WrongRoad, only
from tolerance import beyond_direct

import polyconv as pc
from polyconv.api import Options
from polyconv.planning import make_plan

X, W, BIAS = np.ones((1, 2, 5, 5)), np.ones((3, 2, 3, 3)), np.ones(3)


@contextlib.contextmanager
def no_work() -> Iterator[None]:
    """Within this context no algorithm may run."""
    make_plan.cache_clear()  # plans made outside would run the algorithms that they know
    with only("none of them"):
        yield
    make_plan.cache_clear()


def refusal(exception: type[Exception], function: Callable[..., Any], *args: Any, **keywords: Any) -> str:
    """The message of the exception, of this very type, that the call raises before any work."""
    with no_work(), pytest.raises(exception) as caught:
        function(*args, **keywords)
    assert caught.type is exception, "a subclass, so another error than the one meant"
    return str(caught.value)


def says(message: str, *fragments: str) -> None:
    for fragment in fragments:
        assert fragment in message


def ones(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.ones(shape, dtype=dtype)


def test_work_would_be_noticed() -> None:
    with no_work(), pytest.raises(WrongRoad):
        pc.conv2d(X, W)
    pc.conv2d(X, W)


# -- keywords ------------------------------------------------------------------------------------------------

# What is given in place of X, W and the defaults; the error; what its message says.
Row = tuple[str, dict[str, Any], type[Exception], list[str]]

CHANNELS_AND_GROUPS: list[Row] = [
    (
        "channels",
        {"w": ones(3, 4, 3, 3)},
        ValueError,
        ["w takes 4 input channels, and x has 2", "w (3, 4, 3, 3)", "x has shape (1, 2, 5, 5), layout 'NCHW'"],
    ),
    (
        "channels-in-groups",
        {"x": ones(1, 6, 5, 5), "w": ones(4, 6, 3, 3), "groups": 2},
        ValueError,
        [
            "w takes 6 input channels in each of 2 groups, 12 in all, and x has 6",
            "w (4, 6, 3, 3)",
            "x has shape (1, 6, 5, 5)",
        ],
    ),
    (
        "channels-last",
        {"x": ones(1, 5, 5, 2), "w": ones(3, 3, 4, 3), "layout": "NHWC"},
        ValueError,
        [
            "w takes 4 input channels, and x has 2",
            "x has shape (1, 5, 5, 2), layout 'NHWC', and w (3, 3, 4, 3), kernel_layout 'HWIO' "
            "(assumed, since channels come last; if it is another, pass it: kernel_layout='OIHW')",
        ],
    ),
    (
        "channels-first",
        {"w": ones(3, 3, 2, 3)},
        ValueError,
        ["kernel_layout 'OIHW' (assumed, since channels come first; if it is another, pass it: kernel_layout='HWIO')"],
    ),
    (
        "groups-channels",
        {"groups": 3},
        ValueError,
        ["groups=3 does not divide the 2 input channels of x", "(1, 2, 5, 5)"],
    ),
    (
        "groups-filters",
        {"w": ones(3, 1, 3, 3), "groups": 2},
        ValueError,
        ["groups=2 does not divide the 3 output channels of w", "(3, 1, 3, 3)"],
    ),
    (
        "groups-without-channels",
        {"x": ones(5, 5), "w": ones(3, 3), "layout": "HW", "groups": 2},
        ValueError,
        ["groups=2 does not divide the 1 input channels of x", "(5, 5)"],
    ),
    ("groups-zero", {"groups": 0}, ValueError, ["groups=0 must be at least 1"]),
    ("groups-negative", {"groups": -1}, ValueError, ["groups=-1 must be at least 1"]),
    ("groups-fraction", {"groups": 1.0}, TypeError, ["groups=1.0 must be an integer, not float"]),
    ("groups-bool", {"groups": True}, TypeError, ["groups=True must be an integer, not a bool"]),
    ("groups-tuple", {"groups": (1, 1)}, TypeError, ["groups=(1, 1) must be an integer, not tuple"]),
    ("groups-none", {"groups": None}, TypeError, ["groups=None must be an integer, not NoneType"]),
]

EXTENTS: list[Row] = [
    (
        "kernel-too-large",
        {"w": ones(3, 2, 3, 6)},
        ValueError,
        [
            "w is larger than the padded x along axis W",
            "6 taps over 5 elements",
            "w (3, 2, 3, 6)",
            "x has shape (1, 2, 5, 5), layout 'NCHW'",
        ],
    ),
    (
        "kernel-too-large-padded",
        {"w": ones(3, 2, 8, 3), "padding": 1},
        ValueError,
        [
            "along axis H",
            "8 taps over 5 elements, 7 with its padding (1, 1)",
            "w (3, 2, 8, 3)",
            "x has shape (1, 2, 5, 5), layout 'NCHW'",
        ],
    ),
    (
        "kernel-too-large-dilated",
        {"dilation": (2, 3)},
        ValueError,
        [
            "along axis W",
            "3 taps (dilation 3, 7 elements wide) over 5 elements",
            "w (3, 2, 3, 3)",
            "x has shape (1, 2, 5, 5), layout 'NCHW'",
        ],
    ),
    (
        "kernel-too-large-dilated-padded",
        {"dilation": 4, "padding": (2, (1, 2))},
        ValueError,
        ["along axis W", "dilation 4, 9 elements wide", "8 with its padding (1, 2)"],
    ),
    ("kernel-empty", {"w": ones(3, 2, 0, 3)}, ValueError, ["w has no tap along axis H", "(3, 2, 0, 3)"]),
]

PADDING: list[Row] = [
    ("negative", {"padding": -1}, ValueError, ["padding=-1 must be at least 0"]),
    ("negative-axis", {"padding": (1, -1)}, ValueError, ["padding[1]=-1 must be at least 0"]),
    ("negative-side", {"padding": (1, (1, -1))}, ValueError, ["padding[1][1]=-1 must be at least 0"]),
    ("fraction", {"padding": 1.0}, TypeError, ["padding=1.0 must be an integer, not float"]),
    ("bool", {"padding": True}, TypeError, ["padding=True must be an integer, not a bool"]),
    ("bool-axis", {"padding": (0, False)}, TypeError, ["padding[1]=False must be an integer, not a bool"]),
    ("none", {"padding": None}, TypeError, ["padding=None must be an integer, not NoneType"]),
    ("bytes", {"padding": b"\1\1"}, TypeError, [r"padding=b'\x01\x01' must be an integer, not bytes"]),
    ("set", {"padding": {1, 2}}, TypeError, ["padding={1, 2} must be an integer, not set"]),
    ("beyond-any-axis", {"padding": 2**70}, ValueError, [f"padding={2**70} must be at most 2147483647"]),
    ("empty", {"padding": ()}, ValueError, ["padding=() has 0 entries", "for each of the 2 spatial axes H, W"]),
    ("one", {"padding": [1]}, ValueError, ["padding=[1] has 1 entries", "an integer or a pair (low, high)"]),
    ("three", {"padding": (1, 1, 1)}, ValueError, ["padding=(1, 1, 1) has 3 entries"]),
    ("torch-style", {"padding": (1, 1, 1, 1)}, ValueError, ["padding=(1, 1, 1, 1) has 4 entries"]),
    (
        "long-pair",
        {"padding": (1, (1, 2, 3))},
        ValueError,
        ["padding[1]=(1, 2, 3)", "an integer or a pair (low, high)"],
    ),
    ("empty-pair", {"padding": ((), 1)}, ValueError, ["padding[0]=()", "an integer or a pair (low, high)"]),
    ("too-deep", {"padding": (((1, 2), 3), 1)}, TypeError, ["padding[0][0]=(1, 2) must be an integer, not tuple"]),
    ("name-of-one-axis", {"padding": ("same", 1)}, TypeError, ["padding[0]='same' must be an integer, not str"]),
    ("name-in-a-pair", {"padding": (1, "ab")}, TypeError, ["padding[1]='ab' must be an integer, not str"]),
    ("wide-array", {"padding": np.ones((2, 3), int)}, ValueError, ["padding[0]=array([1, 1, 1])", "pair (low, high)"]),
    (
        "misspelt",
        {"padding": "sme"},
        ValueError,
        ["padding='sme' is no padding by name", "'valid', 'same', 'same_upper', 'same_lower'"],
    ),
    ("uppercase", {"padding": "SAME"}, ValueError, ["padding='SAME'", "'same'"]),
    (
        "mode-unknown",
        {"padding_mode": "mirror"},
        ValueError,
        [
            "padding_mode='mirror' is none of 'constant', 'reflect', 'symmetric', 'edge', 'wrap'",
            "'circular' for 'wrap'",
        ],
    ),
    ("mode-none", {"padding_mode": None}, ValueError, ["padding_mode=None is none of 'constant'"]),
    ("mode-array", {"padding_mode": np.ones(3)}, ValueError, ["padding_mode=array([1., 1., 1.]) is none of"]),
    *(
        (
            f"too-wide-{mode}",
            {"padding": (1, (0, most + 1)), "padding_mode": mode},
            ValueError,
            [
                f"padding (0, {most + 1}) of axis W is too wide for padding_mode='{canonical}'",
                f"an axis of 5 elements fills margins of at most {most}",
                "x has shape (1, 2, 5, 5)",
            ],
        )
        for mode, canonical, most in [
            ("reflect", "reflect", 4),
            ("symmetric", "symmetric", 5),
            ("wrap", "wrap", 5),
            ("circular", "wrap", 5),
        ]
    ),
    (
        "too-wide-edge",
        {"x": ones(1, 2, 5, 0), "padding": 1, "padding_mode": "edge"},
        ValueError,
        ["padding (1, 1) of axis W", "an axis of 0 elements fills margins of at most 0", "(1, 2, 5, 0)"],
    ),
    (
        "too-wide-same",
        {"x": ones(1, 2, 5, 1), "padding": "same", "padding_mode": "reflect"},
        ValueError,
        ["padding (1, 1) of axis W", "padding_mode='reflect'", "at most 0", "(1, 2, 5, 1)"],
    ),
]

LAYOUTS: list[Row] = [
    ("twice", {"layout": "NCHH"}, ValueError, ["layout='NCHH' has the letter H twice"]),
    ("lowercase", {"layout": "nchw"}, ValueError, ["layout='nchw'", "capital letters", "'NCHW'"]),
    ("empty", {"layout": ""}, ValueError, ["layout=''", "capital letters"]),
    ("space", {"layout": "NC W"}, ValueError, ["layout='NC W'", "capital letters"]),
    ("not-ascii", {"layout": "NCÄW"}, ValueError, ["layout='NCÄW'", "capital letters"]),
    ("number", {"layout": 4}, TypeError, ["layout=4 must be a string such as 'NCHW', not int"]),
    ("bytes", {"layout": b"NCHW"}, TypeError, ["layout=b'NCHW' must be a string such as 'NCHW', not bytes"]),
    ("tuple", {"layout": tuple("NCHW")}, TypeError, ["layout=('N', 'C', 'H', 'W') must be a string", "not tuple"]),
    ("O", {"layout": "OCHW"}, ValueError, ["layout='OCHW' has the letter O", "N and C and a letter for each spatial"]),
    ("I", {"layout": "NIHW"}, ValueError, ["layout='NIHW' has the letter I", "N and C and a letter for each spatial"]),
    ("too-long", {"layout": "NCHW", "x": ones(2, 5, 5)}, ValueError, ["'NCHW' spells 4 axes and x has 3", "(2, 5, 5)"]),
    ("too-short", {"layout": "CHW"}, ValueError, ["layout='CHW' spells 3 axes and x has 4", "(1, 2, 5, 5)"]),
    ("one-spatial", {"layout": "NCW"}, ValueError, ["layout='NCW' has 1 spatial axes (W)", "conv2d takes 2"]),
    ("three-spatial", {"layout": "NDHW"}, ValueError, ["'NDHW' has 3 spatial axes (D, H, W)", "conv2d takes 2"]),
    ("no-spatial-2d", {"layout": "NC"}, ValueError, ["layout='NC' has 0 spatial axes (none)", "conv2d takes 2"]),
    (
        "no-spatial",
        {"function": pc.conv, "layout": "NC", "x": ones(1, 2), "w": ones(3, 2)},
        ValueError,
        ["layout='NC' has no spatial axis", "any letter but N and C"],
    ),
    (
        "default-2d",
        {"x": ones(5, 5), "w": ones(3, 3)},
        ValueError,
        ["layout='NCHW' spells 4 axes and x has 2", "(5, 5); it was assumed, pass layout='HW'"],
    ),
    (
        "default-2d-of-three-axes",
        {"x": ones(3, 5, 5), "w": ones(3, 3)},
        ValueError,
        ["layout='NCHW' spells 4 axes and x has 3", "it was assumed, pass layout='CHW' or 'HWC' or 'NHW'"],
    ),
    *(
        (
            f"default-{len(space)}-axes-of-space",
            {"function": pc.conv, "x": ones(*(5,) * len(space)), "w": ones(*(3,) * len(space))},
            ValueError,
            [f"1 to 9 spatial axes; for space alone pass layout='{space}'"],
        )
        for space in ("W", "HW")
    ),
    *(
        (
            f"default-{ndim}-axes",
            {"function": pc.conv, "x": ones(*(1,) * ndim), "w": ones(*(1,) * ndim)},
            ValueError,
            [f"x has {ndim} axes, shape {(1,) * ndim}", "layout=", "a batch axis, a channel axis and 1 to 9 spatial"],
        )
        for ndim in (0, 1, 2, 12)
    ),
    ("default-1d", {"function": pc.conv1d}, ValueError, ["layout='NCW' spells 3 axes and x has 4", "(1, 2, 5, 5)"]),
    ("default-3d", {"function": pc.conv3d}, ValueError, ["layout='NCDHW' spells 5 axes and x has 4", "(1, 2, 5, 5)"]),
]

KERNEL_LAYOUTS: list[Row] = [
    ("twice", {"kernel_layout": "OIHH"}, ValueError, ["kernel_layout='OIHH' has the letter H twice"]),
    ("lowercase", {"kernel_layout": "oihw"}, ValueError, ["kernel_layout='oihw'", "capital letters", "'HWIO'"]),
    ("empty", {"kernel_layout": ""}, ValueError, ["kernel_layout=''", "capital letters"]),
    ("number", {"kernel_layout": 4}, TypeError, ["kernel_layout=4 must be a string such as", "not int"]),
    ("N", {"kernel_layout": "NIHW"}, ValueError, ["kernel_layout='NIHW' has the letter N", "O and I and a letter"]),
    ("C", {"kernel_layout": "OCHW"}, ValueError, ["kernel_layout='OCHW' has the letter C", "O and I and a letter"]),
    (
        "spatial",
        {"kernel_layout": "OIDW"},
        ValueError,
        ["kernel_layout='OIDW' does not fit layout='NCHW'", "the letters H, I, O, W, each once"],
    ),
    ("missing", {"kernel_layout": "OHW"}, ValueError, ["kernel_layout='OHW' does not fit", "H, I, O, W, each once"]),
    (
        "too-long",
        {"w": ones(3, 3)},
        ValueError,
        ["kernel_layout='OIHW' spells 4 axes and w has 2", "its shape is (3, 3)"],
    ),
    (
        "one-filter-for-all-channels",
        {"w": ones(3, 3), "kernel_layout": "HW"},
        ValueError,
        ["kernel_layout='HW' does not fit layout='NCHW'", "H, I, O, W, each once", "let the channels be a batch", "N"],
    ),
    (
        "one-filter-for-all-channels-by-default",
        {"x": ones(5, 5, 2), "w": ones(3, 3), "layout": "HWC"},
        ValueError,
        ["kernel_layout='HWIO' spells 4 axes and w has 2", "let the channels be a batch: spell their axis N"],
    ),
    (
        "filters-without-channels",
        {"x": ones(5, 5), "layout": "HW", "kernel_layout": "OIHW"},
        ValueError,
        ["kernel_layout='OIHW' does not fit layout='HW'", "the letters H, W, each once"],
    ),
    (
        "no-default",
        {"layout": "NHCW"},
        ValueError,
        ["layout='NHCW' has its channels among the spatial axes", "pass kernel_layout= (say 'OIHW')"],
    ),
]

CHOICE: list[Row] = [
    (
        "unknown",
        {"algorithm": "im2row"},
        ValueError,
        ["algorithm='im2row' is unknown", "'auto'", *map(repr, pc.algorithms())],
    ),
    ("number", {"algorithm": 3}, TypeError, ["algorithm=3 must be a name or an Algorithm, not int"]),
    ("none", {"algorithm": None}, TypeError, ["algorithm=None must be a name or an Algorithm, not NoneType"]),
    ("array", {"algorithm": X[0, 0, 0]}, TypeError, ["algorithm=array(", "must be a name or an Algorithm"]),
    *(
        (f"uncalled-{made.__name__}", {"algorithm": made}, TypeError, [f"not function; call it: pc.{made.__name__}()"])
        for made in (pc.FFT, pc.Winograd)
    ),
    (
        "pointwise",
        {"algorithm": "pointwise"},
        ValueError,
        ["algorithm='pointwise' cannot run this problem", "pointwise takes kernels of one tap", "this one is 3x3"],
    ),
    (
        "depthwise",
        {"algorithm": "depthwise"},
        ValueError,
        ["algorithm='depthwise' cannot run this problem", "depthwise takes one input channel per group", "has 2"],
    ),
    ("accuracy", {"accuracy": "exact"}, ValueError, ["accuracy='exact' must be 'fast' or 'strict'"]),
    ("accuracy-none", {"accuracy": None}, ValueError, ["accuracy=None must be 'fast' or 'strict'"]),
    ("accuracy-array", {"accuracy": np.ones(3)}, ValueError, ["accuracy=array(", "must be 'fast' or 'strict'"]),
    ("workspace-negative", {"max_workspace": -1}, ValueError, ["max_workspace=-1 must be at least 0"]),
    ("workspace-fraction", {"max_workspace": 1e9}, TypeError, ["max_workspace=1000000000.0 must be an integer"]),
    ("workspace-text", {"max_workspace": "1G"}, TypeError, ["max_workspace='1G' must be an integer, not str"]),
    ("workspace-bool", {"max_workspace": True}, TypeError, ["max_workspace=True must be an integer, not a bool"]),
    (
        "workspace-too-small",
        {"max_workspace": 0},
        ValueError,
        [
            "no algorithm can run this problem",
            "max_workspace=0",
            *pc.algorithms(),
            "pointwise takes kernels of one tap",
        ],
    ),
    (
        "workspace-too-small-for-one",
        {"max_workspace": 100, "algorithm": "im2col"},
        ValueError,
        ["algorithm='im2col' cannot run this problem", "workspace", "max_workspace=100"],
    ),
    ("workers-zero", {"workers": 0}, ValueError, ["workers=0 must be at least 1"]),
    ("workers-negative", {"workers": -1}, ValueError, ["workers=-1 must be at least 1"]),
    ("workers-bool", {"workers": True}, TypeError, ["workers=True must be an integer, not a bool"]),
    ("workers-fraction", {"workers": 1.5}, TypeError, ["workers=1.5 must be an integer, not float"]),
    ("workers-text", {"workers": "all"}, TypeError, ["workers='all' must be an integer, not str"]),
    ("flip-number", {"flip_kernel": 1}, TypeError, ["flip_kernel=1 must be True or False"]),
    ("flip-none", {"flip_kernel": None}, TypeError, ["flip_kernel=None must be True or False"]),
    ("flip-array", {"flip_kernel": np.ones(2, bool)}, TypeError, ["flip_kernel=array(", "must be True or False"]),
    ("misspelt", {"strides": 2}, TypeError, ["'strides'", "did you mean stride?"]),
    ("misspelt-mode", {"pad_mode": "wrap"}, TypeError, ["'pad_mode'", "did you mean padding_mode?"]),
    ("unheard-of", {"xyzzy": 2}, TypeError, ["'xyzzy'", *Options.__annotations__]),
    ("internal", {"described": True}, TypeError, ["'described'", *Options.__annotations__]),
]

SIGNED, UNSIGNED = ones(1, 2, 5, 5, dtype=np.int8), ones(1, 2, 5, 5, dtype=np.uint8)

DTYPES: list[Row] = [
    ("lower-kind", {"dtype": "int64"}, TypeError, ["dtype=int64 is integral", "real floating", "x (float64)"]),
    ("complex-to-real", {"w": W + 0j, "dtype": "float64"}, TypeError, ["dtype=float64", "complex floating", "w (comp"]),
    (
        "bool",
        {"x": X > 0, "w": W > 0, "dtype": bool},
        TypeError,
        ["dtype=bool is bool, a lower kind than integral", "x (bool) and w (bool)"],
    ),
    (
        "unsigned-for-signed-image",
        {"x": SIGNED, "w": W.astype("uint8"), "dtype": "uint64"},
        TypeError,
        ["dtype=uint64 is unsigned", "x (int8)", "w (uint8)", "signed"],
    ),
    (
        "unsigned-for-signed-kernel",
        {"x": UNSIGNED, "w": W.astype("int8"), "dtype": "uint8"},
        TypeError,
        ["dtype=uint8 is unsigned", "x (uint8)", "w (int8)", "signed"],
    ),
    (
        "nothing-in-common",
        {"x": X.astype("uint64"), "w": W.astype("int64")},
        TypeError,
        ["x of dtype uint64 and w of dtype int64 have no integral dtype in common", "dtype='int64'"],
    ),
    *(
        (f"unknown-{name}", {"dtype": name}, TypeError, [f"dtype={name!r} is not a numeric dtype of numpy"])
        for name in ("", "flaot32", "sin", "str", "object", "M8[s]", "f4,i4", "i4,?,,", object, 3, [1], np, np.number)
    ),
    (
        "bias-float-on-integers",
        {"x": SIGNED, "w": W.astype("int8"), "bias": BIAS},
        TypeError,
        ["bias has dtype float64, which is of a higher kind than the result's int64", "dtype='float64'"],
    ),
    (
        "bias-complex-on-floats",
        {"bias": BIAS + 0j},
        TypeError,
        ["bias has dtype complex128, which is of a higher kind than the result's float64", "dtype='complex128'"],
    ),
    (
        "bias-signed-on-unsigned",
        {"x": UNSIGNED, "w": W.astype("uint8"), "bias": -BIAS.astype("int8")},
        TypeError,
        ["bias has dtype int8, which is signed, and the result's uint64 is unsigned", "dtype='int64'"],
    ),
]

BIAS_SHAPES: list[Row] = [
    *(
        (
            f"shape-{'x'.join(map(str, shape)) or 'scalar'}",
            {"bias": np.ones(shape)},
            ValueError,
            [
                f"bias has shape {shape}, and must have (3,)",
                "each of the 3 output channels",
                "'NCHW'",
                "w is (3, 2, 3, 3)",
            ],
        )
        for shape in [(), (1,), (2,), (4,), (3, 1), (1, 3), (3, 1, 1), (1, 3, 3, 3), (0,)]
    ),
    (
        "without-channels",
        {"x": ones(5, 5), "w": ones(3, 3), "layout": "HW", "bias": ones(1)},
        ValueError,
        ["bias has shape (1,), and must have (): a single value", "'HW'", "w is (3, 3)"],
    ),
    (
        "list",
        {"bias": [1.0, 1.0, 1.0]},
        TypeError,
        ["bias must be an array", "not list; make it one by numpy.asarray, of shape (3,): one value for each of the 3"],
    ),
    ("number", {"bias": 1.0}, TypeError, ["bias must be an array", "not float; make it one by numpy.asarray"]),
    (
        "number-without-channels",
        {"x": ones(5, 5), "w": ones(3, 3), "layout": "HW", "bias": 3.0},
        TypeError,
        ["bias must be an array", "not float; make it one by numpy.asarray, of shape (): a single value"],
    ),
    ("false", {"bias": False}, TypeError, ["bias must be an array", "not bool"]),
]

TABLES = {
    "groups": CHANNELS_AND_GROUPS,
    "extents": EXTENTS,
    "padding": PADDING,
    "layout": LAYOUTS,
    "kernel_layout": KERNEL_LAYOUTS,
    "choice": CHOICE,
    "dtypes": DTYPES,
    "bias": BIAS_SHAPES,
}
ROWS = [pytest.param(*row, id=f"{table}-{name}") for table, rows in TABLES.items() for name, *row in rows]


@pytest.mark.parametrize(("given", "exception", "fragments"), ROWS)
def test_bad_input_is_refused_before_any_work(
    given: dict[str, Any], exception: type[Exception], fragments: list[str]
) -> None:
    call = {"function": pc.conv2d, "x": X, "w": W} | given
    message = refusal(exception, **call)
    says(message, *fragments)
    if not {"function", "bias"} & given.keys() and not re.match(r"conv2d\(\)|.*conv2d takes|.*spells 4", message):
        del call["function"]
        assert refusal(exception, pc.plan, **call) == message, "a plan refuses for the same reason"


def test_only_a_kernel_layout_that_nobody_gave_was_assumed() -> None:
    last = {"x": ones(1, 5, 5, 2), "w": ones(4, 2, 3, 3), "layout": "NHWC"}
    says(refusal(ValueError, pc.conv2d, **last), "w takes 3 input channels", "pass it: kernel_layout='OIHW'")
    says(refusal(ValueError, pc.conv_transpose2d, **last), "w takes 3 input channels", "pass it: kernel_layout='IOHW'")
    for function in (pc.conv2d, pc.conv_transpose2d):
        assert refusal(ValueError, function, **last, kernel_layout="HWIO").endswith("kernel_layout 'HWIO'")
    assert refusal(ValueError, pc.conv2d, ones(5, 5), ones(3, 9), layout="HW").endswith("kernel_layout 'HW'")


# What is given for the stride or the dilation of two axes; the error; what its message says after the name.
NO_POSITIVE_INTEGERS: list[tuple[Any, type[Exception], str]] = [
    (0, ValueError, "=0 must be at least 1"),
    (-2, ValueError, "=-2 must be at least 1"),
    (np.int8(-1), ValueError, "=np.int8(-1) must be at least 1"),
    (2**31, ValueError, "=2147483648 must be at most 2147483647"),
    (2**70, ValueError, f"={2**70} must be at most 2147483647"),
    (1.5, TypeError, "=1.5 must be an integer, not float"),
    (2.0, TypeError, "=2.0 must be an integer, not float"),
    (float("nan"), TypeError, "=nan must be an integer, not float"),
    (np.float64(2), TypeError, "=np.float64(2.0) must be an integer, not float64"),
    (2j, TypeError, "=2j must be an integer, not complex"),
    (fractions.Fraction(2), TypeError, "=Fraction(2, 1) must be an integer, not Fraction"),
    (decimal.Decimal(2), TypeError, "=Decimal('2') must be an integer, not Decimal"),
    (True, TypeError, "=True must be an integer, not a bool"),
    (False, TypeError, "=False must be an integer, not a bool"),
    (np.True_, TypeError, "=np.True_ must be an integer, not bool"),
    ("2", TypeError, "='2' must be an integer, not str"),
    ("12", TypeError, "='12' must be an integer, not str"),
    (b"\1\2", TypeError, r"=b'\x01\x02' must be an integer, not bytes"),
    (None, TypeError, "=None must be an integer, not NoneType"),
    ({1, 2}, TypeError, "={1, 2} must be an integer, not set"),
    ({"H": 1, "W": 2}, TypeError, "={'H': 1, 'W': 2} must be an integer, not dict"),
    (int, TypeError, "=<class 'int'> must be an integer, not type"),
    ((), ValueError, "=() has 0 entries; give one integer, or one for each of the 2 spatial axes H, W"),
    ([], ValueError, "=[] has 0 entries"),
    ((1,), ValueError, "=(1,) has 1 entries"),
    ([1, 1, 1], ValueError, "=[1, 1, 1] has 3 entries"),
    (np.ones(3, int), ValueError, "=array([1, 1, 1]) has 3 entries"),
    (range(1, 4), ValueError, "=range(1, 4) has 3 entries"),
    ((1, 0), ValueError, "[1]=0 must be at least 1"),
    ([1, True], TypeError, "[1]=True must be an integer, not a bool"),
    ((1, None), TypeError, "[1]=None must be an integer, not NoneType"),
    ((1.0, 1), TypeError, "[0]=1.0 must be an integer, not float"),
    (np.ones(2), TypeError, "[0]=np.float64(1.0) must be an integer, not float64"),
    (((1, 2), (1, 2)), TypeError, "[0]=(1, 2) must be an integer, not tuple"),
    (((1,), 2), TypeError, "[0]=(1,) must be an integer, not tuple"),
    (np.ones((2, 2), int), TypeError, "[0]=array([1, 1]) must be an integer, not ndarray"),
    (np.ones((2, 1, 1), int), TypeError, "must be an integer, not ndarray"),
]


@pytest.mark.parametrize("keyword", ["stride", "dilation"])
@pytest.mark.parametrize(("value", "exception", "fragment"), NO_POSITIVE_INTEGERS, ids=lambda v: repr(v)[:20])
def test_strides_and_dilations_are_positive_integers(
    keyword: str, value: Any, exception: type[Exception], fragment: str
) -> None:
    message = refusal(exception, pc.conv2d, X, W, **{keyword: value})
    says(message, fragment)
    assert message.startswith(keyword)


@pytest.mark.parametrize("function", [pc.conv, pc.conv1d, pc.conv2d, pc.conv3d, pc.plan])
def test_keywords_are_spelled_out(function: Callable[..., Any]) -> None:
    names = list(inspect.signature(function).parameters)
    own = ["x", "w", "measure", "prepared"] if function is pc.plan else ["x", "w", "bias"]
    assert sorted(names) == sorted([*own, *Options.__annotations__])
    for name in names:
        assert (f"``{name}``" if name in ("measure", "prepared") else f"\n{name}\n") in str(function.__doc__)
    says(
        refusal(TypeError, function, X, W, strid=2),
        f"{function.__name__}() got an unexpected keyword argument 'strid'; did you mean stride?",
    )


def test_a_plan_takes_no_bias() -> None:
    says(refusal(TypeError, pc.plan, X, W, bias=BIAS), "'bias'")
    says(refusal(TypeError, pc.plan, X, W, BIAS), "positional")


def test_an_algorithm_of_ones_own_may_refuse() -> None:
    im2col = next(row for row in pc.plan(X, W).candidates if row.name == "im2col")
    assert im2col.reason is None
    from polyconv.algorithms.im2col import IM2COL

    picky = dataclasses.replace(IM2COL, name="picky", reject=lambda problem, target: "picky takes nothing at all")
    message = refusal(ValueError, pc.conv2d, X, W, algorithm=picky)
    says(message, "algorithm='picky' cannot run this problem", "picky takes nothing at all")


# -- arrays --------------------------------------------------------------------------------------------------

STRUCTURED = np.zeros(3, dtype=[("re", "f8"), ("im", "f8")])
NO_NUMBERS: dict[str, tuple[Any, str]] = {
    "list": ([1.0, 1.0, 1.0], "must be an array (of NumPy, CuPy, PyTorch, JAX or another Array API library), not list"),
    "tuple": ((1, 1, 1), "must be an array (of NumPy, CuPy, PyTorch, JAX or another Array API library), not tuple"),
    "float": (1.0, "must be an array (of NumPy, CuPy, PyTorch, JAX or another Array API library), not float"),
    "class": (np.ndarray, "must be an array (of NumPy, CuPy, PyTorch, JAX or another Array API library), not type"),
    "text": ("NCHW", "must be an array (of NumPy, CuPy, PyTorch, JAX or another Array API library), not str"),
    "memory": (memoryview(b"123"), "must be an array (of NumPy, CuPy, PyTorch, JAX or another Array API library), not"),
    "object": (np.array([1.0, None, []], dtype=object), "has dtype object, which is not numeric"),
    "string": (np.array(["1", "2", "3"]), "has dtype <U1, which is not numeric"),
    "variable-string": (np.array(["1", "2", "3"], dtype=np.dtypes.StringDType()), "has dtype StringDType()"),
    "bytes": (np.array([b"1", b"2", b"3"]), "has dtype |S1, which is not numeric"),
    "datetime": (np.zeros(3, dtype="M8[s]"), "has dtype datetime64[s], which is not numeric"),
    "timedelta": (np.zeros(3, dtype="m8[s]"), "has dtype timedelta64[s], which is not numeric"),
    "structured": (STRUCTURED, "has dtype [('re', '<f8'), ('im', '<f8')], which is not numeric"),
    "record": (STRUCTURED.view(np.recarray), "which is not numeric"),
    "void": (np.zeros(3, dtype="V4"), "has dtype |V4, which is not numeric"),
    "masked": (np.ma.masked_equal([1.0, 2.0, 3.0], 2.0), "is a masked array, whose mask a convolution would drop"),
}


@pytest.mark.parametrize("role", ["x", "w", "bias"])
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_only_arrays_of_numbers_are_convolved(kind: str, role: str) -> None:
    value, complaint = NO_NUMBERS[kind]
    call = {"x": X, "w": W, "bias": BIAS} | {role: value}
    message = refusal(TypeError, pc.conv2d, **call)
    says(message, complaint)
    assert message.startswith(f"{role} ")
    if role != "bias":
        del call["bias"]
        assert refusal(TypeError, pc.plan, **call).startswith(f"{role} ")


@pytest.mark.parametrize("role", ["x", "w"])
def test_none_is_no_image_and_no_kernel(role: str) -> None:
    says(refusal(TypeError, pc.conv2d, **({"x": X, "w": W} | {role: None})), f"{role} must be an array", "not NoneType")


@pytest.mark.parametrize("role", ["x", "w"])
def test_matrices_are_no_arrays(role: str) -> None:
    """``*`` of two matrices is a matrix product, and a convolution means products of elements."""
    call = {"x": ones(5, 5), "w": ones(3, 3)}
    call[role] = call[role].view(np.matrix)
    says(refusal(TypeError, pc.conv2d, **call, layout="HW"), f"{role} must be an array", "not matrix")


def home(library: str) -> Callable[[np.ndarray], Any]:
    """From NumPy to another library."""
    module = pytest.importorskip({"jax": "jax.numpy"}.get(library, library))
    return np.asarray if library == "numpy" else module.asarray  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("one", "other"), list(itertools.permutations(["numpy", "torch", "jax", "array_api_strict"], 2))
)
def test_libraries_do_not_mix(one: str, other: str) -> None:
    x, w, bias = map(home(one), (X, W, BIAS))
    move = home(other)
    never = "polyconv moves nothing between libraries"
    message = refusal(TypeError, pc.conv2d, x, move(W), bias)
    assert message == f"x belongs to {one} and w to {other}; convert w, {never}"
    assert refusal(TypeError, pc.plan, x, move(W)) == message
    message = refusal(TypeError, pc.conv2d, x, w, move(BIAS))
    assert message == f"x belongs to {one} and bias to {other}; convert bias, {never}"
    with no_work():
        plan = pc.plan(x, w)
    assert refusal(TypeError, plan, x, w, move(BIAS)) == message
    message = refusal(TypeError, plan, x, move(W))
    assert message == f"the plan belongs to {one} and w to {other}; convert w, {never}"
    message = refusal(TypeError, plan, move(X), w)
    assert message == f"the plan belongs to {one} and x to {other}; convert x, {never}"


def test_devices_do_not_mix() -> None:
    strict = pytest.importorskip("array_api_strict")
    here, there = strict.Device("CPU_DEVICE"), strict.Device("device1")
    x, w = (strict.asarray(a, device=here) for a in (X, W))
    w_there, bias_there = (strict.asarray(a, device=there) for a in (W, BIAS))
    never = "polyconv moves nothing between devices"
    message = refusal(ValueError, pc.conv2d, x, w_there)
    assert message == f"x is on device {here} and w on {there}; move w, {never}"
    message = refusal(ValueError, pc.conv2d, x, w, bias_there)
    assert message == f"x is on device {here} and bias on {there}; move bias, {never}"
    with no_work():
        plan = pc.plan(x, w)
    message = refusal(ValueError, plan, x, w_there)
    assert message == f"the plan is on device {here} and w on {there}; move w, {never}"


def test_torch_devices_do_not_mix() -> None:
    torch = pytest.importorskip("torch")
    x, w = torch.asarray(X), torch.asarray(W)
    says(refusal(ValueError, pc.conv2d, x.to("meta"), w), "x is on device meta and w on cpu; move w")
    says(refusal(ValueError, pc.conv2d, x, w, torch.ones(3, device="meta")), "x is on device cpu and bias on meta")


# -- plans ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Shaped:
    """Something with a shape and a dtype, and no data."""

    shape: tuple[int, ...]
    dtype: Any


def some(*shape: int, dtype: str = "float32") -> np.ndarray:
    """Small whole numbers, whose sums any dtype holds exactly."""
    return np.random.default_rng(0).integers(0, 4, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "f4", np.float32, np.dtype("float32"), np.dtype(">f4")], ids=str)
def test_plans_are_made_from_shapes_and_dtypes(dtype: Any) -> None:
    x, w, bias = some(2, 2, 5, 6), some(3, 2, 3, 3), some(3)
    plan = pc.plan(Shaped((2, 2, 5, 6), dtype), Shaped((3, 2, 3, 3), dtype), padding="same")
    np.testing.assert_array_equal(plan(x, w, bias), pc.conv2d(x, w, bias, padding="same"), strict=True)


def test_plans_of_a_description_are_for_the_library_of_the_array_beside_it(library: Backend) -> None:
    x, w = some(2, 2, 5, 6), some(3, 2, 3, 3)
    image, kernel = library.asarray(x), library.asarray(w)
    expected = pc.conv2d(x, w)
    for plan in (pc.plan(image, Shaped(w.shape, "float32")), pc.plan(Shaped(x.shape, np.float32), kernel)):
        y = plan(image, kernel)
        assert library.home(y) == library.home(image)
        np.testing.assert_array_equal(library.to_numpy(y), expected, strict=True)


def test_plans_are_made_from_jax_structs() -> None:
    jax = pytest.importorskip("jax")
    x, w = some(2, 2, 5, 6), some(3, 2, 3, 3)
    image, kernel = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, w))
    expected = pc.conv2d(x, w)
    np.testing.assert_array_equal(pc.plan(image, kernel)(x, w), expected, strict=True)
    y = pc.plan(jax.numpy.asarray(x), kernel)(jax.numpy.asarray(x), jax.numpy.asarray(w))
    assert isinstance(y, jax.Array)
    np.testing.assert_array_equal(np.asarray(y), expected, strict=True)


def test_plans_of_torch_meta_tensors_are_for_meta_tensors() -> None:
    torch = pytest.importorskip("torch")
    x, w = torch.ones((2, 2, 5, 6), device="meta"), torch.ones((3, 2, 3, 3), device="meta")
    plan = pc.plan(x, w, padding="same")
    assert plan(x, w).shape == (2, 3, 5, 6)
    assert plan(x, w).device == x.device
    says(refusal(ValueError, plan, torch.ones(x.shape), w), "the plan is on device meta and x on cpu; move x")


def test_a_plan_refuses_other_arrays() -> None:
    with no_work():
        plan = pc.plan(X, W)
        with pytest.raises(WrongRoad):
            plan(X, W)
    says(refusal(ValueError, plan, ones(2, 2, 5, 5), W), "x has shape (2, 2, 5, 5)", "the plan is for (1, 2, 5, 5)")
    says(refusal(ValueError, plan, X[0], W), "x has shape (2, 5, 5)", "the plan is for (1, 2, 5, 5)")
    says(refusal(ValueError, plan, X, ones(4, 2, 3, 3)), "w has shape (4, 2, 3, 3)", "the plan is for (3, 2, 3, 3)")
    says(refusal(TypeError, plan, X.astype("f4"), W), "x has dtype float32", "the plan is for float64")
    says(refusal(TypeError, plan, X, W.astype("i8")), "w has dtype int64", "the plan is for float64")
    says(refusal(TypeError, plan, X.tolist(), W), "x must be an array", "not list")
    says(refusal(TypeError, plan, np.ma.asarray(X), W), "x is a masked array")
    says(refusal(ValueError, plan, X, W, ones(2)), "bias has shape (2,), and must have (3,)")
    says(refusal(TypeError, plan, X, W, BIAS + 0j), "bias has dtype complex128", "higher kind")
    says(refusal(TypeError, plan, X, W, 1.0), "bias must be an array")


@pytest.mark.parametrize("algorithm", ON_NUMPY)
def test_a_plan_takes_equal_arrays_however_they_lie_in_memory(algorithm: str) -> None:
    taps = (3, 2) if algorithm == "winograd" else (1, 1)
    x, w, bias = some(2, 1, 5, 6), some(3, 1, *taps), some(3)
    plan, expected = pc.plan(x, w, algorithm=algorithm), pc.conv2d(x, w, bias, accuracy="strict")
    for variant in (np.asfortranarray, reversed_view, sparse_view, read_only):
        y = plan(*map(variant, (x, w, bias)))
        assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
        assert np.max(np.abs(y - expected)) <= beyond_direct(plan, x, w)  # whole numbers: exact where it is zero


def test_a_plan_is_for_a_byte_order() -> None:
    x, w, bias = some(2, 2, 5, 6), some(3, 2, 3, 3), some(3)
    foreign = x.astype(x.dtype.newbyteorder())
    expected = pc.conv2d(x, w, bias)
    np.testing.assert_array_equal(pc.plan(foreign, w)(foreign, w, bias), expected, strict=True)
    for plan, other in ((pc.plan(x, w), foreign), (pc.plan(foreign, w), x)):
        says(refusal(TypeError, plan, other, w), f"x has dtype {other.dtype}, and the plan is for {plan.call.x.dtype}")


@pytest.mark.parametrize("shape", [3, None, (None, 2, 5, 5), (1.5, 2, 5, 5), "1255", (-1, 2, 5, 5)], ids=repr)
def test_a_described_shape_is_a_tuple_of_lengths(shape: Any) -> None:
    says(refusal(TypeError, pc.plan, Shaped(shape, "float32"), W), f"x.shape={shape!r}")


def test_a_described_dtype_is_numeric() -> None:
    for dtype in ("flaot32", "object", 3, str):
        message = refusal(TypeError, pc.plan, Shaped((1, 2, 5, 5), dtype), W)
        assert message == f"x.dtype={dtype!r} is not a numeric dtype of numpy"
    says(refusal(TypeError, pc.plan, X.tolist(), W), "x must be an array", "not list", "no shape and dtype")


# -- what is fine --------------------------------------------------------------------------------------------

# One thing said in two ways.
SPELLINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "numpy-integers": (
        {"stride": np.int64(2), "padding": np.uint8(1), "dilation": np.int8(1), "groups": np.int32(2)},
        {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 2},
    ),
    "0-d-arrays": ({"stride": np.array(2), "padding": np.array(1)}, {"stride": 2, "padding": 1}),
    "lists": ({"stride": [1, 2], "padding": [1, [0, 2]]}, {"stride": (1, 2), "padding": ((1, 1), (0, 2))}),
    "arrays": (
        {"stride": np.array([1, 2]), "dilation": np.array([2, 1]), "padding": np.array([1, 2])},
        {"stride": (1, 2), "dilation": (2, 1), "padding": ((1, 1), (2, 2))},
    ),
    "array-of-pairs": ({"padding": np.array([[1, 2], [0, 1]])}, {"padding": ((1, 2), (0, 1))}),
    "range": ({"stride": range(1, 3)}, {"stride": (1, 2)}),
    "tuple-of-numpy-integers": ({"padding": (np.int64(1), (np.int8(0), 2))}, {"padding": ((1, 1), (0, 2))}),
    "valid": ({"padding": "valid"}, {"padding": ((0, 0), (0, 0))}),
    "same": ({"padding": "same"}, {"padding": ((1, 1), (1, 1))}),
    "same-upper": ({"padding": "same_upper", "stride": (1, 2)}, {"padding": ((1, 1), (0, 1)), "stride": (1, 2)}),
    "same-lower": ({"padding": "same_lower", "stride": (1, 2)}, {"padding": ((1, 1), (1, 0)), "stride": (1, 2)}),
    "zeros": ({"padding": 2, "padding_mode": "zeros"}, {"padding": 2, "padding_mode": "constant"}),
    "replicate": ({"padding": 2, "padding_mode": "replicate"}, {"padding": 2, "padding_mode": "edge"}),
    "circular": ({"padding": 2, "padding_mode": "circular"}, {"padding": 2, "padding_mode": "wrap"}),
    "numpy-string": ({"layout": np.str_("NCHW"), "padding": np.str_("same")}, {"padding": "same"}),
    "auto": ({"algorithm": "auto", "workers": None, "max_workspace": None, "dtype": None}, {}),
    "strict": ({"accuracy": "strict", "max_workspace": np.int64(10**12)}, {}),
    "vast-workspace": ({"max_workspace": 2**80}, {}),
    "stride-beyond-the-axis": ({"stride": 2**31 - 1}, {"stride": 9}),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name: str) -> None:
    spelled, plain = SPELLINGS[name]
    x, w = some(2, 2, 5, 6), some(2, 2, 3, 3)
    kernel = w[:, :1] if "groups" in spelled else w
    np.testing.assert_array_equal(pc.conv2d(x, kernel, **spelled), pc.conv2d(x, kernel, **plain), strict=True)


@pytest.mark.parametrize("algorithm", pc.algorithms())
def test_steps_as_long_as_can_be(algorithm: str, library: Backend) -> None:
    x, w = library.asarray(some(2, 1, 5, 6)), library.asarray(some(1, 1, 1, 1))
    if library.lacks(algorithm):
        pytest.skip("compiled for other libraries' arrays")
    steps = {"stride": 2**31 - 1, "dilation": 2**31 - 1}
    if algorithm == "winograd":  # which wants taps that share pixels, and none do so far apart
        says(refusal(ValueError, pc.conv2d, x, w, **steps, algorithm=algorithm), "winograd has nothing to save")
        return
    y = pc.conv2d(x, w, **steps, algorithm=algorithm)
    np.testing.assert_array_equal(library.to_numpy(y), (some(2, 1, 5, 6) * some(1, 1, 1, 1))[:, :, :1, :1], strict=True)


def test_other_strides_of_other_libraries() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    x, w = some(2, 2, 5, 6), some(3, 2, 3, 3)
    expected = pc.conv2d(x, w, stride=(1, 2), padding=((1, 2), (0, 1)))
    for steps, margins in itertools.product(
        (torch.tensor([1, 2]), jax.numpy.asarray([1, 2]), torch.Size([1, 2])),
        (torch.tensor([[1, 2], [0, 1]]), jax.numpy.asarray([[1, 2], [0, 1]])),
    ):
        np.testing.assert_array_equal(pc.conv2d(x, w, stride=steps, padding=margins), expected)


def test_memory_maps(tmp_path: Path) -> None:
    x, w = some(2, 2, 5, 6), some(3, 2, 3, 3)
    np.save(tmp_path / "x.npy", x)
    for mode in ("r", "c"):
        mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
        assert isinstance(mapped, np.memmap)
        y = pc.conv2d(mapped, w, padding=1)
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, pc.conv2d(x, w, padding=1), strict=True)


def test_a_numpy_number_is_a_bias_without_channels() -> None:
    x, w = some(4, 5), some(2, 2)
    y = pc.conv2d(x, w, np.float32(3), layout="HW")
    np.testing.assert_array_equal(y, pc.conv2d(x, w, layout="HW") + np.float32(3), strict=True)


def test_bias_is_optional_and_positional() -> None:
    x, w, bias = some(2, 2, 5, 6), some(3, 2, 3, 3), some(3) + 1
    expected = pc.conv2d(x, w) + bias[:, None, None]
    np.testing.assert_array_equal(pc.conv2d(x, w, bias), expected, strict=True)
    np.testing.assert_array_equal(pc.conv2d(w=w, x=x, bias=bias), expected, strict=True)
    np.testing.assert_array_equal(pc.conv2d(x, w, None), pc.conv2d(x, w), strict=True)


FUNCTIONS = {1: pc.conv1d, 2: pc.conv2d, 3: pc.conv3d}
DEFAULTS = {1: ("NCW", "OIW"), 2: ("NCHW", "OIHW"), 3: ("NCDHW", "OIDHW"), 4: ("NCTDHW", "OITDHW")}


@pytest.mark.parametrize("ndim", DEFAULTS)
def test_default_layouts(ndim: int) -> None:
    layout, kernel_layout = DEFAULTS[ndim]
    x, w, bias = some(2, 2, *(4, 3, 5, 2)[:ndim]), some(3, 2, *(2, 3, 2, 1)[:ndim]), some(3)
    expected = reference.convolve(
        x,
        w,
        bias,
        layout=layout,
        kernel_layout=kernel_layout,
        stride=(1,) * ndim,
        dilation=(1,) * ndim,
        padding=((0, 0),) * ndim,
    ).astype("float32")
    np.testing.assert_array_equal(pc.conv(x, w, bias), expected, strict=True)
    np.testing.assert_array_equal(pc.conv(x, w, bias, layout=layout), expected, strict=True)
    np.testing.assert_array_equal(pc.conv(x, w, bias, kernel_layout=kernel_layout), expected, strict=True)
    if ndim in FUNCTIONS:
        np.testing.assert_array_equal(FUNCTIONS[ndim](x, w, bias), expected, strict=True)
        last = FUNCTIONS[ndim](np.moveaxis(x, 1, -1), np.moveaxis(w, (0, 1), (-1, -2)), bias, layout=f"N{layout[2:]}C")
        np.testing.assert_array_equal(np.moveaxis(last, -1, 1), expected, strict=True)


def test_every_order_of_the_axes() -> None:
    x, w, bias = some(2, 4, 5, 6), some(6, 2, 3, 2), some(6)
    says_the_same = {"groups": 2, "stride": (1, 2), "padding": ((0, 1), (2, 0))}
    expected = pc.conv2d(x, w, bias, **says_the_same)
    for order in itertools.permutations(range(4)):
        layout, kernel_layout = ("".join(letters[i] for i in order) for letters in ("NCHW", "OIHW"))
        # stride and padding go by the order in which the layout spells the axes
        swapped = layout.index("H") > layout.index("W")
        told = says_the_same | ({"stride": (2, 1), "padding": ((2, 0), (0, 1))} if swapped else {})
        y = pc.conv2d(x.transpose(order), w.transpose(order), bias, layout=layout, kernel_layout=kernel_layout, **told)
        np.testing.assert_array_equal(y, expected.transpose(order), strict=True)


@pytest.mark.parametrize(
    ("layout", "absent"), [("CHW", "N"), ("NHW", "C"), ("HW", "NC"), ("WHC", "N"), ("HNW", "C"), ("HWC", "N")]
)
def test_layouts_without_batch_or_channels(layout: str, absent: str) -> None:
    """A missing axis is one of length one that is not spelled."""
    extent = {"N": 3, "C": 2, "H": 5, "W": 6}
    x = some(*(extent[letter] for letter in layout))
    w, full = some(2, 2, 3, 2), "NCHW"
    if "C" in absent:
        w = w[:1, :1]
    kernel = w if "C" in layout else w[0, 0]
    y = pc.conv2d(x, kernel, layout=layout, kernel_layout="OIHW" if "C" in layout else "HW", stride=1)
    in_order = np.transpose(x, [layout.index(letter) for letter in full if letter in layout])
    whole = np.expand_dims(in_order, tuple(full.index(letter) for letter in absent))
    expected = np.squeeze(pc.conv2d(whole, w), tuple(full.index(letter) for letter in absent))
    back = [letter for letter in full if letter in layout]
    np.testing.assert_array_equal(y, np.transpose(expected, [back.index(letter) for letter in layout]), strict=True)


# -- rubbish -------------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 6),
    st.sampled_from([2**31, -(2**31), 2**64, 10**30, float("nan"), float("inf"), -0.0, 1.5, 2.0, 1j]),
    st.text("NCHWOIDnchwo48f? <>=,()", max_size=5),
    st.binary(max_size=3),
    st.sampled_from([..., NotImplemented, int, np.float32, np.number, np.ndarray, len, object(), slice(1, 2), np, {}]),
    st.sampled_from([np.int8(1), np.uint64(2), np.float32(1), np.bool_(True), np.str_("same"), np.datetime64("2000")]),
    st.sampled_from(["valid", "same", "same_lower", "edge", "circular", "reflect", "fast", "strict", "auto", "NHWC"]),
    st.sampled_from([*pc.algorithms(), "float32", "complex64", "int8", "bool", "HWIO", "CHWN", "NCWH", "OIWH"]),
)
ARRAYS = st.builds(
    lambda shape, dtype: np.ones(shape).astype(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["float64", "int64", "bool", "complex64", "object", "U1"]),
)
RUBBISH = st.recursive(
    LEAVES | ARRAYS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.integers(0, 2), inner, max_size=2),
    ),
    max_leaves=5,
)


def spread(value: Any, ndim: int) -> list[int]:
    return [int(value)] * ndim if np.ndim(value) == 0 else [int(entry) for entry in value]


def shape_by_definition(x: Any, w: Any, keywords: dict[str, Any]) -> tuple[int, ...]:
    """The shape of the result of a call that was accepted, worked out anew."""
    layout = keywords.get("layout") or "NCHW"
    kernel_layout = keywords.get("kernel_layout") or {"NHWC": "HWIO"}.get(layout, "OI" + re.sub("[NC]", "", layout))
    if "C" not in layout:
        kernel_layout = kernel_layout.strip("OI")
    sizes, taps = dict(zip(layout, x.shape, strict=True)), dict(zip(kernel_layout, w.shape, strict=True))
    letters = [letter for letter in layout if letter not in "NC"]
    stride, dilation = (spread(keywords.get(name, 1), len(letters)) for name in ("stride", "dilation"))
    padding = keywords.get("padding", 0)
    out = {"N": sizes.get("N", 1), "C": taps.get("O", 1)}
    for i, letter in enumerate(letters):
        along = sizes[letter], taps[letter], stride[i], dilation[i]
        if isinstance(padding, str):
            margin = 0 if padding == "valid" else sum(reference.same_padding(*along, extra_at_end=True))
        else:
            here = padding if np.ndim(np.asarray(padding, dtype=object)) == 0 else padding[i]
            margin = 2 * int(here) if np.ndim(here) == 0 else sum(map(int, here))
        out[letter] = reference.windows_that_fit(along[0] + margin, *along[1:])
    return tuple(out[letter] for letter in layout)


@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(["x", "w", "bias", *Options.__annotations__]), RUBBISH, min_size=1, max_size=2))
def test_rubbish_gives_an_error_that_names_it_or_a_result_of_the_right_shape(given: dict[str, Any]) -> None:
    call = {"x": X, "w": W} | given
    try:
        y = pc.conv2d(**call)
    except (ValueError, TypeError, NotImplementedError) as error:
        assert type(error) in (ValueError, TypeError, NotImplementedError)  # noqa: PT017 - many may come
        assert any(re.search(rf"\b{name}\b", str(error)) for name in given), str(error)  # noqa: PT017
    else:
        keywords = {name: value for name, value in call.items() if name not in ("x", "w", "bias")}
        assert type(y) is np.ndarray
        assert y.shape == shape_by_definition(call["x"], call["w"], keywords)


# -- show_config ---------------------------------------------------------------------------------------------


def test_show_config_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert pc.show_config() is None
    printed = capsys.readouterr().out
    for key in ("polyconv: ", "python: ", "processors: ", "versions:", "blas:", "devices:"):
        assert f"\n{key}" in f"\n{printed}"
    says(printed, pc.__version__, f"numpy: {np.__version__}")


def test_show_config_returns(capsys: pytest.CaptureFixture[str]) -> None:
    config = pc.show_config("dicts")
    assert config is not None
    assert config.keys() == {"polyconv", "python", "processors", "versions", "blas", "devices"}
    assert config["polyconv"] == pc.__version__
    assert config["versions"]["numpy"] == np.__version__
    assert config["processors"] >= 1
    assert config["devices"]["numpy"] == ["cpu"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("mode", ["json", "", None, 3])
def test_show_config_knows_two_modes(mode: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"mode={mode!r} must be 'stdout' or 'dicts'")):
        pc.show_config(mode)
