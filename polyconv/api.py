"""The public functions: signatures and their meaning, no logic."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from . import wisdom
from .algorithms import ALGORITHMS, Algorithm
from .arguments import (
    Call,
    Demands,
    Padding,
    TransposedCall,
    check_bias,
    check_gradient,
    check_measurable,
    read,
    read_absent,
    read_demands,
    read_transposed,
)
from .arrays import Array, at_home, in_chunks
from .convolution import planned
from .gradients import bias_grad, input_grad, transposed, weight_grad
from .planning import Plan

if TYPE_CHECKING:
    from .chunked import ChunkedPlan

__all__ = [
    "algorithms",
    "conv",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_input_grad",
    "conv_transpose",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "conv_vjp",
    "conv_weight_grad",
    "forget_wisdom",
    "load_wisdom",
    "plan",
    "save_wisdom",
]


class _Common(TypedDict, total=False):
    stride: int | Sequence[int]
    padding: Padding
    dilation: int | Sequence[int]
    groups: int
    layout: str | None
    kernel_layout: str | None
    flip_kernel: bool
    dtype: Any
    algorithm: str | Algorithm
    accuracy: str
    max_workspace: int | None
    workers: int | None


class Options(_Common, total=False):
    """The keywords of convolutions; their defaults and their order stand in the signatures of ``arguments``."""

    padding_mode: str


class TransposedOptions(_Common, total=False):
    """The same of transposed convolutions."""

    output_padding: int | Sequence[int]


def _keywords(reader: Callable[..., object], options: Any) -> dict[str, inspect.Parameter]:
    """The keywords of ``options``, with the defaults that they have where they are read."""
    meant = options.__annotations__  # forward references, whose text reads better
    return {
        parameter.name: parameter.replace(annotation=meant[parameter.name].__forward_arg__)
        for function in (reader, read_demands)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name in meant
    }


_KEYWORDS = _keywords(read, Options)
_TRANSPOSED_KEYWORDS = _keywords(read_transposed, TransposedOptions)
_DEMANDS = inspect.signature(read_demands).parameters.keys()


def _by_name(text: str) -> dict[str, str]:
    """What is said of parameters, by their names, each of which stands at the margin."""
    return {entry.partition("\n")[0]: entry for entry in re.findall(r"^\w+\n(?: .+\n)+", text, re.MULTILINE)}


_PARAMETERS = _by_name("""
x
    The images: an array of NumPy, CuPy, PyTorch, JAX or any library with the Array API, of any numeric
    dtype, its axes as ``layout`` spells them. It is never written to. A Dask array of NumPy's or CuPy's is convolved
    lazily, block by block, whatever its chunks.
w
    The kernel, of the same library and on the same device, its axes as ``kernel_layout`` spells them. Beside a Dask
    array it may be in memory, or in chunks too.
bias
    One value per output channel, shape ``(K,)``; shape ``()`` where the layout has no channels.
stride
    The step between neighbouring windows, one for all spatial axes or one for each.
padding
    The margin added around the image before it is convolved: an int, one int per spatial axis, or a
    ``(low, high)`` pair per axis; or by name: ``"valid"`` (none), ``"same"`` (as much as makes the output
    ``ceil(n / stride)`` long; an odd margin has its extra element at the end), which is also spelled
    ``"same_upper"``, or ``"same_lower"`` (the extra element at the start).
dilation
    The distance between neighbouring kernel taps, in image elements, one for all axes or one for each.
groups
    Into how many groups the channels are split; filters see only the channels of their own group.
    With ``groups`` equal to the number of channels, the convolution is depthwise.
layout
    One capital letter for each axis of ``x`` and of the result: ``N`` batch, ``C`` channels, any other a
    spatial axis, as in ``"NCHW"``, ``"NHWC"``, ``"NCW"``, ``"CHW"`` or ``"HW"``. By default, batch and
    channels come first.
kernel_layout
    One letter for each axis of ``w``: ``O`` output channels, ``I`` input channels of one group, and the
    spatial letters of ``layout``. By default ``"OIHW"`` where channels come first, ``"HWIO"`` where they
    come last, and ``"HW"`` where the layout has no channels.
padding_mode
    What the margin holds, by :func:`numpy.pad`'s names: ``"constant"`` (zero), ``"reflect"``,
    ``"symmetric"``, ``"edge"`` or ``"wrap"``; PyTorch's ``"zeros"``, ``"replicate"`` and ``"circular"``
    mean ``constant``, ``edge`` and ``wrap``.
flip_kernel
    Turn the kernel around along its spatial axes first, which gives convolution in the mathematician's
    (and SciPy's) sense.
dtype
    The dtype to sum in and to return, by default chosen thus: floats promote as usual; integers that meet
    floats take the float's dtype; integers alone are summed, exactly, in the dtype that the library's
    ``sum`` gives them. float16 and bfloat16 are summed in float32 and rounded at the end.
algorithm
    A name from :func:`algorithms`, which then runs or raises, or ``"auto"``, which takes the one of least
    predicted time. An :class:`~polyconv.Algorithm` does as well: :func:`Winograd(m=6) <polyconv.Winograd>`,
    :func:`FFT(block=(128, 128)) <polyconv.FFT>`, or a record of one's own.
accuracy
    ``"fast"`` lets ``"auto"`` choose Winograd's method and Fourier transforms where their predicted error, relative
    and root mean square, is at most 2e-6 in float32 and complex64 and 1e-13 in float64 and complex128, and never for
    half precision. ``"strict"`` admits only methods whose error is that of direct summation and in which an output
    depends on its own window alone, so that a NaN goes no further.
max_workspace
    The most bytes that the call may hold beside its inputs and its result. Larger problems are cut into tiles where
    the library's arrays can be written to (NumPy, CuPy); where nothing fits, a ValueError says what was needed.
workers
    How many threads may convolve a NumPy array, by tiles or by sharing loops, by default as many as there are
    processors. With 1, polyconv starts none, and what there is of parallelism is the BLAS's own. For Dask arrays it
    counts for every task, where the default is 1, and then BLAS has one thread as well.
dy
    The gradient of the loss with respect to the result: of its shape, in its layout.
input_shape
    The shape of the image.
kernel_shape
    The shape of the kernel.
""")

_TRANSPOSED_PARAMETERS = _PARAMETERS | _by_name("""
stride
    How far apart the copies are.
padding
    How much is cut off the result: numbers as in :func:`conv`, as PyTorch means them; or by name, as Keras does:
    ``"valid"`` (nothing is cut off; ``n * stride + max(span - stride, 0)`` outputs) or ``"same"`` (``n * stride``
    outputs), also spelled ``"same_upper"`` (the odd one is cut off at the end) or ``"same_lower"``.
output_padding
    How much is added at the end, less than the stride or the dilation: a strided convolution has the same result
    for several sizes of image, and this says which is meant. Goes with numbers.
dilation
    The distance between neighbouring kernel taps, in elements of the result, one for all axes or one for each.
kernel_layout
    One letter for each axis of ``w``: ``I`` the channels of ``x``, all of them, ``O`` output channels of one group, and
    the spatial letters of ``layout``. By default ``"IOHW"`` where channels come first, as PyTorch stores it,
    ``"HWOI"`` where they come last, as Keras does, and ``"HW"`` where the layout has no channels.
""")

_F = TypeVar("_F", bound=Callable[..., Any])


def _spelled_out(keywords: dict[str, inspect.Parameter], parameters: dict[str, str]) -> Callable[[_F], _F]:
    """Give ``**options`` its ``keywords`` in the signature, and the docstring its ``parameters``, for ``help``."""

    def spelled_out(function: _F) -> _F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        signature = signature.replace(parameters=[*own, *keywords.values()])
        function.__signature__ = signature  # type: ignore[attr-defined]
        text = "".join(parameters.get(name, "") for name in signature.parameters)
        text = f"\nParameters\n----------\n{text}\nReturns\n"
        function.__doc__ = inspect.cleandoc(function.__doc__ or "").replace("\nReturns\n", text)
        return function

    return spelled_out


_of_conv = _spelled_out(_KEYWORDS, _PARAMETERS)
_of_conv_transpose = _spelled_out(_TRANSPOSED_KEYWORDS, _TRANSPOSED_PARAMETERS)


def _understood(
    x: Any, w: Any, options: Options, name: str, ndim: int | None, described: bool = False
) -> tuple[Call, Demands]:
    """The call and the demands that the caller's words make."""
    meaning, demands = _separated(options, _KEYWORDS, name)
    return read(x, w, ndim=ndim, described=described, **meaning), read_demands(**demands)


def _separated(options: Any, known: Iterable[str], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords that say what is convolved, and those that say how. Raises TypeError for any that is not ``known``."""
    for keyword in options.keys() - set(known):
        import difflib  # slow to import, and only a slip of the pen needs it

        near = difflib.get_close_matches(keyword, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        raise TypeError(f"{name}() got an unexpected keyword argument {keyword!r}{hint}")
    demands = {key: value for key, value in options.items() if key in _DEMANDS}
    return {key: value for key, value in options.items() if key not in _DEMANDS}, demands


def _requested(call: Call | TransposedCall, options: Any) -> Any:
    """The dtype that the caller asked for, as arrays carry it; None where none was."""
    return None if options.get("dtype") is None else call.dtypes.result


@_of_conv
def conv(x: Array, w: Array, bias: Array | None = None, **options: Unpack[Options]) -> Array:
    """Convolve images, signals or volumes with a bank of filters, along any number of spatial axes.

    "Convolution" is meant as deep-learning libraries mean it, which mathematicians call cross-correlation::

        y[n, k, o] = bias[k] + sum over c, t of  x[n, c, o * stride + t * dilation - low padding] * w[k, c, t]

    Returns
    -------
    array
        The result, in the library, on the device and in the layout of ``x``, contiguous.

    Raises
    ------
    ValueError, TypeError
        Before any work, naming the argument, what was given, the rule and the shapes.

    Examples
    --------
    >>> import numpy as np, polyconv as pc
    >>> pc.conv(np.arange(5.0), np.array([1.0, 0.0, -1.0]), layout="W", flip_kernel=True)
    array([2., 2., 2.])
    """
    return planned(x, w, *_understood(x, w, options, "conv", None)).run(x, w, bias)


@_of_conv
def conv1d(x: Array, w: Array, bias: Array | None = None, **options: Unpack[Options]) -> Array:
    """Convolve signals, by default of layout ``"NCW"``: :func:`conv` with one spatial axis.

    Returns
    -------
    array
        The result, in the library, on the device and in the layout of ``x``, contiguous.
    """
    return planned(x, w, *_understood(x, w, options, "conv1d", 1)).run(x, w, bias)


@_of_conv
def conv2d(x: Array, w: Array, bias: Array | None = None, **options: Unpack[Options]) -> Array:
    """Convolve images, by default of layout ``"NCHW"``: :func:`conv` with two spatial axes.

    Returns
    -------
    array
        The result, in the library, on the device and in the layout of ``x``, contiguous.

    Examples
    --------
    >>> import numpy as np, polyconv as pc
    >>> images, filters = np.ones((8, 150, 150, 3)), np.ones((3, 3, 3, 16))
    >>> pc.conv2d(images, filters, layout="NHWC", padding="same", stride=2).shape
    (8, 75, 75, 16)
    """
    return planned(x, w, *_understood(x, w, options, "conv2d", 2)).run(x, w, bias)


@_of_conv
def conv3d(x: Array, w: Array, bias: Array | None = None, **options: Unpack[Options]) -> Array:
    """Convolve volumes, by default of layout ``"NCDHW"``: :func:`conv` with three spatial axes.

    Returns
    -------
    array
        The result, in the library, on the device and in the layout of ``x``, contiguous.
    """
    return planned(x, w, *_understood(x, w, options, "conv3d", 3)).run(x, w, bias)


@_of_conv
def plan(
    x: Any, w: Any, *, measure: bool = False, prepared: bool = False, **options: Unpack[Options]
) -> Plan | ChunkedPlan:
    """Plan a convolution without running it: which algorithm, at what predicted cost, and why not the others.

    ``x`` and ``w`` may be arrays or anything with ``.shape`` and ``.dtype``. Plans for equal arguments are cached.
    With ``measure``, the algorithms that promise to be quick are run on random arrays of the same shapes, and the
    fastest is taken, now and in every later call for the same problem; :func:`save_wisdom` keeps such choices.
    With ``prepared``, the plan is for a kernel that ``plan.prepare`` makes ready once for many images: the time that
    this takes is not weighed.

    Returns
    -------
    Plan
        Printable, and callable as ``plan(x, w, bias)`` on arrays of these shapes and dtypes. For Dask arrays it is that
        of the largest block, and what it returns is lazy.

    Examples
    --------
    >>> import numpy as np, polyconv as pc
    >>> p = pc.plan(np.ones((1, 64, 56, 56)), np.ones((16, 64, 1, 1)))
    >>> p.algorithm
    'pointwise'
    """
    for name, said in (("measure", measure), ("prepared", prepared)):
        if not isinstance(said, bool):
            raise TypeError(f"{name}={said!r} must be True or False")
    call, demands = _understood(x, w, options, "plan", None, described=True)
    demands = replace(demands, prepared=prepared)
    if not measure:
        return planned(x, w, call, demands)
    check_measurable(x, w, call)
    from .measuring import measured_plan  # few need it, and it takes its time to import

    return measured_plan(call, demands)


def _transpose(
    x: Array, w: Array, bias: Array | None, options: TransposedOptions, name: str, ndim: int | None
) -> Array:
    meaning, demands = _separated(options, _TRANSPOSED_KEYWORDS, name)
    call = read_transposed(x, w, ndim=ndim, **meaning)
    if bias is not None:
        check_bias(bias, call, chunked=in_chunks(x))
    return transposed(x, w, bias, call.axes, call, "IO", read_demands(**demands), _requested(call, options))


@at_home
@_of_conv_transpose
def conv_transpose(x: Array, w: Array, bias: Array | None = None, **options: Unpack[TransposedOptions]) -> Array:
    """Put a copy of the kernel, times its value, into the result for every pixel: the adjoint of :func:`conv`.

    It is planned and run as an ordinary convolution, of all phases of the stride at once, so every algorithm will do.

    Returns
    -------
    array
        The result, in the library, on the device and in the layout of ``x``, contiguous: by numbers
        ``(n - 1) * stride + (k - 1) * dilation + 1 - low - high + output_padding`` long.

    Raises
    ------
    ValueError, TypeError
        Before any work, naming the argument, what was given, the rule and the shapes.

    Examples
    --------
    >>> import numpy as np, polyconv as pc
    >>> pc.conv_transpose(np.array([1.0, 2.0]), np.array([1.0, 10.0, 100.0]), layout="W", stride=2)
    array([  1.,  10., 102.,  20., 200.])
    """
    return _transpose(x, w, bias, options, "conv_transpose", None)


@at_home
@_of_conv_transpose
def conv_transpose1d(x: Array, w: Array, bias: Array | None = None, **options: Unpack[TransposedOptions]) -> Array:
    """:func:`conv_transpose` with one spatial axis, by default of layout ``"NCW"``.

    Returns
    -------
    array
        The result, in the library, on the device and in the layout of ``x``, contiguous.
    """
    return _transpose(x, w, bias, options, "conv_transpose1d", 1)


@at_home
@_of_conv_transpose
def conv_transpose2d(x: Array, w: Array, bias: Array | None = None, **options: Unpack[TransposedOptions]) -> Array:
    """:func:`conv_transpose` with two spatial axes, by default of layout ``"NCHW"``.

    Returns
    -------
    array
        The result, in the library, on the device and in the layout of ``x``, contiguous.
    """
    return _transpose(x, w, bias, options, "conv_transpose2d", 2)


@at_home
@_of_conv_transpose
def conv_transpose3d(x: Array, w: Array, bias: Array | None = None, **options: Unpack[TransposedOptions]) -> Array:
    """:func:`conv_transpose` with three spatial axes, by default of layout ``"NCDHW"``.

    Returns
    -------
    array
        The result, in the library, on the device and in the layout of ``x``, contiguous.
    """
    return _transpose(x, w, bias, options, "conv_transpose3d", 3)


@at_home
@_of_conv
def conv_input_grad(dy: Array, w: Array, input_shape: Sequence[int], **options: Unpack[Options]) -> Array:
    """The gradient of a loss with respect to the image, from ``dy``, that with respect to ``conv(x, w, ...)``.

    The keywords are those that :func:`conv` was called with; an ``algorithm`` has to take the gradient as well.

    Returns
    -------
    array
        Of shape ``input_shape``: the adjoint of the convolution, in which nothing is conjugated.
    """
    x = read_absent(input_shape, "input_shape", dy, w, "w")
    call, demands = _understood(x, w, options, "conv_input_grad", None, described=True)
    check_gradient(dy, call)
    return input_grad(dy, w, call, demands, _requested(call, options))


@at_home
@_of_conv
def conv_weight_grad(x: Array, dy: Array, kernel_shape: Sequence[int], **options: Unpack[Options]) -> Array:
    """The gradient of a loss with respect to the kernel, from ``dy``, that with respect to ``conv(x, w, ...)``.

    The keywords are those that :func:`conv` was called with; an ``algorithm`` has to take the gradient as well.

    Returns
    -------
    array
        Of shape ``kernel_shape``, in its layout.
    """
    w = read_absent(kernel_shape, "kernel_shape", dy, x, "x")
    call, demands = _understood(x, w, options, "conv_weight_grad", None, described=True)
    check_gradient(dy, call)
    return weight_grad(x, dy, call, demands, _requested(call, options))


@at_home
@_of_conv
def conv_vjp(x: Array, w: Array, dy: Array, **options: Unpack[Options]) -> tuple[Array, Array, Array]:
    """All gradients of a convolution, from ``dy``, that with respect to ``conv(x, w, bias, ...)``.

    The keywords are those that :func:`conv` was called with; an ``algorithm`` has to take the gradient as well.

    Returns
    -------
    tuple
        The gradients with respect to image, kernel and bias. They are convolutions themselves, planned like any.

    Examples
    --------
    >>> import numpy as np, polyconv as pc
    >>> x, w = np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))
    >>> dx, dw, db = pc.conv_vjp(x, w, np.ones((1, 1, 2, 2)))
    >>> dx[0, 0, 1], dw[0, 0, 1], db
    (array([2., 4., 4., 2.]), array([4., 4., 4.]), array([4.]))
    """
    call, demands = _understood(x, w, options, "conv_vjp", None)
    check_gradient(dy, call)
    dtype = _requested(call, options)
    dx, dw = input_grad(dy, w, call, demands, dtype), weight_grad(x, dy, call, demands, dtype)
    return dx, dw, bias_grad(dy, call.layout, dtype)


def algorithms() -> tuple[str, ...]:
    """The names that ``algorithm=`` takes beside ``"auto"``, from nested loops upward."""
    return tuple(algorithm.name for algorithm in ALGORITHMS)


def save_wisdom(path: str | os.PathLike[str]) -> None:
    """Write the choices that ``plan(..., measure=True)`` has made in this process to a JSON file."""
    wisdom.save(path)


def load_wisdom(path: str | os.PathLike[str]) -> None:
    """Add the choices of a file to those known; plans for the same problems on the same machine take them from now on.

    Raises
    ------
    OSError
        Where the file cannot be read.
    ValueError
        Where it is not wisdom, is damaged, or was measured with another BLAS or for another processor. Nothing is
        added then.
    """
    wisdom.load(path)


def forget_wisdom() -> None:
    """Drop every measured choice; plans are chosen by prediction again."""
    wisdom.forget()
