"""Convolution of images, signals and volumes by every classical method, wherever the caller's arrays live."""

from __future__ import annotations

from ._version import __version__
from .algorithms import FFT, Algorithm, Cost, Winograd
from .algorithms.cook_toom import winograd_transforms
from .api import (
    algorithms,
    conv,
    conv1d,
    conv2d,
    conv3d,
    conv_input_grad,
    conv_transpose,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    conv_vjp,
    conv_weight_grad,
    forget_wisdom,
    load_wisdom,
    plan,
    save_wisdom,
)
from .buffers import release as release_memory
from .config import show_config
from .folding import fold, tile, unfold, untile
from .planning import Candidate, Plan
from .prepared import Prepared
from .problem import ConvProblem

__all__ = [
    "FFT",
    "Algorithm",
    "Candidate",
    "ConvProblem",
    "Cost",
    "Plan",
    "Prepared",
    "Winograd",
    "__version__",
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
    "fold",
    "forget_wisdom",
    "load_wisdom",
    "plan",
    "release_memory",
    "save_wisdom",
    "show_config",
    "tile",
    "unfold",
    "untile",
    "winograd_transforms",
]
