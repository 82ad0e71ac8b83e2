"""Layers of well-known networks and workloads: what convolution is asked for.

From oneDNN's and convnet-benchmarks' lists, RepLKNet, and the workloads that polyconv began with; batches are reduced
to what two cores take in reasonable time.
"""

from __future__ import annotations

from typing import Any

from .common import Workload


def _layer(
    n: int, c: int, size: tuple[int, ...], kernel: tuple[int, ...], out: int, groups: int = 1, **keywords: Any
) -> Workload:
    """A layer, channels first."""
    return Workload((n, c, *size), (out, c // groups, *kernel), {"groups": groups, **keywords})


LAYERS = {
    "seed-jax-puppy": _layer(8, 3, (150, 150), (3, 3), 16),
    "seed-im2col": _layer(3, 3, (1000, 1000), (3, 3), 3),
    "seed-keras": _layer(32, 3, (28, 28), (4, 4), 4),
    "seed-cmu": _layer(100, 8, (32, 32), (3, 3), 16),
    "resnet-stem": _layer(8, 3, (224, 224), (7, 7), 64, stride=2, padding=3),
    "resnet-conv2-3x3": _layer(8, 64, (56, 56), (3, 3), 64, padding=1),
    "resnet-conv2-1x1": _layer(8, 256, (56, 56), (1, 1), 64),
    "resnet-conv3-s2": _layer(8, 128, (56, 56), (3, 3), 128, stride=2, padding=1),
    "resnet-conv4-3x3": _layer(8, 256, (14, 14), (3, 3), 256, padding=1),
    "resnet-conv5-1x1": _layer(8, 2048, (7, 7), (1, 1), 512),
    "vgg-conv1.1": _layer(8, 3, (224, 224), (3, 3), 64, padding=1),
    "vgg-conv2.2": _layer(4, 128, (112, 112), (3, 3), 128, padding=1),
    "vgg-conv3.2": _layer(4, 256, (56, 56), (3, 3), 256, padding=1),
    "vgg-conv4.2": _layer(8, 512, (28, 28), (3, 3), 512, padding=1),
    "vgg-conv5": _layer(8, 512, (14, 14), (3, 3), 512, padding=1),
    "alexnet-conv1": _layer(4, 3, (227, 227), (11, 11), 96, stride=4),
    "googlenet-5x5": _layer(8, 32, (28, 28), (5, 5), 96, padding=2),
    "mobilenet-dw": _layer(8, 256, (28, 28), (3, 3), 256, groups=256, padding=1),
    "mobilenet-dw-s2": _layer(8, 512, (14, 14), (3, 3), 512, groups=512, stride=2, padding=1),
    "resnext-g32": _layer(4, 512, (28, 28), (3, 3), 512, groups=32, padding=1),
    "rfcn-dilated": _layer(1, 512, (38, 57), (3, 3), 512, padding=3, dilation=3),
    "vit-patch": _layer(4, 3, (224, 224), (16, 16), 768, stride=16),
    "replknet-31-dw": _layer(1, 128, (56, 56), (31, 31), 128, groups=128, padding=15),
    "image-blur-31": _layer(1, 1, (1024, 1024), (31, 31), 1, padding=15),
    "unet3d": _layer(1, 32, (28, 30, 30), (3, 3, 3), 32, padding=1),
    "wavenet-1d": _layer(1, 32, (84350,), (2,), 32),
}


def channels_last(layer: Workload) -> Workload:
    """The same layer as users with channels last write it: NHWC by HWIO, or what is like it."""
    (n, c, *size), (k, per_group, *kernel) = layer.x, layer.w
    spatial = "DHW"[-len(size) :]
    return Workload((n, *size, c), (*kernel, per_group, k), {**layer.keywords, "layout": f"N{spatial}C"})
