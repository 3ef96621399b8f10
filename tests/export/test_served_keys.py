"""Passkeys asked of an engine: on the same prompts, the same keys are found as by `passkey`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from serving_servers import llama_server, openai, serving
from transformers import AutoModelForCausalLM

import longrope_lab as lab
from longrope_lab.export import engines
from longrope_lab.export.served_keys import served_passkey

LENGTHS, DEPTHS = [256, 900], [0.25, 1.0]
REST = ["length", "depth", "trial", "expected", "answer", "correct", "contains"]


@pytest.fixture(scope="module")
def lab_model():
    """The lab model, scaled to twice its window, and its tokenizer; and the keys that it finds."""
    model, tokenizer = lab.load_model("lab", device="cpu", dtype=torch.float32)
    yarn = lab.rope_scaling(lab.rope_spec(model), "yarn", 1024)
    table = lab.passkey(model, tokenizer, LENGTHS, DEPTHS, 1, {"yarn": yarn})
    assert table["correct"].any()
    return model, tokenizer, yarn, table


@pytest.fixture(scope="module")
def stock(lab_model, tmp_path_factory):
    """Transformers' own model of the same, out of a folder."""
    model, tokenizer, yarn, _ = lab_model
    folder = lab.save_pretrained(model, tokenizer, yarn, tmp_path_factory.mktemp("a") / "yarn")
    return AutoModelForCausalLM.from_pretrained(folder)


def ask(tokenizer, engine, **options):
    asked = {"lengths": LENGTHS, "depths": DEPTHS, "trials": 1} | options
    return served_passkey({"an engine": engine}, tokenizer, **asked)


def test_a_function_finds_the_keys_that_passkey_finds(lab_model, stock):
    """One token after another, by what it says is the most likely."""
    _, tokenizer, _, table = lab_model

    @torch.no_grad()
    def engine(ids, positions):
        assert list(positions) == [len(ids) - 1]
        row = stock(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        best = row.topk(3)
        return [dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))]

    found = ask(tokenizer, engine)
    assert found["scaling"].tolist() == ["an engine"] * 4
    assert found[REST].equals(table[REST])
    assert ask(tokenizer, engine, lengths=[256, 256], seed=1)["expected"].nunique() == 2


def test_an_answer_ends_with_the_text(lab_model):
    """By the end token; and what a model says after it is no answer."""
    _, tokenizer, *_ = lab_model
    said = [*tokenizer(" 12", add_special_tokens=False).input_ids, tokenizer.eos_token_id, 9]
    prompts = {}

    def engine(ids, _):
        known = next((n for n in prompts if list(ids[:n]) == prompts[n]), None)
        if known is None:
            known, prompts[len(ids)] = len(ids), list(ids)
        return [{said[len(ids) - known]: 0.0}]

    found = ask(tokenizer, engine, lengths=[256], depths=[0.5])
    assert found["answer"].tolist() == ["12"] and not found["correct"].any()


@torch.no_grad()
def continued(stock, tokenizer, body, tokens):
    """What a server generates, as text."""
    ids = torch.tensor([body["prompt"]])
    made = stock.generate(ids, max_new_tokens=tokens, do_sample=False)[0, ids.shape[1] :]
    return tokenizer.decode(made, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["llama-server", "OpenAI-style server"])
def test_a_server_generates_by_itself(kind, lab_model, stock):
    _, tokenizer, _, table = lab_model

    def completion(body):
        assert body["temperature"] == 0
        text = continued(stock, tokenizer, body, body["n_predict"])
        return 200, {"content": text, "tokens_evaluated": len(body["prompt"])}

    def completions(body):
        text = continued(stock, tokenizer, body, body["max_tokens"])
        return 200, {"choices": [{"text": text}]}

    answers = {
        "llama-server": llama_server(stock) | {"/completion": completion},
        "OpenAI-style server": openai(stock) | {"/v1/completions": completions},
    }
    with serving(answers[kind]) as url:
        found = ask(tokenizer, url)
    assert found[REST].equals(table[REST])


def test_servers_that_cannot_be_used(lab_model, stock):
    _, tokenizer, *_ = lab_model
    cut = 200, {"content": " 1", "tokens_evaluated": 7, "truncated": True}
    with (
        serving(llama_server(stock) | {"/completion": lambda _: cut}) as url,
        pytest.raises(ValueError, match="read 7 tokens of 248: its context is too short"),
    ):
        ask(tokenizer, url)
    for silent in ({}, {"choices": []}, {"choices": [{"text": None}]}):
        told = 200, silent
        with (
            serving(openai(stock) | {"/v1/completions": lambda _, told=told: told}) as url,
            pytest.raises(ValueError, match="answers without the text that it generated"),
        ):
            ask(tokenizer, url)


def test_what_cannot_be_asked(lab_model):
    _, tokenizer, *_ = lab_model
    with pytest.raises(ValueError, match="tells nothing of what follows an input"):
        ask(tokenizer, lambda ids, positions: [{}])
    with pytest.raises(ValueError, match="loads a file or folder, and none is named: pass 'llama"):
        ask(tokenizer, "llama.cpp")
    with pytest.raises(ValueError, match="at least one length and one depth"):
        ask(tokenizer, print, lengths=[])
    with pytest.raises(ValueError, match="answer_tokens is 0"):
        ask(tokenizer, print, answer_tokens=0)
    assert served_passkey({}, tokenizer, [256]).columns.tolist() == ["scaling", *REST]


def test_engines_that_are_not_installed_are_left_out_aloud(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: name == "mlx_lm" or None)
    with pytest.warns(UserWarning, match="llama.cpp is not installed: pip install xllamacpp"):
        assert lab.installed_engines(["llama.cpp", "mlx-lm"]) == ["mlx-lm"]
    with pytest.raises(ValueError, match="unknown engine 'vlm'"):
        lab.installed_engines(["vlm"])


def test_a_table_of_checks(lab_model):
    model, tokenizer, yarn, _ = lab_model

    def unscaled(ids, positions):
        losses = lab.token_losses(model, np.array(ids))
        return [{ids[n + 1]: -losses[n].item()} for n in positions]

    check = lab.check_serving(
        model, unscaled, tokenizer=tokenizer, scaling=yarn, lengths=[300, 900]
    )
    table = lab.serving_table({"a file": check})
    assert table["engine"].tolist() == ["a file"] * 2 and table["length"].tolist() == [300, 900]
    assert not table["right"].any() and (table["computes"] == "no scaling").all()
    assert table["off"].tolist() == [row.off for row in check.lengths]
    assert lab.serving_table({}).columns.tolist() == table.columns.tolist()
