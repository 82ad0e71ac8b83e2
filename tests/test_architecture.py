"""The promises of the architecture, kept by reading the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import polyconv as pc
from polyconv.algorithms import ALGORITHMS

PACKAGE = Path(pc.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
ARRAY_LIBRARIES = {"numpy", "cupy", "torch", "jax", "jaxlib", "dask", "array_api_compat", "array_api_strict", "sparse"}
OPTIONAL = ["cupy", "dask", "jax", "matplotlib", "numba", "opt_einsum", "pandas", "scipy", "skimage", "torch"]


def imported(module: Path) -> set[str]:
    """The top-level packages that a module imports, anywhere in it; its own package is left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition(".")[0])
    return names


def names_as_data(module: Path) -> set[str]:
    """The string constants of a module that are a library's name and nothing more."""
    constants = (node.value for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Constant))
    return {str(value) for value in constants if value in ARRAY_LIBRARIES}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_file_knows_array_libraries(module: Path) -> None:
    if module.name == "arrays.py":
        assert "numpy" in imported(module)  # the test can see an import
    else:
        assert not imported(module) & ARRAY_LIBRARIES - ({"dask"} if module.name == "chunked.py" else set())
        assert not names_as_data(module)


def test_one_file_imports_dask() -> None:
    assert {module.name for module in MODULES if "dask" in imported(module)} == {"chunked.py"}


def test_algorithms_import_nothing_but_their_problem_and_arrays() -> None:
    """Neither arguments, plans nor execution: an algorithm knows nothing of users.

    Arithmetic on problems (margins, rounding errors) it may share, and what an integer is; a target it may be handed,
    and names for mypy alone; and it may run what numba or CUDA compiles.
    """
    allowed = {"arrays", "problem", "padding", "rounding", "integers", "compiled", "cuda"}
    for module in (PACKAGE / "algorithms").glob("[a-z]*.py"):
        siblings = {path.stem for path in module.parent.glob("[a-z]*.py")}
        tree = ast.parse(module.read_text())
        blocks = [node for node in tree.body if isinstance(node, ast.If)]
        for_mypy = [node for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING" for node in block.body]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                known = allowed | siblings | ({"target"} if node in for_mypy else set())
                modules = {node.module} if node.module else {alias.name for alias in node.names}
                assert modules <= known, f"{module.name} imports {modules - known}"


def test_every_algorithm_has_a_name_of_its_own_and_a_docstring() -> None:
    names = [algorithm.name for algorithm in ALGORITHMS]
    assert len(set(names)) == len(names)
    assert tuple(names) == pc.algorithms()
    for algorithm in ALGORITHMS:
        assert algorithm.run.__doc__
        assert algorithm.name != "auto"


def test_importing_polyconv_loads_no_optional_library() -> None:
    script = f"import sys, polyconv; print([m for m in {OPTIONAL} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_public_names_are_documented() -> None:
    for name in pc.__all__:
        thing = getattr(pc, name)
        assert name == "__version__" or thing.__doc__, name


OWN_PARAMETERS = {
    **{f"{name}{ndim}": ["x", "w", "bias"] for name in ("conv", "conv_transpose") for ndim in ("", "1d", "2d", "3d")},
    "plan": ["x", "w", "measure", "prepared"],
    "conv_vjp": ["x", "w", "dy"],
    "conv_input_grad": ["dy", "w", "input_shape"],
    "conv_weight_grad": ["x", "dy", "kernel_shape"],
}


@pytest.mark.parametrize("name", OWN_PARAMETERS)
def test_help_spells_out_every_keyword(name: str) -> None:
    import inspect

    keywords = ["stride", "padding", "dilation", "groups", "layout", "kernel_layout", "padding_mode", "flip_kernel"]
    keywords += ["dtype", "algorithm", "accuracy", "max_workspace", "workers"]
    if name.startswith("conv_transpose"):
        keywords.remove("padding_mode")
        keywords.insert(keywords.index("padding") + 1, "output_padding")
    parameters, text = inspect.signature(getattr(pc, name)).parameters, str(getattr(pc, name).__doc__)
    assert [*parameters] == OWN_PARAMETERS[name] + keywords
    described = re.findall(
        r"^(\w+)\n    ", text.partition("\nParameters\n")[2].partition("\nReturns\n")[0], re.MULTILINE
    )
    assert described == [one for one in parameters if one not in ("measure", "prepared")]
    assert parameters["algorithm"].default == "auto"
    assert parameters["stride"].annotation == "int | Sequence[int]"
    assert ('"IOHW"' in text) == name.startswith("conv_transpose")
