"""Convolution of images, signals and volumes by every classical method, wherever the caller's arrays live."""

from __future__ import annotations

__version__ = "0.1.0"

from .algorithms import Algorithm, Cost
from .api import algorithms, conv, conv1d, conv2d, conv3d, plan
from .config import show_config
from .planning import Candidate, Plan
from .problem import ConvProblem

__all__ = [
    "Algorithm",
    "Candidate",
    "ConvProblem",
    "Cost",
    "Plan",
    "__version__",
    "algorithms",
    "conv",
    "conv1d",
    "conv2d",
    "conv3d",
    "plan",
    "show_config",
]
