"""What users say, made canonical; every user error is raised here, before any work.

:func:`read` takes the arguments of a convolution as people write them and returns a :class:`Call`: tuples,
letters, dtypes and a :class:`~polyconv.problem.ConvProblem`. An error names the argument, what was given, the
rule, and the shapes it concerns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from . import dtypes, layouts, padding
from .algorithms import ALGORITHMS, FFT, Algorithm, Winograd
from .arrays import (
    Array,
    ArraySpec,
    describe,
    describe_shapes,
    dtype_in,
    fits,
    in_chunks,
    lengths_of,
    no_array,
    spelled,
)
from .integers import integer, integers, is_sequence
from .problem import ConvProblem, reach
from .spread import Axis

__all__ = [
    "Call",
    "Demands",
    "TransposedCall",
    "check_array",
    "check_bias",
    "check_gradient",
    "check_measurable",
    "read",
    "read_absent",
    "read_columns",
    "read_demands",
    "read_tiles",
    "read_transposed",
    "read_windows",
]

Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Call:
    """One convolution as the caller's arrays spell it, and the problem it poses.

    ``problem`` is what algorithms see; the rest is the way from the caller's arrays to it and back.
    """

    x: ArraySpec
    w: ArraySpec
    layout: str
    kernel_layout: str
    flip_kernel: bool
    dtypes: dtypes.Dtypes
    problem: ConvProblem

    def __str__(self) -> str:
        shapes = (self.x.shape, self.w.shape, self.output_shape)
        x, w, y = ("x".join(map(str, shape)) or "scalar" for shape in shapes)
        return f"{x} ({self.layout}) by {w} ({self.kernel_layout}) -> {y}"

    @cached_property
    def pad_widths(self) -> tuple[tuple[int, int], ...]:
        """The (low, high) margin of each axis of the caller's image."""
        margins = dict(zip(layouts.spatial_letters(self.layout), self.problem.padding, strict=True))
        return tuple(margins.get(letter, (0, 0)) for letter in self.layout)

    @cached_property
    def image_axes(self) -> tuple[int, ...]:
        """The permutation from the caller's image to batch, channels, space."""
        return layouts.axes_in(self.layout, "NC" + layouts.spatial_letters(self.layout))

    @cached_property
    def kernel_axes(self) -> tuple[int, ...]:
        """The permutation from the caller's kernel to output channels, input channels, space."""
        return layouts.axes_in(self.kernel_layout, "OI" + layouts.spatial_letters(self.layout))

    @cached_property
    def output_axes(self) -> tuple[int, ...]:
        """The permutation from ``(N, G, K, *out)`` to the caller's layout, absent letters first."""
        return layouts.output_axes(self.layout)

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the result in the caller's layout."""
        p = self.problem
        extents = {"N": p.batch, "C": p.groups * p.filters}
        extents.update(zip(layouts.spatial_letters(self.layout), p.output_size, strict=True))
        return tuple(extents[letter] for letter in self.layout)

    @property
    def groups(self) -> int:
        """Into how many groups the channels are split."""
        return self.problem.groups

    @cached_property
    def spatial_axes(self) -> tuple[int, ...]:
        """The spatial axes of the caller's image."""
        return tuple(map(self.layout.index, layouts.spatial_letters(self.layout)))

    @cached_property
    def bias_shape(self) -> tuple[int, ...]:
        """The shape a bias must have: one value per output channel, or none where the layout has no channels."""
        return (self.problem.groups * self.problem.filters,) if "C" in self.layout else ()


@dataclass(frozen=True)
class TransposedCall:
    """One transposed convolution as the caller's arrays spell it, and what it does along each spatial axis."""

    x: ArraySpec
    w: ArraySpec
    layout: str
    kernel_layout: str
    flip_kernel: bool
    groups: int
    dtypes: dtypes.Dtypes
    axes: tuple[Axis, ...]
    bias_shape: tuple[int, ...]


@dataclass(frozen=True)
class Demands:
    """What the caller asks of the choice.

    A certain algorithm or None for any, an accuracy, a memory limit in bytes, and a number of threads; and whether the
    kernel will be ``prepared``, so that what this takes counts for nothing.
    """

    algorithm: Algorithm | None = None
    accuracy: str = "fast"
    max_workspace: int | None = None
    workers: int | None = None
    prepared: bool = False


# -- integers, one per spatial axis --------------------------------------------------------------------------


def _per_axis(value: Any, name: str, letters: str, least: int = 1) -> tuple[int, ...]:
    """One integer per spatial axis, ``least`` or more, from one for all or one for each."""
    if not is_sequence(value):
        return (integer(value, name, least),) * len(letters)
    if len(value) != len(letters):
        raise ValueError(
            f"{name}={value!r} has {len(value)} entries; give one integer, or one for each "
            f"of the {len(letters)} spatial axes {', '.join(letters)}"
        )
    return integers(value, name, least)


# -- layouts -------------------------------------------------------------------------------------------------


def _check_letters(layout: Any, name: str, roles: str, other_roles: str) -> None:
    if not isinstance(layout, str):
        raise TypeError(f"{name}={layout!r} must be a string such as 'NCHW', not {type(layout).__name__}")
    if not layout or not all("A" <= letter <= "Z" for letter in layout):
        raise ValueError(f"{name}={layout!r} must spell the axes in capital letters, such as 'NCHW' or 'HWIO'")
    if twice := [letter for letter in dict.fromkeys(layout) if layout.count(letter) > 1]:
        raise ValueError(f"{name}={layout!r} has the letter {twice[0]} twice")
    if strange := [letter for letter in layout if letter in other_roles]:
        raise ValueError(
            f"{name}={layout!r} has the letter {strange[0]}, which stands for no axis of this array: it is spelled "
            f"with {' and '.join(roles)} and a letter for each spatial axis (H, W, ...)"
        )


def _check_spatial(layout: str) -> None:
    if not layouts.spatial_letters(layout):
        raise ValueError(f"layout={layout!r} has no spatial axis; any letter but N and C names one")


def _read_layout(layout: Any, x: ArraySpec, ndim: int | None) -> str:
    """The image's layout, checked against its number of axes and the number of spatial axes wanted (or any)."""
    number, hint = len(x.shape), ""
    if layout is None:
        axes, most = number - 2 if ndim is None else ndim, layouts.most_spatial_axes()
        if not 1 <= axes <= most:
            alone = f"; for space alone pass layout={layouts.space(number)!r}" if 1 <= number <= most else ""
            raise ValueError(
                f"x has {number} axes, shape {x.shape}; without layout= it must have a batch axis, "
                f"a channel axis and 1 to {most} spatial axes{alone}"
            )
        layout = layouts.default_layout(axes)
        if number != len(layout):
            space = layouts.space(axes)
            likely = [one for one in (space, f"C{space}", f"{space}C", f"N{space}") if len(one) == number]
            hint = f"; it was assumed, pass layout={' or '.join(map(repr, likely))}" if likely else ""
    _check_letters(layout, "layout", layouts.IMAGE_ROLES, layouts.KERNEL_ROLES)
    spatial = layouts.spatial_letters(layout)
    if ndim is not None and len(spatial) != ndim:
        raise ValueError(
            f"layout={layout!r} has {len(spatial)} spatial axes ({', '.join(spatial) or 'none'}); "
            f"conv{ndim}d takes {ndim}, and conv any number"
        )
    _check_spatial(layout)
    if len(layout) != number:
        raise ValueError(
            f"layout={layout!r} spells {len(layout)} axes and x has {number}, its shape is {x.shape}{hint}"
        )
    return str(layout)


def _read_kernel_layout(kernel_layout: Any, layout: str, w: ArraySpec, transposed: bool = False) -> str:
    spatial = layouts.spatial_letters(layout)
    if kernel_layout is None:
        kernel_layout = layouts.default_kernel_layout(layout, transposed)
        if kernel_layout is None:
            raise ValueError(
                f"layout={layout!r} has its channels among the spatial axes, so no kernel layout goes without saying; "
                f"pass kernel_layout= (say 'OI{spatial}')"
            )
    _check_letters(kernel_layout, "kernel_layout", layouts.KERNEL_ROLES, layouts.IMAGE_ROLES)
    expected = sorted(spatial + ("OI" if "C" in layout else ""))
    if sorted(kernel_layout) != expected:
        raise ValueError(
            f"kernel_layout={kernel_layout!r} does not fit layout={layout!r}, which needs the letters "
            f"{', '.join(expected)}, each once{_alike(layout, w)}"
        )
    if len(kernel_layout) != len(w.shape):
        raise ValueError(
            f"kernel_layout={kernel_layout!r} spells {len(kernel_layout)} axes and w has {len(w.shape)}, "
            f"its shape is {w.shape}{_alike(layout, w)}"
        )
    return str(kernel_layout)


def _alike(layout: str, w: ArraySpec) -> str:
    """What to do with a kernel that has space alone, where the image has channels."""
    if "C" not in layout or len(w.shape) != len(layouts.spatial_letters(layout)):
        return ""
    joined = ", joined with the batch's" if "N" in layout else ""
    return f"; to filter every channel alike, let the channels be a batch: spell their axis N{joined}"


# -- padding -------------------------------------------------------------------------------------------------


def _read_padding(given: Any, p: dict[str, Any], letters: str) -> tuple[tuple[int, int], ...]:
    if isinstance(given, str):
        if given not in padding.NAMED:
            raise ValueError(
                f"padding={given!r} is no padding by name; those are {', '.join(map(repr, padding.NAMED))}"
            )
        if given == "valid":
            return ((0, 0),) * len(letters)
        axes = zip(p["size"], p["kernel"], p["stride"], p["dilation"], strict=True)
        return tuple(padding.same(*axis, odd_at_end=given != "same_lower") for axis in axes)
    if not is_sequence(given):
        amount = integer(given, "padding", 0)
        return ((amount, amount),) * len(letters)
    if len(given) != len(letters):
        raise ValueError(
            f"padding={given!r} has {len(given)} entries; give one integer, or for each of the {len(letters)} spatial "
            f"axes {', '.join(letters)} an integer or a pair (low, high)"
        )
    pairs = []
    for i, entry in enumerate(given):
        if not is_sequence(entry):
            amount = integer(entry, f"padding[{i}]", 0)
            pairs.append((amount, amount))
        elif len(entry) == 2:
            low, high = (integer(side, f"padding[{i}][{j}]", 0) for j, side in enumerate(entry))
            pairs.append((low, high))
        else:
            raise ValueError(f"padding[{i}]={entry!r} must be an integer or a pair (low, high)")
    return tuple(pairs)


def _read_padding_mode(mode: Any) -> str:
    canonical = padding.MODE_ALIASES.get(mode, mode) if isinstance(mode, str) else None
    if canonical not in padding.MODES:
        allowed = ", ".join(map(repr, padding.MODES))
        aliases = ", ".join(f"{alias!r} for {name!r}" for alias, name in padding.MODE_ALIASES.items())
        raise ValueError(f"padding_mode={mode!r} is none of {allowed} (or PyTorch's {aliases})")
    return str(canonical)


class _Shapes(NamedTuple):
    """The lengths of an image's and a kernel's axes by their letters, and what errors call the two and say of them.

    ``assumed`` is whether the kernel's layout went without saying. Where there is no kernel but its size, ``told`` is
    said of both.
    """

    x: dict[str, int]
    w: dict[str, int]
    assumed: bool = False
    image: str = "x"
    kernel: str = "w"
    told: str = ""

    def __str__(self) -> str:
        """Both shapes and what their axes were taken for."""
        if self.told:
            return self.told
        kernel_layout, hint = "".join(self.w), ""
        if self.assumed and "C" in self.x:
            place = "first" if kernel_layout[0] in layouts.KERNEL_ROLES else "last"
            other = layouts.other_kernel_layout(kernel_layout)
            hint = f" (assumed, since channels come {place}; if it is another, pass it: kernel_layout={other!r})"
        return (
            f"x has shape {tuple(self.x.values())}, layout {''.join(self.x)!r}, "
            f"and w {tuple(self.w.values())}, kernel_layout {kernel_layout!r}{hint}"
        )


def _shapes(x: ArraySpec, layout: str, w: ArraySpec, kernel_layout: str, assumed: bool) -> _Shapes:
    return _Shapes(dict(zip(layout, x.shape, strict=True)), dict(zip(kernel_layout, w.shape, strict=True)), assumed)


def _check_extents(p: ConvProblem, letters: str, shapes: _Shapes) -> None:
    """The kernel fits into the padded image, and the image is wide enough to fill its own margins."""
    for i, letter in enumerate(letters):
        if p.kernel[i] == 0:
            raise ValueError(f"{shapes.kernel} has no tap along axis {letter}; {shapes}")
        widest = padding.widest(p.size[i], p.padding_mode)
        if widest is not None and max(p.padding[i]) > widest:
            raise ValueError(
                f"padding {p.padding[i]} of axis {letter} is too wide for padding_mode={p.padding_mode!r}: an axis of "
                f"{p.size[i]} elements fills margins of at most {widest}; {shapes}"
            )
        span = reach(p.kernel[i], p.dilation[i])
        if span > p.padded_size[i] > 0:
            dilated = f" (dilation {p.dilation[i]}, {span} elements wide)" if p.dilation[i] > 1 else ""
            padded = f", {p.padded_size[i]} with its padding {p.padding[i]}" if any(p.padding[i]) else ""
            raise ValueError(
                f"{shapes.kernel} is larger than the padded {shapes.image} along axis {letter}: "
                f"{p.kernel[i]} taps{dilated} over {p.size[i]} elements{padded}; {shapes}"
            )


# -- the whole call ------------------------------------------------------------------------------------------


def _check_channels(shapes: _Shapes, groups: int) -> None:
    """Channels, filters and groups go together."""
    channels, per_group, filters = shapes.x.get("C", 1), shapes.w.get("I", 1), shapes.w.get("O", 1)
    if channels % groups:
        raise ValueError(f"groups={groups} does not divide the {channels} input channels of x; {shapes}")
    if filters % groups:
        raise ValueError(f"groups={groups} does not divide the {filters} output channels of w; {shapes}")
    if per_group * groups != channels:
        grouped = f" in each of {groups} groups, {per_group * groups} in all" if groups > 1 else ""
        raise ValueError(f"w takes {per_group} input channels{grouped}, and x has {channels}; {shapes}")


def _check_flip(flip_kernel: Any) -> None:
    if not isinstance(flip_kernel, bool):
        raise TypeError(f"flip_kernel={flip_kernel!r} must be True or False")


def _dtypes(x: ArraySpec, w: ArraySpec, dtype: Any) -> dtypes.Dtypes:
    """What is summed in and returned, where the caller says so or not."""
    return dtypes.choose(x.dtype, w.dtype, None if dtype is None else dtype_in(dtype, x.xp), x.xp, x.device)


def _axes(shapes: _Shapes, stride: Any, dilation: Any, letters: str) -> dict[str, Any]:
    """The size, taps, stride and dilation of the spatial axes."""
    return {
        "size": tuple(shapes.x[letter] for letter in letters),
        "kernel": tuple(shapes.w[letter] for letter in letters),
        "stride": _per_axis(stride, "stride", letters),
        "dilation": _per_axis(dilation, "dilation", letters),
    }


def read(
    x: Array,
    w: Array,
    *,
    ndim: int | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    layout: Any = None,
    kernel_layout: Any = None,
    padding_mode: Any = "constant",
    flip_kernel: Any = False,
    dtype: Any = None,
    described: bool = False,
) -> Call:
    """The call that these arguments make. Raises ValueError or TypeError, as the module says.

    ``ndim`` is the number of spatial axes, or None for any. With ``described``, ``x`` and ``w`` may be
    anything that has a shape and a dtype.
    """
    if described:
        xs, ws = describe_shapes(x, w)
    else:
        xs, ws = describe(x, "x"), describe(w, "w")
    _check_home(ws, "w", xs)
    layout = _read_layout(layout, xs, ndim)
    assumed, kernel_layout = kernel_layout is None, _read_kernel_layout(kernel_layout, layout, ws)
    shapes = _shapes(xs, layout, ws, kernel_layout, assumed)
    return _posed(
        xs, ws, layout, kernel_layout, shapes, stride=stride, padding=padding, dilation=dilation, groups=groups,
        padding_mode=padding_mode, flip_kernel=flip_kernel, dtype=dtype,
    )  # fmt: skip


def _posed(
    x: ArraySpec,
    w: ArraySpec,
    layout: str,
    kernel_layout: str,
    shapes: _Shapes,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: Any = "constant",
    flip_kernel: Any = False,
    dtype: Any = None,
) -> Call:
    """The call of an image and a kernel whose layouts have been read."""
    spatial, group_count = layouts.spatial_letters(layout), integer(groups, "groups", 1)
    _check_channels(shapes, group_count)
    _check_flip(flip_kernel)
    chosen = _dtypes(x, w, dtype)
    axes = _axes(shapes, stride, dilation, spatial)
    problem = ConvProblem(
        batch=shapes.x.get("N", 1),
        groups=group_count,
        channels=shapes.w.get("I", 1),
        filters=shapes.w.get("O", 1) // group_count,
        **axes,
        padding=_read_padding(padding, axes, spatial),
        padding_mode=_read_padding_mode(padding_mode),
        dtype=dtypes.name(chosen.total),
        channels_last=layouts.channels_last(layout),
        largest_product=dtypes.largest(x.dtype, x.xp) * dtypes.largest(w.dtype, x.xp),
    )
    _check_extents(problem, spatial, shapes)
    return Call(x, w, layout, kernel_layout, flip_kernel, chosen, problem)


def _read_output_padding(given: Any, p: dict[str, Any], letters: str) -> tuple[int, ...]:
    found = _per_axis(given, "output_padding", letters, least=0)
    for i, letter in enumerate(letters):
        if found[i] and found[i] >= max(p["stride"][i], p["dilation"][i]):
            raise ValueError(
                f"output_padding={found[i]} of axis {letter} must be less than its stride {p['stride'][i]} or its "
                f"dilation {p['dilation'][i]}: more is never lost"
            )
    return found


def _transposed_axes(
    p: dict[str, Any], given: Any, output_padding: tuple[int, ...], letters: str, shapes: _Shapes
) -> tuple[Axis, ...]:
    """What is wanted along every axis: by numbers as PyTorch means them, by names as Keras does."""
    axes = []
    by_name = isinstance(given, str)
    if by_name and any(output_padding):
        raise ValueError(f"output_padding={output_padding!r} goes with a padding of numbers, not {given!r}")
    if by_name and given not in padding.NAMED:
        raise ValueError(f"padding={given!r} is no padding by name; those are {', '.join(map(repr, padding.NAMED))}")
    numbers = ((0, 0),) * len(letters) if by_name else _read_padding(given, p, letters)
    for i, letter in enumerate(letters):
        n, taps, stride, dilation = (p[key][i] for key in ("size", "kernel", "stride", "dilation"))
        if not n or not taps:
            raise ValueError(f"there is nothing along axis {letter}; {shapes}")
        span, (low, high) = reach(taps, dilation), numbers[i]
        outputs = (n - 1) * stride + span - low - high + output_padding[i]
        if by_name:
            outputs = n * stride + (max(span - stride, 0) if given == "valid" else 0)
            total = 0 if given == "valid" else max(span - stride, 0)
            low = (total + (given == "same_lower")) // 2
        if outputs < 1:
            raise ValueError(f"padding {numbers[i]} leaves nothing of the result along axis {letter}; {shapes}")
        axes.append(Axis(n, taps, stride, dilation, low, outputs))
    return tuple(axes)


def read_transposed(
    x: Array,
    w: Array,
    *,
    ndim: int | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    layout: Any = None,
    kernel_layout: Any = None,
    flip_kernel: Any = False,
    dtype: Any = None,
) -> TransposedCall:
    """The transposed convolution that these arguments make. Raises ValueError or TypeError, as the module says."""
    xs, ws = describe(x, "x"), describe(w, "w")
    _check_home(ws, "w", xs)
    layout = _read_layout(layout, xs, ndim)
    assumed, kernel_layout = kernel_layout is None, _read_kernel_layout(kernel_layout, layout, ws, transposed=True)
    shapes = _shapes(xs, layout, ws, kernel_layout, assumed)
    spatial, number = layouts.spatial_letters(layout), integer(groups, "groups", 1)
    channels, taken = shapes.x.get("C", 1), shapes.w.get("I", 1)
    if channels % number:
        raise ValueError(f"groups={number} does not divide the {channels} input channels of x; {shapes}")
    if channels != taken:
        raise ValueError(f"w takes {taken} input channels, and x has {channels}; {shapes}")
    _check_flip(flip_kernel)
    chosen = _dtypes(xs, ws, dtype)
    p = _axes(shapes, stride, dilation, spatial)
    beyond = _read_output_padding(output_padding, p, spatial)
    axes = _transposed_axes(p, padding, beyond, spatial, shapes)
    bias_shape = (number * shapes.w["O"],) if "C" in layout else ()
    return TransposedCall(xs, ws, layout, kernel_layout, flip_kernel, number, chosen, axes, bias_shape)


def read_demands(
    *, algorithm: Any = "auto", accuracy: Any = "fast", max_workspace: Any = None, workers: Any = None
) -> Demands:
    """What is asked of the choice among algorithms. Raises ValueError or TypeError."""
    if isinstance(algorithm, str):
        by_name = {"auto": None} | {known.name: known for known in ALGORITHMS}
        if algorithm not in by_name:
            raise ValueError(f"algorithm={algorithm!r} is unknown; there are {', '.join(map(repr, by_name))}")
        algorithm = by_name[algorithm]
    elif not isinstance(algorithm, Algorithm):
        uncalled = next((f"; call it: pc.{maker.__name__}()" for maker in (FFT, Winograd) if algorithm is maker), "")
        raise TypeError(
            f"algorithm={algorithm!r} must be a name or an Algorithm, not {type(algorithm).__name__}{uncalled}"
        )
    if not isinstance(accuracy, str) or accuracy not in ("fast", "strict"):
        raise ValueError(f"accuracy={accuracy!r} must be 'fast' or 'strict'")
    if max_workspace is not None:
        max_workspace = integer(max_workspace, "max_workspace", 0, most=math.inf)
    if workers is not None:
        workers = integer(workers, "workers", 1)
    return Demands(algorithm, accuracy, max_workspace, workers)


# -- columns and tiles ---------------------------------------------------------------------------------------


def read_windows(x: Array, kernel_size: Any, stride: Any, padding: Any, dilation: Any, layout: Any) -> Call:
    """The depthwise call whose windows are those of an image; its groups are the channels.

    Raises ValueError or TypeError.
    """
    _check_in_memory(x, "x", "unfold")
    spec = describe(x, "x")
    layout = _read_layout(layout, spec, None)
    _check_channels_apart(layout)
    if "C" in layout and not spec.shape[layout.index("C")]:
        raise ValueError(f"x has no channels; its shape is {spec.shape}")
    names = ("x", f"x has shape {spec.shape}, layout {layout!r}")
    return _depthwise(spec, layout, kernel_size, stride, padding, dilation, *names)


def read_columns(
    columns: Array, output_size: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, layout: Any
) -> Call:
    """The depthwise call of an image of ``output_size`` whose windows lie in ``columns``; its groups are the channels.

    Raises ValueError or TypeError.
    """
    _check_in_memory(columns, "columns", "fold")
    spec = describe(columns, "columns")
    if layout is None:
        layout = layouts.default_layout(max(len(output_size), 1) if is_sequence(output_size) else 1)
    _check_letters(layout, "layout", layouts.IMAGE_ROLES, layouts.KERNEL_ROLES)
    _check_spatial(layout)
    _check_channels_apart(layout)
    letters, last = layouts.spatial_letters(layout), layouts.channels_last(layout)
    size = _per_axis(output_size, "output_size", letters)
    taps = math.prod(_per_axis(kernel_size, "kernel_size", letters))
    shape = spec.shape
    right = len(shape) == 2 + ("N" in layout)
    if right:
        rows, number = (shape[-1], shape[-2]) if last else (shape[-2], shape[-1])
        right = rows > 0 and rows % taps == 0 and ("C" in layout or rows == taps)
    if not right:
        wanted = "(N, windows, taps * C)" if last else "(N, C * taps, windows)"
        raise ValueError(f"columns has shape {shape}; {wanted} is wanted, of {taps} taps, kernel_size={kernel_size!r}")
    extents = {"N": shape[0], "C": rows // taps, **dict(zip(letters, size, strict=True))}
    image = spec._replace(shape=tuple(extents[letter] for letter in layout))
    names = ("image", f"output_size={output_size!r}, layout {layout!r}")
    call = _depthwise(image, layout, kernel_size, stride, padding, dilation, *names)
    if number != call.problem.positions:
        raise ValueError(
            f"columns has {number} windows, and an image of {'x'.join(map(str, call.problem.size))} has "
            f"{call.problem.positions}; columns has shape {shape}"
        )
    return call


def _check_channels_apart(layout: str) -> None:
    if layouts.default_kernel_layout(layout) is None:
        raise ValueError(
            f"layout={layout!r} has its channels among the spatial axes; columns need them before or after"
        )


def _depthwise(
    x: ArraySpec, layout: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any, image: str, told: str
) -> Call:
    """The call of an image and as many kernels of a size as it has channels; ``image`` and ``told`` are for errors."""
    letters = layouts.spatial_letters(layout)
    taps = _per_axis(kernel_size, "kernel_size", letters)
    channels = x.shape[layout.index("C")] if "C" in layout else 1
    w, kernel_layout = x._replace(shape=taps), letters
    if "C" in layout:
        w, kernel_layout = x._replace(shape=(channels, 1, *taps)), f"OI{letters}"
    shapes = _shapes(x, layout, w, kernel_layout, assumed=False)
    shapes = shapes._replace(image=image, kernel=f"kernel_size={kernel_size!r}", told=told)
    return _posed(
        x, w, layout, kernel_layout, shapes, stride=stride, padding=padding, dilation=dilation, groups=channels
    )


def read_tiles(a: Array, name: str, size: Any, layout: Any) -> tuple[str, dict[str, int]]:
    """The layout of an image and the size of its tiles, by letters; of what is tiled, where no ``size`` is given."""
    tiled = size is None
    _check_in_memory(a, name, "untile" if tiled else "tile")
    spec = describe(a, name)
    if layout is None:
        axes = (len(spec.shape) - 2) // (2 if tiled else 1)
        layout = layouts.default_layout(max(1, axes))
    _check_letters(layout, "layout", layouts.IMAGE_ROLES, layouts.KERNEL_ROLES)
    _check_spatial(layout)
    letters = layouts.spatial_letters(layout)
    wanted = len(layout) + (len(letters) if tiled else 0)
    if len(spec.shape) != wanted:
        raise ValueError(f"{name} has shape {spec.shape}; with layout={layout!r} it must have {wanted} axes")
    if tiled:
        last = layout.index(letters[-1]) + 1
        return layout, dict(zip(letters, spec.shape[last : last + len(letters)], strict=True))
    sizes = dict(zip(letters, _per_axis(size, "size", letters), strict=True))
    for letter, length in zip(layout, spec.shape, strict=True):
        if letter in sizes and length % sizes[letter]:
            raise ValueError(f"tiles of {sizes[letter]} do not divide axis {letter} of {length}; pad {name} first")
    return layout, sizes


# -- arrays that meet a call already made --------------------------------------------------------------------


def _check_home(spec: ArraySpec, name: str, home: ArraySpec, owner: str = "x") -> None:
    """Another array of the call lives in the same library and on the same device as ``x``, or as its plan."""
    if spec.library is not home.library:
        raise TypeError(
            f"{owner} belongs to {home.library.name} and {name} to {spec.library.name}; "
            f"convert {name}, polyconv moves nothing between libraries"
        )
    if spec.device != home.device and None not in (spec.device, home.device):
        raise ValueError(
            f"{owner} is on device {home.device} and {name} on {spec.device}; "
            f"move {name}, polyconv moves nothing between devices"
        )


def _check_in_memory(x: Array, name: str, function: str) -> None:
    if in_chunks(x):
        raise TypeError(
            f"{name} is a Dask array, and {function} takes arrays in memory; "
            f"call it for each block, with {name}.map_blocks, or compute {name} first"
        )


def _check_chunked(x: Array, name: str, chunked: bool) -> None:
    """Arrays in chunks need a plan that is for such."""
    if in_chunks(x) and not chunked:
        raise TypeError(f"{name} is a Dask array, and the plan is for arrays in memory; make a plan for {name}")


def check_array(x: Array, name: str, planned: ArraySpec, chunked: bool = False) -> None:
    """``x`` is the array that was planned for. Raises TypeError or ValueError."""
    if fits(x, planned):
        return
    _check_chunked(x, name, chunked)
    spec = describe(x, name)
    _check_home(spec, name, planned, "the plan")
    if spec.shape != planned.shape:
        raise ValueError(f"{name} has shape {spec.shape}, and the plan is for {planned.shape}; make another plan")
    if spec.dtype != planned.dtype:  # byte order included: the road was laid without a cast, or with one
        raise TypeError(f"{name} has dtype {spec.dtype}, and the plan is for {planned.dtype}; make another plan")


def _bias_wanted(call: Call | TransposedCall) -> str:
    """The shape of a bias, and what it stands for."""
    if call.bias_shape:
        return f"{call.bias_shape}: one value for each of the {call.bias_shape[0]} output channels"
    return "(): a single value"


def check_bias(bias: Array, call: Call | TransposedCall, chunked: bool = False) -> None:
    """``bias`` is one number per output channel, of no higher kind than the result. Raises TypeError or ValueError."""
    _check_chunked(bias, "bias", chunked)
    if not hasattr(bias, "shape"):
        made = f"make it one by {spelled(call.x.xp)}.asarray, of shape {_bias_wanted(call)}"
        raise TypeError(f"{no_array(bias, 'bias')}; {made}")
    spec = describe(bias, "bias")
    _check_home(spec, "bias", call.x)
    if spec.shape != call.bias_shape:
        raise ValueError(
            f"bias has shape {spec.shape}, and must have {_bias_wanted(call)}, layout {call.layout!r}; "
            f"the shape of w is {call.w.shape}"
        )
    xp, result = spec.xp, call.dtypes.result
    if dtypes.kind(spec.dtype, xp) > dtypes.kind(result, xp):
        raise TypeError(
            f"bias has dtype {dtypes.name(spec.dtype)}, which is of a higher kind than the result's "
            f"{dtypes.name(result)}; pass dtype={dtypes.name(spec.dtype)!r}"
        )
    if dtypes.unsigns(spec.dtype, result, xp):
        raise TypeError(
            f"bias has dtype {dtypes.name(spec.dtype)}, which is signed, and the result's {dtypes.name(result)} is "
            "unsigned; pass dtype='int64'"
        )


def check_measurable(x: Array, w: Array, call: Call) -> None:
    """Both are in memory, where they can be timed. Raises ValueError, with what to measure in place of Dask arrays."""
    if not (in_chunks(x) or in_chunks(w)):
        return
    image, kernel = "x", "w.compute()" if in_chunks(w) else "w"
    if in_chunks(x):  # a block of them, of all channels
        axes = zip(call.layout, x.numblocks, strict=True)
        image = f"x.blocks[{', '.join(':' if letter == 'C' and n > 1 else '0' for letter, n in axes)}].compute()"
    raise ValueError(f"measure=True runs the whole problem; measure a block, pc.plan({image}, {kernel}, measure=True)")


def read_absent(shape: Any, name: str, dy: Array, other: Array, other_name: str) -> ArraySpec:
    """What a gradient is taken with respect to: of the ``shape`` that the caller calls ``name``, and else like ``dy``.

    ``other`` is the array that it is convolved with. Raises TypeError or ValueError.
    """
    spec = describe(dy, "dy")
    _check_home(describe(other, other_name), other_name, spec, "dy")
    return spec._replace(shape=lengths_of(shape, name))


def check_gradient(dy: Array, call: Call) -> None:
    """``dy`` has the shape of the call's result. Raises TypeError or ValueError."""
    spec = describe(dy, "dy")
    _check_home(spec, "dy", call.x)
    if spec.shape != call.output_shape:
        raise ValueError(f"dy has shape {spec.shape}, and the result {call.output_shape}: {call}")
