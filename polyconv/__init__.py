"""Convolution of images, signals and volumes by every classical method, wherever the caller's arrays live."""

from __future__ import annotations

from ._version import __version__
from .algorithms import FFT, Algorithm, Cost, Winograd
from .algorithms.cook_toom import winograd_transforms
from .api import algorithms, conv, conv1d, conv2d, conv3d, forget_wisdom, load_wisdom, plan, save_wisdom
from .config import show_config
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
    "forget_wisdom",
    "load_wisdom",
    "plan",
    "save_wisdom",
    "show_config",
    "winograd_transforms",
]
