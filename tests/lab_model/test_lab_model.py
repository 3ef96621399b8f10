"""The shipped model keeps what its card says, on text that is everywhere; its recipe trains."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from longrope_lab.common.identity import digest_of
from longrope_lab.lab_model import extend, pretrain
from longrope_lab.measure.needles import passkey
from longrope_lab.measure.perplexity import perplexity
from longrope_lab.models.forward import token_losses
from longrope_lab.models.loading import LAB_MODEL, SHIPPED, load_model
from longrope_lab.models.read_config import scaling_from_config
from longrope_lab.rope.schedule import load_scaling
from longrope_lab.texts.corpora import load_corpus


def test_loads_with_transformers_alone():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(LAB_MODEL)
    tokenizer = AutoTokenizer.from_pretrained(LAB_MODEL)
    assert sum(p.numel() for p in model.parameters()) <= 8e6
    assert (LAB_MODEL / "model.safetensors").stat().st_size <= 16e6
    assert model.dtype == torch.bfloat16
    config = model.config
    assert config.max_position_embeddings == 512 and config.head_dim == 64
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert len(tokenizer) == config.vocab_size <= 8192
    text = "In 1851, 24 whales.\n\tÆsop — naïve"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert (
        sum(token.isdigit() for token in tokenizer.convert_ids_to_tokens(ids)) == 6
    )  # single digits


def test_bits_per_character_and_collapse(lab):
    model, tokenizer = lab
    docs = load_corpus("kjv", tokenizer, min_tokens=2048, max_tokens=2048, limit=4)
    windows = [doc.ids[start : start + 512] for doc in docs for start in range(0, 2048, 512)]
    nats = sum(token_losses(model, window).sum().item() for window in windows)
    characters = sum(len(tokenizer.decode(window[1:])) for window in windows)
    # The King James Bible is harder than the books of its card (1.4), and was not trained on.
    assert nats / math.log(2) / characters < 1.6
    table = perplexity(model, docs, [512, 2048]).groupby("length")["loss"].mean()
    assert math.exp(table[2048] - table[512]) > 2


@pytest.mark.parametrize("filler", ["paper", "book"])
def test_passkey_inside_the_window(lab, filler):
    model, tokenizer = lab
    docs = None if filler == "paper" else load_corpus("kjv", tokenizer, min_tokens=4096, limit=4)
    table = passkey(model, tokenizer, [256, 512], trials=10, filler=docs)
    assert table["correct"].mean() >= 0.95  # 98 % over many; this is 100 prompts


def test_the_recipe_trains(tmp_path):
    """A few steps of the real recipe, of one layer on a small text.

    The loss falls, and the folder that it leaves loads.
    """
    from transformers import AutoTokenizer

    book = tmp_path / "book.txt"
    book.write_text(
        " ".join(f"Verse {n}: the waters were upon the face of the deep." for n in range(4000))
    )
    folder = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(LAB_MODEL)
    stream = pretrain.token_stream([str(book)], tokenizer)
    rng = np.random.default_rng(0)
    rows = pretrain.passkey_rows(tokenizer, stream, 8, rng, whole_window=0.5)
    assert rows.shape == (8, pretrain.WINDOW + 1)
    text = tokenizer.batch_decode(rows)
    assert all("The pass key is" in row for row in text)
    data = pretrain.batches(stream, rows, size=4, share=0.25, seed=0)
    assert next(data).shape == (4, pretrain.WINDOW + 1)
    torch.manual_seed(0)
    model = pretrain.new_model(tokenizer)
    # Muon computes in bfloat16, which not every processor does fast.
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    history = pretrain.train(model, data, steps=6, lr=6e-3, log_every=3)
    assert history[-1]["loss"] < history[0]["loss"] - 0.5
    model.save_pretrained(folder)
    assert (folder / "model.safetensors").is_file()


def test_the_command_trains_and_writes(tmp_path, tokenizer, monkeypatch):
    """Two steps of two rows; a second call goes on from what the first left."""
    new_model = pretrain.new_model

    def of_one_layer(tokenizer):
        model = new_model(tokenizer)
        model.model.layers, model.config.num_hidden_layers = model.model.layers[:1], 1
        return model

    monkeypatch.setattr(pretrain, "new_model", of_one_layer)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    book, folder = tmp_path / "book.txt", tmp_path / "model"
    book.write_text("And the earth was without form, and void; " * 400)
    tokenizer.save_pretrained(folder)
    sizes = ["--tokens", "2048", "--rows", "2", "--passkey-rows", "2", "--passkey-share", "0.5"]
    for start in ([], ["--start", str(folder)]):
        command = ["pretrain", "model", "--books", str(book), "--out", str(folder), *sizes, *start]
        monkeypatch.setattr("sys.argv", command)
        pretrain.main()
        written = json.loads((folder / "training.json").read_text())
        assert written["arguments"]["rows"] == "2"
        assert [(row["step"], row["tokens"]) for row in written["history"]] == [(2, 2048)]
        model = type(new_model(tokenizer)).from_pretrained(folder)
        assert len(model.model.layers) == 1 and model.dtype == torch.bfloat16


def test_tokenizer_recipe(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(pretrain, "VOCABULARY", 280)
    book = tmp_path / "book.txt"
    book.write_text("And the earth was without form, and void; 40 days and 40 nights. " * 200)
    pretrain.train_tokenizer([str(book)], tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert len(tokenizer) == 280
    assert tokenizer.decode(tokenizer("40 days")["input_ids"]) == "40 days"
    assert tokenizer.tokenize("40") == ["4", "0"]


def test_the_cards_figures_are_measured(lab):
    from longrope_lab.lab_model.evaluate import evaluate

    model, tokenizer = lab
    books = load_corpus("kjv", tokenizer, min_tokens=4096, max_tokens=5000, limit=2)
    figures = evaluate(model, tokenizer, books, trials=1)
    assert figures["windows"] == 16 and 1 < figures["bits_per_character"] < 2
    inside, *beyond = [row["perplexity"] for row in figures["perplexity_without_scaling"]]
    assert beyond[-1] > 2 * inside
    # One trial per depth.
    assert {row["trials"] for rows in figures["passkey"].values() for row in rows} == {5}


# --- the extended one ---

EXTENDED = SHIPPED["lab-256k"]
RESULTS = Path(__file__).parents[2] / "results" / "scale"


@pytest.fixture(scope="module")
def extended():
    """The extended model, its tokenizer, and the scaling of its config."""
    model, tokenizer = load_model("lab-256k")
    return model, tokenizer, scaling_from_config(model.config)


def test_the_extended_model_is_the_one_that_was_measured(extended):
    model, tokenizer, scaling = extended
    assert sum(file.stat().st_size for file in EXTENDED.iterdir()) <= 16e6
    assert model.config.max_position_embeddings == 262_144
    assert len(tokenizer) == model.config.vocab_size
    made = json.loads((EXTENDED / "training.json").read_text())
    assert made["weights"] == digest_of(EXTENDED / "model.safetensors")
    run = json.loads((RESULTS / "06_short_context_recovery" / "run.json").read_text())
    assert (made["made"], made["commit"]) == (run["started"][:10], run["commit"])
    kept = (RESULTS / "06_short_context_recovery" / "schedule.json").read_bytes()
    assert (EXTENDED / "schedule.json").read_bytes() == kept
    longest = json.loads(kept)["scalings"][-1]
    assert scaling.scalings[-1].factors.tolist() == longest["factors"]
    assert [each.target_length for each in scaling.scalings] == [1024, 262_144]
    assert (
        load_scaling(EXTENDED / "scaling.json").scalings[-1].factors.tolist() == longest["factors"]
    )


def test_it_reads_on_where_the_lab_model_breaks(lab, extended):
    """At four times the window of 512, on a text of its own kind that nobody trained on."""
    docs = load_corpus("kjv", lab[1], min_tokens=2048, max_tokens=2048, limit=3)
    before = perplexity(lab[0], docs, [2048], {"none": None})["loss"].mean()
    after = perplexity(extended[0], docs, [2048], {"config": extended[2]})["loss"].mean()
    assert after < before - 0.5


def test_it_finds_keys_that_the_measurement_found(extended):
    """The prompts of `results/scale`, of which it found 19 of 20 at four times the window."""
    model, tokenizer, scaling = extended
    found = passkey(model, tokenizer, [2048], [0.0, 0.5], 2, {"extended model": scaling}, seed=0)
    there = pd.read_csv(RESULTS / "07_passkey" / "f4.csv", dtype={"expected": str})
    there = there.query("scaling == 'extended model' and length == 2048 and trial < 2")
    there = there[there["depth"].isin([0.0, 0.5])]
    assert found["expected"].tolist() == there["expected"].tolist()
    assert found["correct"].tolist() == there["correct"].tolist() and found["correct"].sum() >= 3


def test_the_script_that_made_it(tmp_path, monkeypatch):
    """With the smallest plan, on a packaged corpus; what it writes has the names of what ships."""
    book = tmp_path / "book.txt"
    book.write_text("And the earth was without form, and void; " * 400)
    corpora = ["--search", "python", "--train", str(book), "--test", "kjv"]
    monkeypatch.setattr(extend, "load_corpus", functools.partial(load_corpus, limit=2))
    small = ["--plan", "tiny", "--documents", "1"]
    places = ["--stages", str(tmp_path / "stages"), "--out", str(tmp_path / "made")]
    extend.main([*corpora, *small, *places])
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert names == {path.name for path in EXTENDED.iterdir()}
    made = json.loads((tmp_path / "made" / "training.json").read_text())
    shipped = json.loads((EXTENDED / "training.json").read_text())
    assert made.keys() <= shipped.keys() and list(made["loss"]) == ["01_finetune_576"]
    assert made["weights"] == digest_of(tmp_path / "made" / "model.safetensors")
