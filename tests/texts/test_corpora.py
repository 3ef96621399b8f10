"""Corpora: known facts of the packaged ones, every kind of file, and what cannot be read."""

import ast
import bz2
import gzip
import json
import logging
import lzma
import re
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_lab.texts import corpora
from longrope_lab.texts.corpora import iterate_texts, load_corpus


class Words:
    """A tokenizer whose token is a word, and its id the word's length."""

    name_or_path, vocab_size = "words", 100

    def __init__(self):
        self.calls = 0

    def __call__(self, text, verbose):
        self.calls += 1
        return {"input_ids": [len(word) for word in text.split()]}


@pytest.fixture
def folder(tmp_path):
    """An empty folder, apart from the cache."""
    path = tmp_path / "texts"
    path.mkdir()
    return path


def write(folder, **files):
    """Text files of n words each."""
    for name, words in files.items():
        (folder / f"{name}.txt").write_text(" ".join(["word"] * words), encoding="utf-8")


def titles(documents):
    return [d.title for d in documents]


def zstandard(content):
    """Packed by Arrow, which has no module of its own for it."""
    return pa.compress(content, codec="zstd", asbytes=True)


# --- packaged ---


def test_the_king_james_bible():
    old, new = list(iterate_texts("kjv", "test")), list(iterate_texts("kjv", "validation"))
    assert (len(old), len(new)) == (39, 27)
    assert (titles(old)[0], titles(old)[-1], titles(new)[0], titles(new)[-1]) == (
        "Genesis",
        "Malachi",
        "Matthew",
        "Revelation",
    )
    assert len(set(titles(old + new))) == 66
    text = dict(old + new)
    assert text["Genesis"].startswith(
        "Genesis\n\nIn the beginning God created the heaven and the earth. And the earth"
    )
    assert text["Revelation"].endswith("The grace of our Lord Jesus Christ be with you all. Amen.")
    assert "Jesus wept." in text["John"]
    # A book that never names Him: nothing leaks from one book to the next.
    assert "God" not in text["Esther"]
    # One paragraph per chapter: 929 in the Old Testament and 260 in the New.
    chapters = [sum(t.count("\n\n") for _, t in part) for part in (old, new)]
    assert chapters == [929, 260]
    assert text["Psalms"].count("\n\n") == 150
    everything = "".join(text.values())
    assert not set("[]<>{}") & set(everything)
    assert re.search(r"\s{3}|  ", everything) is None
    running = re.sub(r"^\d \w+\n", "", "\n".join(text.values()), flags=re.MULTILINE)
    assert re.search(r"\d", running) is None  # no numbers of verses


def test_the_parts_of_the_bible_hold_each_book_once():
    for split, count in (("test", 39), ("validation", 27)):
        books, parts = list(iterate_texts("kjv", split)), list(iterate_texts("kjv-parts", split))
        assert len(parts) == 5
        assert "\n\n".join(text for _, text in parts) == "\n\n".join(text for _, text in books)
        assert len(books) == count
    assert titles(parts)[0] == "New Testament Gospels"


def test_the_standard_library():
    test, validation = (dict(iterate_texts("python", split)) for split in ("test", "validation"))
    assert not set(test) & set(validation)
    assert abs(len(test) - len(validation)) <= 1
    both = test | validation
    assert {"json", "asyncio", "dataclasses"} <= set(both)
    assert not {"test", "site-packages", "idlelib", "__pycache__"} & set(both)
    stdlib = Path(sysconfig.get_path("stdlib"))
    assert both["dataclasses"] == (stdlib / "dataclasses.py").read_text(encoding="utf-8")
    assert (stdlib / "json" / "decoder.py").read_text(encoding="utf-8") in both["json"]
    assert "class TestCase" in both["unittest"]  # which has a folder of tests of its own
    assert not any("idle_test" in text[:200] for text in both.values())
    ast.parse(both["dataclasses"])


def test_a_python_installed_under_a_folder_called_test(tmp_path, monkeypatch):
    package = tmp_path / "test" / "lib" / "toy"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text("a = 1")
    (package / "tests" / "check.py").write_text("b = 2")
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda _: str(tmp_path / "test" / "lib"))
    assert list(iterate_texts("python", "validation")) == [("toy", "a = 1")]


def test_a_packaged_corpus_in_tokens(tokenizer):
    documents = load_corpus(
        "kjv", tokenizer, split="validation", min_tokens=10_000, max_tokens=12_000, limit=3
    )
    assert titles(documents) == ["Matthew", "Mark", "Luke"]
    for document in documents:
        assert document.ids.dtype == np.int64
        assert len(document) == 12_000
    (_, text), *_ = iterate_texts("kjv", "validation")
    assert documents[0].ids.tolist() == tokenizer(text)["input_ids"][:12_000]
    assert repr(documents[0]) == "Document('Matthew', 12,000 tokens)"


# --- files ---


def test_a_text_file(folder):
    path = folder / "a book.txt"
    path.write_text("one two\nthree größer", encoding="utf-8")
    assert list(iterate_texts(path)) == [("a book", "one two\nthree größer")]
    path.write_bytes(b"\xef\xbb\xbfone")  # a byte order mark is no text
    assert list(iterate_texts(path)) == [("a book", "one")]


def test_json_lines(folder):
    path = folder / "b.jsonl"
    rows = [
        {"text": "one"},
        {"content": "two", "title": "Second"},
        # Two marks that Python takes for line ends.
        {"text": "three \u2028 \x85 four", "short_book_title": "Third"},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes(f"{lines[0]}\n\n  \n{lines[1]}\r\n{lines[2]}".encode())
    assert list(iterate_texts(path)) == [
        ("b[1]", "one"),
        ("Second", "two"),
        ("Third", "three \u2028 \x85 four"),
    ]


def test_parquet(folder):
    """More rows than one batch of them."""
    path = folder / "c.parquet"
    pa.parquet.write_table(
        pa.table({"text": [f"text {i}" for i in range(40)], "other": range(40)}), path
    )
    assert list(iterate_texts(path)) == [(f"c[{i}]", f"text {i}") for i in range(40)]


def test_a_folder_and_a_glob(folder, monkeypatch):
    write(folder, b=1, a=2)
    (folder / "sub.txt").mkdir()
    (folder / "sub.txt" / "c.jsonl").write_text('{"text": "x y"}', encoding="utf-8")
    (folder / "notes.md").write_text("not a text", encoding="utf-8")
    assert titles(iterate_texts(folder)) == ["a", "b", "c[1]"]
    assert titles(iterate_texts(str(folder / "*.txt"))) == ["a", "b"]
    assert titles(iterate_texts(str(folder / "**" / "*.jsonl"))) == ["c[1]"]
    monkeypatch.chdir(folder)
    assert titles(iterate_texts("[ab].txt")) == ["a", "b"]
    assert titles(iterate_texts(".")) == ["a", "b", "c[1]"]
    monkeypatch.setenv("HOME", str(folder))
    assert titles(iterate_texts("~/a.txt")) == ["a"]
    (folder / "[x].txt").write_text("one", encoding="utf-8")
    assert titles(iterate_texts("[x].txt")) == ["[x]"]  # a name that looks like a glob


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt is empty: a corpus file holds text"),
        ("a.parquet", b"", r"a\.parquet is empty"),
        (
            "a.txt",
            "Grö".encode("latin1") + b"e",
            r"a\.txt is not UTF-8 \(byte 2 is 0xf6\): convert it, .*iconv",
        ),
        ("a.jsonl", b'{"text": "\xff"}', r"a\.jsonl is not UTF-8 \(byte 10 is 0xff\)"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"a\.jsonl, line 2 is not JSON: Expecting value"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"body": "y", "a": 1}',
            r"line 2 has no column 'text' .*; it has \['a', 'body'\]",
        ),
        (
            "a.jsonl",
            b'{"text": 5}',
            r"line 1: its column 'text' holds a value of type int, which is no text: name another",
        ),
        ("a.jsonl", b"[1, 2]", r"line 1 has no column 'text' .* it has none"),
        ("a.parquet", b"PAR1 nonsense PAR1", r"a\.parquet is not a readable parquet file"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, r"line 1 is not JSON: it is nested too deeply"),
        ("a.json", b'[{"text": "x"}, {"body": 1}]', r"a\.json, item 1 has no column 'text'"),
        ("a.json", b'{"text": ["a", "b"]}', r"its column 'text' holds a list of str, which is no"),
        ("a.json", b'[{"text": "x"}', r"a\.json is not JSON: Expecting ','"),
        ("a.json", b'{"text": "x"}\n{"text": ', r"a\.json, line 2 is not JSON"),
        ("a.jsonl", b'{"input_ids": [1, 2]}', r"it has \['input_ids'\]: name another with column="),
        (
            "a.csv",
            b"text",
            r"a\.csv is a \.csv file: a corpus is \.txt, \.jsonl, \.parquet, \.md or",
        ),
        ("a.txt.gz", b"text", r"a\.txt\.gz cannot be read \(.*\): check that it is whole"),
        ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-9], r"a\.txt\.gz cannot be read"),
        ("a.txt.xz", lzma.compress(b"text" * 99)[:-9], r"a\.txt\.xz cannot be read"),
        ("a.txt.bz2", b"text", r"a\.txt\.bz2 cannot be read"),
        ("a.jsonl.zst", zstandard(b"text" * 99)[:-9], r"a\.jsonl\.zst cannot be read"),
        ("a.txt.zst", b"text", r"a\.txt\.zst cannot be read"),
        (
            "a.parquet.gz",
            gzip.compress(b"text", mtime=0),
            r"a\.parquet\.gz is not a readable parquet",
        ),
        ("a.gz", gzip.compress(b"text", mtime=0), r"a\.gz is a \.gz file: a corpus is"),
        ("a", b"text", r"a is a nameless file"),
    ],
)
def test_files_that_cannot_be_read(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_corpus(folder / name, Words())


def test_a_parquet_without_text(folder):
    path = folder / "c.parquet"
    pa.parquet.write_table(pa.table({"body": ["x"], "id": [1]}), path)
    with pytest.raises(
        ValueError,
        match=r"c\.parquet, row 0 has no column 'text' \(or 'content'\); it has \['body', 'id'",
    ):
        load_corpus(path, Words())


def test_a_parquet_that_is_damaged_in_its_middle(folder):
    path = folder / "c.parquet"
    rng = np.random.default_rng(0)
    pa.parquet.write_table(
        pa.table({"text": [rng.bytes(40).hex() for _ in range(2000)]}), path, compression="gzip"
    )
    content = bytearray(path.read_bytes())
    content[1000:3000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.parquet is not a readable parquet file"):
        load_corpus(path, Words())


# --- names ---


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("kjw", ValueError, "unknown corpus 'kjw': did you mean 'kjv'"),
        ("pyton", ValueError, "did you mean 'python'"),
        ("pg-19", ValueError, "did you mean 'pg19'"),
        (
            "zzzzzzz",
            ValueError,
            "unknown corpus 'zzzzzzz': Known: kjv, kjv-parts, python, pg19, proof-pile, a file",
        ),
        ("books3", ValueError, "Books3 was withdrawn .* use 'pg19' .* 'kjv-parts'"),
        ("Books3", ValueError, "Books3 was withdrawn"),
        ("nosuch.txt", FileNotFoundError, r"no corpus at nosuch\.txt: check the path"),
        ("./nosuch", FileNotFoundError, r"no corpus at \./nosuch"),
        ("/no/such/folder", FileNotFoundError, "no corpus at /no/such/folder"),
        ("no/such/folder", FileNotFoundError, "no corpus at no/such/folder"),
        (
            "no/such*.txt",
            FileNotFoundError,
            r"no \.txt, \.jsonl, \.parquet, \.md or \.json files at no/such\*\.txt",
        ),
    ],
)
def test_names_that_are_not_known(source, error, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_corpus(source, Words())


def test_a_folder_without_texts(folder):
    (folder / "notes.csv").write_text("x", encoding="utf-8")
    with pytest.raises(
        FileNotFoundError, match=r"no \.txt, \.jsonl, .* files at .*texts: check the path"
    ):
        load_corpus(folder, Words())


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("kjv", "tset", "unknown split 'tset': did you mean 'test'"),
        ("kjv", "train", r"'kjv' has no split 'train': it has 'validation' \(New Testament\)"),
        ("kjv-parts", "train", "has no split 'train'"),
        ("python", "train", "'python' has no split 'train': its modules alternate"),
    ],
)
def test_splits_that_are_not_there(source, split, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(source, Words(), split=split)


def test_the_hub_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source, repository in (("pg19", "emozilla/pg19"), ("some/texts", "some/texts")):
        with pytest.raises(
            ValueError,
            match=rf"data set '{repository}' needs the datasets package: pip install datasets",
        ):
            load_corpus(source, Words())


def test_the_hub_streams(monkeypatch):
    asked, taken = [], []

    def load_dataset(repository, *, split, streaming):
        asked.append((repository, split, streaming))
        for i in range(1000):
            taken.append(i)
            yield {"text": f"text number {i}"} | ({"short_book_title": "Emma"} if i == 1 else {})

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    documents = load_corpus("proof-pile", Words(), split="validation", limit=3)
    assert titles(documents) == [
        "hoskinson-center/proof-pile[0]",
        "Emma",
        "hoskinson-center/proof-pile[2]",
    ]
    assert titles(load_corpus("own/data", Words(), limit=1)) == ["own/data[0]"]
    assert titles(load_corpus("pg19", Words(), split="train", limit=1)) == ["emozilla/pg19[0]"]
    assert asked == [
        ("hoskinson-center/proof-pile", "validation", True),
        ("own/data", "test", True),
        ("emozilla/pg19", "train", True),
    ]
    assert taken == [0, 1, 2, 0, 0]  # no more than what was needed
    monkeypatch.setattr(
        sys.modules["datasets"],
        "load_dataset",
        lambda *_, **__: [{"text": "x"}, {"url": "http"}],
        raising=True,
    )
    with pytest.raises(
        ValueError, match=r"own/data, row 1 has no column 'text' .* it has \['url'\]"
    ):
        load_corpus("own/data", Words())


def test_the_hub_out_of_reach(monkeypatch):
    def at_once(*_, **__):
        raise ConnectionError("no route")

    def half_way(*_, **__):
        yield {"text": "a few words"}
        raise ConnectionError("no route")

    for load_dataset in (at_once, half_way):
        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        with pytest.raises(
            ValueError,
            match=r"'emozilla/pg19' \(split 'test'\) cannot be read: no route. Without a net",
        ):
            load_corpus("pg19", Words())


# --- how many, how long ---


def test_lengths_and_limits(folder, caplog):
    write(folder, a=5, b=20, c=10, d=30)
    every = load_corpus(folder, Words())
    assert [(d.title, len(d)) for d in every] == [("a", 5), ("b", 20), ("c", 10), ("d", 30)]
    assert not caplog.records
    long = load_corpus(folder, Words(), min_tokens=10)
    assert titles(long) == ["b", "c", "d"]
    assert "1 documents shorter than 10 tokens are left out" in caplog.text
    cut = load_corpus(folder, Words(), min_tokens=10, max_tokens=12, limit=2)
    assert [(d.title, len(d)) for d in cut] == [("b", 12), ("c", 10)]
    (d,) = load_corpus(folder, Words(), min_tokens=30)
    assert d.ids.tolist() == [4] * 30


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    least=st.integers(1, 32),
    limit=st.none() | st.integers(1, 9),
    cut=st.none() | st.integers(0, 10),
)
def test_what_is_asked_for_or_an_error(tmp_path_factory, lengths, least, limit, cut):
    """All documents long enough, up to the limit, in their order; or an error that counts them."""
    folder = tmp_path_factory.mktemp("texts")
    write(folder, **{f"d{i}": n for i, n in enumerate(lengths)})
    fit = [i for i, n in enumerate(lengths) if n >= least]
    most = None if cut is None else least + cut
    arguments = {"min_tokens": least, "limit": limit, "max_tokens": most}
    if len(fit) < (limit or 1):
        short = [n for n in lengths if n < least]
        message = f"{len(fit)} of the {len(lengths)} documents .* have {least} tokens or more, and "
        message += f"{limit} were asked for" if limit else "at least one is needed"
        missing = least - max(short, default=0)
        message += f", the longest has {max(short)}, {missing} too few: " if short else ": "
        with pytest.raises(ValueError, match=message):
            load_corpus(folder, Words(), **arguments)
    else:
        documents = load_corpus(folder, Words(), **arguments)
        assert titles(documents) == [f"d{i}" for i in fit[:limit]]
        assert [len(d) for d in documents] == [min(lengths[i], most or 99) for i in fit[:limit]]


def test_arguments_that_contradict(folder):
    with pytest.raises(
        ValueError, match=r"max_tokens is 5: it cuts documents, .* from min_tokens, 6"
    ):
        load_corpus(folder, Words(), min_tokens=6, max_tokens=5)
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"limit is {limit}: it counts documents"):
            load_corpus(folder, Words(), limit=limit)


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_tokens": float("nan")},
        {"min_tokens": -5, "max_tokens": -3},
        {"min_tokens": 0},
        {"limit": 1.5},
        {"max_tokens": "2"},
    ],
)
def test_what_counts_tokens_or_documents_is_a_whole_number(folder, arguments):
    write(folder, a=5)
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} is "):
        load_corpus(folder, Words(), **arguments)


# --- corpora as people have them ---

LINES = b'{"text": "one two"}\n{"title": "T", "text": "three"}\n'
ITEMS = json.dumps([{"text": "one two"}, {"title": "T", "text": "three"}]).encode()


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"one\r\ntwo\rthree\n", [("a", "one\ntwo\nthree\n")]),
        ("a.md", b"\xef\xbb\xbf# one\n", [("a", "# one\n")]),
        ("a.TXT", b"one", [("a", "one")]),
        ("a.jsonl", LINES.replace(b"\n", b"\r\n"), [("a[1]", "one two"), ("T", "three")]),
        ("a.JSONL", b"\xef\xbb\xbf" + LINES, [("a[1]", "one two"), ("T", "three")]),
        ("a.json", ITEMS, [("a[0]", "one two"), ("T", "three")]),
        ("a.json", LINES, [("a[1]", "one two"), ("T", "three")]),  # a value per line
        ("a.json", b'{"text": "one"}', [("a[0]", "one")]),
        ("a.parquet", None, [("a[0]", "one"), ("a[1]", "two")]),
    ],
)
def test_files_of_every_type_packed_and_unpacked(folder, name, content, expected, suffix):
    """Two of gzip's members, or of Zstandard's frames, one after the other are one file."""
    if content is None:
        sink = pa.BufferOutputStream()
        pa.parquet.write_table(pa.table({"text": ["one", "two"]}), sink)
        content = sink.getvalue().to_pybytes()
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    pack[".zst"] = zstandard
    path = folder / (name + (suffix.upper() if name.isupper() else suffix))
    path.write_bytes(b"".join(pack[suffix](part) for part in (content[:9], content[9:])))
    assert list(iterate_texts(path)) == list(iterate_texts(folder)) == expected


def test_of_a_large_file_only_what_is_used_is_read(folder):
    path = folder / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "one two"}\n' * 99_999 + b"no JSON", mtime=0))
    assert len(load_corpus(path, Words(), limit=3)) == 3
    with pytest.raises(ValueError, match=r"line 100000 is not JSON"):
        list(iterate_texts(path))


def test_columns_by_name(folder):
    path = folder / "a.jsonl"
    path.write_text('{"input": "a bb", "outputs": ["1"], "text": "no"}\n{"input": "ccc"}\n')
    loaded = load_corpus(path, Words(), column="input")
    assert [d.ids.tolist() for d in loaded] == [[1, 2], [3]]
    for column, message in {
        "outputs": r"line 1: its column 'outputs' holds a list of str, which is no text",
        "inputs": r"line 1 has no column 'inputs'; it has \['input', 'outputs', 'text'\]",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_corpus(path, Words(), column=column)
    write(folder, b=1)
    for source in (folder / "b.txt", "kjv", "python"):
        with pytest.raises(ValueError, match="text without columns: leave out column='input'"):
            load_corpus(source, Words(), column="input")


class Counted(Words):
    """With a vocabulary of 100 tokens, as the length of a tokenizer tells."""

    def __len__(self):
        return self.vocab_size


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_token_ids_are_taken_as_they_are(folder, kind):
    rows = {"input_ids": [[5, 99, 0], [7] * 4, []]}
    path = folder / f"a.{kind}"
    if kind == "parquet":
        pa.parquet.write_table(pa.table(rows), path)
    else:
        path.write_text("\n".join(json.dumps({"input_ids": ids}) for ids in rows["input_ids"]))
    loaded = load_corpus(path, Counted(), column="input_ids", max_tokens=3)
    assert [d.ids.tolist() for d in loaded] == [[5, 99, 0], [7, 7, 7]]
    assert loaded[0].ids.dtype == np.int64


@pytest.mark.parametrize("wrong", [100, -1, 2**70])
def test_token_ids_of_another_vocabulary(folder, wrong):
    (folder / "a.jsonl").write_text(json.dumps({"input_ids": [5, wrong]}))
    words = rf"a\.jsonl, line 1: token id {wrong} is outside the model's vocabulary of 100: load it"
    with pytest.raises(ValueError, match=words):
        load_corpus(folder / "a.jsonl", Counted(), column="input_ids")


@pytest.mark.parametrize("limit", [None, 2])
def test_rows_without_a_text_are_counted_and_named(folder, caplog, limit):
    path = folder / "a.jsonl"
    texts = ["one", None, "two", None]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    assert titles(load_corpus(path, Words(), limit=limit)) == ["a[1]", "a[3]"]
    count = 1 if limit else 2  # of the rows that were looked at
    assert f"rows without a text (null) are left out: {count}, the first {path}, line 2" in (
        caplog.text
    )
    assert list(iterate_texts(path)) == [("a[1]", "one"), ("a[3]", "two")]
    # Another column may hold what the first does not.
    path.write_text('{"text": null, "content": "x"}')
    assert list(iterate_texts(path)) == [("a[1]", "x")]


def test_what_lies_beside_the_data_of_a_folder(folder, caplog):
    """A data set's README.md and its JSON files are about the texts; hidden files are nobody's."""
    (folder / "README.md").write_text("# About")
    (folder / "info.json").write_text('{"splits": 1}')
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "a-checkpoint.txt").write_text("one")
    (folder / "._a.txt").write_bytes(b"\xff")
    (folder / "a.TXT").write_text("one")
    with caplog.at_level(logging.WARNING):
        assert titles(iterate_texts(folder)) == ["a"]
    assert (
        "left out are 2 files .md and .json, which beside data are mostly about it" in caplog.text
    )
    (folder / "a.TXT").unlink()
    (folder / "info.json").unlink()
    assert titles(iterate_texts(folder)) == ["README"]


def test_half_a_character_is_named(tmp_path, tokenizer):
    """JSON can hold one; no text in UTF-8 does."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "whole"}\n{"text": "ab\\ud800c"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: character 2 is '.ud800', half of one"):
        load_corpus(path, tokenizer)
