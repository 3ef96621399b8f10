"""What cannot end well is refused before anything runs, and not minutes later."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_model

import longrope_lab as lab
from longrope_lab import cli
from longrope_lab.models.window import window_of
from longrope_lab.runs import notebooks, relations
from longrope_lab.runs.choices import check_choices
from longrope_lab.runs.memory_check import check_sources
from longrope_lab.runs.preparing import prepare
from longrope_lab.runs.relations import check_relations

HERE = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not HERE, reason="lm_eval is missing")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


LONG = lab.Document("long", torch.arange(2000).numpy() % 97)
PROMPTS = "the prompts of 1,000,000,000 trials take at least"
HELD = r"take at least .* GiB beside the weights, and this machine has"


@pytest.mark.parametrize(
    ("rows", "new_tokens", "options", "words"),
    [
        (1, 10**9, {}, f"1,000,000,001 tokens in a batch of 1 {HELD}"),
        (2, 10**9, {"use_cache": True}, f"1,000,000,001 tokens in a batch of 2 {HELD}"),
        (
            1,
            4,
            {"num_return_sequences": 10**9, "do_sample": True},
            f"5 tokens in a batch of 1,000,000,000 {HELD}",
        ),
        (1, 4, {"num_beams": 10**9}, f"5 tokens in a batch of 1,000,000,000 {HELD}"),
    ],
)
def test_more_texts_or_tokens_than_memory_holds(model, rows, new_tokens, options, words):
    with pytest.raises(ValueError, match=words):
        lab.generate(model, torch.ones(rows, 1).long(), None, max_new_tokens=new_tokens, **options)


def test_keys_of_layers_that_slide_do_not_count():
    """Nor do those of a model that keeps none."""
    from longrope_lab.models.estimates import check_cache

    check_cache(tiny_model("mistral", sliding_window=32), 1, 10**12)
    with pytest.raises(ValueError, match=HELD):
        check_cache(tiny_model("mistral", sliding_window=None), 1, 10**12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda m, t: lab.passkey(m, t, [200], [0.5], 10**9),
            PROMPTS,
        ),
        (
            lambda m, t: lab.needles(m, t, ["single"], [900], [0.5], 10**9),
            PROMPTS,
        ),
        (lambda m, t: lab.many_examples(m, t, trials=10**9), PROMPTS),
        (lambda m, t: lab.book_questions(m, t, [LONG], trials=10**9), PROMPTS),
        (lambda m, t: lab.book_summaries(m, t, [LONG], trials=10**9), PROMPTS),
        (lambda m, t: lab.passkey_prompt(t, 10**12, 0.5), "a prompt of length 1,000,000,000,000 t"),
        (
            lambda m, t: lab.needle_prompt(t, "words", 10**12),
            "of length 1,000,000,000,000",
        ),
        (
            lambda m, t: lab.needle_documents([], 900, 10**9, t, tasks="single"),
            "1,000,000,000 needle documents of 900 tokens take at least",
        ),
        (lambda m, t: lab.scoring_cost(m, [64, 10**9]), f"1,000,000,000 tokens {HELD}"),
        (lambda m, t: lab.training_cost(m, [10**9]), f"1,000,000,000 tokens {HELD}"),
        (lambda m, t: made(t, count=10**9), r"'kjv' gives at most [\d,]+ questions after passages"),
        (lambda m, t: made(t, passage_tokens=10**8), "'kjv' gives 0 questions after passages of 1"),
        (lambda m, t: lab.Recipe(batch=10**7), "a training reads at most 100,000,000 segments"),
    ],
)
def test_counts_beyond_any_machine(model, tokenizer, call, words):
    with pytest.raises(ValueError, match=words):
        call(model, tokenizer)


@pytest.mark.parametrize("executor", [lab.WorkerProcesses, lab.SequenceParallel])
def test_more_processes_or_threads_than_work_together(executor):
    with pytest.raises(ValueError, match="count is 10,000: at most 1,000 processes"):
        executor(10_000)
    with pytest.raises(ValueError, match="threads is 10,000: a process takes at most 1,000"):
        executor(1, threads=10_000)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"trial": -1}, "trial is -1: it must be a whole number"),
        ({"length": 10**12}, "the examples of a prompt of length 1,000,000,000,000 take at least"),
        ({"questions": 10**12}, "1,000,000,000,000 questions take at least"),
    ],
)
def test_examples_beyond_any_machine(tokenizer, wrong, words):
    given = {"length": 64} | wrong
    with pytest.raises(ValueError, match=words):
        lab.examples_prompt(tokenizer, lab.EXAMPLES["16 words"], **given)


def test_plans_do_not_share_a_live_model(model, tokenizer, tmp_path):
    """Each would begin with the weights of the one before."""
    with pytest.raises(ValueError, match="model is a LlamaForCausalLM, and each plan would begin"):
        lab.run_plans(model, tokenizer, {"a": lab.PLANS["tiny"]}, tmp_path)


def test_a_depth_is_checked_before_anything_is_drawn(tokenizer):
    with pytest.raises(ValueError, match=r"depth is -0\.1: it is a share of the text"):
        lab.passkey_prompt(tokenizer, 200, -0.1)


def test_padding_that_is_no_token(model):
    with pytest.raises(ValueError, match="pad_token_id is 'x': it is a token id, a whole number"):
        lab.generate(model, [[1, 2]], None, max_new_tokens=2, pad_token_id="x")


def made(tokenizer, **options):
    return lab.BenchmarkTask.from_corpus("kjv", tokenizer, **options)


@pytest.mark.parametrize(
    ("number", "given", "words"),
    [
        ("00", {"lengths": [1, 512]}, "lengths has 1: a text has at least 2 tokens"),
        ("01", {"target": 100}, "target is 100, and the trained window is 512 tokens"),
        ("02", {"targets": [4096, 1024]}, r"targets is \[4096, 1024\]: each must be above the one"),
        ("02", {"targets": [1024, 1024]}, r"targets is \[1024, 1024\]: each must be above the one"),
        ("02", {"targets": [300, 1024]}, "targets is 300, and the trained window is 512 tokens"),
        ("02", {"corpora": ["kjv"]}, "corpora has 1 values and search_corpora 2: give each its"),
        ("02", {"long_corpus": 2}, "long_corpus is 2, and corpora has 2: count them from 0"),
        ("02", {"start_tokens": [16, 0]}, "start_tokens begins with 16: its first is the refer"),
        ("02", {"start_tokens": [0, 1024]}, "start_tokens has 1,024, and targets begins with 1,"),
        ("03", {"targets": [1024, 2048]}, "targets has 2 values and forwards 1: give each its own"),
        ("03", {"weights": [0.5, 0.5]}, "weights names 0.5 twice: name each once"),
        ("03", {"objective_target": 20}, "objective_target is 20, and the trained window is 512"),
        ("04", {"lengths": [128, 256]}, "the longest of lengths is 256, and the trained window is"),
        ("05", {"two_steps": [2048, 1024]}, r"two_steps is \[2048, 1024\]: each must be above"),
        ("05", {"two_steps": [256, 1024]}, "two_steps is 256, and the trained window is 512"),
        ("05", {"model_name": "lab-256k"}, "two_steps is 768, and the trained window is 1,024"),
        (
            "05",
            {"model_name": "lab-256k", "two_steps": [2048, 4096], "plan": "tiny"},
            "a stage of the plan 'tiny' is 576, and the trained window is 1,024",
        ),
        ("06", {"lengths": [512, 4096]}, r"lengths has 4,096, and [\d,]+ tokens are recovered"),
        ("06", {"plan": "bare"}, "the plan 'bare' has no recovery: name one of .*lab"),
        ("07", {"target": 128}, "target is 128, and the trained window is 512 tokens"),
        ("09", {"targets": [2048, 1024]}, r"targets is \[2048, 1024\]: each must be above the one"),
        ("10", {"lengths": [64]}, r"lengths is \[64\]: name one from the window \(512\) to the t"),
        ("10", {"stride": 5000}, "stride is 5,000 and sliding_lengths 512: tokens between two"),
        ("10", {"sliding_tokens": 600}, "sliding_lengths is 4,096 and sliding_tokens 600: no wind"),
        ("10", {"formulas_to": 1024}, "formulas_to is 1,024: let it be at least 2,048, the last o"),
        ("11", {"aim": 100}, "aim is 100, and the trained window is 512 tokens"),
        ("90", {"search_length": 256}, "search_length is 256, and the trained window is 512"),
        ("90", {"workers": [1, 10_000]}, "10,000 processes are asked for: 1,000 work together"),
        ("02", {"start_tokens_tried": [0, 1024]}, "start_tokens_tried has 1,024, and targets beg"),
        ("08", {"passage_tokens": 5}, "passage_tokens has 5: it takes 16 tokens at least"),
        ("12", {"compared": [1]}, "compared has 1: a text has at least 2 tokens"),
        ("13", {"book_lengths": [10]}, "book_lengths has 10: 128 tokens of it are kept for the qu"),
        ("00", {"key_lengths": [20, 256]}, "key_lengths has 20: "),
        ("07", {"lengths": [20]}, "lengths has 20: "),
        ("12", {"lengths": [20, 512]}, "lengths has 20: "),
        ("13", {"lengths": [8]}, "lengths has 8: 8 tokens have room for 0 examples"),
        ("05", {"processes": 10_000}, "10,000 processes are asked for: 1,000 work together"),
    ],
)  # fmt: skip
def test_parameters_that_do_not_fit_one_another(number, given, words, monkeypatch):
    """On top of the notebook's own defaults."""
    monkeypatch.setitem(lab.PLANS, "bare", lab.Plan((lab.Formula(1024),)))
    ready = prepare(number, "smoke", defaults(number) | given)
    with pytest.raises(ValueError, match=f"parameters of {number}_.*{words}"):
        check_relations([ready])


@pytest.mark.parametrize(
    ("number", "given", "words"),
    [
        ("00", {"trials": 10**9}, PROMPTS),
        ("01", {"rotary_dim": 7}, "rotary_dim is 7: it must be even"),
        ("01", {"base": 0.5}, "base is 0.5: it must be a finite number above 1"),
    ],
)
def test_parameters_that_a_cell_would_refuse(number, given, words):
    with pytest.raises(ValueError, match=words):
        check_relations([prepare(number, "smoke", defaults(number) | given)])


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [
        ("03", "starts", ["nope"]), ("05", "train_split", "trian"),
        ("11", "tasks", ["nope"]), ("11", "compared", ["nope"]),
        ("13", "tasks", ["nope"]), ("13", "asked", ["nope"]),
    ],
)  # fmt: skip
def test_names_that_a_cell_would_refuse(number, name, value):
    with pytest.raises(ValueError, match=f"unknown {name} of {number}_"):
        check_choices([prepare(number, "smoke", {name: value})])


def test_found_scalings_of_another_model_or_one_name(tmp_path):
    other = lab.rope_scaling(lab.RopeSpec(16, 64, base=1e4), "yarn", 1024)
    ours = lab.rope_scaling(lab.RopeSpec(64, 512, base=1e4), "yarn", 1024)
    paths = [str(tmp_path / name) for name in ("other.json", "ours.json", "again/ours.json")]
    (tmp_path / "again").mkdir()
    for scaling, path in zip((other, ours, ours), paths, strict=True):
        scaling.save(path)
    wide = "other.json is for 16 rotary dimensions, and the model has 64"
    with pytest.raises(ValueError, match=wide):
        lab.named_scalings(ours.spec, [], 1024, paths[:1])
    for number, found, words in (
        ("04", paths[0], wide),
        ("07", paths[:1], wide),
        ("07", paths[1:], "two files of found would be called 'ours'"),
    ):
        with pytest.raises(ValueError, match=words):
            check_relations([prepare(number, "smoke", defaults(number) | {"found": found})])
    check_relations([prepare("07", "smoke", {"found": [paths[1], str(tmp_path / "later.json")]})])


@pytest.mark.parametrize(
    ("number", "name"),
    [("03", "checkpoints"), ("05", "stages_folder"), ("06", "export_to"), ("12", "files")],
)
def test_places_that_cannot_be_written(number, name, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for place, words in ((file, f"{name} is .*file', a file: name a"), (file / "x", "be written")):
        with pytest.raises((ValueError, OSError), match=words):
            check_relations([prepare(number, "smoke", defaults(number) | {name: str(place)})])
    check_relations([prepare(number, "smoke", defaults(number) | {name: str(tmp_path / "new")})])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_extended_model_at_lengths_beyond_any_machine():
    given = defaults("00") | {"extended_lengths": [10**12]}
    with pytest.raises(ValueError, match=r"extended: 'lab-256k' takes .*: name another"):
        check_sources(prepare("00", "smoke", given))


NO_HARNESS = r"nope: tasks of EleutherAI's .* pip install 'longrope_lab\[benchmarks\]'"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        pytest.param("nope", "unknown task 'nope'", marks=needs_harness),
        pytest.param("nope", NO_HARNESS, marks=pytest.mark.skipif(HERE, reason="lm_eval is here")),
        ("nope.jsonl", "no file of questions at nope.jsonl"),
        ("bad.jsonl", "bad.jsonl, line 1 is not a question"),
    ],
)
def test_tasks_that_cannot_be_asked(named, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text("{}")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        check_relations([prepare("08", "smoke", defaults("08") | {"tasks": [named]})])


def test_tasks_that_can_be_asked(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"question": "a?", "choices": ["b", "c"], "answer": 0}))
    check_relations([prepare("08", "smoke", defaults("08") | {"tasks": [str(file)]})])


def defaults(number):
    """What a notebook sets itself."""
    known = notebooks.parameters_of(notebooks.find_notebook(number))
    return {name: parameter.default for name, parameter in known.items() if name != "out"}


def test_defaults_and_profiles_fit(monkeypatch):
    monkeypatch.setattr(relations, "window_of", functools.cache(window_of))
    if not HERE:  # the harness, whose tasks a profile names
        monkeypatch.setattr(relations, "check_tasks", lambda tasks: None)
    for path in notebooks.notebooks():
        check_relations([prepare(path.stem, "smoke", defaults(path.stem[:2]))])
        for profile in notebooks.PROFILES:
            if (notebooks.NOTEBOOKS / "profiles" / profile / f"{path.stem}.yaml").is_file():
                check_relations([prepare(path.stem, profile)])


def test_the_command_refuses_before_a_kernel_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("papermill.execute_notebook", pytest.fail)
    asked = ["run", "01", "05", "--profile", "smoke", "--results", str(tmp_path)]
    assert cli.main([*asked, "-p", "two_steps=[2048,1024]"]) == 2
    assert "05_progressive_extension: two_steps is [2048, 1024]" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--lengths", "1000000000"], "to score 1,000,000,000 tokens"),
        (["--lengths", "256", "--trials", "1000000000"], PROMPTS),
    ],
)
def test_compare_refuses_before_a_model_is_loaded(asked, words, capsys, monkeypatch):
    monkeypatch.setattr("longrope_lab.commands.compare.load_model", pytest.fail)
    assert cli.main(["compare", "lab", "--corpus", "kjv", *asked]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("place", ["rope_parameters", "config"])
@pytest.mark.parametrize("base", [0, -1.0, "1e4"])
def test_a_base_that_turns_nothing(base, place, tmp_path, tokenizer):
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (config["rope_parameters"] if place == "rope_parameters" else config)["rope_theta"] = base
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"rope_theta is {base}"):
        lab.load_model(tmp_path)


def test_a_window_without_the_model(tmp_path):
    windows = {"lab": 512, "lab-256k": 1024, None: None, "no such model": None, "./nothing": None}
    assert {name: window_of(name) for name in windows} == windows
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert window_of(str(tmp_path)) is None  # without a tokenizer it is no model
