"""`longrope-lab extend`: what it makes, that it goes on, what it asks, and what it refuses."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
import torch
from small_models import save_small
from transformers import AutoModelForCausalLM

import longrope_lab as lab
from longrope_lab import cli
from longrope_lab.extend import plan_run

TINY = ["small", "--plan", "tiny", "--corpus", "book.txt", "--out", "made", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, tokenizer, monkeypatch):
    """A folder of its own, with a model and a text in it."""
    monkeypatch.chdir(tmp_path)
    save_small("small", tokenizer)
    words = " ".join(f"In the beginning was word {i * 7919 % 1000}." for i in range(600))
    (tmp_path / "book.txt").write_text(words)


@pytest.fixture
def extend(capsys):
    """Runs the command; returns its status, what it printed and the lines that it complained in."""

    def run(*arguments):
        status = cli.main(["extend", *arguments])
        printed, complaints = capsys.readouterr()
        return status, printed, [line for line in complaints.splitlines() if "longrope-lab" in line]

    return run


@pytest.fixture
def answer(monkeypatch):
    """A terminal on which somebody types."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    return lambda typed: monkeypatch.setattr(sys, "stdin", Terminal(typed))


def rows_of(printed):
    """The stages of the table that is printed before the question."""
    return re.findall(r"^(\d\d_\w+|total)\b", printed, re.MULTILINE)


def test_it_makes_what_the_library_makes(extend, tmp_path):
    status, printed, complaints = extend(*TINY, "--yes", "--seed", "4")
    assert (status, complaints) == (0, [])
    assert rows_of(printed) == [*lab.PLANS["tiny"].named, "total"]
    assert "Go on?" not in printed and printed.endswith(
        "AutoModelForCausalLM.from_pretrained('made')\n"
    )

    model, tokenizer = lab.load_model("small", device="cpu")
    plan = lab.PLANS["tiny"]
    docs = plan.divided(lab.load_corpus("book.txt", tokenizer))
    by_hand = lab.progressive(model, tokenizer, plan, "by_hand", **docs, seed=4)
    schedule = by_hand.for_config(model, docs["search_docs"], seed=4)
    schedule.save("by_hand.json")
    assert json.loads((tmp_path / "made/scaling.json").read_text()) == json.loads(
        (tmp_path / "by_hand.json").read_text()
    )
    made = AutoModelForCausalLM.from_pretrained("made").state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(made[name], weight), name


def test_an_attention_factor_that_is_folded(extend, tmp_path):
    """The folder names none, and stock transformers computes what was extended."""
    assert extend(*TINY, "--yes", "--fold-attention-factor")[0] == 0
    config = json.loads((tmp_path / "made/config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "longrope"
    assert not any("attention_factor" in part for part in (config, config["rope_parameters"]))
    assert "is in the query weights" in (tmp_path / "made/README.md").read_text()
    model, tokenizer = lab.load_model("small", device="cpu")
    docs = lab.PLANS["tiny"].divided(lab.load_corpus("book.txt", tokenizer))
    extended = lab.progressive(model, tokenizer, lab.PLANS["tiny"], "made-stages", **docs)
    scaling, ids = extended.for_config(model, docs["search_docs"]), torch.arange(5, 605)[None]
    made = AutoModelForCausalLM.from_pretrained("made")
    with torch.no_grad(), lab.apply_scaling(model, scaling, length=600):
        torch.testing.assert_close(made(ids).logits, model(ids).logits, atol=2e-3, rtol=0)


def test_a_column_of_the_corpus_and_a_window(extend, answer, tmp_path):
    rows = [{"id": 7, "body": (tmp_path / "book.txt").read_text()}]
    (tmp_path / "book.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = ["small", "--to", "256", "--corpus", "book.jsonl", "--out", "made", "--device", "cpu"]
    answer("n\n" * 2)
    status, _, complaints = extend(*asked)
    assert status == 2 and "has no column" in complaints[0]
    status, printed, complaints = extend(*asked, "--column", "body", "--window", "128")
    assert (status, complaints) == (1, [])
    # The recovery is at the window.
    assert rows_of(printed) == ["00_search_256", "01_finetune_256", "02_recover_128", "total"]


def test_it_goes_on_where_it_stopped(extend, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:

        def full(*_, **__):
            raise RuntimeError("made cannot be written (No space left on device)\n  at all")

        broken.setattr("longrope_lab.commands.extend.save_pretrained", full)
        status, _, complaints = extend(*TINY, "--yes")
    said = ["longrope-lab: made cannot be written (No space left on device) at all"]
    assert (status, complaints) == (2, said)
    assert (tmp_path / "made-stages" / "schedule.json").is_file()
    status, _, complaints = extend(*TINY, "--yes", "--seed", "1")
    assert status == 2 and "made-stages holds another plan (seed: 0 there, 1 here)" in complaints[0]

    monkeypatch.setattr(plan_run, "search", None)  # whatever would search again fails
    monkeypatch.setattr(plan_run, "finetune", None)
    status, printed, complaints = extend(*TINY, "--yes")
    assert (status, complaints) == (0, [])
    assert "made-stages holds a part of this, which is not run again." in printed
    assert lab.load_model("made")[0].config.max_position_embeddings == 640
    status, _, complaints = extend(*TINY, "--yes")
    assert status == 2 and "made is not empty, and nothing is written over" in complaints[0]


def test_what_cannot_be_exported_is_not_begun(extend, tmp_path, monkeypatch):
    """Found out before it is trained, and nothing of the trial stays."""
    tried = []

    def refuse(_, __, scaling, folder):
        tried.append([s.target_length for s in scaling.scalings])
        folder.mkdir()
        raise ValueError("it does not take rope type 'longrope'")

    monkeypatch.setattr("longrope_lab.export.trial.save_pretrained", refuse)
    monkeypatch.setattr("longrope_lab.commands.extend.progressive", None)
    status, _, complaints = extend(*TINY, "--yes")
    assert (status, tried) == (2, [[512, 640]])
    assert "an extended LlamaForCausalLM cannot be exported (it does not take" in complaints[0]
    assert "Nothing was begun" in complaints[0]
    assert {path.name for path in tmp_path.iterdir()} <= {"small", "book.txt", "cache"}


def test_control_c_says_how_to_go_on(extend, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("longrope_lab.commands.extend.progressive", stopped)
    said = ["longrope-lab: stopped; the same command goes on where it was"]
    assert extend(*TINY, "--yes")[::2] == (130, said)


@pytest.mark.parametrize("typed", ["", "\n", "n\n", "maybe\n"])
def test_anything_but_yes_is_no(typed, extend, answer, tmp_path):
    answer(typed)
    target = ["--to", "128", "1,024", "--recipe", "tiny"]
    status, printed, complaints = extend("small", *target, *TINY[3:])
    assert (status, complaints) == (1, [])
    searched = ["00_search_128", "01_finetune_128", "02_search_1024", "03_finetune_1024"]
    assert rows_of(printed) == [*searched, "04_recover_64", "total"]
    assert "30 steps" in printed and printed.endswith("Nothing was begun.\n")
    assert {path.name for path in tmp_path.iterdir()} <= {"small", "book.txt", "cache"}


@pytest.mark.parametrize("typed", ["y\n", "YES\n"])
def test_yes_is_yes(typed, extend, answer, monkeypatch):
    def begun(*_, **__):
        raise ValueError("begun")

    monkeypatch.setattr("longrope_lab.commands.extend.progressive", begun)
    answer(typed)
    assert extend(*TINY)[::2] == (2, ["longrope-lab: begun"])


BOOK = ["--corpus", "book.txt", "--out", "made", "--yes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smal", "--to", "128", *BOOK], "unknown model 'smal': did you mean"),
        (["small", "--to", "64", *BOOK], "length 64 is not above the model's window of 64 tokens"),
        (
            ["small", "--to", "128", "--window", "128", *BOOK],
            "length 128 is not above the model's window of 128 tokens",
        ),
        (["small", "--to", "128", "--window", "far", *BOOK], "the length 'far' is no whole number"),
        (["small", "--to", "128", "--window", "0", *BOOK], "window is 0: a window has at least 2"),
        (["small", "--to", "lots", *BOOK], "the length 'lots' is no whole number of tokens"),
        (["small", "--to", "256", "128", *BOOK], "lengths must rise from stage to stage"),
        (["small", "--to", "16k", *BOOK], "Search at 16,384 tokens: it takes 3 documents of that"),
        (["small", "--to", "128", "--recipe", "tinny", *BOOK], "did you mean 'tiny'"),
        (["small", "--to", "128", "--recipe", "", *BOOK], "recipe is '': give it at least one"),
        (["small", "--plan", "tinny", *BOOK], "unknown plan 'tinny': did you mean 'tiny'"),
        (["small", "--plan", "tiny", "--recipe", "tiny", *BOOK], "--recipe tiny goes with --to"),
        (["small", "--plan", "tiny", "--seed", "-1", *BOOK], "seed is -1: it must be a whole"),
        (
            ["small", "--plan", "tiny", "--documents", "2", *BOOK],
            "1 of the 1 documents of 'book.txt'",
        ),
        (["small", "--plan", "tiny", "--device", "tpu9", *BOOK], "unknown device 'tpu9'"),
        (
            ["small", "--plan", "tiny", "--corpus", "nowhere.txt", "--out", "made", "--yes"],
            "no corpus at nowhere.txt",
        ),
        (
            ["small", "--plan", "tiny", "--corpus", "kjv", "--out", "small", "--yes"],
            "small is not empty, and nothing is written over: name a new folder",
        ),
        (
            ["small", "--plan", "tiny", "--corpus", "kjv", "--out", "book.txt", "--yes"],
            "book.txt is a file: name a folder",
        ),
        (
            ["small", "--plan", "tiny", "--corpus", "kjv", "--out", "", "--yes"],
            "out is '': give it at least one character",
        ),
        (
            ["small", "--plan", "tiny", "--corpus", "kjv", "--out", "book.txt/x", "--yes"],
            "book.txt/x cannot be written (Not a directory)",
        ),
        (["small", "--plan", "tiny", *BOOK[:-1]], "there is no terminal to ask on .*: pass --yes"),
    ],
)
def test_what_it_refuses(arguments, message, extend, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    status, printed, complaints = extend(*arguments)
    assert (status, printed, len(complaints)) == (2, "", 1)
    assert message.partition(" .*: ")[0] in complaints[0]
    assert message.rpartition(" .*: ")[2] in complaints[0]
    assert {path.name for path in tmp_path.iterdir()} <= {"small", "book.txt", "cache"}


def test_a_folder_beside_it_that_is_taken(extend, tmp_path):
    (tmp_path / "made-stages").mkdir()
    (tmp_path / "made-stages" / "letter").touch()
    status, _, complaints = extend(*TINY, "--yes")
    assert status == 2 and "made-stages is not empty and holds no plan" in complaints[0]
