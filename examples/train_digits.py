"""A small convolutional network learns to read digits, with NumPy and polyconv's gradients and no framework.

    python examples/train_digits.py                    # some seconds; the loss goes to digits.png
    python examples/train_digits.py --backend cupy     # the same on a GPU
    python examples/train_digits.py --backend dask     # the same on batches in chunks

The digits are scikit-learn's, 1,797 real ones of 8x8 pixels, of which a fifth are held out.
"""

from __future__ import annotations

import argparse
import sys
import time
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import polyconv as pc

CHANNELS = (1, 16, 32)
EPOCHS, BATCH, RATE = 25, 64, 2e-3

Parameters = dict[str, Any]


def backend(name: str) -> tuple[ModuleType, Any]:
    """The library that computes, and what makes a batch of it: an array, or one in chunks."""
    if name == "cupy":
        import cupy

        return cupy, cupy.asarray
    if name == "dask":
        import dask.array as da

        return np, lambda batch: da.from_array(batch, chunks=(16, -1, -1, -1))
    return np, np.asarray


def first(xp: ModuleType, seed: int) -> Parameters:
    """Kernels ``OIHW`` and a matrix, drawn so that the size of signals is kept (He et al., arXiv:1502.01852)."""
    rng = np.random.default_rng(seed)
    shapes = {
        "w1": (CHANNELS[1], CHANNELS[0], 3, 3),
        "w2": (CHANNELS[2], CHANNELS[1], 3, 3),
        "w3": (CHANNELS[2] * 16, 10),
    }
    fans = {"w1": CHANNELS[0] * 9, "w2": CHANNELS[1] * 9, "w3": CHANNELS[2] * 16}
    found = {name: rng.standard_normal(shape) * np.sqrt(2 / fans[name]) for name, shape in shapes.items()}
    found |= {"b1": np.zeros(CHANNELS[1]), "b2": np.zeros(CHANNELS[2]), "b3": np.zeros(10)}
    return {name: xp.asarray(a.astype("float32")) for name, a in found.items()}


def forward(x: Any, p: Parameters) -> tuple[Any, ...]:
    """What the layers make of images ``(N, 1, 8, 8)``: two convolutions, the second of stride 2, and a matrix."""
    one = pc.conv2d(x, p["w1"], p["b1"], padding=1).clip(0)
    two = pc.conv2d(one, p["w2"], p["b2"], padding=1, stride=2).clip(0)
    flat = computed(two).reshape(len(x), -1)
    return one, two, flat, flat @ p["w3"] + p["b3"]


def gradients(x: Any, labels: Any, p: Parameters, xp: ModuleType) -> tuple[float, Parameters]:
    """The loss, cross entropy, and its gradients: backwards through the layers, the convolutions by their adjoints."""
    one, two, flat, scores = forward(x, p)
    scores = scores - scores.max(axis=1, keepdims=True)
    log = scores - xp.log(xp.exp(scores).sum(axis=1, keepdims=True))
    rows = xp.arange(len(labels))
    dscores = xp.exp(log)
    dscores[rows, labels] -= 1
    dscores /= len(labels)
    dtwo = like((dscores @ p["w3"].T).reshape(two.shape), two) * (two > 0)
    done, dw2, db2 = pc.conv_vjp(one, p["w2"], dtwo, padding=1, stride=2)
    _, dw1, db1 = pc.conv_vjp(x, p["w1"], done * (one > 0), padding=1)
    found = {"w1": dw1, "b1": db1, "w2": dw2, "b2": db2, "w3": flat.T @ dscores, "b3": dscores.sum(axis=0)}
    return float(-log[rows, labels].mean()), {name: computed(a) for name, a in found.items()}


def computed(a: Any) -> Any:
    """An array in memory, where it is not yet."""
    return a.compute() if hasattr(a, "compute") else a


def like(a: Any, other: Any) -> Any:
    """``a`` in chunks, if the other is."""
    if not hasattr(other, "chunks"):
        return a
    import dask.array as da

    return da.from_array(a, chunks=other.chunks)


def accuracy(x: np.ndarray, labels: np.ndarray, p: Parameters, make: Any) -> float:
    """The share of images whose digit has the highest score."""
    guesses = forward(make(x), p)[-1].argmax(axis=1)
    return float((np.asarray(guesses.get() if hasattr(guesses, "get") else guesses) == labels).mean())


def train(name: str, epochs: int, seed: int) -> tuple[list[float], float]:
    """Losses, batch by batch, and the share of held-out images that is read rightly. Adam (arXiv:1412.6980)."""
    xp, make = backend(name)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = (images[order] / 8 - 1).astype("float32").reshape(-1, 1, 8, 8), labels[order]
    held = len(images) // 5
    p, losses, start, steps = first(xp, seed), [], time.perf_counter(), 0
    mean, square = ({key: xp.zeros_like(a) for key, a in p.items()} for _ in range(2))
    rng = np.random.default_rng(seed + 1)
    for epoch in range(epochs):
        for some in np.array_split(held + rng.permutation(len(images) - held), (len(images) - held) // BATCH):
            loss, found = gradients(make(images[some]), xp.asarray(labels[some]), p, xp)
            losses.append(loss)
            steps += 1
            for key, g in found.items():
                mean[key] = 0.9 * mean[key] + 0.1 * g
                square[key] = 0.999 * square[key] + 0.001 * g * g
                step = mean[key] / (1 - 0.9**steps) / (xp.sqrt(square[key] / (1 - 0.999**steps)) + 1e-8)
                p[key] = p[key] - np.float32(RATE) * step
        if sys.stdout.isatty():
            bar = "#" * (30 * (epoch + 1) // epochs)
            print(f"\r[{bar:<30}] epoch {epoch + 1}/{epochs}, loss {np.mean(losses[-20:]):.4f}", end="", flush=True)
    right = accuracy(images[:held], labels[:held], p, make)
    seconds = time.perf_counter() - start
    print(f"{'' if not sys.stdout.isatty() else chr(10)}{right:.1%} of {held} held-out digits, after {seconds:.0f} s")
    return losses, right


def plot(losses: list[float], right: float, path: str) -> None:
    """The loss of every batch, and its running mean."""
    figure = Figure(figsize=(7, 3.6))
    axes = figure.add_subplot()
    axes.semilogy(losses, color="#b9c6d6", linewidth=0.8, label="one batch of 64")
    width = max(1, min(22, len(losses)))
    axes.semilogy(
        np.arange(width - 1, len(losses)),
        np.convolve(losses, np.ones(width) / width, "valid"),
        color="#2d6fb3",
        label="mean of an epoch",
    )
    axes.set_xlabel("batches")
    axes.set_ylabel("cross entropy")
    axes.set_title(f"{right:.1%} of held-out digits are read rightly", fontsize=11)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train, say how well, and draw the loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("numpy", "cupy", "dask"), default="numpy")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="digits.png")
    args = parser.parse_args()
    plot(*train(args.backend, args.epochs, args.seed), args.output)


if __name__ == "__main__":
    main()
