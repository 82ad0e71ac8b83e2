"""Wisdom: what was measured is remembered, used, kept in files, and never trusted blindly."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyconv as pc
from polyconv import execution, kernel_gradient, transposed, wisdom
from polyconv.planning import Candidate, make_plan

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((2, 8, 21, 20), dtype=np.float32), RNG.standard_normal((4, 8, 3, 3), dtype=np.float32)
PREDICTED = "im2col"  # for them, on two processors
FASTEST = "winograd"  # as the clock is made to say


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    pc.forget_wisdom()
    yield
    pc.forget_wisdom()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the algorithms that run, in order."""
    names: list[str] = []

    def watched(call: Any, algorithm: pc.Algorithm, *rest: Any) -> execution.Road:
        road = execution.road(call, algorithm, *rest)

        def convolve(*arrays: Any) -> Any:
            names.append(algorithm.name)
            return road.convolve(*arrays)

        return dataclasses.replace(road, convolve=convolve)

    make_plan.cache_clear()
    monkeypatch.setattr("polyconv.planning.road", watched)
    yield names
    make_plan.cache_clear()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A race that ``FASTEST`` wins in a millisecond wherever it takes part; the names of those that took part."""
    races: list[list[str]] = []

    def race(ways: list[Candidate], call: Any) -> tuple[Candidate, float]:
        races.append([way.name for way in ways])
        assert all(way.reason is None for way in ways)
        return next((way for way in ways if way.name == FASTEST), ways[0]), 1e-3

    monkeypatch.setattr("polyconv.measuring._race", race)
    monkeypatch.setattr("polyconv.measuring._HOPELESS", math.inf)
    monkeypatch.setattr("polyconv.measuring._MOST", 1000)
    return races


def plan(x: np.ndarray = X, w: np.ndarray = W, **options: Any) -> pc.Plan:
    return pc.plan(x, w, **options)


def test_of_chunks_a_block_is_measured_as_the_error_says(clock: list[list[str]]) -> None:
    da = pytest.importorskip("dask.array")
    w = da.from_array(W)
    for chunks, image in (
        ((1, 8, 10, 20), "x.blocks[0, 0, 0, 0].compute()"),
        ((1, 2, 21, 9), "x.blocks[0, :, 0, 0].compute()"),
    ):
        x = da.from_array(X, chunks=chunks)
        for kernel, spelled in ((W, "w"), (w, "w.compute()")):
            with pytest.raises(ValueError, match="measure=True runs the whole problem") as caught:
                pc.plan(x, kernel, measure=True)
            said = str(caught.value).partition("measure a block, ")[2]
            assert said == f"pc.plan({image}, {spelled}, measure=True)"
            assert eval(said, {"pc": pc, "x": x, "w": kernel}).algorithm == FASTEST


# -- in one process ------------------------------------------------------------------------------------------


def test_a_race_is_run_and_its_winner_remembered() -> None:
    """By the real clock, whichever wins."""
    measured = plan(measure=True)
    assert wisdom.known() == 1
    assert measured.chosen.measured is not None
    assert 0 < measured.chosen.measured < 60
    assert plan() is measured
    np.testing.assert_allclose(measured(X, W), pc.conv2d(X, W, algorithm="im2col"), rtol=0, atol=1e-4)


def test_what_was_measured_is_used_from_then_on(ran: list[str], clock: list[list[str]]) -> None:
    before = plan()
    assert before.algorithm == PREDICTED, str(before)
    pc.conv2d(X, W)
    measured = plan(measure=True)
    assert FASTEST in clock[0]
    assert measured.algorithm == FASTEST
    assert "fastest as measured" in str(measured)
    pc.conv2d(X, W)
    plan()(X, W)
    pc.conv(X, W, stride=[1, 1], layout="NCHW")
    measured.prepare(W)(X)
    before(X, W)  # a plan once made stays what it is
    assert ran == [PREDICTED, *[FASTEST] * 4, PREDICTED]
    assert plan(measure=True) is measured
    assert len(clock) == 1  # known, and not measured again
    pc.forget_wisdom()
    pc.conv2d(X, W)
    assert ran[-1] == PREDICTED


def test_gradients_are_chosen_anew_as_well(clock: list[list[str]]) -> None:
    dy = pc.conv2d(X, W, stride=2)
    chosen = kernel_gradient._choice, transposed._apart

    def kept() -> list[int]:
        pc.conv_vjp(X, W, dy, stride=2)
        return [some.cache_info().currsize for some in chosen]

    for change in (lambda: plan(measure=True), pc.forget_wisdom):
        assert all(kept())
        change()
        assert [some.cache_info().currsize for some in chosen] == [0, 0]


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        (X[:1], W, {}),
        (X, W, {"padding": 1}),
        (X, W, {"stride": 2}),
        (X.astype(np.float64), W.astype(np.float64), {}),
        (X.astype(np.float16), W.astype(np.float16), {}),
        (X, W, {"dtype": "float64"}),
        (X, W, {"max_workspace": 10**8}),
        (X, W, {"accuracy": "strict"}),
        (X, W, {"workers": 1}),
        (np.moveaxis(X, 1, -1), W, {"layout": "NHWC", "kernel_layout": "OIHW"}),
    ],
    ids=["batch", "padding", "stride", "float64", "float16", "dtype", "max_workspace", "accuracy", "workers", "layout"],
)
@pytest.mark.usefixtures("clock")
def test_a_choice_speaks_for_nothing_else(x: np.ndarray, w: np.ndarray, options: dict[str, Any]) -> None:
    predicted = plan(x, w, **options).algorithm
    plan(measure=True)
    assert plan().algorithm == FASTEST
    other = plan(x, w, **options)
    assert other.chosen.measured is None
    assert other.algorithm == predicted
    plan(x, w, **options, measure=True)
    assert wisdom.known() == 2  # it is measured for itself


def test_a_name_is_followed_and_not_measured(clock: list[list[str]]) -> None:
    plan(measure=True)
    assert plan(algorithm="taps").algorithm == "taps"
    assert plan(algorithm="taps", measure=True).algorithm == "taps"
    assert len(clock) == 1


def test_nothing_is_measured_where_nothing_is_to_be_done(clock: list[list[str]]) -> None:
    plan(X[:0], measure=True)
    assert not clock
    with pytest.raises(TypeError, match="measure=1 must be True or False"):
        plan(measure=1)


# -- files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, clock: list[list[str]]) -> Path:
    """Two choices, saved; then forgotten."""
    plan(measure=True)
    plan(measure=True, accuracy="strict", max_workspace=10**7)
    path = tmp_path / "wisdom.json"
    pc.save_wisdom(str(path))
    pc.forget_wisdom()
    return path


def test_choices_come_back_from_a_file(file: Path, ran: list[str]) -> None:
    assert plan().algorithm == PREDICTED, str(plan())
    pc.load_wisdom(str(file))
    assert wisdom.known() == 2
    assert plan().algorithm == FASTEST
    assert plan().chosen.measured == 1e-3
    pc.conv2d(X, W)
    assert ran == [FASTEST]
    saved = file.read_bytes()
    pc.save_wisdom(str(file))
    assert file.read_bytes() == saved


def entry_with(**changes: Any) -> Any:
    return lambda content: content["choices"][1].update(changes)


def part_with(part: str, **changes: Any) -> Any:
    return lambda content: content["choices"][1][part].update(changes)


DAMAGES: dict[str, tuple[Any, str]] = {
    "missing-key": (lambda content: content["choices"][0].pop("tile"), "damaged wisdom: 'tile' is missing"),
    "missing-place": (lambda content: content["choices"][0]["place"].pop("blas"), "damaged.*'blas' is missing"),
    "missing-choices": (lambda content: content.pop("choices"), "damaged wisdom: 'choices' is missing"),
    "choices-a-number": (lambda content: content.update(choices=7), "damaged"),
    "choices-null": (lambda content: content.update(choices=None), "damaged"),
    "choices-words": (lambda content: content.update(choices=["a", "b"]), "damaged wisdom: 'a' is no dict"),
    "problem-a-list": (entry_with(problem=[]), r"damaged wisdom: \[\] is no dict"),
    "problem-short": (
        lambda content: content["choices"][1]["problem"].pop("size"),
        "damaged wisdom: a problem has size",
    ),
    "problem-long": (part_with("problem", extra=1), "damaged wisdom: a problem has extra too many"),
    "problem-null": (part_with("problem", batch=None), "damaged wisdom: None is no int"),
    "problem-a-word": (part_with("problem", size="57"), "damaged wisdom: '57' is no list"),
    "problem-true": (part_with("problem", groups=True), "damaged wisdom: True is no int"),
    "problem-flat": (part_with("problem", padding=[0, 0]), "damaged wisdom: 0 is no list"),
    "problem-deep": (lambda content: content["choices"][1]["problem"].update(size=nested(600)), "damaged"),
    "algorithm": (entry_with(algorithm="magic"), "damaged wisdom: 'magic' is none of naive, "),
    "algorithm-a-list": (entry_with(algorithm=["fft"]), "damaged"),
    "detail": (entry_with(detail=4), "damaged wisdom: 4 is no str"),
    "tile-negative": (entry_with(tile=[1, -3, 0]), "damaged wisdom: -3 is less than 1"),
    "tile-short": (entry_with(tile=[1, 2]), "damaged"),
    "tile-long": (entry_with(tile=[1, 2, 3, 4]), "damaged"),
    "tile-a-word": (entry_with(tile="12"), "damaged wisdom: '12' is no list"),
    "workers": (entry_with(workers=0), "damaged wisdom: 0 is less than 1"),
    "workers-true": (entry_with(workers=True), "damaged wisdom: True is no int"),
    "seconds-nan": (entry_with(seconds=math.nan), "damaged wisdom: seconds=nan is no time"),
    "seconds-infinite": (entry_with(seconds=math.inf), "damaged wisdom: seconds=inf is no time"),
    "seconds-negative": (entry_with(seconds=-1.0), "damaged wisdom: seconds=-1.0 is no time"),
    "seconds-a-word": (entry_with(seconds="1"), "damaged wisdom: '1' is no float"),
    "accuracy": (entry_with(accuracy="any"), "damaged wisdom: 'any' is none of fast, strict"),
    "max-workspace": (entry_with(max_workspace=1.5), "damaged wisdom: 1.5 is no int"),
    "cores": (part_with("place", cores="2"), "damaged wisdom: '2' is no int"),
    "blas": (part_with("place", blas="mkl Pentium"), "another machine's wisdom.*'mkl Pentium'.*measure again"),
    "version": (lambda content: content.update(version="0.0.1"), r"wisdom of polyconv '0\.0\.1'.*measure again"),
    "no-version": (lambda content: content.pop("version"), "wisdom of polyconv None"),
    "format": (lambda content: content.update(format="other"), "no wisdom of polyconv: its format is not"),
}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def refused(file: Path, reason: str) -> None:
    """The file is, by its name and with the reason, and what was known stays known."""
    plan(measure=True)
    known = dict(wisdom._choices)
    with pytest.raises(ValueError, match=reason) as caught:
        pc.load_wisdom(str(file))
    assert str(caught.value).startswith(f"{file} is ")
    assert wisdom._choices == known
    assert plan().algorithm == FASTEST


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_wisdom_is_refused_whole(file: Path, damage: str) -> None:
    content = json.loads(file.read_text())
    spoil, reason = DAMAGES[damage]
    spoil(content)
    file.write_text(json.dumps(content))
    refused(file, reason)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe\x80",
        b"\x89PNG\r\n",
        b"wisdom",
        b"{",
        b"[" * 100_000,
        b'{"format": "polyconv wisdom"',
        b"9" * 9999,
    ],
    ids=["empty", "binary", "picture", "words", "brace", "brackets", "truncated", "digits"],
)
def test_what_is_no_json_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    refused(file, "no wisdom of polyconv: it is no JSON")


@pytest.mark.parametrize("content", ["null", "7", "[]", "{}", '"polyconv wisdom"', '{"format": ["polyconv wisdom"]}'])
def test_json_of_other_things_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    refused(file, "no wisdom of polyconv: its format is not 'polyconv wisdom'")


def test_a_file_cut_short_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(0, len(whole) - 1, 97):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"wisdom\.json is no wisdom of polyconv"):
            pc.load_wisdom(str(file))
    assert wisdom.known() == 0


def test_random_damage_is_refused_or_does_no_harm(file: Path) -> None:
    """A file may still be sound after a change, and say something else; convolutions come out right all the same."""
    whole = file.read_bytes()
    expected = pc.conv2d(X, W, algorithm="im2col")
    edits = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=3)
    # A digit for a digit, which no parser minds, and a word for another.
    digits = [i for i, byte in enumerate(whole) if chr(byte).isdigit()]
    edits |= st.lists(st.tuples(st.sampled_from(digits), st.integers(ord("0"), ord("9"))), min_size=1, max_size=3)

    @settings(max_examples=300)
    @given(edits)
    def check(changes: list[tuple[int, int]]) -> None:
        pc.forget_wisdom()
        damaged = bytearray(whole)
        for place, byte in changes:
            damaged[place] = byte
        file.write_bytes(damaged)
        refusal = ""
        try:
            pc.load_wisdom(str(file))
        except ValueError as error:
            refusal = str(error)
        if refusal:
            assert refusal.startswith(f"{file} is ")
            assert wisdom.known() == 0
        else:
            assert 1 <= wisdom.known() <= 2
            np.testing.assert_allclose(pc.conv2d(X, W), expected, rtol=0, atol=1e-4)

    check()


@pytest.mark.parametrize(
    "change", [{"tile": [99, 99, 0]}, {"workers": 64}, {"detail": "m=77"}, {"algorithm": "depthwise"}]
)
def test_a_choice_that_is_none_of_the_ways_does_no_harm(file: Path, change: dict[str, Any]) -> None:
    content = json.loads(file.read_text())
    content["choices"][0].update(change)
    file.write_text(json.dumps(content))
    pc.load_wisdom(str(file))
    assert plan().chosen.reason is None
    np.testing.assert_allclose(pc.conv2d(X, W), pc.conv2d(X, W, algorithm="im2col"), rtol=0, atol=1e-4)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pc.load_wisdom(str(tmp_path / "nowhere.json"))
    with pytest.raises(FileNotFoundError):
        pc.save_wisdom(str(tmp_path / "nowhere" / "wisdom.json"))
    with pytest.raises(IsADirectoryError):
        pc.load_wisdom(str(tmp_path))


def test_a_file_is_replaced_whole_or_not_at_all(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()
    pc.load_wisdom(str(file))
    plan(X[:1], measure=True)
    dump = json.dump

    def disk_full(content: Any, target: Any, **options: Any) -> None:
        dump(content["choices"][:1], target)
        raise OSError("no space left")

    monkeypatch.setattr(json, "dump", disk_full)
    with pytest.raises(OSError, match="no space left"):
        pc.save_wisdom(str(file))
    assert file.read_bytes() == before
    assert [*file.parent.iterdir()] == [file]
    monkeypatch.undo()
    pc.save_wisdom(str(file))
    assert len(json.loads(file.read_text())["choices"]) == 3
    assert [*file.parent.iterdir()] == [file]
