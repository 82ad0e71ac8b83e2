"""Every algorithm, in the order of the ladder from nested loops upward.

To add one, write its module and add its row here; tests, benchmarks, examples and plans go over this tuple.
"""

from __future__ import annotations

from .base import Algorithm, Cost
from .direct import DIRECT
from .fft import FFT, OVERLAP_SAVE
from .im2col import IM2COL
from .implicit_gemm import IMPLICIT_GEMM
from .naive import NAIVE, PATCH
from .pointwise import POINTWISE
from .taps import DEPTHWISE, TAPS
from .windows import EINSUM, STRIDED_SUM, TENSORDOT
from .winograd import WINOGRAD, Winograd

__all__ = ["ALGORITHMS", "FFT", "Algorithm", "Cost", "Winograd"]

ALGORITHMS: tuple[Algorithm, ...] = (
    NAIVE,
    PATCH,
    TAPS,
    STRIDED_SUM,
    TENSORDOT,
    EINSUM,
    IM2COL,
    IMPLICIT_GEMM,
    POINTWISE,
    DEPTHWISE,
    DIRECT,
    OVERLAP_SAVE,
    WINOGRAD,
)
