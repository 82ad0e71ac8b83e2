"""What polyconv finds itself running on."""

from __future__ import annotations

import os
from typing import Any

from . import arrays
from ._version import __version__

__all__ = ["show_config"]


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Print versions, the BLAS in use with its core type and threads, and the devices.

    Parameters
    ----------
    mode
        ``"stdout"`` prints; ``"dicts"`` returns the same as a dictionary, for a bug report or a benchmark's record.

    Returns
    -------
    dict or None
        With the keys ``polyconv``, ``python``, ``processors``, ``versions``, ``blas`` and ``devices`` where
        ``mode`` is ``"dicts"``. ``devices`` lists those of the libraries imported so far.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode={mode!r} must be 'stdout' or 'dicts'")
    import platform  # only a report needs it

    config = {
        "polyconv": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "processors": arrays.threads(),
        "versions": arrays.versions(),
        "blas": [
            {
                "library": pool["internal_api"],
                "of": os.path.basename(os.path.dirname(pool["filepath"])).removesuffix(".libs"),
                "version": pool["version"],
                "core": pool.get("architecture"),
                "threads": pool["num_threads"],
            }
            for pool in arrays.blas_pools()
        ],
        "devices": arrays.devices(),
    }
    if mode == "dicts":
        return config
    for key, value in config.items():
        print(f"{key}:" if isinstance(value, dict | list) else f"{key}: {value}")
        if isinstance(value, dict):
            for name, detail in value.items():
                print(f"  {name}: {', '.join(detail) if isinstance(detail, list) else detail}")
        elif isinstance(value, list):
            for entry in value:
                print("  " + ", ".join(f"{name} {detail}" for name, detail in entry.items()))
    return None
