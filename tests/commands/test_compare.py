"""`longrope-lab compare`: the figures of the library, and no comparison that would be wrong."""

from __future__ import annotations

import copy
import json

import pandas as pd
import pytest
from small_models import save_small
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import longrope_lab as lab
from longrope_lab import cli
from longrope_lab.commands.compare import doubled

MEASURE = ["--documents", "2", "--trials", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, tokenizer, monkeypatch):
    """A folder of its own, with two models."""
    monkeypatch.chdir(tmp_path)
    save_small("one", tokenizer)
    save_small("two", tokenizer, seed=1)


@pytest.fixture
def compare(capsys):
    """Runs the command; returns its status, what it printed and what it complained of."""

    def run(*arguments):
        status = cli.main(["compare", *arguments, *MEASURE])
        return status, *capsys.readouterr()

    return run


def columns_of(printed, after):
    """What heads the columns and the rows of a table, which ends with an empty line."""
    lines = printed.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith(after)]
    rows = [line.split() for line in [*lines[start + 1 :], ""]]
    heads, *body = rows[: rows.index([])]
    return heads, [row[0] for row in body]


def test_the_tables_are_those_of_the_library(compare, tmp_path, tokenizer):
    status, printed, complaints = compare("one", "two", "--lengths", "128", "160", "--out", "kept")
    assert (status, complaints) == (0, "")
    for title in ("Perplexity on 2 documents of kjv", "Share of passkeys found, of 5 per length"):
        assert columns_of(printed, title) == (["length", "one", "two"], ["128", "160"])
    kept = tmp_path / "kept"
    names = {
        f"{name}.{kind}"
        for name in ("perplexity_curves", "passkey_curves")
        for kind in ("png", "svg")
    }
    assert {path.name for path in kept.iterdir()} == names | {"perplexity.csv", "passkeys.csv"}
    docs = lab.load_corpus("kjv", tokenizer, min_tokens=160, limit=2)
    table = pd.read_csv(kept / "perplexity.csv").set_index(["scaling", "length", "document"])
    for name in ("one", "two"):
        (model, _), lengths = lab.load_model(name, device="cpu"), [128, 160]
        for row in lab.perplexity(model, docs, lengths).itertuples():
            measured = table.loc[(name, row.length, row.document), "loss"]
            assert measured == pytest.approx(row.loss, rel=1e-6)
    keys = pd.read_csv(kept / "passkeys.csv", lineterminator="\n")  # answers hold anything
    assert keys.groupby(["scaling", "length"]).size().tolist() == [5] * 4
    prompts = keys.groupby(["length", "depth"])["expected"].nunique()
    assert (prompts == 1).all()  # both were asked the same


def test_a_column_of_the_corpus(compare, tmp_path, tokenizer):
    docs = lab.load_corpus("kjv", tokenizer, min_tokens=160, limit=2)
    rows = [{"id": 7, "body": doc.ids.tolist()} for doc in docs]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = ["one", "--lengths", "128", "160"]
    assert "has no column" in compare(*asked, "--corpus", "own.jsonl")[2]
    own = compare(*asked, "--corpus", "own.jsonl", "--column", "body")[1]
    packaged = compare(*asked)[1]
    assert own.replace("own.jsonl", "kjv") == packaged and "Perplexity" in own


def test_passkeys_in_a_chat(compare, tmp_path, tokenizer):
    chatting = copy.deepcopy(tokenizer)
    chatting.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    save_small("chatting", chatting)
    asked = ["chatting", "--lengths", "160", "--out", "kept"]
    assert compare(*asked, "--chat")[0] == 0
    keys = pd.read_csv(tmp_path / "kept" / "passkeys.csv", lineterminator="\n")
    model, chatting = lab.load_model("chatting", device="cpu")
    for chat, same in ((True, True), (False, False)):
        table = lab.passkey(model, chatting, [160], trials=1, chat=chat)
        assert (keys["answer"].tolist() == table["answer"].tolist()) == same
    status, _, complaints = compare("one", "--lengths", "160", "--chat")
    assert status == 2 and "chat template" in complaints


def test_each_model_once_and_nothing_kept_unasked(compare, tmp_path):
    status, printed, _ = compare("one", "one", "--lengths", "128")
    assert status == 0 and "Tables and figures" not in printed
    assert columns_of(printed, "Perplexity")[0] == ["length", "one"]
    assert {path.name for path in tmp_path.iterdir()} <= {"one", "two", "cache"}


def words_as_tokens():
    """A tokenizer that knows three words."""
    known = {"<unk>": 0, "the": 1, "pass": 2, "key": 3}
    rules = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="<unk>", eos_token="<unk>")


def test_losses_per_token_are_not_compared_across_tokenizers(compare, tmp_path):
    save_small("words", words_as_tokens())
    status, printed, _ = compare("one", "two", "words", "--lengths", "160", "--out", "kept")
    assert status == 0
    assert printed.startswith(
        "No perplexities: 'words' splits the texts into other tokens than 'one'"
    )
    assert "Perplexity on" not in printed
    assert columns_of(printed, "Share of passkeys")[0] == ["length", "one", "two", "words"]
    assert not (tmp_path / "kept" / "perplexity.csv").exists()
    assert (tmp_path / "kept" / "passkeys.csv").exists()


def test_lengths_that_nobody_names():
    assert doubled([512, 512]) == [256, 512]
    assert doubled([4096, 512, 512]) == [256, 512, 1024, 2048, 4096]
    assert doubled([512, 1280]) == [256, 512, 1024, 1280]


def test_by_default_they_are_around_the_windows(compare, lab_with_yarn, monkeypatch):
    asked = {}

    def measured(kind):
        def note(*arguments, **_):
            asked[kind] = list(arguments[2])
            raise ValueError("enough")

        return note

    monkeypatch.setattr("longrope_lab.commands.compare.perplexity", measured("perplexity"))
    assert compare("lab", lab_with_yarn)[0] == 2
    assert asked["perplexity"] == [256, 512, 1024, 1280]
    assert compare("one", "--window", "256")[0] == 2  # its config says 64
    assert asked["perplexity"] == [32, 64, 128, 256]


@pytest.fixture
def lab_with_yarn(lab):
    """The lab model extended by a formula."""
    from longrope_lab import rope_scaling, rope_spec, save_pretrained

    save_pretrained(*lab, rope_scaling(rope_spec(lab[0]), "yarn", 1280), "lab-1280")
    return "lab-1280"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one", "tow"], "unknown model 'tow': Known: lab, lab-256k, smollm2, a folder"),
        (["one", "--lengths", "5.5"], "the length '5.5' is no whole number of tokens"),
        (["one", "--lengths", "1"], "length 1 has no room for a passkey prompt"),
        (["one", "--lengths", "512k"], "0 of the 39 documents of 'kjv' have 524,288 tokens"),
        (
            ["one", "--lengths", "128", "--corpus", "kvj"],
            "unknown corpus 'kvj': did you mean 'kjv'",
        ),
        (["one", "--seed", "-1"], "seed is -1: it must be a whole number from 0"),
        (["one", "--out", "two"], "two is not empty, and nothing is written over"),
        (["one", "--out", ""], "out is '': give it at least one character"),
        (["one", "--out", "two/config.json/x"], "cannot be written (Not a directory)"),
        (["one", "--lengths", "64"], "length 64 has no room for a passkey prompt"),
        (["one", "--chat"], "the tokenizer has no chat template"),
        (["one", "--corpus", ""], "corpus is '': give it at least one character"),
    ],
)
def test_what_it_refuses(arguments, message, compare):
    status, _, complaints = compare(*arguments)
    assert status == 2 and len(complaints.splitlines()) == 1 and message in complaints


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "--trials is 0: it must be a whole number from 1"),
        (["--documents", "0"], "--documents is 0: it must be a whole number from 1"),
        (["--chat"], "the tokenizer has no chat template"),
        (["--lengths", "64"], "length 64 has no room for a passkey prompt"),
        (["--out", "one/config.json/x"], "cannot be written"),
    ],
)
def test_what_it_refuses_before_any_model_is_loaded(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("longrope_lab.commands.compare.load_model", None)
    assert cli.main(["compare", "one", *arguments]) == 2
    assert message in capsys.readouterr().err
