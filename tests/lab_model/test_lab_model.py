"""The shipped model keeps what its card says, on text that is everywhere; its recipe trains."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from longrope_lab.lab_model import pretrain
from longrope_lab.measure.needles import passkey
from longrope_lab.measure.perplexity import perplexity
from longrope_lab.models.forward import token_losses
from longrope_lab.models.loading import LAB_MODEL
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
