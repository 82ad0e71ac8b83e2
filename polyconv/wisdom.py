"""Choices that were measured, kept in memory and in files. FFTW's word for them is wisdom.

A choice is remembered for a problem, a library, a device, the BLAS and its core type, the number of threads, and the
caller's demands, and speaks for nothing else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from . import arrays, dtypes
from ._version import __version__
from .algorithms import ALGORITHMS
from .problem import ConvProblem
from .tiling import Tile

if TYPE_CHECKING:
    from .arguments import Call, Demands
    from .planning import Candidate
    from .target import Target

__all__ = ["Choice", "forget", "heeding", "known", "load", "recall", "remember", "save"]

_FORMAT = "polyconv wisdom"
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Place:
    """Where a choice was measured: what its time depends on beside the problem."""

    library: str
    device: str
    blas: str
    workers: int
    cores: int


@dataclass(frozen=True)
class Question:
    """What a choice answers. ``result`` names the result's dtype: fewer methods are admitted for halves."""

    problem: ConvProblem
    result: str
    place: Place
    accuracy: str
    max_workspace: int | None


@dataclass(frozen=True)
class Choice:
    """The way that was found fastest, and the seconds that it took."""

    algorithm: str
    detail: str
    tile: Tile
    workers: int
    seconds: float

    def among(self, ways: list[Candidate]) -> Candidate | None:
        """The candidate that was chosen.

        Where another layout of the same problem leaves room for other tiles, the chosen algorithm's quickest; None
        where it has none at all.
        """
        same = [way for way in ways if (way.name, way.algorithm.detail) == (self.algorithm, self.detail)]
        exact = [way for way in same if (way.tile, way.workers) == (self.tile, self.workers)]
        return min(exact or same, key=lambda way: way.seconds, default=None)


_choices: dict[Question, Choice] = {}
_heeding: list[Any] = []


def heeding(function: _F) -> _F:
    """``function``, which may :func:`recall` choices, with its results cached until others are known."""
    cached = lru_cache(maxsize=1024)(function)
    _heeding.append(cached)
    return cached  # type: ignore[return-value]


def _changed() -> None:
    for cached in _heeding:
        cached.cache_clear()


@lru_cache(maxsize=1)
def _blas() -> str:
    """The BLAS of this process and the processor type that its kernels are for: ``"openblas SkylakeX"``."""
    pools = arrays.blas_pools()
    return ", ".join(sorted({f"{pool['internal_api']} {pool.get('architecture') or ''}".strip() for pool in pools}))


def _question(call: Call, demands: Demands, target: Target) -> Question:
    place = Place(target.library, arrays.device_name(call.x), _blas(), target.workers, target.cores)
    result = dtypes.name(call.dtypes.result)
    return Question(call.problem, result, place, demands.accuracy, demands.max_workspace)


def recall(call: Call, demands: Demands, target: Target) -> Choice | None:
    """The choice that was measured for this, or None."""
    return _choices.get(_question(call, demands, target)) if _choices else None


def remember(call: Call, demands: Demands, target: Target, choice: Choice) -> None:
    """Keep a choice for the rest of the process."""
    _choices[_question(call, demands, target)] = choice
    _changed()


def known() -> int:
    """How many choices are remembered."""
    return len(_choices)


def forget() -> None:
    """Drop every choice."""
    _choices.clear()
    _changed()


# -- files ---------------------------------------------------------------------------------------------------


def save(path: str | os.PathLike[str]) -> None:
    """Write every choice to a JSON file; one that is there is replaced when the new one is whole."""
    import json  # slow to import, and only files need it

    content = {
        "format": _FORMAT,
        "version": __version__,
        "choices": [{**asdict(question), **asdict(choice)} for question, choice in _choices.items()],
    }
    unfinished = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


def load(path: str | os.PathLike[str]) -> None:
    """Add the choices of a file to those remembered. Raises ValueError, and adds nothing, unless all of it is sound."""
    import json

    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)} is no wisdom of polyconv: it is no JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{os.fspath(path)} is no wisdom of polyconv: its format is not {_FORMAT!r}")
    if content.get("version") != __version__:
        raise ValueError(
            f"{os.fspath(path)} is wisdom of polyconv {content.get('version')!r}, and this is {__version__}, whose "
            "methods may differ; measure again"
        )
    try:
        choices = dict(map(_read, content["choices"]))
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{os.fspath(path)} is damaged wisdom: {reason}") from None
    here = _blas()
    for question in choices:
        if question.place.blas != here:
            raise ValueError(
                f"{os.fspath(path)} is another machine's wisdom: it was measured with {question.place.blas!r}, and the "
                f"BLAS here is {here!r}; measure again"
            )
    _choices.update(choices)
    _changed()


def _read(entry: Any) -> tuple[Question, Choice]:
    """One entry of a file. Raises KeyError, TypeError or ValueError unless every value is of its kind."""
    entry = _checked(entry, dict)
    problem = _problem(entry["problem"])
    place = _checked(entry["place"], dict)
    limit = entry["max_workspace"]
    question = Question(
        problem,
        _checked(entry["result"], str),
        Place(
            library=_checked(place["library"], str),
            device=_checked(place["device"], str),
            blas=_checked(place["blas"], str),
            workers=_positive(place["workers"]),
            cores=_positive(place["cores"]),
        ),
        _one_of(entry["accuracy"], ("fast", "strict")),
        None if limit is None else _checked(limit, int),
    )
    images, rows, groups = (_checked(extent, int) for extent in _checked(entry["tile"], list))
    seconds = _checked(entry["seconds"], float)
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds={seconds} is no time")
    choice = Choice(
        _one_of(entry["algorithm"], tuple(row.name for row in ALGORITHMS)),
        _checked(entry["detail"], str),
        Tile(_positive(images), _positive(rows), groups and _positive(groups)),
        _positive(entry["workers"]),
        seconds,
    )
    return question, choice


def _problem(entry: Any) -> ConvProblem:
    entry = _checked(entry, dict)
    names = {field.name for field in fields(ConvProblem)}
    if entry.keys() != names:
        raise ValueError(f"a problem has {', '.join(sorted(entry.keys() ^ names))} too many or too few")
    return ConvProblem(**{name: _like(value, getattr(_SAMPLE, name)) for name, value in entry.items()})


_SAMPLE = ConvProblem(1, 1, 1, 1, (1,), (1,), (1,), (1,), ((0, 0),))


def _like(value: Any, sample: Any) -> Any:
    """A JSON value with tuples for lists. Raises TypeError unless its types are those of ``sample`` throughout."""
    if isinstance(sample, tuple):
        return tuple(_like(entry, sample[0]) for entry in _checked(value, list))
    if type(value) is not type(sample):
        raise TypeError(f"{value!r} is no {type(sample).__name__}")
    return value


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _positive(value: Any) -> int:
    if _checked(value, int) < 1:
        raise ValueError(f"{value} is less than 1")
    return int(value)


def _one_of(value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return str(value)
