"""The scripts in examples/: what they print."""

from __future__ import annotations

import importlib.util
import re
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
    """With steps and lengths that take seconds."""
    sizes = ["--tuned", "576", "--reach", "640", "--steps", "1", "--documents", "1"]
    script("extend_lab").main([*sizes, "--folder", str(tmp_path / "made")])
    printed = capsys.readouterr().out
    assert "Plan of 4 stages" in printed and "Extended from 512 to 640 tokens" in printed
    for name in ("as loaded", "with YaRN", "trained, no scaling", "extended"):
        row = re.search(rf"^{name} +(\d+\.\d) +(\d+\.\d) +(\d+\.\d)$", printed, re.M)
        assert row and all(1 < float(perplexity) < 1000 for perplexity in row.groups())
    assert "rope type 'longrope'" in printed and "In the beginning" in printed
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"stages", "extended"}
