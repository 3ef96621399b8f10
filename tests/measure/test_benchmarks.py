"""Benchmarks against one forward pass a choice; the harness itself where it is installed."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import re
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ending, tiny_model

from longrope_lab import plots
from longrope_lab.measure.benchmarks import COLUMNS, _encode, benchmarks
from longrope_lab.measure.stats import (
    benchmark_summary,
    bootstrap_interval,
    paired_scores,
    wilson_interval,
)
from longrope_lab.measure.tasks import (
    METRICS,
    NEAR,
    PAPER_TASKS,
    BenchmarkTask,
    Question,
    continuation_questions,
    read_questions,
)
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.report.experiments import experiment
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import RopeSchedule
from longrope_lab.texts.corpora import iterate_texts

WORDS = [
    "the",
    "light",
    "of",
    "a",
    "world",
    "in",
    "which",
    "he",
    "saw",
    "that",
    "nothing",
    "was",
    "made",
    "by",
    "them",
]
HERE = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(
    not HERE, reason="lm_eval is missing: pip install 'longrope_lab[benchmarks]'"
)


@pytest.fixture(scope="module")
def model():
    """Random weights so large that a scaling changes which choice is likeliest."""
    return tiny_model(vocab_size=4096, max_position_embeddings=128, initializer_range=0.3)


@pytest.fixture
def no_harness(monkeypatch):
    monkeypatch.setitem(sys.modules, "longrope_lab.measure.harness", None)


@pytest.fixture(params=[pytest.param("harness", marks=needs_harness), "plain"])
def either(request):
    """With the harness, and without it."""
    if request.param == "plain":
        request.getfixturevalue("no_harness")
    return request.param


def sentence(rng, words):
    return " ".join(rng.choice(WORDS, words))


def own_task(count=16, metric="acc", name="mine", **options):
    """Choices of as many words, so that their number does not decide."""
    rng = np.random.default_rng(1)
    questions = tuple(
        Question(
            sentence(rng, rng.integers(5, 60)),
            tuple(sentence(rng, 2 + n % 3) for _ in range(4)),
            int(rng.integers(4)),
        )
        for n in range(count)
    )
    return BenchmarkTask(name, metric=metric, questions=questions, **options)


@torch.no_grad()
def log_likelihood(model, ids, start):
    """Of the tokens from `start` on, from all logits of one forward pass."""
    logits = model(torch.tensor([ids])).logits[0].double()
    return sum(torch.log_softmax(logits[t - 1], -1)[ids[t]].item() for t in range(start, len(ids)))


def by_brute_force(model, tokenizer, task, scaling=None):
    scores = []
    for q in task.questions:
        with nullcontext() if scaling is None else apply_scaling(model, scaling):
            context = tokenizer(q.context)["input_ids"]
            whole = [tokenizer(q.context + " " + choice)["input_ids"] for choice in q.choices]
            values = [log_likelihood(model, ids, len(context)) for ids in whole]
            if task.metric == "acc_mutual_info":
                alone = [
                    [tokenizer.bos_token_id, *tokenizer(" " + choice)["input_ids"]]
                    for choice in q.choices
                ]
                values = [
                    v - log_likelihood(model, ids, 1) for v, ids in zip(values, alone, strict=True)
                ]
        if task.metric == "acc_norm":
            values = [v / len(choice) for v, choice in zip(values, q.choices, strict=True)]
        scores.append(float(values.index(max(values)) == q.answer))
    return scores


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_those_of_a_forward_pass_a_choice(model, tokenizer, either, metric):
    task = own_task(8, metric)
    # Each with each answer in turn, so that scores tell which choice was taken.
    task = replace(
        task, questions=tuple(replace(q, answer=a) for q in task.questions for a in range(4))
    )
    scalings = {"model": None, "pi": rope_scaling(rope_spec(model), "pi", 2048)}
    table = benchmarks(model, tokenizer, [task], scalings)
    expected = {
        name: by_brute_force(model, tokenizer, task, scaling) for name, scaling in scalings.items()
    }
    for name in scalings:
        assert table[table["scaling"] == name]["score"].tolist() == expected[name]
    assert expected["model"] != expected["pi"]  # or the scaling need not have been in place
    assert sum(expected["model"]) == 8


@needs_harness
def test_metrics_differ_and_an_accuracy_is_the_mean_of_scores(model, tokenizer):
    tables = {m: benchmarks(model, tokenizer, [own_task(metric=m)]) for m in METRICS}
    assert len({tuple(table["score"]) for table in tables.values()}) == 3
    for metric, table in tables.items():
        right = int(sum(by_brute_force(model, tokenizer, own_task(metric=metric))))
        (row,) = benchmark_summary(table).itertuples()
        assert (row.task, row.metric, row.questions, row.accuracy) == (
            "mine",
            metric,
            16,
            right / 16,
        )
        assert (row.low, row.high) == wilson_interval(right, 16)


def test_rows_come_in_the_order_asked_for(model, tokenizer, either):
    tasks = [own_task(5, name="b"), own_task(7, "acc_norm", "a")]
    spec = rope_spec(model)
    scalings = {"yarn": rope_scaling(spec, "yarn", 512), "alone": None}
    table = benchmarks(model, tokenizer, tasks, scalings, limit=6)
    assert list(table) == COLUMNS
    expected = [
        (name, task.name, 0, task.metric, str(q))
        for name in scalings
        for task, count in zip(tasks, (5, 6), strict=True)
        for q in range(count)
    ]
    assert list(table.drop(columns="score").itertuples(index=False, name=None)) == expected


@pytest.mark.parametrize("end", ["", " ", "\n", " \n\n"])
def test_the_whitespace_that_ends_a_context_belongs_to_the_choice(tokenizer, end):
    ids, start = _encode(tokenizer, "He saw that" + end, "it was")
    assert ids == tokenizer(f"He saw that{end} it was")["input_ids"]
    assert (
        tokenizer.decode(ids[:start]) == "He saw that"
        and tokenizer.decode(ids[start:]) == end + " it was"
    )


@needs_harness
@pytest.mark.parametrize("context", ["He saw that", "He saw ", "He saw that\n\n", "Q: what?\nA:"])
def test_texts_are_tokenised_as_the_harness_does(model, tokenizer, context):
    from longrope_lab.measure.harness import Harness

    before, choice = Harness(model, tokenizer, 1, 128, 0)._model._encode_pair(context, " it was")
    assert _encode(tokenizer, context, "it was") == (before + choice, len(before))


def spy(model):
    """The token ids of each forward pass, in turn."""
    seen = SimpleNamespace(ids=[])
    hook = model.model.embed_tokens.register_forward_pre_hook(
        lambda _, given: seen.ids.append(given[0].tolist())
    )
    seen.remove = hook.remove
    return seen


# --- scaling in place, and out again --------------------------------------------------------------


def test_the_scaling_is_in_place_while_asked_and_gone_after(model, tokenizer, either):
    rotary, in_place = model.model.rotary_emb, []
    hook = model.model.embed_tokens.register_forward_pre_hook(
        lambda *_: in_place.append("forward" in vars(rotary))
    )
    try:
        benchmarks(
            model, tokenizer, [own_task(3)], {"ntk": rope_scaling(rope_spec(model), "ntk", 512)}
        )
        assert in_place and all(in_place)
        assert "forward" not in vars(rotary)
        in_place.clear()
        benchmarks(model, tokenizer, [own_task(3)])
        assert in_place and not any(in_place)
    finally:
        hook.remove()


def test_the_scaling_is_gone_after_an_error(model, tokenizer, either, monkeypatch):
    monkeypatch.setattr(model, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        benchmarks(
            model, tokenizer, [own_task(3)], {"pi": rope_scaling(rope_spec(model), "pi", 512)}
        )
    assert "forward" not in vars(model.model.rotary_emb)


def test_a_schedule_is_fixed_to_the_set_of_the_window(model, tokenizer, either):
    spec, task = rope_spec(model), own_task()
    pi = rope_scaling(spec, "pi", 2048)
    stages = RopeSchedule.by_length([RopeScaling(spec, np.ones(8), 128), pi])
    table = benchmarks(model, tokenizer, [task], {"stages": stages})
    assert table["score"].tolist() == by_brute_force(model, tokenizer, task)
    table = benchmarks(model, tokenizer, [task], {"stages": stages}, max_length=129)
    assert table["score"].tolist() == by_brute_force(model, tokenizer, task, pi)


@needs_harness
def test_the_tokenizer_stays_without_padding(model, tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    benchmarks(model, bare, [own_task(2)])
    assert bare.pad_token is None


# --- the harness's tasks --------------------------------------------------------------------------


def test_the_papers_tasks_have_its_shots():
    columns = experiment("T8").columns
    assert [task.shots for task in PAPER_TASKS] == [
        int(re.findall(r"(\d+)-shot", c)[0]) for c in columns
    ]
    assert all(task.questions is None for task in PAPER_TASKS)


@pytest.fixture
def few_tasks(monkeypatch):
    """The harness with the paper's tasks alone: it takes long to list its thousands of others."""
    import lm_eval

    from longrope_lab.measure import harness

    folder = Path(lm_eval.__file__).parent / "tasks"
    paths = [str(folder / name) for name in ("arc", "hellaswag", "mmlu", "truthfulqa")]
    manager = partial(harness.TaskManager, include_defaults=False, include_path=paths)
    monkeypatch.setattr(harness, "TaskManager", manager)
    return manager


@needs_harness
def test_the_harness_knows_the_papers_tasks(few_tasks):
    assert {task.name for task in PAPER_TASKS} <= set(few_tasks().all_tasks)


@needs_harness
def test_without_a_network_the_error_names_ways_out(few_tasks, model, tokenizer):
    with pytest.raises(
        ValueError,
        match=r"'arc_challenge' cannot be had.*hub.*\.jsonl.*from_corpus.*lab\.perplexity",
    ):
        benchmarks(model, tokenizer, ["arc_challenge"])
    with pytest.raises(ValueError, match=r"unknown task 'hellaswagg': did you mean 'hellaswag'\?"):
        benchmarks(model, tokenizer, ["hellaswagg"])


def test_without_the_harness_the_error_names_the_line_that_installs_it(
    no_harness, model, tokenizer
):
    install = r"pip install 'longrope_lab\[benchmarks\]', or pip install lm_eval"
    with pytest.raises(ValueError, match=rf"arc_challenge, hellaswag: .*{install}"):
        benchmarks(model, tokenizer, ["arc_challenge", own_task(), "hellaswag"])
    with pytest.raises(ValueError, match=rf"mine: .*shots.*{install}"):
        benchmarks(model, tokenizer, [own_task(shots=1)])


@needs_harness
def test_tasks_of_several_parts_keep_all_questions(monkeypatch, model, tokenizer):
    from longrope_lab.measure import harness

    first, second = own_task(5), replace(own_task(9), questions=own_task(9).questions[5:])
    parts = {"part_a": first, "part_b": second}
    loaded = {
        name: harness._own(part, part.questions)["tasks"]["mine"] for name, part in parts.items()
    }
    monkeypatch.setattr(harness.Harness, "_from_hub", lambda self, name: {"tasks": loaded})
    table = benchmarks(model, tokenizer, ["whole"])
    assert table["question"].tolist() == [
        *(f"part_a {i}" for i in range(5)),
        *(f"part_b {i}" for i in range(4)),
    ]
    assert table["score"].tolist() == by_brute_force(model, tokenizer, own_task(9))
    assert benchmarks(model, tokenizer, ["whole"], limit=2)["question"].tolist() == [
        "part_a 0", "part_a 1", "part_b 0", "part_b 1"
    ]  # fmt: skip


@needs_harness
def test_every_scaling_sees_the_same_shots(model, tokenizer):
    task = own_task(8, shots=2)
    seen = spy(model)
    scalings = {"alone": None, "pi": rope_scaling(rope_spec(model), "pi", 512)}
    try:
        benchmarks(model, tokenizer, [task], scalings, max_length=400)
        alone, scaled = np.split(np.array(seen.ids, dtype=object), 2)
        assert alone.tolist() == scaled.tolist()
        first = list(seen.ids)
        seen.ids.clear()
        benchmarks(model, tokenizer, [task], scalings, max_length=400, seed=1)
        assert seen.ids != first
    finally:
        seen.remove()
    prompts = [tokenizer.decode(ids) for batch in first for ids in batch]
    for q in task.questions:
        asked = [p for p in prompts if q.context in p.split("\n\n")[-1]]
        assert asked and all(p.count(q.context) == 1 for p in asked)  # none is its own example
    assert all(p.count("\n\n") == 2 for p in prompts)


@needs_harness
def test_written_answers_and_unknown_metrics_are_refused(monkeypatch, model, tokenizer):
    from longrope_lab.measure import harness

    written = SimpleNamespace(OUTPUT_TYPE="generate_until", config=SimpleNamespace(task="gsm8k"))
    monkeypatch.setattr(harness.Harness, "_from_hub", lambda self, name: {"tasks": {name: written}})
    with pytest.raises(ValueError, match="gsm8k asks for written answers"):
        benchmarks(model, tokenizer, ["gsm8k"])
    monkeypatch.setattr(
        harness.Harness,
        "_from_hub",
        lambda self, name: harness._own(own_task(3), own_task(3).questions),
    )
    with pytest.raises(
        ValueError, match=r"unknown metric of mine 'acc_norm': did you mean 'acc'\? Known: acc$"
    ):
        benchmarks(model, tokenizer, [BenchmarkTask("theirs", metric="acc_norm")])


@needs_harness
@pytest.mark.parametrize("value", [float("nan"), (1, 0), None])
def test_a_score_that_is_no_number_is_refused(value):
    from longrope_lab.measure import harness

    with pytest.raises(ValueError, match=r"mine: its metric 'acc' gives .* not one number"):
        harness._score({"acc": value}, own_task(2))


# --- bad input ------------------------------------------------------------------------------------


def test_a_question_longer_than_the_window_is_refused(model, tokenizer, either):
    long = Question("the light " * 70, ("again", "out"), 0)
    task = BenchmarkTask("mine", questions=(*own_task(2).questions, long))
    count = len(tokenizer(long.context + " again")["input_ids"])
    assert count > 128
    pi = {"pi": rope_scaling(rope_spec(model), "pi", 512)}
    with pytest.raises(ValueError, match=rf"has {count} tokens .* and 128 are allowed"):
        benchmarks(model, tokenizer, [task], pi)
    assert "forward" not in vars(model.model.rotary_emb)
    assert len(benchmarks(model, tokenizer, [task], limit=2)) == 2
    assert len(benchmarks(model, tokenizer, [task], max_length=count)) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": []}, "name at least one"),
        ({"tasks": [own_task(), own_task()]}, "each once"),
        ({"tasks": "mmlu"}, "in a list, even one"),
        ({"limit": 0}, "limit is 0: it must be a whole number from 1"),
        ({"limit": 1.5}, "limit is 1.5: it must be a whole number from 1"),
        ({"limit": math.nan}, "limit is nan: it must be a whole number from 1"),
        ({"batch_size": 0}, "batch_size is 0: it must be a whole number from 1"),
        ({"batch_size": None}, "batch_size is None: it must be a whole number from 1"),
        ({"max_length": -1}, "max_length is -1: it must be a whole number from 1"),
        ({"max_length": 0}, "max_length is 0: it must be a whole number from 1"),
        ({"scalings": ["yarn"]}, "scalings is a list"),
    ],
)
def test_settings_that_ask_nothing_are_refused(model, tokenizer, options, words):
    with pytest.raises(ValueError, match=words):
        benchmarks(model, tokenizer, **{"tasks": [own_task(2)], **options})


def test_tasks_that_cannot_be_asked_are_refused():
    with pytest.raises(ValueError, match="has 3 questions: 3 shots need as many others"):
        own_task(3, shots=3)
    for shots in (-1, 2.5, math.nan, "five"):
        with pytest.raises(ValueError, match=f"shots is {shots}: it counts solved questions, so a"):
            BenchmarkTask("arc_challenge", shots)
    for answer in (-1, 2, 0.5, math.nan, None):
        with pytest.raises(ValueError, match=f"answer is {answer}: it is the index of a choice"):
            Question("He saw that", ("it was good", "nothing"), answer)
    with pytest.raises(ValueError, match=r"unknown metric 'acc_nrom': did you mean 'acc_norm'\?"):
        own_task(metric="acc_nrom")


# --- questions from a file ------------------------------------------------------------------------


def line(**values):
    return json.dumps(
        {"question": "He saw that", "choices": ["it was good", "nothing"], "answer": 0} | values
    )


def test_a_file_of_questions_is_a_task(tmp_path, model, tokenizer, either):
    task = own_task(6, "acc_norm")
    path = tmp_path / "mine.jsonl"
    rows = [
        {"context": q.context, "choices": q.choices, "answer": q.answer} for q in task.questions
    ]
    path.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    assert BenchmarkTask.from_file(path) == task
    before = sorted(tmp_path.iterdir())
    table = benchmarks(model, tokenizer, [str(path)])
    assert table["score"].tolist() == by_brute_force(model, tokenizer, task)
    assert set(table["task"]) == {"mine"}
    assert sorted(tmp_path.iterdir()) == before  # nothing is written beside it


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "line 1 is not JSON"),
        (line() + "\n[1]", r"line 2 is not a question.*none of these"),
        (line(question=None), "is not a question"),
        (line(choices="ab"), "is not a question"),
        (line(choices=["a", 1]), "is not a question"),
        (line(answer="0"), r"whole number from 0; it has \['answer', 'choices', 'question'\]"),
        (line(answer=True), "is not a question"),
        (line(answer=2), "line 1: answer is 2.* 0 to 1"),
        (line(answer=-1), "answer is -1"),
        (line(choices=["a"]), "it has 1 choices"),
        (line(choices=["a", " "]), "is empty"),
        (line(question="\n"), "is empty"),
        ("\n", "holds no questions"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, content, words):
    path = tmp_path / "mine.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read_questions(path)


def test_a_file_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of questions at .*gone\.jsonl"):
        BenchmarkTask.from_file(tmp_path / "gone.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(
        line(question="café").encode().replace(b"\\u00e9", b"\xe9")
    )
    with pytest.raises(ValueError, match="not UTF-8"):
        read_questions(tmp_path / "latin.jsonl")


# --- questions made from a corpus -----------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    """Two documents of numbered sentences, most of one length."""
    for title in ("first", "second"):
        sentences = [
            f"In {title} the sentence of number {n} says what came before it."
            for n in range(100, 180)
        ]
        sentences[50] = "Short."
        sentences[60] = (
            sentences[60][:-1]
            + " and goes on for very much longer than all the others in this place do."
        )
        (tmp_path / f"{title}.txt").write_text("\n".join(sentences), encoding="utf-8")
    return tmp_path


def number(text):
    return int(re.findall(r"number (\d+)", text)[-1])


def test_the_right_choice_follows_in_the_text_and_the_wrong_ones_do_not(corpus, tokenizer):
    made = continuation_questions(corpus, tokenizer, count=140, passage_tokens=60, choices=3)
    assert len(made) == len({q.context for q in made}) == 140
    assert {q.answer for q in made} == {0, 1, 2}
    for q in made:
        last, right = q.context.rsplit("In ", 1)[-1], q.choices[q.answer]
        assert number(right) - number(last) == (2 if last.endswith("Short.") else 1)
        assert len(tokenizer(q.context)["input_ids"]) <= 60
        assert len(set(q.choices)) == 3
        first = int(re.findall(r"number (\d+)", q.context)[0])
        assert (
            first > 100
        )  # the document's first sentence begins no passage, which might be cut short there
        for wrong in set(q.choices) - {right}:
            assert wrong.split()[1] == right.split()[1]  # the same document
            assert not first - NEAR <= number(wrong) <= number(right) + NEAR
            assert abs(len(wrong) - len(right)) <= 0.1 * len(right)
    assert made == continuation_questions(
        corpus, tokenizer, count=140, passage_tokens=60, choices=3
    )
    assert made != continuation_questions(
        corpus, tokenizer, count=140, passage_tokens=60, choices=3, seed=1
    )


def test_too_little_text_for_so_many_questions(corpus, tokenizer):
    with pytest.raises(
        ValueError,
        match=r"gives at most \d+ questions after passages of 60 tokens, and 500 were asked for",
    ):
        continuation_questions(corpus, tokenizer, count=500, passage_tokens=60)


@pytest.mark.parametrize(
    ("name", "least", "values"),
    [("count", 1, (0, 2.5)), ("choices", 2, (1, math.nan)), ("passage_tokens", 16, (3, 20.5))],
)
def test_numbers_that_make_no_question(name, least, values, corpus, tokenizer):
    for value in values:
        message = f"{name} is {value}: it must be a whole number from {least}"
        with pytest.raises(ValueError, match=message):
            continuation_questions(corpus, tokenizer, **{name: value})


def test_questions_from_the_packaged_corpus_stand_in_its_text(tokenizer):
    task = BenchmarkTask.from_corpus("kjv", tokenizer, count=5, passage_tokens=96)
    assert (task.name, task.shots, task.metric) == ("continuations", 0, "acc_mutual_info")
    whole = " ".join(" ".join(text.split()) for _, text in iterate_texts("kjv", "test"))
    for q in task.questions:
        assert len(q.choices) == 4 and all(choice in whole for choice in q.choices)
        follows = [" ".join(f"{q.context} {choice}".split()) in whole for choice in q.choices]
        assert follows.index(True) == q.answer and sum(follows) == 1


# --- tables and figures ---------------------------------------------------------------------------


def scores(**by_scaling):
    rows = [
        (name, "mine", 0, "acc", str(q), float(score))
        for name, values in by_scaling.items()
        for q, score in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_scores_between_right_and_wrong_get_a_bootstrap_interval():
    table = scores(none=[0, 1, 1, 0, 1], mc2=[0.25, 0.5, 1, 0, 0.5])
    summary = benchmark_summary(table).set_index("scaling")
    assert tuple(summary.loc["none", ["accuracy", "low", "high"]]) == (0.6, *wilson_interval(3, 5))
    assert tuple(summary.loc["mc2", ["accuracy", "low", "high"]]) == (
        0.45,
        *bootstrap_interval([0.25, 0.5, 1, 0, 0.5]),
    )


def test_paired_scores_compare_question_by_question():
    table = scores(none=[0, 1, 1, 0, 1, 1], pi=[0, 0, 0, 1, 1, 0], same=[0, 1, 1, 0, 1, 1])
    shuffled = table.sample(frac=1, random_state=0)
    shuffled = pd.concat([shuffled[shuffled["scaling"] == name] for name in ("none", "pi", "same")])
    paired = paired_scores(shuffled, "none")
    assert paired["scaling"].tolist() == ["pi", "same"]
    pi, same = paired.itertuples()
    assert (pi.baseline, pi.task, pi.questions, pi.better, pi.worse) == ("none", "mine", 6, 1, 3)
    assert pi.difference == pytest.approx(-2 / 6)
    assert pi.low < pi.difference < pi.high and pi.low >= -1
    assert (same.difference, same.low, same.high, same.better, same.worse) == (0, 0, 0, 0, 0)


def test_paired_scores_need_the_same_questions():
    table = scores(none=[0, 1, 1], pi=[0, 1])
    with pytest.raises(ValueError, match="'pi' and 'none' were not asked the same questions"):
        paired_scores(table, "none")
    with pytest.raises(
        ValueError, match=r"unknown scaling of this table 'non': did you mean 'none'\?"
    ):
        paired_scores(table, "non")


def test_benchmark_scores_draw_accuracies_and_differences():
    table = scores(none=[0, 1, 1, 0], pi=[0, 0, 1, 0], yarn=[1, 1, 1, 0])
    both = pd.concat([table, table.assign(task="other", score=1 - table["score"])])
    figure = plots.benchmark_scores(
        benchmark_summary(both), paired_scores(both, "none"), {"mine": 0.25}
    )
    assert len(figure.axes) == 4
    first, difference, other, last = figure.axes
    assert first.get_title() == "mine\n0-shot, acc, 4 questions"
    assert other.get_title() == "other\n0-shot, acc, 4 questions"
    for ax in (difference, last):
        assert ax.get_title().startswith("minus the accuracy with no scaling")
    assert "accuracy (%)" in other.get_xlabel() and "points" in last.get_xlabel()
    marked = [m for m in first.get_lines() if m.get_marker() in ("x", "s", "D")]
    assert {m.get_ydata()[0]: m.get_xdata()[0] for m in marked} == {0: 50, 1: 25, 2: 75}
    dashed = [m for m in first.get_lines() if m.get_linestyle() not in ("-", "None")]
    assert [m.get_xdata()[0] for m in dashed] == [25]
    marked = [m for m in difference.get_lines() if m.get_marker() in ("s", "D")]
    assert {m.get_ydata()[0]: m.get_xdata()[0] for m in marked} == {1: -25, 2: 25}
    assert [t.get_text() for t in first.get_yticklabels()] == ["no scaling", "PI", "YaRN"]
    assert len(plots.benchmark_scores(benchmark_summary(both)).axes) == 2


@pytest.mark.parametrize(("template", "before"), [("$A {0}", 0), ("{0} $A {0}", 1)])
def test_a_tokenizer_that_ends_each_text_ends_none_that_is_scored(tokenizer, template, before):
    """Neither between context and choice, nor after the choice."""
    ids, start = _encode(ending(tokenizer, template), "He saw that", "it was")
    plain, at = _encode(tokenizer, "He saw that", "it was")
    assert (ids, start) == ([tokenizer.eos_token_id] * before + plain, at + before)
