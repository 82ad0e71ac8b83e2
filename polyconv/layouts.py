"""Layouts: which axis of the caller's array plays which part.

A layout spells the axes of an array with one capital letter each. In an image's layout ``N`` is the batch,
``C`` the channels and every other letter a spatial axis; in a kernel's, ``O`` are the output channels, ``I``
the input channels and the rest the same spatial letters. The functions here turn spellings into axis
permutations: plain integers, worked out once when a call is planned.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = [
    "axes_in",
    "channels_last",
    "default_kernel_layout",
    "default_layout",
    "most_spatial_axes",
    "other_kernel_layout",
    "output_axes",
    "space",
    "spatial_letters",
]

IMAGE_ROLES = "NC"
KERNEL_ROLES = "OI"
_SPATIAL = "ABEFGTDHW"  # the last n letters name n spatial axes: W, HW, DHW, TDHW, ...


@lru_cache
def spatial_letters(layout: str) -> str:
    """The letters of the spatial axes, in the order spelled: ``"NHWC"`` -> ``"HW"``."""
    return "".join(letter for letter in layout if letter not in IMAGE_ROLES + KERNEL_ROLES)


def space(ndim: int) -> str:
    """``ndim`` spatial axes and nothing else: ``"W"``, ``"HW"``, ``"DHW"``, ..."""
    return _SPATIAL[-ndim:]


def default_layout(ndim: int) -> str:
    """Batch, channels, then ``ndim`` spatial axes: ``"NCW"``, ``"NCHW"``, ``"NCDHW"``, ..."""
    return "NC" + space(ndim)


def most_spatial_axes() -> int:
    """How many spatial axes :func:`space` has letters for."""
    return len(_SPATIAL)


def channels_last(layout: str) -> bool:
    """Whether channels come after every spatial axis, as in ``"NHWC"``."""
    spatial = spatial_letters(layout)
    return "C" in layout and layout.index("C") > max(map(layout.index, spatial))


def default_kernel_layout(layout: str, transposed: bool = False) -> str | None:
    """The kernel's layout that goes with an image's, or None where channels stand among spatial axes.

    ``"OIHW"`` where channels come first (PyTorch), ``"HWIO"`` where they come last (TensorFlow and the
    literature), ``"HW"`` where there are none; of a transposed convolution, ``"IOHW"`` and ``"HWOI"``.
    """
    if transposed:
        forward = default_kernel_layout(layout)
        return None if forward is None else forward.translate(str.maketrans("OI", "IO"))
    spatial = spatial_letters(layout)
    if "C" not in layout:
        return spatial
    if channels_last(layout):
        return spatial + "IO"
    if layout.index("C") < min(map(layout.index, spatial)):
        return "OI" + spatial
    return None


def other_kernel_layout(layout: str) -> str:
    """The other convention for a kernel that has channels: ``"HWIO"`` -> ``"OIHW"``, ``"IOHW"`` -> ``"HWOI"``."""
    spatial = spatial_letters(layout)
    channels = "".join(letter for letter in reversed(layout) if letter in KERNEL_ROLES)
    return spatial + channels if layout[0] in KERNEL_ROLES else channels + spatial


def axes_in(layout: str, order: str) -> tuple[int, ...]:
    """The permutation that brings an array spelled ``layout`` into ``order``, skipping letters it lacks.

    ``axes_in("NHWC", "NCHW") == (0, 3, 1, 2)``; ``axes_in("HWC", "NCHW") == (2, 0, 1)``.
    """
    return tuple(layout.index(letter) for letter in order if letter in layout)


def output_axes(layout: str) -> tuple[int, ...]:
    """The permutation that brings a result ``(N, G, K, *out)`` into ``layout``, groups just before filters.

    Letters that the layout lacks stand for axes of length one; those go first, where a reshape drops them.
    """
    spatial = spatial_letters(layout)
    places = {"N": (0,), "C": (1, 2)} | {letter: (3 + i,) for i, letter in enumerate(spatial)}
    absent = [letter for letter in IMAGE_ROLES if letter not in layout]
    return tuple(axis for letter in [*absent, *layout] for axis in places[letter])
