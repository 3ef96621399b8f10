"""The scripts in examples/: what they print."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def script(name):
    """A script of the folder, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def test_the_cheat_sheet_is_what_its_script_prints(capsys):
    """If not: python examples/cheatsheet.py > docs/cheatsheet.md."""
    script("cheatsheet").main()
    page = capsys.readouterr().out
    assert page == (ROOT / "docs" / "cheatsheet.md").read_text(encoding="utf-8")
    assert "<<" not in page and ">>" not in page


# Of each outcome some; python examples/model_table.py compares all.
RIGHT = (
    "llama",
    "gemma3_text",
    "phi3",
    "qwen3_5_text",
    "deepseek_v3",
    "glm4",
    "dots1",
    "phimoe",
)
REFUSED = {
    "prophetnet": "its head reads more than one hidden state per token",
    "bart": "no rotary embedding that can be rescaled",
    "deepseek_v4": "serves layer types .*, none of them 'full_attention'",
    "granitemoehybrid": "no rotary embedding that can be rescaled",
}


@pytest.mark.parametrize("kind", [*RIGHT, *REFUSED])
def test_a_model_type_is_right_or_refused_with_the_reason(kind):
    row = script("model_table").compare(kind)
    assert row.outcome == ("right" if kind in RIGHT else "refused"), row
    assert re.search(REFUSED.get(kind, "^$"), row.why)
    if kind in RIGHT:
        assert {"losses", "none", "YaRN", "restored"} <= row.differences.keys()
        assert row.differences["restored"] == 0 and row.exports in ("yarn", "longrope")


def test_a_difference_is_found():
    """So that the test above would notice."""
    row = script("model_table").Row("llama")
    row.add("none", torch.ones(3), torch.ones(3) * 1.001)
    assert row.outcome == "wrong"


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


@pytest.mark.usefixtures("lab")
def test_the_speed_of_a_pass_is_printed_as_json(capsys):
    sizes = ["--lengths", "64", "300", "--repeats", "1", "--plain-up-to", "100"]
    script("pass_speed").main(["lab", *sizes, "--backend", "eager", "--memory", "128"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["part"] for row in rows] == ["machine", "speed", "speed", "error"]
    short, long, error = rows[1:]
    assert short["plain_differs_by"] < 1e-4 and "plain" not in long
    assert all(row["differs_by"] < 1e-4 and row["losses"] > row["attention"] for row in rows[1:3])
    assert "only a GPU knows its peak" in error["error"]


@pytest.mark.usefixtures("lab")
def test_a_text_is_read_by_two_processes(capsys):
    sizes = ["--lengths", "--gpus", "2", "--compare", "600", "--split", "900"]
    script("pass_speed").main(["lab", *sizes])
    _, equality, timed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert equality["loss"] > 1 and equality["loss_differs_by"] < 1e-4
    assert equality["steps_differ_by"] < 1e-4
    assert (timed["part"], timed["gpus"], timed["length"]) == ("split", 2, 900)
