"""The `paper` profile without the paper's weights: its notebooks on tiny models of the two
architectures.

Lengths are scaled down with the window, and fewer documents, trials and rounds are taken; the rest
is the profile's."""

from __future__ import annotations

import json

import nbformat
import pandas as pd
import pytest
import torch
import transformers

from longrope_lab.runs import notebooks
from longrope_lab.runs import run_one as runs

# What sets the two apart: LLaMA2-7B has a key head for each query head; in Mistral-7B v0.1 four
# share one, and no layer sees more than a part of the window.
ARCHITECTURES = {
    "LLaMA2": lambda window: transformers.LlamaConfig(num_attention_heads=4, **sizes(window)),
    "Mistral": lambda window: transformers.MistralConfig(
        num_attention_heads=4, num_key_value_heads=1, sliding_window=window // 2, **sizes(window)
    ),
}


def sizes(window):
    return {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 4096,
        "max_position_embeddings": window, "initializer_range": 0.1, "pad_token_id": 0,
    }  # fmt: skip


@pytest.fixture
def scaled_down(tmp_path, tokenizer, monkeypatch):
    """Runs a notebook with the profile on a random model of an architecture.

    Returns the folder of its results.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the kernel's: such models lose by a second thread
    assert len(tokenizer) == 4096

    def run(notebook, architecture, window, **parameters):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[architecture](window))
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return runs.run(
            notebook,
            "paper",
            {"model_name": str(tmp_path / "model"), **parameters},
            tmp_path / "results",
        )

    return run


def settings(folder):
    """The parameters that a run took, beside the profile's own."""
    recorded = json.loads((folder / "run.json").read_text())
    return recorded["parameters"], notebooks.profile_parameters(
        notebooks.find_notebook(recorded["notebook"]), "paper"
    )


def printed(folder):
    cells = nbformat.read(folder / f"{folder.name}.ipynb", as_version=4).cells
    return "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


def test_quickstart_on_mistral(scaled_down):
    lengths = [128, 256]
    folder = scaled_down(
        "00",
        "Mistral",
        128,
        corpus="kjv",
        lengths=lengths,
        key_lengths=lengths,
        documents=2,
        trials=1,
        extended_lengths=[1024],
    )
    own, profile = settings(folder)
    # All of them had to be scaled down.
    assert set(profile) == {"model_name", "corpus", "documents", "lengths", "key_lengths", "trials"}
    table = pd.read_csv(folder / "perplexity.csv")
    assert table["perplexity"].notna().all()
    assert len(table) == 2 * len(own["ratios"]) * len(lengths) * len(own["methods"])
    assert "every layer's attention slid over 64 tokens; it is full now" in printed(folder)


def test_nonuniformity_on_llama2(scaled_down):
    folder = scaled_down(
        "02", "LLaMA2", 32, corpora=["kjv"], search_corpora=["kjv"], targets=[64, 128, 256],
        documents=2, search_documents=1, search_rounds=1, start_tokens=[0, 2, 4, 8, 16, 32],
        start_tokens_tried=[0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32],
    )  # fmt: skip
    own, profile = settings(folder)
    assert {name: own[name] for name in ("search_method", "long_corpus")} == {
        "search_method": "evolution",
        "long_corpus": 0,
    }
    assert {name for name in profile if own[name] == profile[name]} == {
        "search_method",
        "long_corpus",
    }
    searches = pd.read_csv(folder / "search_table.csv")
    assert searches["target"].tolist() == [64, 128, 256]
    # The paper's population, and a round of 16 + 16 more.
    assert (searches["forward passes"] == 64 + 32).all()
    for name in ("t1", "t2", "t3", "t11"):
        assert pd.read_csv(folder / f"{name}.csv")["perplexity"].notna().all()
    assert "attention slid" not in printed(folder)
