"""Random problems against references that nobody here wrote: NumPy, SciPy, scikit-image, PyTorch and JAX.

Wherever the peer sums in float64, the numbers are small integers, so that every order of summation gives the same
floats and equality is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from backends import ON_NUMPY
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, values
from tolerance import beyond_direct, settled

import polyconv as pc

SIZES = st.integers(0, 4)  # how much larger than the kernel an image is


def planned(data: st.DataObject, x: np.ndarray, w: np.ndarray, **keywords: Any) -> pc.Plan:
    """A plan with an algorithm drawn from those that can."""
    able = [candidate.name for candidate in pc.plan(x, w, **keywords).candidates if candidate.reason is None]
    return pc.plan(x, w, **keywords, algorithm=data.draw(st.sampled_from(able)))


def conv(data: st.DataObject, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None, **keywords: Any) -> Any:
    """``polyconv.conv`` of whole numbers by an algorithm drawn from those that can."""
    plan = planned(data, x, w, **keywords)
    return settled(plan(x, w, bias), plan, x, w)


def whole(rng: np.random.Generator, shape: tuple[int, ...], *, complex_too: bool = False) -> np.ndarray:
    """Small integers in float64, or Gaussian integers in complex128."""
    real = values(rng, shape, "int8").astype(np.float64)
    return real + 1j * values(rng, shape, "int8") if complex_too else real


@dataclass(frozen=True)
class Signal:
    """An image without batch or channels and a kernel no larger, which is where libraries agree on all modes."""

    x: np.ndarray
    w: np.ndarray

    @property
    def layout(self) -> str:
        return "DHW"[-self.x.ndim :]


@st.composite
def signals(draw: st.DrawFn, dims: tuple[int, ...] = (1, 2, 3)) -> Signal:
    ndim = draw(st.sampled_from(dims))
    kernel = tuple(draw(st.integers(1, {1: 6, 2: 4, 3: 3}[ndim])) for _ in range(ndim))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = [
        whole(rng, shape, complex_too=draw(st.booleans())) for shape in (tuple(k + draw(SIZES) for k in kernel), kernel)
    ]
    return Signal(*arrays)


# -- NumPy and SciPy: one kernel over one image --------------------------------------------------------------

# For kernels of even size "same" has to choose a side, and SciPy does not always choose the same one. This is
# where each function puts the extra element of its margin; kernels of odd size need none.
SAME = {
    "numpy.convolve": "same_lower",
    "numpy.correlate": "same_lower",
    "scipy.signal.convolve": "same_lower",
    "scipy.signal.correlate": "same_lower",
    "scipy.signal.convolve2d": "same_lower",
    "scipy.signal.correlate2d": "same",
    "scipy.ndimage.convolve": "same",
    "scipy.ndimage.correlate": "same_lower",
}


def margins(mode: str, function: str, kernel: tuple[int, ...]) -> Any:
    """SciPy's ``mode`` as padding."""
    return {"valid": "valid", "full": [(k - 1, k - 1) for k in kernel], "same": SAME[function]}[mode]


def correlated(w: np.ndarray, function: str) -> np.ndarray:
    """The kernel to hand to a peer: NumPy and SciPy correlate with the conjugate of what they are given."""
    return w if "convolve" in function else w.conj()


@pytest.mark.parametrize("mode", ["valid", "full", "same"])
@pytest.mark.parametrize("function", ["convolve", "correlate"])
def test_numpy(function: str, mode: str) -> None:
    @given(st.data(), signals(dims=(1,)))
    def check(data: st.DataObject, s: Signal) -> None:
        expected = getattr(np, function)(s.x, correlated(s.w, function), mode)
        padding = margins(mode, f"numpy.{function}", s.w.shape)
        y = conv(data, s.x, s.w, layout=s.layout, padding=padding, flip_kernel=function == "convolve")
        np.testing.assert_array_equal(y, expected)

    check()


@pytest.mark.parametrize("mode", ["valid", "full", "same"])
@pytest.mark.parametrize("function", ["convolve", "correlate"])
def test_scipy_signal(function: str, mode: str) -> None:
    @given(st.data(), signals())
    def check(data: st.DataObject, s: Signal) -> None:
        # Its other method goes by Fourier transforms, which round.
        expected = getattr(scipy.signal, function)(s.x, correlated(s.w, function), mode, method="direct")
        padding = margins(mode, f"scipy.signal.{function}", s.w.shape)
        y = conv(data, s.x, s.w, layout=s.layout, padding=padding, flip_kernel=function == "convolve")
        np.testing.assert_array_equal(y, expected)

    check()


@pytest.mark.parametrize(("boundary", "padding_mode"), [("fill", "constant"), ("wrap", "wrap"), ("symm", "symmetric")])
@pytest.mark.parametrize("mode", ["valid", "full", "same"])
@pytest.mark.parametrize("function", ["convolve2d", "correlate2d"])
def test_scipy_signal_in_two_dimensions(function: str, mode: str, boundary: str, padding_mode: str) -> None:
    @settings(max_examples=50)
    @given(st.data(), signals(dims=(2,)))
    def check(data: st.DataObject, s: Signal) -> None:
        expected = getattr(scipy.signal, function)(s.x, correlated(s.w, function), mode, boundary)
        keywords = {
            "padding": margins(mode, f"scipy.signal.{function}", s.w.shape),
            "padding_mode": padding_mode,
            "flip_kernel": function == "convolve2d",
        }
        np.testing.assert_array_equal(conv(data, s.x, s.w, layout="HW", **keywords), expected)

    check()


# The names of scipy.ndimage for what is around an image. Its "reflect" is NumPy's "symmetric", and not its "reflect".
NDIMAGE_MODES = {
    "constant": "constant",
    "grid-constant": "constant",
    "mirror": "reflect",
    "reflect": "symmetric",
    "grid-mirror": "symmetric",
    "nearest": "edge",
    "wrap": "wrap",
    "grid-wrap": "wrap",
}


@pytest.mark.parametrize(("mode", "padding_mode"), NDIMAGE_MODES.items())
@pytest.mark.parametrize("function", ["convolve", "correlate"])
def test_scipy_ndimage(function: str, mode: str, padding_mode: str) -> None:
    @settings(max_examples=50)
    @given(st.data(), signals())
    def check(data: st.DataObject, s: Signal) -> None:
        expected = getattr(scipy.ndimage, function)(s.x, correlated(s.w, function), mode=mode)
        keywords = {
            "padding": SAME[f"scipy.ndimage.{function}"],
            "padding_mode": padding_mode,
            "flip_kernel": function == "convolve",
        }
        np.testing.assert_array_equal(conv(data, s.x, s.w, layout=s.layout, **keywords), expected)

    check()


@pytest.mark.parametrize(("mode", "padding_mode"), NDIMAGE_MODES.items())
def test_scipy_ndimage_with_the_kernel_off_centre(mode: str, padding_mode: str) -> None:
    @settings(max_examples=50)
    @given(st.data(), signals())
    def check(data: st.DataObject, s: Signal) -> None:
        origin = tuple(data.draw(st.integers(-(k // 2), (k - 1) // 2)) for k in s.w.shape)
        expected = scipy.ndimage.correlate(s.x, s.w.conj(), mode=mode, origin=origin)
        low = [k // 2 + shift for k, shift in zip(s.w.shape, origin, strict=True)]
        padding = [(before, k - 1 - before) for k, before in zip(s.w.shape, low, strict=True)]
        y = conv(data, s.x, s.w, layout=s.layout, padding=padding, padding_mode=padding_mode)
        np.testing.assert_array_equal(y, expected)

    check()


# -- a photograph --------------------------------------------------------------------------------------------

ARRAY_ALGORITHMS = [name for name in ON_NUMPY if name not in ("naive", "patch", "pointwise")]


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """512 x 512 grey values in uint8, from scikit-image's wheel."""
    data = pytest.importorskip("skimage.data")
    return data.camera()


@pytest.mark.parametrize("algorithm", ARRAY_ALGORITHMS)
def test_sobel_filter_of_a_photograph(photograph: np.ndarray, algorithm: str) -> None:
    filters = pytest.importorskip("skimage.filters")
    kernel = np.asarray([[1, 2, 1], [0, 0, 0], [-1, -2, -1]], dtype=np.int8)
    keywords = {"layout": "HW", "padding": "same", "padding_mode": "symmetric", "algorithm": algorithm}
    if algorithm != "fft":  # which integers are too exact for
        edges = pc.conv(photograph, kernel, **keywords)
        assert edges.dtype == np.int64
        # ndimage wants a signed dtype to answer in, and correlates with the kernel turned upside down.
        np.testing.assert_array_equal(-edges, scipy.ndimage.sobel(photograph.astype(np.int64), axis=0, mode="reflect"))
    # scikit-image convolves in floats, with a quarter of the kernel: exact, since it is a power of two.
    image, quarter = photograph.astype(np.float64), kernel / 4
    turned = pc.conv(image, quarter, flip_kernel=True, **keywords)
    beyond = beyond_direct(pc.plan(image, quarter, flip_kernel=True, **keywords), image, quarter)
    assert np.max(np.abs(turned - filters.sobel_h(image))) <= beyond


def gaussian(sigma: float, radius: int) -> np.ndarray:
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / np.sum(weights)


def gaussian_bound(terms: int, largest: float) -> float:
    """The most by which two Gaussian filters can differ, each of two passes with weights that sum to one.

    A pass is off by at most half an epsilon for every term and for every rounding of a weight, of which there
    are no more than eight: its exponent, its exponential (within one unit), the sum of them all, the quotient.
    """
    passes, filters = 2, 2
    return filters * passes * (terms + 8) * np.finfo(np.float64).eps / 2 * largest


@pytest.mark.parametrize("algorithm", ARRAY_ALGORITHMS)
@pytest.mark.parametrize("mode", ["nearest", "mirror", "reflect", "wrap", "constant"])
def test_gaussian_filter_of_a_photograph(photograph: np.ndarray, mode: str, algorithm: str) -> None:
    image, weights = photograph[:200, :300].astype(np.float64), gaussian(2.0, 8)
    y, beyond = image, 0.0
    for kernel in (weights[:, None], weights[None, :]):
        keywords = {"layout": "HW", "padding": "same", "padding_mode": NDIMAGE_MODES[mode], "algorithm": algorithm}
        beyond += beyond_direct(pc.plan(y, kernel, **keywords), y, kernel)  # a blur makes no error larger
        y = pc.conv(y, kernel, **keywords)
    expected = scipy.ndimage.gaussian_filter(image, 2.0, mode=mode, radius=8)
    assert np.max(np.abs(y - expected)) <= gaussian_bound(len(weights), np.max(image)) + beyond


def test_gaussian_filter_of_a_colour_photograph() -> None:
    """Three ways to filter the colours alike: as a batch, as channels of their own, and scikit-image's."""
    data, filters = pytest.importorskip("skimage.data"), pytest.importorskip("skimage.filters")
    image, weights = data.astronaut()[:200, :300].astype(np.float64), gaussian(1.5, 6)
    expected = filters.gaussian(image, 1.5, mode="nearest", truncate=4.0, preserve_range=True, channel_axis=-1)
    batch = depthwise = image
    for kernel in (weights[:, None], weights[None, :]):
        batch = pc.conv(batch, kernel, layout="HWN", padding="same", padding_mode="edge")
        per_channel = np.broadcast_to(kernel[:, :, None, None], (*kernel.shape, 1, 3))
        depthwise = pc.conv(depthwise, per_channel, layout="HWC", groups=3, padding="same", padding_mode="edge")
    for y in (batch, depthwise):
        assert np.max(np.abs(y - expected)) <= gaussian_bound(len(weights), np.max(image))


# -- JAX and PyTorch: batches, channels and every keyword ----------------------------------------------------


def in_order(a: np.ndarray, letters: str, order: str) -> np.ndarray:
    """An array whose axes are spelled by ``letters``, with its axes in ``order``; those it lacks get length one."""
    present = [letter for letter in order if letter in letters]
    a = a.transpose([letters.index(letter) for letter in present])
    return a.reshape([a.shape[present.index(letter)] if letter in present else 1 for letter in order])


def back_in_order(y: np.ndarray, order: str, letters: str) -> np.ndarray:
    """The way back: the axes that ``letters`` lacks are dropped."""
    kept = "".join(letter for letter in order if letter in letters)
    y = y.reshape([n for n, letter in zip(y.shape, order, strict=True) if letter in letters])
    return y.transpose([kept.index(letter) for letter in letters])


def spatial(case: Case) -> str:
    return "".join(letter for letter in case.canonical["layout"] if letter not in "NC")


def flipped(case: Case) -> np.ndarray:
    """The kernel, turned around where the case says so."""
    letters = case.canonical["kernel_layout"]
    axes = [i for i, letter in enumerate(letters) if letter not in "OI"]
    return np.flip(case.w, axes) if case.canonical["flip_kernel"] else case.w


def padded(case: Case) -> np.ndarray:
    """The image with its margins, by NumPy."""
    pads = dict(zip(spatial(case), case.canonical["padding"], strict=True))
    widths = [pads.get(letter, (0, 0)) for letter in case.canonical["layout"]]
    return np.pad(case.x, widths, mode=case.canonical["padding_mode"])


def by_jax(case: Case, x: np.ndarray, w: np.ndarray, padding: Any) -> np.ndarray:
    """The case by JAX, in the case's own layouts: its dimension numbers say the same. JAX knows no bias."""
    jax = pytest.importorskip("jax")
    layout, kernel_layout = case.canonical["layout"], case.canonical["kernel_layout"]
    # JAX takes what is said once per axis in the order of the kernel's axes, polyconv in that of the image's.
    order = [spatial(case).index(letter) for letter in kernel_layout if letter not in "OI"]
    stride, dilation = ([case.canonical[key][i] for i in order] for key in ("stride", "dilation"))
    padding = padding if isinstance(padding, str) else [padding[i] for i in order]
    # JAX wants a batch and channels; polyconv does without.
    all_letters = "".join(letter for letter in "NC" if letter not in layout) + layout
    all_kernel = "".join(letter for letter in "OI" if letter not in kernel_layout) + kernel_layout
    y = jax.lax.conv_general_dilated(
        in_order(x, layout, all_letters),
        in_order(w, kernel_layout, all_kernel),
        window_strides=stride,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=(all_letters, all_kernel, all_letters),
        feature_group_count=case.canonical["groups"],
    )
    return back_in_order(np.asarray(y), all_letters, layout)


def jax_padding(case: Case) -> tuple[np.ndarray, Any]:
    """Image and padding for JAX: its own words where it has them, else margins that NumPy made."""
    said = case.keywords["padding"]
    if case.canonical["padding_mode"] != "constant":
        return padded(case), "VALID"
    names = {"valid": "VALID", "same": "SAME", "same_upper": "SAME", "same_lower": "SAME_LOWER"}
    return case.x, names[said] if isinstance(said, str) else case.canonical["padding"]


def without_bias(case: Case, dtype: type = np.float64) -> Case:
    return Case(case.x.astype(dtype), case.w.astype(dtype), None, case.keywords, case.canonical)


@settings(max_examples=60)
@given(st.data(), cases(dtypes=("int8",)))
def test_jax_exactly(data: st.DataObject, case: Case) -> None:
    case = without_bias(case)
    x, padding = jax_padding(case)
    expected = by_jax(case, x, flipped(case), padding)
    np.testing.assert_array_equal(conv(data, case.x, case.w, **case.keywords), expected)


@settings(max_examples=30)
@given(st.data(), cases())
def test_jax_within_rounding(data: st.DataObject, case: Case) -> None:
    case = without_bias(case)
    x, padding = jax_padding(case)
    expected = by_jax(case, x, flipped(case), padding)
    magnitude = by_jax(case, np.abs(x), np.abs(flipped(case)), padding)
    plan = planned(data, case.x, case.w, **case.keywords)
    beyond = beyond_direct(plan, case.x, case.w)
    within_rounding(plan(case.x, case.w), expected, magnitude, case.terms, beyond)


def within_rounding(y: np.ndarray, expected: np.ndarray, magnitude: np.ndarray, terms: int, beyond: float) -> None:
    """Two sums of the same ``terms`` in any two orders; each is off by half an epsilon a term at most.

    ``magnitude`` is the sum of the terms' absolute values (Higham 2002, section 3.1). A method that transforms blocks
    may be off by so much ``beyond``.
    """
    assert y.shape == expected.shape
    error = np.abs(y - expected)
    assert np.all(error <= terms * np.finfo(np.float64).eps * magnitude + beyond), f"off by {np.max(error)}"


TORCH_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}

# PyTorch makes a copy where "same" is not the same at both ends, and says so each time; the result is what counts.
UNEVEN = "ignore:Using padding='same' with even kernel lengths and odd dilation may require a zero-padded copy"


def by_torch(case: Case, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """The case by ``torch.nn.functional``, margins and kernel turned around included wherever it can."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    letters, said, keywords = spatial(case), case.keywords["padding"], case.canonical
    images = torch.tensor(in_order(x, keywords["layout"], "NC" + letters))
    kernel = torch.tensor(in_order(w, keywords["kernel_layout"], "OI" + letters))
    bias = None if bias is None else torch.tensor(bias.reshape(-1))
    if keywords["flip_kernel"]:
        kernel = kernel.flip(tuple(range(2, kernel.ndim)))
    mode, padding = keywords["padding_mode"], 0
    even = all(low == high for low, high in keywords["padding"])
    if mode == "constant" and (said == "valid" or (said in ("same", "same_upper") and set(keywords["stride"]) == {1})):
        padding = "valid" if said == "valid" else "same"
    elif mode == "constant" and even:
        padding = tuple(low for low, _ in keywords["padding"])
    elif mode in TORCH_MODES:
        last_axis_first = [side for pair in reversed(keywords["padding"]) for side in pair]
        images = functional.pad(images, last_axis_first, mode=TORCH_MODES[mode])
    else:  # PyTorch has no symmetric margin
        images = torch.tensor(in_order(padded(case), keywords["layout"], "NC" + letters))
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[len(letters) - 1]
    stride, dilation, groups = keywords["stride"], keywords["dilation"], keywords["groups"]
    y = function(images, kernel, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return back_in_order(y.numpy(), "NC" + letters, keywords["layout"])


@pytest.mark.filterwarnings(UNEVEN)
@settings(max_examples=150)
@given(st.data(), cases(dtypes=("int8",)))
def test_torch_exactly(data: st.DataObject, case: Case) -> None:
    bias = None if case.bias is None else case.bias.astype(np.float64)
    case = without_bias(case)
    expected = by_torch(case, case.x, case.w, bias)
    np.testing.assert_array_equal(conv(data, case.x, case.w, bias, **case.keywords), expected)


@pytest.mark.filterwarnings(UNEVEN)
@settings(max_examples=100)
@given(st.data(), cases())
def test_torch_within_rounding(data: st.DataObject, case: Case) -> None:
    expected = by_torch(case, case.x, case.w, case.bias)
    positive = Case(np.abs(case.x), np.abs(case.w), None, case.keywords, case.canonical)
    bias = None if case.bias is None else np.abs(case.bias)
    magnitude = by_torch(positive, positive.x, positive.w, bias)
    plan = planned(data, case.x, case.w, **case.keywords)
    beyond = beyond_direct(plan, case.x, case.w)
    within_rounding(plan(case.x, case.w, case.bias), expected, magnitude, case.terms, beyond)


@st.composite
def layers(draw: st.DrawFn) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """A layer of PyTorch: its number of spatial axes, the sizes that make it, and the keywords that both take."""
    ndim = draw(st.sampled_from([1, 2, 3]))
    groups = draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 4 - (ndim == 3))) for _ in range(ndim))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(ndim))
    named = draw(st.sampled_from([None, None, "same", "valid"]))
    stride = tuple(1 if named == "same" else draw(st.integers(1, 3)) for _ in range(ndim))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(ndim))
    sizes = {
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 3)),
        "kernel_size": kernel,
        "bias": draw(st.booleans()),
    }
    keywords = {
        "stride": stride,
        "padding": named or padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    }
    return ndim, sizes, keywords


@pytest.mark.filterwarnings(UNEVEN)
@given(st.data(), layers())
def test_torch_layers_take_the_same_words(
    data: st.DataObject, layer: tuple[int, dict[str, Any], dict[str, Any]]
) -> None:
    torch = pytest.importorskip("torch")
    ndim, sizes, keywords = layer
    make = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[ndim - 1]
    module = make(**sizes, **keywords, dtype=torch.float64)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    reaches = [(k - 1) * d + 1 for k, d in zip(sizes["kernel_size"], keywords["dilation"], strict=True)]
    # Long enough for the window and for any mode to fill its own margins, of which none exceeds the reach or three.
    size = tuple(max(reach, 4) + data.draw(st.integers(0, 2)) for reach in reaches)
    x = torch.from_numpy(whole(rng, (data.draw(st.integers(1, 2)), sizes["in_channels"], *size)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(whole(rng, tuple(parameter.shape))))
        expected = module(x)
        w, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
        y = conv(data, x, w, bias, **keywords)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("multiplier", [1, 2, 3])
@pytest.mark.parametrize("algorithm", [name for name in ON_NUMPY if name != "pointwise"])
def test_torch_depthwise_with_a_channel_multiplier(algorithm: str, multiplier: int, layout: str) -> None:
    """Filter ``k`` sees channel ``k // multiplier``: PyTorch's order of the filters."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(multiplier)
    channels = 3
    x, w = whole(rng, (2, channels, 7, 6)), whole(rng, (multiplier * channels, 1, 3, 2))
    bias = whole(rng, (multiplier * channels,))
    keywords = {"stride": (2, 1), "padding": (1, 2), "groups": channels}
    expected = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, w, bias)), **keywords).numpy()
    kernel_layout = "HWIO" if layout == "NHWC" else "OIHW"
    arranged = in_order(x, "NCHW", layout), in_order(w, "OIHW", kernel_layout)
    plan = pc.plan(*arranged, layout=layout, **keywords, algorithm=algorithm)
    y = settled(plan(*arranged, bias), plan, x, w)
    np.testing.assert_array_equal(y, in_order(expected, "NCHW", layout))
