"""The scripts in examples/: what they print."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def script(name):
    """A script of the folder, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cheat_sheet_is_what_its_script_prints(capsys):
    """If not: python examples/cheatsheet.py > docs/cheatsheet.md."""
    script("cheatsheet").main()
    page = capsys.readouterr().out
    assert page == (ROOT / "docs" / "cheatsheet.md").read_text(encoding="utf-8")
    assert "<<" not in page and ">>" not in page


@pytest.mark.usefixtures("lab")
def test_the_small_model_is_extended_and_handed_over(tmp_path, capsys):
    """With steps and lengths that take seconds; the second time nothing is left to do."""
    sizes = ["--tuned", "576", "--reach", "640", "--steps", "1", "--documents", "2"]
    printed = []
    for _ in range(2):
        script("extend_lab").main([*sizes, "--folder", str(tmp_path)])
        printed.append(capsys.readouterr().out)
    first, again = printed
    assert first == again
    assert "Plan of 4 stages" in first and "Extended from 512 to 640 tokens" in first
    rows = [line for line in first.splitlines() if line.startswith(("as loaded", "extended"))]
    assert all(len(row.split()) == 3 + row.startswith("as loaded") for row in rows)
    assert len(rows) == 2
    assert "rope type 'longrope'" in first and "In the beginning" in first
    assert {path.name for path in tmp_path.iterdir()} == {"stages", "extended"}
