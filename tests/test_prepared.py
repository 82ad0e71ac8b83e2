"""Prepared kernels: the same result, what depends on the kernel done once, and nothing kept of the caller's arrays."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from backends import Backend

import polyconv as pc
from polyconv.algorithms import ALGORITHMS

SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "naive": ((1, 2, 4, 3), (2, 1, 3, 2), {"groups": 2, "flip_kernel": True}),  # slow
    "pointwise": ((2, 4, 6, 5), (3, 4, 1, 1), {"stride": 2}),
    "depthwise": ((2, 3, 6, 5), (6, 1, 3, 2), {"groups": 3, "padding": 1}),
}
USUAL: Any = ((2, 4, 9, 8), (6, 2, 3, 3), {"groups": 2, "padding": 1, "stride": (2, 1), "flip_kernel": True})


def refused(algorithm: str, library: Backend) -> None:
    if library.lacks(algorithm):
        pytest.skip("compiled for other libraries' arrays")


def arrays(algorithm: str, library: Backend, dtype: str = "float32") -> tuple[Any, Any, Any, dict[str, Any]]:
    """An image, a kernel, a bias and keywords that the algorithm takes."""
    x_shape, w_shape, keywords = SHAPES.get(algorithm, USUAL)
    rng = np.random.default_rng(0)
    x, w, bias = (
        library.asarray(rng.standard_normal(shape).astype(dtype)) for shape in (x_shape, w_shape, w_shape[:1])
    )
    return x, w, bias, {**keywords, "algorithm": algorithm}


@pytest.mark.parametrize("algorithm", pc.algorithms())
def test_a_prepared_kernel_gives_what_the_plan_gives(library: Backend, algorithm: str) -> None:
    refused(algorithm, library)
    x, w, bias, keywords = arrays(algorithm, library)
    plan = pc.plan(x, w, **keywords)
    for b in (None, bias):
        prepared = plan.prepare(w, b)
        y = prepared(x)
        np.testing.assert_array_equal(library.to_numpy(y), library.to_numpy(plan(x, w, b)))
        np.testing.assert_array_equal(library.to_numpy(prepared(x)), library.to_numpy(y))
        assert library.home(y) == library.home(x)
    assert prepared.algorithm == algorithm
    assert repr(prepared).startswith(f"<polyconv.Prepared {algorithm}: ")


@pytest.mark.parametrize("algorithm", pc.algorithms())
def test_writing_to_the_kernel_later_changes_nothing(library: Backend, algorithm: str) -> None:
    refused(algorithm, library)
    x, w, bias, keywords = arrays(algorithm, library)
    prepared = pc.plan(x, w, **keywords).prepare(w, bias)
    before = library.to_numpy(prepared(x)).copy()
    try:
        w[...], bias[...] = 7, 7
    except TypeError:
        pytest.skip(f"arrays of {library} cannot be written to")
    np.testing.assert_array_equal(library.to_numpy(prepared(x)), before)


def test_only_arrays_of_the_plan_are_taken() -> None:
    x, w, bias, keywords = arrays("winograd", Backend("numpy", np.asarray))
    plan = pc.plan(x, w, **keywords)
    prepared = plan.prepare(w, bias)
    takers: list[Any] = [prepared, lambda image: plan(image, w, bias)]
    for take in takers:
        with pytest.raises(ValueError, match=r"x has shape \(1, 4, 9, 8\), and the plan is for \(2, 4, 9, 8\)"):
            take(x[:1])
        with pytest.raises(TypeError, match="x has dtype float64, and the plan is for float32"):
            take(x.astype(np.float64))
        with pytest.raises(TypeError, match="x must be an array"):
            take(x.tolist())
    givers: list[Any] = [plan.prepare, lambda *kernel: plan(x, *kernel)]
    for give in givers:
        with pytest.raises(ValueError, match=r"w has shape \(3, 2, 3, 3\), and the plan is for \(6, 2, 3, 3\)"):
            give(w[:3])
        with pytest.raises(TypeError, match="w has dtype float64, and the plan is for float32"):
            give(w.astype(np.float64))
        with pytest.raises(ValueError, match=r"bias has shape \(5,\), and must have \(6,\)"):
            give(w, bias[:5])
        with pytest.raises(TypeError, match="bias has dtype complex64, which is of a higher kind"):
            give(w, bias.astype(np.complex64))


def test_a_bias_may_be_a_number() -> None:
    x, w = np.ones((5, 5)), np.ones((3, 3))
    plan = pc.plan(x, w, layout="HW")
    assert (plan.prepare(w, np.float64(0.5))(x) == 9.5).all()


@pytest.mark.parametrize("name", ["fft", "winograd"])
def test_the_kernel_is_prepared_once(name: str) -> None:
    """Not for every call, nor for every tile."""
    algorithm = next(row for row in ALGORITHMS if row.name == name)
    prepare, counts = algorithm.prepare, {"prepare": 0, "run": 0}
    assert prepare is not None

    def counting_prepare(*args: Any) -> Any:
        counts["prepare"] += 1
        return prepare(*args)

    def counting_run(*args: Any) -> Any:
        counts["run"] += 1
        return algorithm.run(*args)

    mine = dataclasses.replace(algorithm, prepare=counting_prepare, run=counting_run, variants=None)
    x, w = np.ones((6, 2, 20, 20), dtype=np.float32), np.ones((2, 2, 3, 3), dtype=np.float32)
    whole = pc.plan(x, w, algorithm=mine).chosen.workspace
    plan = pc.plan(x, w, algorithm=mine, max_workspace=whole // 2, workers=1)
    y = plan(x, w)
    assert counts["prepare"] == 1
    assert counts["run"] > 1
    prepared = plan.prepare(w)
    assert counts["prepare"] == 2
    for _ in range(3):
        np.testing.assert_array_equal(prepared(x), y)
    assert counts["prepare"] == 2
    plan(x, w)
    assert counts["prepare"] == 3


@pytest.mark.parametrize("algorithm", ["im2col", "fft", "winograd"])
def test_torch_follows_gradients_through_prepare(algorithm: str) -> None:
    torch = pytest.importorskip("torch")
    x, w, bias, keywords = arrays(algorithm, Backend("torch", torch.tensor), "float64")
    for a in (x, w, bias):
        a.requires_grad_()
    plan = pc.plan(x, w, **keywords)
    (plan.prepare(w, bias)(x) ** 2).sum().backward()
    found = [a.grad.clone() for a in (x, w, bias)]
    keywords.pop("algorithm")
    kernel = w.flip(2, 3) if keywords.pop("flip_kernel") else w
    for a in (x, w, bias):
        a.grad = None
    (torch.nn.functional.conv2d(x, kernel, bias, **keywords) ** 2).sum().backward()
    for a, gradient in zip((x, w, bias), found, strict=True):
        torch.testing.assert_close(gradient, a.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("algorithm", ["im2col", "fft", "winograd"])
def test_jax_compiles_what_is_prepared(algorithm: str) -> None:
    jax = pytest.importorskip("jax")
    x, w, bias, keywords = arrays(algorithm, Backend("jax", jax.numpy.asarray))
    plan = pc.plan(x, w, **keywords)
    expected = np.asarray(plan(x, w, bias))
    scale = float(np.abs(expected).max())
    prepared = plan.prepare(w, bias)
    np.testing.assert_allclose(jax.jit(prepared)(x), expected, atol=1e-5 * scale)
    together = jax.jit(lambda image, kernel, b: plan.prepare(kernel, b)(image))
    np.testing.assert_allclose(together(x, w, bias), expected, atol=1e-5 * scale)


def test_a_plan_for_prepared_kernels_weighs_no_preparation() -> None:
    """A kernel of many channels takes longer to transform than to meet a few images: more so, the larger the blocks."""
    x, w = np.ones((8, 14, 14, 512)), np.ones((3, 3, 512, 512))
    plan, ready = (pc.plan(x, w, layout="NHWC", padding=1, prepared=prepared) for prepared in (False, True))
    assert ready.chosen.seconds < plan.chosen.seconds / 2
    assert ready.algorithm == "winograd"
    np.testing.assert_allclose(ready.prepare(w)(x), plan(x, w), rtol=1e-9)
    with pytest.raises(TypeError, match="prepared=1 must be True or False"):
        pc.plan(x, w, layout="NHWC", prepared=1)  # type: ignore[arg-type]
