"""The fixtures that drive every array library, and hypothesis's settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from backends import BACKENDS, MISSING, Backend

hypothesis.settings.register_profile(
    "polyconv",
    deadline=None,
    derandomize=True,  # the same problems each time: a red run can be run again
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("polyconv")


@pytest.fixture(autouse=True, scope="session")
def two_processors() -> Iterator[None]:
    """Predicted times are those of a machine with two processors, so that the same ways are tested on every one."""
    with pytest.MonkeyPatch.context() as everywhere:
        everywhere.setattr("polyconv.arrays.threads", lambda: 2)
        yield


_PARAMETERS: list[Any] = [
    pytest.param(backend, id=backend.name, marks=[pytest.mark.gpu] * (backend.name == "cupy")) for backend in BACKENDS
]
_PARAMETERS += [
    pytest.param(None, id=name, marks=pytest.mark.skip(reason=f"no {name} on this machine")) for name in MISSING
]


@pytest.fixture(params=_PARAMETERS)
def xp(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each array library in turn, as a :class:`Backend`."""
    with request.param.within():
        yield request.param


@pytest.fixture(params=[p for p in _PARAMETERS if "numpy-" not in str(p.id)])
def library(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each array library once, without NumPy's odd memory layouts."""
    with request.param.within():
        yield request.param
