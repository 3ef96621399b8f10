"""Plans as data: what they may be, what is made of them, and the documents they take."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from conftest import WINDOW, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import (
    DOWN,
    EVOLUTION,
    GRADIENT,
    LONG,
    PAPERS,
    RECIPE,
    Words,
    run,
    same_weights,
    weights,
)

import longrope_lab as lab
from longrope_lab.extend.extended import Extended
from longrope_lab.extend.finetune import finetune
from longrope_lab.extend.plan import Plan
from longrope_lab.extend.progressive import progressive
from longrope_lab.extend.ready import PLANS, plan_to
from longrope_lab.extend.recipe import RECIPES, Recipe
from longrope_lab.extend.stages import FineTune, Formula, Recover, Search
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.searches import Evolution, Gradient, Random
from longrope_lab.texts.corpora import load_corpus
from longrope_lab.texts.tokens import Document

# --- what a plan may be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plan(()), "needs at least one stage"),
        (
            lambda: Plan((Search(256), Search(128))),
            "Search at 128 tokens follows one at 256: lengths must rise",
        ),
        (lambda: Plan((Search(128), Search(128))), "lengths must rise"),
        (
            lambda: Plan((Search(128), Formula(128))),
            "Formula at 128 tokens follows one at 128: lengths must rise",
        ),
        (
            lambda: Plan((Search(128), Search(256), FineTune(256), FineTune(128))),
            "FineTune at 128 tokens follows one at 256: lengths must not fall",
        ),
        (
            lambda: Plan((Search(128), FineTune(256))),
            r"no Search or Formula for that length .* there are scalings for \[128\]",
        ),
        (lambda: Plan((FineTune(128),)), "there are scalings for no length"),
        (
            lambda: Plan((Recover(64),)),
            "Recover at 64 tokens: it needs a Search or Formula for longer texts",
        ),
        (lambda: Plan((Search(128), Recover(128))), "needs a Search or Formula for longer texts"),
        (lambda: Plan((Search(128), Recover(64), Recover(64))), "in the plan twice"),
        (
            lambda: Plan((Search(128), Recover(64), FineTune(128))),
            "FineTune at 128 tokens follows a recovery",
        ),
        (lambda: Plan((Search(128), Recover(64), Search(256))), "recoveries come last"),
        (lambda: Plan((Search(128), Recover(64), Formula(256))), "recoveries come last"),
        (lambda: Plan((Search(128), 4096)), "stage 1 of the plan is 4096: make stages of Formula"),
        (lambda: Plan(("yarn",)), "stage 0 of the plan is 'yarn'"),
        (lambda: Formula(128, "yarm"), "unknown method of Formula 'yarm': did you mean 'yarn'"),
        (lambda: Formula(128, None), "unknown method of Formula None: did you mean 'none'"),
        (lambda: Formula(1), "length of Formula is 1: it must be a whole number from 2"),
        (lambda: Search(128, "yarm"), "unknown method of Search 'yarm': did you mean 'yarn'"),
        (lambda: Search(128, "gradent"), "did you mean 'gradient'"),
        (lambda: Search(128, "pi", attention_factors=(1.0, 1.2)), "'pi' is a formula"),
        (
            lambda: Search(128, "pi", keep_rotations=32),
            r"keep_rotations is for a search, and 'pi' is a formula: .* Formula\(128, 'pi'\)",
        ),
        (
            lambda: Search(128, "pi", keep_range=True),
            r"keep_range is for a search, and 'pi' is a formula",
        ),
        (lambda: Search(128, keep_range=1), "keep_range is 1: it must be True or False"),
        (lambda: Search(128, None), r"method of Search is None: pass .*Gradient\(steps=48\)"),
        (lambda: Search(128, Gradient), "method of Search is <class .*: pass the settings"),
        (lambda: Search(128, keep_rotations=0), "keep_rotations is 0: it counts turns"),
        (lambda: Search(128.5), "length of Search is 128.5: it must be a whole number from 2"),
        (lambda: Search("long"), "length of Search is long: it must be a whole number from 2"),
        (lambda: Search(128, documents=0), "documents of Search is 0"),
        (lambda: Search(128, on_top_of=1), "on_top_of of Search is 1"),
        (
            lambda: Plan((Search(128), Search(256, on_top_of=64))),
            r"Search at 256 tokens, on top of 64: name the length .*; these are \[128\]",
        ),
        (
            lambda: Plan((Search(128), Formula(256, on_top_of=64))),
            "Formula at 256 tokens, on top of 64: name the length",
        ),
        (lambda: Plan((Search(128, on_top_of=128),)), "these are none"),
        (
            # Weights that were trained at the factors for 256 tokens are not those for 128 any
            # more.
            lambda: Plan((Search(128), Search(256), FineTune(256), Search(512, on_top_of=128))),
            r"no shorter than the last fine-tuning; these are \[256\]",
        ),
        (lambda: Recover(1), "length of Recover is 1"),
        (lambda: Recover(64, "pi"), "unknown method of Recover 'pi': Known: evolution, gradient"),
        (lambda: Recover(64, method=None), "method of Recover is None: pass the settings"),
        (
            lambda: Recover(64, free_attention_factor=(1.0, 1.5)),
            r"free_attention_factor of Recover is \(1.0, 1.5\): it must be True or False",
        ),
        (lambda: FineTune(128, "lama2"), "did you mean 'llama2'"),
        (lambda: FineTune(128, recipe=5), "recipe is 5: pass a Recipe, or one of RECIPES"),
        (lambda: FineTune(128, recipe=None), "recipe is None: pass a Recipe"),
        (lambda: FineTune(128, segment=256), "segment of 256 tokens is longer than the 128"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_when_it_is_written(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "expected", "warning"),
    [
        (
            lambda: Search(128, "yarn"),
            Formula(128, "yarn"),
            r"^Search\(128, 'yarn'\) is now Formula\(128, 'yarn'\)",
        ),
        (
            lambda: Search(256, "pi", on_top_of=128),
            Formula(256, "pi", on_top_of=128),
            r"is now Formula\(256, 'pi'\)",
        ),
        (
            lambda: Search(128, "gradient"),
            Search(128, Gradient()),
            r"^method='gradient' of Search is now method=Gradient\(\)",
        ),
        (
            lambda: Recover(64, "random"),
            Recover(64, Random()),
            r"^method='random' of Recover is now method=Random\(\)",
        ),
        (
            lambda: FineTune(128, "small"),
            FineTune(128, RECIPES["small"]),
            r"^recipe='small' of FineTune is now recipe=RECIPES\['small'\]",
        ),
    ],
)
def test_names_of_the_release_before_stand_for_settings(make, expected, warning):
    with pytest.warns(FutureWarning, match=warning) as warned:
        assert make() == expected
    assert [w.filename for w in warned] == [__file__]  # it is the caller's line that is shown


def test_the_tokens_of_a_step_by_their_old_name():
    stage = FineTune(128, RECIPE)
    with pytest.warns(FutureWarning, match="FineTune.tokens_a_step is now .*tokens_per_step"):
        assert stage.tokens_a_step == stage.tokens_per_step == 256


def test_stages_are_values():
    """Copies are equal, a length out of an array is the same plan in the folder's words, too."""
    assert repr(Search(np.int64(128))) == repr(Search(128))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pickle.loads(pickle.dumps(PAPERS)) == PAPERS == copy.deepcopy(PAPERS)
        longer = dataclasses.replace(PAPERS.stages[1], length=200)
    assert longer == Search(200, GRADIENT, documents=3, attention_factors=(1.0, 1.4))
    assert Plan(Search(128)) == Plan((Search(128),)) == Plan([Search(128)])


def test_a_plan_prints_what_it_does():
    last = Formula(300, "pi", on_top_of=256)
    mixed = FineTune(256, dataclasses.replace(RECIPE, batch=1, short_share=0.5), segment=200)
    plan = Plan((*PAPERS.stages[:5], mixed, last, PAPERS.stages[6]))
    assert (
        str(plan)
        == """\
Plan of 8 stages:
  00_search_128    evolution search on 2 documents
  01_search_192    gradient search on 3 documents
  02_finetune_128  3 steps of 2 segments of 128 tokens
  03_finetune_192  3 steps of 2 segments of 64 tokens
  04_search_256    gradient search on 2 documents
  05_finetune_256  3 steps of 1 segment of 200 tokens, 50 % read short
  06_formula_300   pi, a formula
  07_recover_128   gradient search on 1 document, m free"""
    )
    assert repr(plan) == str(plan)
    assert repr(last) == "Formula(length=300, method='pi', on_top_of=256)"  # as in plan.json


def test_what_a_plan_holds():
    assert PAPERS.trainings == PAPERS.stages[2:4]
    assert PAPERS.searches == (*PAPERS.stages[:2], *PAPERS.stages[4:])
    assert PAPERS.reach == LONG
    assert PAPERS.by_formula("pi").searches == ()


def test_plans_and_recipes_do_without_the_trainer():
    """transformers' Trainer takes seconds to import, and whoever looks at a plan trains nothing."""
    code = (
        "import sys, longrope_lab as lab; lab.PLANS, lab.Plan, lab.RECIPES, lab.FineTune; "
        "print([name for name in sys.modules if name.startswith('transformers.trainer')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the plans that are ready ---------------------------------------------------------------------


def test_the_papers_plans_are_what_section_4_1_says():
    llama = PLANS["paper_llama2"].stages
    assert [(type(s).__name__, s.length // 1024) for s in llama] == [
        ("Search", 128),
        ("Search", 256),
        ("FineTune", 128),
        ("FineTune", 256),
        ("Search", 2048),
        ("Recover", 4),
        ("Recover", 8),
    ]
    assert [s.recipe.steps for s in llama if isinstance(s, FineTune)] == [400, 600]
    assert all(
        (s.recipe.batch, s.recipe.learning_rate) == (32, 2e-5)
        for s in llama
        if isinstance(s, FineTune)
    )
    assert llama[0].method == Evolution() and (llama[0].documents, llama[4].documents) == (5, 3)
    assert llama[4].method.population == 32
    mistral = [s for s in PLANS["paper_mistral"].stages if isinstance(s, FineTune)]
    assert all(
        (s.recipe.batch, s.recipe.learning_rate, s.recipe.decay) == (64, 1e-6, "constant")
        for s in mistral
    )
    assert all((s.recipe.steps, s.segment) == (400, 16_384) for s in mistral)


def test_a_plan_to_any_length():
    plan = plan_to(64, 128, 512, recipe=RECIPE)
    kinds = [(type(stage).__name__, stage.length) for stage in plan.stages]
    steps = [("Search", 128), ("FineTune", 128), ("Search", 512), ("FineTune", 512)]
    assert kinds == [*steps, ("Recover", 64)]
    assert {stage.recipe for stage in plan.trainings} == {RECIPE}
    assert not plan.stages[-1].free_attention_factor  # so a config can hold both sets
    plan.check(RopeSpec(64, 64, base=10_000.0))
    for lengths, message in {
        (64,): "length 64 is not above the model's window of 64 tokens, so .* such as 128$",
        (256, 32): "length 32 is not above",
        (256, 128): "lengths must rise",
        (): "needs a Search or Formula",
    }.items():
        with pytest.raises(ValueError, match=message):
            plan_to(64, *lengths)


def test_every_known_plan_fits_its_model():
    windows = {"paper_llama2": 4096, "paper_mistral": 8192, "smollm2": 8192, "lab": 512}
    assert windows.keys() <= PLANS.keys()
    for name, plan in PLANS.items():
        plan.check(RopeSpec(64, windows.get(name, 512), base=10_000.0))


def test_the_baseline_of_a_plan_is_fine_tuned_the_same_way():
    assert PAPERS.by_formula("pi") == Plan(
        (
            Formula(2 * WINDOW, "pi"),
            Formula(3 * WINDOW, "pi"),
            FineTune(2 * WINDOW, RECIPE),
            FineTune(3 * WINDOW, dataclasses.replace(RECIPE, lora_rank=2), segment=WINDOW),
            Formula(LONG, "pi"),
        )
    )
    with pytest.raises(ValueError, match="did you mean 'yarn'"):
        PAPERS.by_formula("yarm")


def test_the_documents_that_a_plan_searches_on(tmp_path, cache):
    """Of each length as many as the stage takes, in the corpus's order, none twice.

    None are for a formula or a training.
    """
    (tmp_path / "texts").mkdir()
    for name, words in {"a": 100, "b": 300, "c": 150, "d": 500, "e": 120, "f": 90}.items():
        (tmp_path / "texts" / name).mkdir()
        (tmp_path / "texts" / name / "text.txt").write_text("word " * words)
    plan = Plan(
        (
            Search(128, EVOLUTION, documents=2),
            Formula(256, "yarn"),
            FineTune(256, RECIPE),
            Search(400, GRADIENT, documents=1),
            Recover(64, DOWN, documents=3),
        )
    )
    source = tmp_path / "texts/*/*.txt"
    found = plan.search_documents(source, Words())
    assert [(doc.title, len(doc)) for doc in found] == [("text", n) for n in (300, 150, 500, 100)]
    assert plan.by_formula("pi").search_documents(source, Words()) == []
    longer = Plan((*plan.stages[:3], Search(500, GRADIENT, documents=2)))
    with pytest.raises(
        ValueError, match=r"^Search at 500 tokens: 1 of the 6 documents of .* 2 were asked for"
    ):
        longer.search_documents(source, Words())


def test_documents_to_train_on_are_not_those_searched(tmp_path, cache):
    """As notebook 05 had it: the same documents, in the corpus's order."""
    for split, texts in {
        "search": {"a": 100, "b": 300, "c": 150},
        "train": {"c": 400, "f": 90, "b": 500, "g": 600, "e": 120, "a": 70},
    }.items():
        for name, words in texts.items():
            file = tmp_path / split / f"{name}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text("word " * words)
    plan = Plan((Search(128, EVOLUTION, documents=1), Recover(64, DOWN, documents=2)))
    corpora = {"search": tmp_path / "search", "train": tmp_path / "train"}
    found = plan.documents(Words(), **corpora, min_tokens=80, limit=5)
    searched = {doc.title for doc in plan.search_documents(corpora["search"], Words())}
    docs = load_corpus(corpora["train"], Words(), split="train", min_tokens=80, limit=5)
    expected = [doc for doc in docs if doc.title not in searched]
    assert list(found) == ["train_docs", "search_docs"]
    assert searched == {"a", "b"} == {doc.title for doc in found["search_docs"]}
    names = [(doc.title, len(doc)) for doc in found["train_docs"]]
    assert names == [(doc.title, len(doc)) for doc in expected]
    assert names == [("c", 400), ("e", 120), ("f", 90), ("g", 600)]
    everything = plan.documents(Words(), **corpora)["train_docs"]
    assert [doc.title for doc in everything] == ["c", "e", "f", "g"]


def corpus_of(*lengths):
    """Documents whose tokens are all different, so that a cut can be seen."""
    ends = np.cumsum([0, *lengths])
    return [Document(str(n), np.arange(a, b)) for n, (a, b) in enumerate(itertools.pairwise(ends))]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=8),
    wanted=st.lists(st.integers(1, 3), min_size=3, max_size=3),
)
def test_a_corpus_is_divided_and_nothing_is_lost_or_used_twice(lengths, wanted):
    one, two, three = wanted
    plan = Plan(
        (
            Search(128, EVOLUTION, documents=one),
            Search(300, GRADIENT, documents=two),
            Recover(64, DOWN, documents=three),
        )
    )
    docs = corpus_of(*lengths)
    try:
        parts = plan.divided(docs)
    except ValueError as error:
        found = re.match(
            r"\w+ at (\d+) tokens: it takes .* longest text left has (\d+)", str(error)
        )
        assert int(found[2]) < int(found[1])
        return
    every = np.concatenate([doc.ids for doc in (*parts["train_docs"], *parts["search_docs"])])
    assert sorted(every) == list(range(sum(lengths)))
    for stage in plan.searches:
        assert sum(len(doc) >= stage.length for doc in parts["search_docs"]) >= stage.documents
    assert [doc.title for doc in docs] == [str(n) for n in range(len(lengths))]  # left as it was


def test_many_documents_give_their_beginnings_and_one_gives_its_parts():
    plan = Plan((Search(128, EVOLUTION, documents=2), Recover(64, DOWN, documents=3)))

    def cut(*lengths):
        parts = plan.divided(corpus_of(*lengths))
        return [
            [(doc.title, int(doc.ids[0]), len(doc)) for doc in parts[name]]
            for name in ("search_docs", "train_docs")
        ]

    assert cut(100, 200, 130, 90) == [
        [("1", 100, 128), ("2", 300, 128), ("0", 0, 64)],
        [("3", 430, 90), ("1", 228, 72), ("2", 428, 2), ("0", 64, 36)],
    ]
    assert cut(400) == [[("0", 0, 128), ("0", 128, 128), ("0", 256, 64)], [("0", 320, 80)]]
    assert cut(128, 128, 64) == [[("0", 0, 128), ("1", 128, 128), ("2", 256, 64)], []]
    with pytest.raises(
        ValueError,
        match=r"^Recover at 64 tokens: it takes 3 documents of that length, and the corpus does "
        r"not give so many \(the longest text left has 43 tokens\): use more or longer texts",
    ):
        cut(299)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            Plan((Formula(128, "pi"), Recover(32))),
            "Recover at 32 tokens: target_length 32 is shorter than the window",
        ),
        (Plan((Formula(32, "pi"),)), "Formula at 32 tokens: .* shorter than the window of 64"),
        (Plan((Formula(128, "dynamic_ntk"),)), "'dynamic_ntk' gives a schedule"),
        (Plan((Formula(128, "longrope"),)), "'longrope' has no formula"),
        (
            Plan((Search(384, EVOLUTION, documents=1),)),
            r"takes 1 document of that length, and 0 of the 5 in search_docs .* longest has 300\)",
        ),
        (
            Plan((Formula(128, "pi"), Formula(1280, "pi"), FineTune(1280))),
            "FineTune at 1,280 .* one segment of length",
        ),
        (
            Plan((Formula(128, "pi"), FineTune(128, Recipe(short_share=0.5), segment=127))),
            "FineTune at 128 tokens: short_share is 0.5, and segments of 127 tokens do not hold",
        ),
        (
            Plan((Search(128, EVOLUTION, attention_factors=(1.5, 1.0), documents=1),)),
            r"Search at 128 tokens: attention_factors is \(1.5, 1.0\)",
        ),
    ],
)
def test_a_plan_that_does_not_fit_model_or_documents_is_refused_before_anything_runs(
    tmp_path, plan, message
):
    model = tiny_model()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        run(model, plan, tmp_path / "plan")
    assert not (tmp_path / "plan").exists() and same_weights(weights(model), before)
    if "document" not in message and "one segment" not in message:
        with pytest.raises(ValueError, match=message):
            plan.explain(model)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("smollm", "did you mean 'smollm2'"),
        (PLANS, "plan is {.*: pass a Plan, or one of PLANS"),
        (None, "plan is None: pass a Plan, or one of PLANS"),
    ],
)
def test_what_is_not_a_plan(tmp_path, plan, message):
    with pytest.raises(ValueError, match=message):
        run(tiny_model(), plan, tmp_path)
    assert not any(tmp_path.iterdir())


# --- what is made of a plan -----------------------------------------------------------------------


def test_the_control_trains_on_as_many_tokens():
    """In each fine-tuning, and in each of its steps; section 4.1's, from 4k to 128k and 256k."""
    plan = PLANS["paper_llama2"]
    once, again = (stage.recipe for stage in plan.control(4096).stages[1:])
    assert once == dataclasses.replace(plan.stages[2].recipe, steps=400, batch=32 * 131_072 // 4096)
    assert again == dataclasses.replace(
        plan.stages[3].recipe, steps=600, batch=32 * 262_144 // 4096
    )
    mistral = PLANS["paper_mistral"].control(8192).stages[1:]  # whose segments have 16k tokens
    assert [(stage.recipe.batch, stage.recipe.steps) for stage in mistral] == [(128, 400)] * 2
    warmed = FineTune(96, Recipe(steps=3, batch=1, warmup=2))  # 2 steps of 2 windows, all warm-up
    assert Plan((Formula(96, "pi"), warmed)).control(64).stages[1].recipe.steps == 3
    with pytest.raises(ValueError, match="no FineTune"):
        Plan((Formula(128, "pi"),)).control(64)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_ready_plan_has_a_control_of_its_tokens(plan):
    trained, control = (
        [s.tokens for s in p.stages if isinstance(s, FineTune)] for p in (plan, plan.control(512))
    )
    whole = all(tokens % 512 == 0 for tokens in trained)
    # 576 tokens are not windows of 512.
    assert control == (trained if whole else pytest.approx(trained, rel=0.13))


def as_in_notebook_05(plan, shorter, longer, kind, share):
    """The three plans of Table 12, as the notebook wrote them down before they had a name."""
    trainings = [stage for stage in plan.stages if isinstance(stage, FineTune)]
    training = trainings[0]
    tokens = training.recipe.batch * (training.segment or training.length)
    steps = max(2, 2 * round(training.recipe.steps * share / 2))
    warmup = min(training.recipe.warmup, steps // 2 - 1)
    decay = trainings[-1].recipe.decay
    whole = dataclasses.replace(
        training.recipe,
        steps=steps,
        warmup=warmup,
        batch=max(1, tokens // longer),
        decay=decay,
        short_share=0,
        skip_share=0,
    )
    half = dataclasses.replace(whole, steps=steps // 2)
    first = dataclasses.replace(half, batch=half.batch * longer // shorter)
    pieces = dataclasses.replace(whole, batch=whole.batch * longer // shorter)
    at = {length: Formula(length, kind) for length in (shorter, longer)}
    return {
        "straight": (at[longer], FineTune(longer, whole)),
        "two steps": (at[shorter], at[longer], FineTune(shorter, first), FineTune(longer, half)),
        "short texts": (at[longer], FineTune(longer, pieces, segment=shorter)),
    }


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([*PLANS]),
    st.integers(512, 4096),
    st.integers(1, 4096),
    st.sampled_from(["pi", "yarn"]),
    st.floats(0.01, 2),
)
def test_three_ways_to_train_for_one_length(name, shorter, more, kind, share):
    longer = shorter + more
    variants = PLANS[name].training_variants(shorter, longer, method=kind, share=share)
    expected = as_in_notebook_05(PLANS[name], shorter, longer, kind, share)
    assert list(variants) == list(expected)
    assert {variant: plan.stages for variant, plan in variants.items()} == expected


def test_the_three_ways_of_the_lab_model():
    """By hand: a quarter of 5 steps of 4,096 tokens, in an even number of steps."""
    variants = PLANS["lab"].training_variants(768, 1024, share=0.25)
    recipe = dataclasses.replace(PLANS["lab"].trainings[0].recipe, steps=2, warmup=0, batch=4)
    assert variants["straight"] == Plan((Formula(1024), FineTune(1024, recipe)))
    five = dataclasses.replace(recipe, batch=5)  # of 768 tokens are as many as four of 1,024
    assert variants["short texts"] == Plan((Formula(1024), FineTune(1024, five, segment=768)))
    once = dataclasses.replace(recipe, steps=1)
    assert variants["two steps"].trainings == (
        FineTune(768, dataclasses.replace(once, batch=5)),
        FineTune(1024, once),
    )


@pytest.mark.parametrize(
    ("plan", "lengths", "message"),
    [
        (Plan((Formula(128),)), (768, 1024), "no FineTune"),
        (PLANS["lab"], (1024, 1024), "lengths must rise"),
        (PLANS["lab"], (2048, 1024), "lengths must rise|longer than"),
    ],
)
def test_ways_to_train_that_are_none(plan, lengths, message):
    with pytest.raises(ValueError, match=message):
        plan.training_variants(*lengths)


def test_the_public_names_are_exported():
    functions = map(inspect.unwrap, (lab.progressive, lab.finetune))  # behind their doors
    assert [*functions] == [inspect.unwrap(progressive), finetune] and lab.Extended is Extended
    assert (lab.Plan, lab.PLANS, lab.RECIPES, lab.Recipe) == (Plan, PLANS, RECIPES, Recipe)
    assert (lab.Formula, lab.Search) == (Formula, Search)
    assert (lab.FineTune, lab.Recover) == (FineTune, Recover)
