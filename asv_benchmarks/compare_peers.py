"""polyconv against its peers over the benchmark layers, side by side in one run.

    python compare_peers.py                        # every layer, both dtypes: about half an hour
    python compare_peers.py --layers resnet-stem --dtypes float32
    python compare_peers.py --json peers.json --plot peers.png
    python compare_peers.py --device cuda          # CuPy against PyTorch and cupyx on a GPU, 64 images of every layer

Contestants take turns, each layer for itself, and medians are compared, once every output has been held to a reference
in double precision. A ratio is the time of the fastest peer in its faster layout over that of polyconv (auto, with a
prepared kernel) in its faster layout; above one, polyconv is the faster. Unset ``OPENBLAS_CORETYPE`` and
``OPENBLAS_L2_SIZE`` first; ``NUMBA_DISABLE_JIT=1`` shows polyconv without numba. On a GPU nobody rounds to TF32 unless
``--tf32`` lets everybody, and what cupyx can do is compared by itself.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gpu
import numpy as np
from benchmarks.common import Workload, interleaved, once
from benchmarks.shapes import LAYERS, channels_last

import polyconv as pc

DTYPES = ("float32", "float64")
GOALS: dict[str, dict[str, dict[str, float]]] = {
    "cpu": {
        "float32": {
            "geometric mean": 1.3,
            "worst": 0.7,
            "31x31": 5.0,
            "3 input channels": 1.5,
            "3x3 with 256 or more": 1.5,
        },
        "float64": {"geometric mean": 4.0, "worst": 1.2, "31x31": 5.0},
    },
    "cuda": {
        "float32": {"geometric mean": 1.0, "worst": 0.5, "3x3 with 64 or more": 1.5, "against cupyx": 10.0},
        "float64": {"geometric mean": 1.0, "worst": 0.5, "against cupyx": 10.0},
    },
}
GROUPS = {
    "3x3 with 64 or more": (
        "resnet-conv2-3x3",
        "resnet-conv3-s2",
        "resnet-conv4-3x3",
        "vgg-conv2.2",
        "vgg-conv3.2",
        "vgg-conv4.2",
        "vgg-conv5",
        "rfcn-dilated",
    ),
    "31x31": ("replknet-31-dw", "image-blur-31"),
    "3 input channels": ("seed-jax-puppy", "seed-im2col", "seed-keras", "vgg-conv1.1"),
    "3x3 with 256 or more": ("vgg-conv3.2", "vgg-conv4.2", "rfcn-dilated"),
}
_SLOW = 3.0  # times the fastest: whoever takes longer takes part in three rounds and no more
_HOPELESS = 20.0  # times the fastest: one round
_NAIVE_MACS = 1_000_000_000  # plain loops are left out of longer races
Calls = Iterator[tuple[str, Callable[[], Any]]]


def each(layer: Workload, name: str, default: int) -> tuple[int, ...]:
    """A keyword for every spatial axis."""
    value = layer.keywords.get(name, default)
    return (value,) * (len(layer.x) - 2)


def polyconv(layer: Workload, x: np.ndarray, w: np.ndarray, threads: int) -> Calls:
    """Both layouts, with the kernel prepared and not; each on arrays that lie so."""
    last = channels_last(layer)
    order = (0, *range(2, x.ndim), 1)
    images = {"NCHW": (layer, x, w), "NHWC": (last, ahead(x, order), ahead(w, (*range(2, x.ndim), 1, 0)))}
    for name, (layout, image, kernel) in images.items():
        plan = pc.plan(image, kernel, workers=threads, prepared=True, **layout.keywords)
        ready = plan.prepare(kernel)
        at_once = pc.plan(image, kernel, workers=threads, **layout.keywords)
        back = (0, x.ndim - 1, *range(1, x.ndim - 1)) if name == "NHWC" else tuple(range(x.ndim))
        detail = f"{plan.algorithm} {plan.chosen.algorithm.detail}".strip()
        yield f"polyconv {name} ({detail})", lambda r=ready, i=image, b=back: r(i).transpose(b)
        yield (
            f"polyconv {name}, not prepared",
            lambda p=at_once, i=image, k=kernel, b=back: p(i, k).transpose(b),
        )


def ahead(a: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Axes in another order, in memory as well."""
    return a.transpose(order).copy(order="C")


def torch(layer: Workload, x: np.ndarray, w: np.ndarray, threads: int) -> Calls:
    """PyTorch with channels first, and last where it has such a format."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True  # on a GPU, the fastest algorithm that it finds
    ndim = x.ndim - 2
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[ndim - 1]
    keywords = {name: each(layer, name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))}
    keywords["groups"] = layer.keywords["groups"]
    formats = {"NCHW": torch.contiguous_format}
    if ndim > 1:
        formats["NHWC"] = torch.channels_last if ndim == 2 else torch.channels_last_3d
    for name, layout in formats.items():
        image, kernel = (torch.from_dlpack(a).to(memory_format=layout) for a in (x, w))

        def call(image: Any = image, kernel: Any = kernel) -> Any:
            with torch.inference_mode():
                return convolve(image, kernel, **keywords)

        yield f"PyTorch {name}", call


def jax(layer: Workload, x: np.ndarray, w: np.ndarray, threads: int) -> Calls:
    """JAX, jitted, in both layouts."""
    try:
        import jax
    except ImportError:
        return
    jax.config.update("jax_enable_x64", True)
    space = "DHW"[3 - (x.ndim - 2) :]
    for last in (False, True):
        layout = f"N{space}C" if last else f"NC{space}"
        image = jax.numpy.asarray(ahead(x, (0, *range(2, x.ndim), 1)) if last else x)
        kernel = jax.numpy.asarray(ahead(w, (*range(2, x.ndim), 1, 0)) if last else w)
        back = (0, x.ndim - 1, *range(1, x.ndim - 1)) if last else tuple(range(x.ndim))

        @jax.jit
        def convolve(image: Any, kernel: Any, layout: str = layout, last: bool = last) -> Any:
            return jax.lax.conv_general_dilated(
                image, kernel,
                window_strides=each(layer, "stride", 1),
                padding=[(p, p) for p in each(layer, "padding", 0)],
                rhs_dilation=each(layer, "dilation", 1),
                feature_group_count=layer.keywords["groups"],
                dimension_numbers=(layout, f"{space}IO" if last else f"OI{space}", layout),
            )  # fmt: skip

        yield (
            f"JAX {'NHWC' if last else 'NCHW'}",
            lambda c=convolve, i=image, k=kernel, b=back: c(i, k).block_until_ready().transpose(b),
        )


def scipy(layer: Workload, x: np.ndarray, w: np.ndarray, threads: int) -> Calls:
    """SciPy's three methods, which know one channel, or as many as there are groups."""
    simple = all(set(each(layer, name, 1)) == {1} for name in ("stride", "dilation"))
    if w.shape[1] > 1 or w.shape[0] != x.shape[1] or not simple:
        return
    try:
        import scipy.signal
    except ImportError:
        return
    padding = each(layer, "padding", 0)
    image = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    kernel = np.flip(w[None, :, 0], axis=tuple(range(2, x.ndim)))
    axes = tuple(range(2, x.ndim))
    for name in ("fftconvolve", "oaconvolve"):
        convolve = getattr(scipy.signal, name)
        yield f"SciPy {name}", lambda c=convolve: c(image, kernel, mode="valid", axes=axes)


def numpy_im2col(layer: Workload, x: np.ndarray, w: np.ndarray, threads: int) -> Calls:
    """What one writes by hand: windows, unrolled, times a matrix."""
    n, axes = x.ndim - 2, tuple(range(2, x.ndim))
    groups = layer.keywords["groups"]
    stride, dilation, padding = (each(layer, *d) for d in (("stride", 1), ("dilation", 1), ("padding", 0)))
    spans = tuple((k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True))

    def call() -> np.ndarray:
        image = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
        view = np.lib.stride_tricks.sliding_window_view(image, spans, axis=axes)
        view = view[(slice(None), slice(None), *(slice(None, None, s) for s in stride))]
        view = view[(..., *(slice(None, None, d) for d in dilation))]
        out = view.shape[2 : 2 + n]
        columns = view.transpose(0, 1, *range(2 + n, 2 + 2 * n), *range(2, 2 + n))
        columns = columns.reshape(len(x), groups, w[0].size, math.prod(out))
        return (w.reshape(groups, -1, w[0].size) @ columns).reshape(len(x), len(w), *out)

    yield "NumPy im2col", call


def numba_loops(layer: Workload, x: np.ndarray, w: np.ndarray, threads: int) -> Calls:
    """Nested loops of images in the plane, jitted, in parallel over images and filters."""
    if x.ndim != 4 or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return
    try:
        import numba
    except ImportError:
        return
    numba.set_num_threads(threads)
    (s, *_), (d, *_), (p, *_) = (each(layer, *a) for a in (("stride", 1), ("dilation", 1), ("padding", 0)))
    heights = (x.shape[2] + 2 * p - (w.shape[2] - 1) * d - 1) // s + 1
    widths = (x.shape[3] + 2 * p - (w.shape[3] - 1) * d - 1) // s + 1
    if len(x) * w.size * heights * widths > _NAIVE_MACS:
        return
    image = np.pad(x, [(0, 0), (0, 0), (p, p), (p, p)])
    per = len(w) // layer.keywords["groups"]

    @numba.njit(parallel=True, fastmath=True)
    def loops(image, w, y, s, d, per):
        for which in numba.prange(y.shape[0] * y.shape[1]):
            n, k = which // y.shape[1], which % y.shape[1]
            first = k // per * w.shape[1]
            for i in range(y.shape[2]):
                for j in range(y.shape[3]):
                    total = y.dtype.type(0)
                    for c in range(w.shape[1]):
                        for u in range(w.shape[2]):
                            for v in range(w.shape[3]):
                                total += image[n, first + c, i * s + u * d, j * s + v * d] * w[k, c, u, v]
                    y[n, k, i, j] = total
        return y

    yield "numba loops", lambda: loops(image, w, np.empty((len(x), len(w), heights, widths), x.dtype), s, d, per)


def cupyx(layer: Workload, x: Any, w: Any, threads: int) -> Calls:
    """CuPy's own, of SciPy's making: one channel, or as many as there are groups, image by image where it must be."""
    simple = all(set(each(layer, name, 1)) == {1} for name in ("stride", "dilation"))
    if w.shape[1] > 1 or w.shape[0] != x.shape[1] or not simple:
        return
    import cupy
    import cupyx.scipy.ndimage
    import cupyx.scipy.signal

    padding, space = each(layer, "padding", 0), tuple(range(2, x.ndim))
    image = cupy.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    turned = cupy.flip(w[None, :, 0], axis=space)
    yield "cupyx fftconvolve", lambda: cupyx.scipy.signal.fftconvolve(image, turned, mode="valid", axes=space)
    if all(2 * p + 1 == k for p, k in zip(padding, w.shape[2:], strict=True)):

        def correlate() -> Any:
            y = cupy.empty_like(x)
            for n, c in itertools.product(*map(range, x.shape[:2])):
                cupyx.scipy.ndimage.correlate(x[n, c], w[c, 0], output=y[n, c], mode="constant")
            return y

        yield "cupyx ndimage.correlate", correlate


class Place(NamedTuple):
    """Where a race is run: by whom, of which layers and arrays, and how it is timed; ``checked`` are images."""

    contestants: tuple[Any, ...]
    layer: Callable[[Workload], Workload]
    put: Callable[[np.ndarray], Any]
    once: Callable[[Callable[[], Any]], float]
    interleaved: Callable[..., dict[str, float]]
    checked: Any


PLACES = {
    "cpu": Place(
        (polyconv, torch, jax, scipy, numpy_im2col, numba_loops),
        lambda layer: layer,
        np.asarray,
        once,
        interleaved,
        slice(None),
    ),
    "cuda": Place((polyconv, torch, cupyx), gpu.layer_of, gpu.put, gpu.once, gpu.interleaved, [0, -1]),
}


def host(y: Any) -> np.ndarray:
    """A result in NumPy's array, wherever it was made."""
    return np.asarray(y.get() if hasattr(y, "get") else y.cpu() if hasattr(y, "cpu") else y)


def reference(layer: Workload, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The result in double precision, by tensordot: sums of products and nothing fast."""
    return pc.conv(x.astype("float64"), w.astype("float64"), algorithm="im2col", workers=1, **layer.keywords)


def bound_of(dtype: str) -> float:
    """The error up to which an output is let pass, relative to the results' root mean square."""
    if dtype == "float32" and os.environ.get("CUPY_TF32", "0") != "0":
        return 5e-3
    return {"float32": 1e-5, "float64": 1e-12}[dtype]


def race(
    place: Place, contestants: Sequence[Any], layer: Workload, dtype: str, seconds: float, threads: int
) -> dict[str, float]:
    """The median time of each contestant in seconds, its output checked first."""
    layer = place.layer(layer)
    x, w = layer.arrays(dtype)
    expected = reference(layer, x[place.checked], w)
    x, w = place.put(x), place.put(w)
    scale, bound = np.sqrt(np.mean(expected**2)), bound_of(dtype)
    calls: dict[str, Callable[[], Any]] = {}
    for name, call in itertools.chain.from_iterable(who(layer, x, w, threads) for who in contestants):
        error = np.sqrt(np.mean((host(call()[place.checked]) - expected) ** 2)) / scale
        assert error < bound, f"{name} errs by {error:.1e}"
        calls[name] = call
    first = {name: place.once(call) for name, call in calls.items()}
    best = min(first.values())
    most = {name: 1 if t > _HOPELESS * best else 3 for name, t in first.items() if t > _SLOW * best}
    return place.interleaved(calls, seconds, most=most)


def ratio(times: dict[str, float]) -> tuple[float, str, str]:
    """The fastest peer's time over polyconv's, and who both are; cupyx, which is no network's peer, is left out."""
    ours = {name: t for name, t in times.items() if name.startswith("polyconv") and "not prepared" not in name}
    theirs = {name: t for name, t in times.items() if not name.startswith(("polyconv", "cupyx"))}
    mine, peer = min(ours, key=ours.__getitem__), min(theirs, key=theirs.__getitem__)
    return theirs[peer] / ours[mine], mine.removeprefix("polyconv "), peer


def mean(values: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def summary(ratios: dict[str, float]) -> dict[str, float]:
    """What the goals are about: the mean over layers, the worst, and the worst of some groups."""
    found = {"geometric mean": mean([*ratios.values()]), "worst": min(ratios.values())}
    for name, members in GROUPS.items():
        if some := [ratios[member] for member in members if member in ratios]:
            found[name] = min(some)
    return found


def environment(threads: int) -> dict[str, Any]:
    """Where and with what this was measured."""
    from threadpoolctl import threadpool_info

    packages = ("numpy", "numba", "torch", "jax", "scipy", "cupy-cuda12x", "cupy-cuda13x")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    blas = sorted({f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in threadpool_info()})
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {processor()}",
        "threads": threads,
        "blas": blas,
        "versions": versions,
        "numba compiles": os.environ.get("NUMBA_DISABLE_JIT", "0") == "0",
    }


def processor() -> str:
    """The processor's model."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def against_cupyx(layers: dict[str, dict[str, float]]) -> dict[str, float]:
    """The fastest time of cupyx over polyconv's, the least over the layers that it can do."""
    ported = {layer: [t for name, t in times.items() if name.startswith("cupyx")] for layer, times in layers.items()}
    able = {layer: min(found) for layer, found in ported.items() if found}
    ours = {layer: layers[layer][f"polyconv {ratio(layers[layer])[1]}"] for layer in able}
    return {"against cupyx": min(able[layer] / ours[layer] for layer in able)} if able else {}


def table(results: dict[str, dict[str, dict[str, float]]], goals: dict[str, dict[str, float]]) -> Iterator[str]:
    """The ratios, lost layers first, and what they come to."""
    for dtype, layers in results.items():
        found = {name: ratio(times) for name, times in layers.items()}
        yield f"{dtype}: time of the fastest peer / time of polyconv"
        for name, (value, mine, peer) in sorted(found.items(), key=lambda item: item[1][0]):
            ms = [times * 1e3 for times in (layers[name][f"polyconv {mine}"], layers[name][peer])]
            yield f"  {value:6.2f}  {name:<18} {mine:<28} {ms[0]:9.3f} ms   {peer:<18} {ms[1]:9.3f} ms"
        totals = summary({name: value for name, (value, *_) in found.items()}) | against_cupyx(layers)
        for what, value in totals.items():
            goal = goals[dtype].get(what)
            yield f"  {value:6.2f}  {what}" + (f" (goal {goal})" if goal else "")


def plot(results: dict[str, dict[str, dict[str, float]]], where: dict[str, Any], path: str) -> None:
    """A bar for each layer, in order of the ratio, one panel for each dtype."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(6.2 * len(results), 7.4), squeeze=False)
    for axes, (dtype, layers) in zip(panels[0], results.items(), strict=True):
        found = sorted((ratio(times)[0], name) for name, times in layers.items())
        values = [value for value, _ in found]
        axes.barh(range(len(found)), values, color=["#b3472d" if value < 1 else "#2d6fb3" for value in values])
        axes.set_yticks(range(len(found)), [name for _, name in found])
        axes.set_xscale("log")
        ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if 0.7 * min(values) < tick < 2 * max(values)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.axvline(1, color="black", linewidth=0.8, zorder=0)
        for i, value in enumerate(values):
            plain = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # the line at one does not cross it
            axes.text(value * 1.04, i, f"{value:.2f}", va="center", fontsize=8, bbox=plain)
        axes.set_xlim(min(0.5, *values) * 0.8, max(values) * 1.9)
        axes.set_ylim(-0.8, len(values) - 0.2)
        axes.set_title(f"{dtype}: geometric mean {mean(values):.2f}")
        axes.set_xlabel("time of the fastest peer / time of polyconv")
    figure.suptitle(f"{where['machine']}, {where['threads']} threads, {where['date']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def round_products(rounded: bool) -> None:
    """Let PyTorch and CuPy round what single precision's products multiply, or neither."""
    import torch

    os.environ["CUPY_TF32"] = str(int(rounded))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = rounded


def main() -> None:
    """Race, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=[*LAYERS], metavar="LAYER")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each layer, at least three rounds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", metavar="PEER", help="peers by the names of their functions here")
    parser.add_argument("--device", choices=PLACES, default="cpu")
    parser.add_argument("--tf32", action="store_true", help="let products in single precision be rounded, on a GPU")
    parser.add_argument("--json", help="file for all times")
    parser.add_argument("--plot", help="file for a picture of the ratios")
    args = parser.parse_args()
    place = PLACES[args.device]
    peers = {who.__name__: who for who in place.contestants if who is not polyconv}
    if unknown := {*(args.only or ())} - peers.keys():
        parser.error(f"--only knows {', '.join(peers)}, not {', '.join(sorted(unknown))}")
    if held := [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ]:
        sys.exit(f"unset {' and '.join(held)}: with them NumPy's BLAS is not what users have")
    if args.device == "cuda":
        if missing := gpu.missing():
            sys.exit(f"ratios are to PyTorch's times, and {missing}")
        if "torch" not in (args.only or peers):
            parser.error("ratios are to PyTorch's times: --only has to name torch as well")
        round_products(args.tf32)
    contestants = [polyconv, *(peers[name] for name in args.only or peers)]
    results: dict[str, dict[str, dict[str, float]]] = {dtype: {} for dtype in args.dtypes}
    for dtype, name in itertools.product(args.dtypes, args.layers):
        times = race(place, contestants, LAYERS[name], dtype, args.seconds, args.threads)
        results[dtype][name] = times
        value, mine, peer = ratio(times)
        ours, theirs = times[f"polyconv {mine}"] * 1e3, times[peer] * 1e3
        print(f"{value:6.2f}  {dtype} {name:<18} {mine:<28} {ours:9.3f} ms   {peer:<18} {theirs:9.3f} ms", flush=True)
    where = environment(args.threads)
    if args.device == "cuda":
        where |= {"machine": gpu.device(), "TF32": args.tf32}
    print(*table(results, GOALS[args.device]), json.dumps(where), sep="\n")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"environment": where, "seconds": results}, file, indent=1)
    if args.plot:
        plot(results, where, args.plot)


if __name__ == "__main__":
    main()
