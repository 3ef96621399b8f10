"""Token ids: a cache that damage and company cannot spoil, and a check against a vocabulary."""

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch
from conftest import ending
from test_corpora import Words

from longrope_lab.common import files
from longrope_lab.common.files import cache_dir
from longrope_lab.texts.tokens import (
    Document,
    check_ids,
    check_unseen,
    opening,
    tokenize,
    without_ends,
)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_ids_of_a_vocabulary_pass(make):
    for ids in ([0], [96], [[0, 96], [5, 5]]):
        assert check_ids(make(ids), 97) is None


@pytest.mark.parametrize("make", [np.array, torch.tensor])
@pytest.mark.parametrize(
    ("ids", "named"), [([0, 97], 97), ([-1, 3], -1), ([[-7, 1], [2, 99]], -7), ([1 << 40], 1 << 40)]
)
def test_an_id_that_a_model_has_no_embedding_for_is_named(make, ids, named):
    message = f"token id {named} is outside the model's vocabulary of 97: "
    with pytest.raises(ValueError, match=message + "tokenise with this model's own tokenizer$"):
        check_ids(make(ids), 97)
    with pytest.raises(ValueError, match=message + "make it larger$"):
        check_ids(make(ids), 97, "make it larger")


def entries(cache):
    return sorted((cache / "tokens").glob("*"))


def test_the_cache_folder(monkeypatch, cache):
    assert cache_dir() == cache
    monkeypatch.setenv("LONGROPE_LAB_CACHE", "")  # as good as none
    assert cache_dir().name == "longrope_lab"


def test_tokens_are_kept(cache):
    words = Words()
    first = tokenize("a bb ccc", words)
    again = tokenize("a bb ccc", words)
    assert words.calls == 1
    for ids in (first, again):
        assert ids.tolist() == [1, 2, 3]
        assert ids.dtype == np.int64
    again[0] = 9  # the caller's own
    assert tokenize("a bb ccc", words).tolist() == [1, 2, 3]
    (entry,) = entries(cache)
    other = np.array([7, 7], np.int32).tobytes()
    entry.write_bytes(hashlib.sha256(other).digest() + other)
    assert tokenize("a bb ccc", words).tolist() == [7, 7]  # it is the file that is read
    assert tokenize("a bb cccc", words).tolist() == [1, 2, 4]
    assert len(entries(cache)) == 2


def test_no_tokens(cache):
    assert tokenize("", Words()).tolist() == tokenize("", Words()).tolist() == []


class Backed:
    """A fast tokenizer as transformers wraps it, with its name and the size of its vocabulary."""

    name_or_path, vocab_size = "lab", 4096

    def __init__(self, state):
        self.backend_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(state))

    def __call__(self, text, verbose):
        return {"input_ids": self.backend_tokenizer.encode(text).ids}


def test_tokenizers_do_not_share_entries(tokenizer, cache):
    """Of the same name, size and vocabulary, and other merges."""
    text = "In the beginning 1234"
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    own = tokenize(text, Backed(state))
    assert own.tolist() == tokenizer(text)["input_ids"]
    state["model"]["merges"] = state["model"]["merges"][:100]
    theirs = tokenize(text, Backed(state))
    assert len(theirs) > len(own)
    assert len(entries(cache)) == 2
    assert tokenize(text, tokenizer).tolist() == own.tolist()
    assert len(entries(cache)) == 2  # the first one's, since it is the same tokenizer


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "short", "longer", "one bit", "zeros", "another format"]
)
def test_a_damaged_entry_is_made_again(cache, caplog, damage):
    words = Words()
    tokenize("a bb ccc", words)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    flipped = bytearray(whole)
    flipped[-4] ^= 1
    entry.write_bytes(
        {
            "empty": b"",
            "cut": whole[:-4],
            "short": whole[:7],
            "longer": whole + bytes(4),
            "one bit": bytes(flipped),
            "zeros": bytes(len(whole)),
            "another format": b"\x93NUMPY",
        }[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert tokenize("a bb ccc", words).tolist() == [1, 2, 3]
    assert f"the token cache {entry} is damaged: tokenising again" in caplog.text
    assert words.calls == 2
    assert entry.read_bytes() == whole
    caplog.clear()
    tokenize("a bb ccc", words)
    assert words.calls == 2
    assert not caplog.records


def test_nobody_sees_a_half_written_entry(cache, monkeypatch, caplog):
    """An entry gets its name when it is whole; until then a reader finds nothing, and writes it."""
    rename, parts = Path.replace, []

    def late(part, target):
        parts.append(part.read_bytes())
        if len(parts) == 1:
            assert not target.exists()
            assert tokenize("a bb ccc", Words()).tolist() == [1, 2, 3]
            assert target.read_bytes() == parts[0]
        return rename(part, target)

    monkeypatch.setattr(files.Path, "replace", late)
    assert tokenize("a bb ccc", Words()).tolist() == [1, 2, 3]
    assert len(parts) == 2
    (entry,) = entries(cache)
    assert entry.read_bytes() == parts[0] == parts[1]
    assert not caplog.records


def test_many_writers_at_once(cache, caplog):
    texts = ["a " * n for n in (10, 2000, 30_000)] * 20
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(lambda text: len(tokenize(text, Words())), texts))
    assert lengths == [10, 2000, 30_000] * 20
    assert not caplog.records
    assert len(entries(cache)) == 3


@pytest.mark.parametrize("why", ["a full disk", "a file in the way", "no right to read"])
def test_where_nothing_can_be_kept_it_goes_on_and_says_so_once(cache, monkeypatch, caplog, why):
    def full(*_):
        raise OSError(28, "No space left on device")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    if why == "a file in the way":
        cache.write_text("no folder")
    else:
        monkeypatch.setattr(files.Path, "replace", full)
    if why == "no right to read":
        monkeypatch.setattr(files.Path, "read_bytes", denied)
    words = Words()
    for text in ("a bb ccc", "a bb ccc", "d"):
        assert tokenize(text, words).tolist() == [len(word) for word in text.split()]
    assert words.calls == 3
    (said,) = caplog.messages
    assert said.startswith(f"token ids cannot be kept in {cache / 'tokens'} (")
    assert said.endswith("environment variable LONGROPE_LAB_CACHE")
    assert cache.is_file() or entries(cache) == []


@pytest.mark.parametrize(
    ("template", "before"), [("$A", 0), ("{0} $A", 1), ("$A {0}", 0), ("{0} {0} $A {0}", 2)]
)
def test_a_text_that_goes_on_has_no_end(tokenizer, template, before):
    inside = tokenizer("In the beginning")["input_ids"]
    expected = [tokenizer.eos_token_id] * before + inside
    assert opening("In the beginning", ending(tokenizer, template), verbose=False) == expected


def test_a_tokenizer_that_splits_otherwise_around_special_tokens():
    def odd(text, add_special_tokens=True):
        return {"input_ids": [0, 5] if add_special_tokens else [4]}

    with pytest.raises(ValueError, match=r"splits 'x' into other tokens where it adds special"):
        opening("x", odd)


def test_a_part_of_a_document_has_no_special_tokens():
    """But that for what is unknown, which stands for some text."""
    bare = SimpleNamespace(all_special_ids=[0, 1, 2], unk_token_id=2)
    assert without_ends(np.array([0, 5, 2, 1, 7, 1]), bare).tolist() == [5, 2, 7]


@pytest.mark.parametrize("ids", [[1.5], [[1, 2]], [-1, 2], [True, False], 5, ["a"]])
def test_ids_that_are_no_row_of_token_ids(ids):
    with pytest.raises(ValueError, match=r"the ids of 'book' are .*: they are one row of"):
        Document("book", np.array(ids))


def test_a_list_of_ids_is_a_document_too():
    doc = Document("book", [3, 4, 5], [False, True, False])
    assert doc.ids.tolist() == [3, 4, 5] and doc.answers.tolist() == [False, True, False]
    assert Document("nothing", []).ids.dtype == np.int64


def test_documents_that_were_trained_on_are_refused():
    """Also where one of the two was cut; another book of the same title is none of them."""
    ids = np.arange(90)
    trained = [Document("Emma", ids), Document("Poems", ids + 100)]
    check_unseen([Document("Poems", ids + 200), Document("few", ids[:63])], trained)
    for length in (64, 90, 95):
        docs = [Document("new", ids + 300), Document("E.", np.arange(length))]
        words = r"1 of the 2 documents to report on were trained on \('E\.'\): .* another corpus"
        with pytest.raises(ValueError, match=words):
            check_unseen(docs, trained)
    many = [Document(str(i), ids) for i in range(5)]
    with pytest.raises(ValueError, match=r"5 of the 5 .* \('0', '1', '2', \.\.\.\)"):
        check_unseen(many, trained)
