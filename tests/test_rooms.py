"""The rooms of the package: what each may import, and that every module answers to its own name."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "longrope_lab"

# Each room imports only those before it.
ROOMS = (
    "common", "rope", "texts", "models", "searches", "measure", "extend", "export", "plots",
    "widgets", "runs", "report", "lab_model", "commands",
)  # fmt: skip

# What a function may import when it is called: large, slow to import, or not always installed.
HEAVY = {
    "accelerate", "ctranslate2", "datasets", "gguf", "huggingface_hub", "lm_eval", "mlx", "mlx_lm",
    "pandas", "papermill", "peft", "pyarrow", "pythonbible", "safetensors", "tokenizers", "torch",
    "tqdm", "transformers", "xllamacpp",
}  # fmt: skip

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """A module's full name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """(node, full name of the module) of each import in a file."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from ((node, name) for name in (names if module == "longrope_lab" else [module]))


def in_room(name):
    """The room of a module."""
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_before_it(room):
    allowed = {f"longrope_lab.{before}" for before in ROOMS[: ROOMS.index(room) + 1]}
    for path in (PACKAGE / room).rglob("*.py"):
        for node, name in imports(path):
            where = f"{path}:{node.lineno} imports {name}"
            assert not name.startswith("longrope_lab") or in_room(name) in allowed, where


def test_every_module_is_in_a_room():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "cli.py"}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "cli.py"], ids=name_of)
def test_no_import_inside_a_function_but_of_heavy_libraries(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    kinds = ast.Import | ast.ImportFrom
    nodes = [n for function in functions for n in ast.walk(function) if isinstance(n, kinds)]
    inside = {node.lineno for node in nodes}  # imports() parses anew: its nodes are others
    for node, name in imports(path):
        where = f"{path}:{node.lineno} imports {name}"
        heavy = name.split(".")[0] in HEAVY or name == "longrope_lab.measure.harness"  # lm_eval
        assert node.lineno not in inside or heavy, where


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "harness.py"], ids=name_of)
def test_every_module_is_imported_by_its_own_name(path):
    name = name_of(path)
    module = importlib.import_module(name)
    found = sys.modules["longrope_lab"]
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    assert found is module, f"something else is called {name}"


def test_numbers_need_neither_torch_nor_transformers():
    code = "import sys, longrope_lab.rope.methods; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded and loaded.isdisjoint({"torch", "transformers"})


# What Python has on Linux and macOS alone.
NOT_ON_WINDOWS = {
    "crypt", "curses", "fcntl", "grp", "nis", "posix", "pty", "pwd", "readline", "resource", "spwd",
    "syslog", "termios", "tty",
}  # fmt: skip


def test_no_module_needs_what_windows_lacks():
    for path in MODULES:
        # Those in an if have a condition, which may be the system's name.
        always = {id(node) for node in ast.parse(path.read_text(encoding="utf-8")).body}
        needed = {name.split(".")[0] for node, name in imports(path) if id(node) in always}
        assert needed.isdisjoint(NOT_ON_WINDOWS), path
