"""The ONNX standard's own test cases of its convolution operators, by every algorithm.

The wheel of onnx carries them all: the operator's specification comes with cases in Python, and beside it lie
models with the inputs and outputs that PyTorch once stored for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import ON_NUMPY
from hypothesis import given, settings
from hypothesis import strategies as st
from spy import only
from strategies import values
from tolerance import beyond_direct

import polyconv as pc

onnx = pytest.importorskip("onnx")


@dataclass(frozen=True)
class StandardCase:
    """One node of the standard with its inputs (those it lacks are None) and the output that it must have."""

    name: str
    node: Any
    inputs: tuple[np.ndarray | None, ...]
    output: np.ndarray


def is_convolution(model: Any) -> bool:
    return [node.op_type for node in model.graph.node] in (["Conv"], ["ConvInteger"])


def as_array(value: Any) -> np.ndarray:
    """An array, of one or of a stored tensor."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def standard_case(name: str, model: Any, inputs: list[Any], outputs: list[Any]) -> StandardCase:
    """A model of one node with its data; what the model stores itself (weights) counts as input."""
    (node,) = model.graph.node
    stored = {tensor.name: as_array(tensor) for tensor in model.graph.initializer}
    asked = [value.name for value in model.graph.input if value.name not in stored]
    known = stored | dict(zip(asked, map(as_array, inputs), strict=True))
    return StandardCase(name, node, tuple(known.get(key) for key in node.input), as_array(outputs[0]))


def specified() -> list[StandardCase]:
    """The cases of the operators' specifications."""
    # The loader of onnx would import the cases of every operator, which takes seconds, and some overflow with a
    # warning. To import an operator's module is to add its cases to the list from which the loader reads.
    from onnx.backend.test.case import node as cases_of_nodes
    from onnx.backend.test.case.node import conv, convinteger  # noqa: F401

    return [
        standard_case(case.name, case.model, *data)
        for case in cases_of_nodes._NodeTestCases
        if is_convolution(case.model)
        for data in case.data_sets
    ]


def recorded() -> list[StandardCase]:
    """The models of one convolution that were exported from PyTorch, with its results."""
    from onnx.backend.test import loader

    found = []
    for folder in sorted(Path(loader.DATA_DIR).glob("pytorch-*/*")):
        model = onnx.load(folder / "model.onnx")
        if is_convolution(model):
            read = [
                [onnx.load_tensor(path) for path in sorted(folder.glob(f"test_data_set_0/{what}_*.pb"))]
                for what in ("input", "output")
            ]
            found.append(standard_case(folder.name, model, *read))
    return found


CASES = specified() + recorded()

TOO_SLOW = {("naive", "test_operator_conv")}  # 70 million products one by one, where the others are a few thousand


def keywords(node: Any, kernel: np.ndarray) -> dict[str, Any]:
    """The node's attributes in polyconv's words."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    axes = kernel.ndim - 2
    assert tuple(attributes.pop("kernel_shape", kernel.shape[2:])) == kernel.shape[2:]
    automatic = attributes.pop("auto_pad", b"NOTSET").decode()
    starts_then_ends = attributes.pop("pads", [0] * 2 * axes)
    pairs = list(zip(starts_then_ends[:axes], starts_then_ends[axes:], strict=True))
    said = {
        "padding": pairs if automatic == "NOTSET" else automatic.lower(),
        "stride": attributes.pop("strides", 1),
        "dilation": attributes.pop("dilations", 1),
        "groups": attributes.pop("group", 1),
    }
    assert not attributes, f"the node says more than this test understands: {attributes}"
    return said


def operands(case: StandardCase) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Image, kernel and bias. An integer counts from its zero point, which ``ConvInteger`` takes besides."""
    x, w, *rest = case.inputs
    if case.node.op_type == "Conv":
        return x, w, rest[0] if rest else None
    zeros = [*rest, 0, 0]
    kernel_zeros = np.reshape(zeros[1], (-1, 1, 1, 1)).astype(np.int32)  # one for all filters, or one for each
    return x.astype(np.int32) - zeros[0], w.astype(np.int32) - kernel_zeros, None


def allowed(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """By how much two sums of the same products may differ, for each filter: not at all where all are integers.

    Either sum is off by at most half an epsilon a term of what the absolute values of all terms come to.
    """
    given_arrays = [a for a in (x, w, bias) if a is not None]
    if all(np.array_equal(a, np.round(a)) for a in given_arrays):
        return np.zeros(len(w))
    size = np.sum(np.abs(w), axis=tuple(range(1, w.ndim))) * np.max(np.abs(x))
    terms = w[0].size + 1
    return terms * np.finfo(w.dtype).eps * (size if bias is None else size + np.abs(bias))


def able(x: np.ndarray, w: np.ndarray, **said: Any) -> list[str]:
    return [candidate.name for candidate in pc.plan(x, w, **said).candidates if candidate.reason is None]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_standard_case(case: StandardCase) -> None:
    x, w, bias = operands(case)
    said = keywords(case.node, w)
    bound = np.reshape(allowed(x, w, bias), (-1, *(1,) * (w.ndim - 2)))
    for algorithm in able(x, w, **said):
        if (algorithm, case.name) in TOO_SLOW:
            continue
        with only(algorithm) as ran:
            y = pc.conv(x, w, bias, **said, dtype=case.output.dtype, algorithm=algorithm)
        assert ran
        assert y.dtype == case.output.dtype
        assert y.shape == case.output.shape
        error = np.abs(y - case.output)
        plan = pc.plan(x, w, **said, dtype=case.output.dtype, algorithm=algorithm)
        assert np.all(error <= bound + beyond_direct(plan, x, w)), f"{algorithm} is off by {np.max(error)}"


def test_no_case_was_lost() -> None:
    """The wheels since onnx 1.17 have these, or more; every algorithm has cases among them but the pointwise one."""
    operators = [case.node.op_type for case in CASES]
    assert operators.count("ConvInteger") >= 2
    assert operators.count("Conv") >= 33
    ranks = {case.inputs[1].ndim - 2 for case in CASES}
    assert ranks == {1, 2, 3}
    ran = set()
    for case in CASES:
        x, w, _ = operands(case)
        ran.update(able(x, w, **keywords(case.node, w)))
    assert ran == {*ON_NUMPY} - {"pointwise"}


@settings(max_examples=100)
@given(
    st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 5)), min_size=1, max_size=3
    ),
    st.integers(0, 2**32 - 1),
)
def test_automatic_padding(automatic: str, axes: list[tuple[int, int, int, int]], seed: int) -> None:
    """The one stored case of "same" pads both ends alike; here is the rest, by the reference evaluator of onnx."""
    pytest.importorskip("onnx", "1.23")  # until then it departs from the specification where it strides or dilates
    evaluator = pytest.importorskip("onnx.reference")
    kernel, stride, dilation, more = map(list, zip(*axes, strict=True))
    size = [(k - 1) * d + 1 + extra for k, d, extra in zip(kernel, dilation, more, strict=True)]
    rng = np.random.default_rng(seed)
    x, w = (values(rng, (1, 1, *shape), "int8").astype(np.float64) for shape in (size, kernel))
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=automatic, strides=stride, dilations=dilation)
    (expected,) = evaluator.ReferenceEvaluator(node).run(None, {"x": x, "w": w})
    # Whole numbers are exact where they are summed as they stand, and not where blocks are transformed.
    np.testing.assert_array_equal(pc.conv(x, w, **keywords(node, w), accuracy="strict"), expected)
