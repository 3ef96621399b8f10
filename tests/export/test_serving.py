"""Whether an engine computes a scaling: stock transformers makes each mistake, which is named."""

from __future__ import annotations

import math
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, WINDOW, tiny_model
from serving_servers import llama_server, openai, serving
from transformers import AutoModelForCausalLM

import longrope_lab as lab
from longrope_lab import cli
from longrope_lab.export.hypotheses import hypotheses
from longrope_lab.export.serving import check_serving
from longrope_lab.texts.tokens import Document

TARGET, BASE = 4 * WINDOW, 500_000.0
LENGTHS = [3 * WINDOW // 5, WINDOW + WINDOW // 6, TARGET - 1]
SPEC = lab.RopeSpec(rotary_dim=16, window=WINDOW, base=BASE)
SHORT, LONG = np.linspace(1, 2, 8), np.linspace(1, 10, 8)
M, LONGROPES, YARNS = 1.2, math.sqrt(1 + math.log(4) / math.log(64)), 0.1 * math.log(4) + 1
ONE = lab.RopeScaling(SPEC, LONG, TARGET, attention_factor=M)
TWO = lab.RopeSchedule.by_length([lab.RopeScaling(SPEC, SHORT, WINDOW, attention_factor=M), ONE])
YARN = lab.rope_scaling(SPEC, "yarn", TARGET)
DOCS = [
    Document("random", np.random.default_rng(0).integers(3, VOCABULARY, TARGET, dtype=np.int64))
]


def stock(kind="default", *, seed=0, longest=TARGET + 1, base=BASE, **fields):
    """Transformers' own model with these rope parameters."""
    parameters = {"rope_type": kind, "rope_theta": base}
    if kind != "default":
        parameters |= {"original_max_position_embeddings": WINDOW, "factor": 4.0}
    parameters |= fields
    return tiny_model(seed=seed, max_position_embeddings=longest, rope_parameters=parameters)


def longrope(short, long, m):
    factors = {"short_factor": short.tolist(), "long_factor": long.tolist()}
    return stock("longrope", **factors, attention_factor=m)


@pytest.fixture(scope="module")
def model():
    """The model as it was trained; tests leave it as it is."""
    return stock(longest=WINDOW)


RIGHT = {
    "one set": (ONE, lambda: longrope(LONG, LONG, M)),
    "two sets": (TWO, lambda: longrope(SHORT, LONG, M)),
    "yarn": (YARN, lambda: stock("yarn", attention_factor=YARNS)),
    "dynamic": (
        lab.rope_scaling(SPEC, "dynamic_ntk", TARGET),
        lambda: stock("dynamic", longest=WINDOW, factor=1.0),
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_right_is_found_right(model, case):
    scaling, make = RIGHT[case]
    theirs = make()

    def engine(ids, positions):
        rows = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)
        return [dict(enumerate(rows[n].tolist())) for n in positions]

    served = check_serving(model, engine, scaling=scaling, docs=DOCS)
    assert served.right and "computes this scaling" in str(served)
    last = 2 * WINDOW - 1 if case == "dynamic" else TARGET - 1
    assert [row.length for row in served.lengths] == [*LENGTHS[:2], last]
    assert all(row.most < 1e-3 and row.computes == "this scaling" for row in served.lengths)


# What is meant, what stock transformers computes, and what is found: at the target, and whether the
# input inside the window is right all the same.
MISTAKES = {
    "none": (ONE, stock, "no scaling", False),
    "m of LongRoPE": (
        ONE,
        lambda: longrope(LONG, LONG, LONGROPES),
        f"this scaling with LongRoPE's formula for m ({LONGROPES:.4g}, not 1.2)",
        False,
    ),
    "m of YaRN": (
        ONE,
        lambda: longrope(LONG, LONG, YARNS),
        f"this scaling with YaRN's formula for m ({YARNS:.4g}, not 1.2)",
        False,
    ),
    "no m": (
        ONE, lambda: longrope(LONG, LONG, 1.0), "this scaling with an m of 1 (1, not 1.2)", False,
    ),
    "short": (TWO, lambda: longrope(SHORT, SHORT, M), "the short set", True),
    "short, m of LongRoPE": (
        TWO,
        lambda: longrope(SHORT, SHORT, LONGROPES),
        f"the short set with LongRoPE's formula for m ({LONGROPES:.4g}, not 1.2)",
        False,
    ),
    "ramp": (
        YARN,
        lambda: stock("yarn", attention_factor=YARNS, truncate=False),
        "YaRN with the ends of its ramp not rounded",
        False,
    ),
    "base": (
        ONE,
        lambda: stock(base=10_000.0),
        "no scaling, and a base of 10,000 in place of 500,000",
        False,
    ),
    "scaled over another base": (
        YARN,
        lambda: longrope(YARN.factors, YARN.factors, YARNS),
        "this scaling, over a base of 10,000 in place of 500,000",
        False,
    ),
    "pi": (ONE, lambda: stock("linear"), "Position Interpolation by 4", False),
}  # fmt: skip


@pytest.mark.parametrize("style", [openai, llama_server])
@pytest.mark.parametrize("case", MISTAKES)
def test_each_mistake_is_found_and_named(model, case, style):
    meant, make, found, inside = MISTAKES[case]
    theirs = make()
    if case == "scaled over another base":
        parameters = theirs.config.rope_parameters | {"rope_theta": 10_000.0}
        theirs = tiny_model(max_position_embeddings=TARGET + 1, rope_parameters=parameters)
    with serving(style(theirs)) as url:
        served = check_serving(model, url, scaling=meant, docs=DOCS)
    first, *_, last = served.lengths
    assert not served.right and "does NOT compute this scaling" in str(served)
    assert (last.computes, last.right, first.right) == (found, False, inside)
    assert last.apart < 1e-3 < last.off
    assert f"WRONG, it computes {found}" in str(served)


def test_the_long_set_at_every_length_is_wrong_inside_the_window(model):
    """As servers do that choose once, when they start."""
    with serving(llama_server(longrope(LONG, LONG, M))) as url:
        served = check_serving(model, url, scaling=TWO, docs=DOCS)
    assert [row.right for row in served.lengths] == [False, True, True]
    assert served.lengths[0].computes == "the long set"


@pytest.mark.parametrize("scaling", [ONE, TWO, YARN, replace(ONE, start_tokens=4)])
def test_no_two_hypotheses_turn_a_model_alike(scaling):
    found = hypotheses(scaling, SPEC, TARGET)
    assert found[0].name == "this scaling" and len(found) >= 7
    for i, one in enumerate(found):
        assert not any(one.same_as(other) for other in found[:i])
    assert len({one.name for one in found}) == len(found)


def test_an_exported_folder_is_its_own_measure(model, tokenizer, tmp_path, capsys):
    """The scaling of its config counts; the command says the same, by its status."""
    named = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=WINDOW)
    spec = lab.rope_spec(named)
    scaling = lab.RopeScaling(spec, LONG, TARGET, attention_factor=M)
    folder = lab.save_pretrained(named, tokenizer, scaling, tmp_path / "made")

    def ids_of(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs.config.max_position_embeddings = TARGET + 1
    with serving(openai(theirs, ids_of)) as url:
        assert lab.check_serving(folder, f"{url}/v1").right
        assert cli.main(["serve-check", str(folder), url, "--lengths", "40", "200"]) == 0
    assert "200 tokens: off by" in capsys.readouterr().out
    with serving(openai(named, ids_of)) as url:
        named.config.max_position_embeddings = TARGET + 1
        asked = ["serve-check", str(folder), url, "--scaling", str(folder / "scaling.json")]
        assert cli.main(asked) == 1
    assert "WRONG, it computes no scaling" in capsys.readouterr().out
    with serving(openai(theirs, lambda text: ids_of(text)[::-1])) as url:
        assert cli.main(["serve-check", str(folder), url]) == 2
    assert "has another tokenizer" in capsys.readouterr().err


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def refused(model, engine, **arguments):
    """What an error says."""
    with pytest.raises((ValueError, OSError)) as info:
        check_serving(model, engine, **{"scaling": ONE, "docs": DOCS} | arguments)
    return str(info.value)


def test_no_server_and_no_address(model):
    said = refused(model, f"http://127.0.0.1:{closed_port()}")
    assert "no server answers at" in said and "llama-server -m" in said
    for address in ("ftp://localhost/x", "http://", "http://localhost:99999", "http://localhost:x"):
        assert "write it as http://localhost:8000" in refused(model, address)


def test_another_model_and_another_vocabulary(model):
    with serving(openai(stock(seed=1))) as url:
        assert "another model, or other weights" in refused(model, url)
    assert "the engine serves another model" in refused(
        model, lambda ids, positions: [{VOCABULARY: -1.0} for _ in positions]
    )


UNUSABLE = {
    "no log-probabilities": (
        {"/v1/completions": lambda _: (200, {"choices": [{"text": "", "logprobs": None}]})},
        "returned no log-probabilities of the input",
    ),
    "none of the prompt": (
        {"/v1/completions": lambda _: (200, {"choices": [{"logprobs": {"token_logprobs": [-1]}}]})},
        "gives 1 log-probabilities for 38 tokens",
    ),
    "refused": ({"/v1/completions": lambda _: (501, {"error": "not today"})}, "not today"),
    "no JSON": ({"/v1/completions": lambda _: (200, b"<html>")}, "something else than JSON"),
    "Ollama": ({"/api/version": lambda _: (200, {"version": "0.13"})}, "is Ollama"),
    "still loading": ({"/props": lambda _: (503, {"error": "Loading model"})}, "is not ready yet"),
    "a key": ({"/v1/models": lambda _: (401, {"error": "Unauthorized"})}, "it asks for a key"),
    "a web page": ({"/v1/models": lambda _: (200, b"<html>")}, "no server that is known here"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_servers_that_cannot_be_asked(model, case):
    answers, said = UNUSABLE[case]
    with serving(openai(model) | answers) as url:
        assert said in refused(model, url)


def test_a_server_that_breaks_off(model):
    """The handler of the test fails, and closes the connection."""

    def fails(_):
        raise ConnectionAbortedError

    with serving(openai(model) | {"/v1/completions": fails}) as url:
        assert "breaks off before it has answered" in refused(model, url)


def test_llama_server_without_log_probabilities_or_with_a_short_context(model):
    for told, said in (
        ({"content": "x"}, "returned no log-probabilities"),
        ({"tokens_evaluated": 8}, "which is divided by --parallel"),
    ):
        answer = {"/completion": lambda _, told=told: (200, told)}
        with serving(llama_server(model) | answer) as url:
            assert said in refused(model, url)


def test_a_position_of_which_llama_server_tells_nothing_is_left_out(model):
    """As where the next token is half a character."""
    answers = llama_server(longrope(LONG, LONG, M))
    told = answers["/completion"]

    def sometimes(body):
        half = 200, {"content": "\ufffd", "tokens_evaluated": len(body["prompt"])}
        return half if len(body["prompt"]) % 3 else told(body)

    with serving(answers | {"/completion": sometimes}) as url:
        assert check_serving(model, url, scaling=ONE, docs=DOCS).right
    with serving(answers | {"/completion": lambda body: sometimes(body | {"prompt": [3]})}) as url:
        assert "its context is too short" in refused(model, url)


def test_an_input_that_is_too_long_for_a_server(model):
    with serving(openai(stock(longest=TARGET - 1))) as url:
        assert "longer than the maximum model length" in refused(model, url)


def test_engines_in_this_process(model, tmp_path, monkeypatch):
    assert "Known: llama.cpp, mlx-lm, ctranslate2" in refused(model, "lama.cpp:x")
    assert "none is named: pass 'llama.cpp:PATH'" in refused(model, "llama.cpp")
    assert "vLLM runs as a server: start it, and pass its address" in refused(model, "vLLM:x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install mlx-lm 'mlx[cpu]'" in refused(model, f"mlx-lm:{tmp_path}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    assert "nothing at" in refused(model, f"llama.cpp:{tmp_path / 'none.gguf'}")
    assert "loads a .gguf file" in refused(model, f"llama.cpp:{tmp_path}")


def test_answers_and_arguments_that_are_none(model):
    def answers(told):
        return lambda ids, positions: told(positions)

    assert "answered for 0 of 9" in refused(model, answers(lambda _: []))
    nothing = answers(lambda positions: [{} for _ in positions])
    assert "values that are no numbers" in refused(model, nothing)
    not_a_number = answers(lambda positions: [{3: math.nan} for _ in positions])
    assert "values that are no numbers" in refused(model, not_a_number)
    fine = answers(lambda positions: [{3: -1.0} for _ in positions])
    assert "there is nothing to read" in refused(model, fine, docs=())
    assert "256 tokens, and 300 are read" in refused(model, fine, lengths=[300])
    assert "lengths is empty" in refused(model, fine, lengths=[])
    assert "tolerance is 0" in refused(model, fine, tolerance=0)
