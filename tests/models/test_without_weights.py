"""A model of shapes alone, as ``torch.device("meta")`` makes it: who takes it, and who refuses."""

import inspect

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import longrope_lab as lab
from longrope_lab.measure.tasks import Question
from longrope_lab.models.loading import LAB_MODEL

# These read shapes and settings alone, or change how a model works.
TAKEN = {"apply_scaling", "compiled", "full_attention", "rope_spec"}
# These take a model by its name, or a function, and load it.
BY_NAME = {"check_serving", "run_plans", "worker_cost"}

LENGTH = 1024
TASK = lab.BenchmarkTask("mine", questions=(Question("What is it?", ("this", "that"), 0),))
RECIPE = lab.Recipe(steps=2, batch=1, warmup=0)
PLAN = lab.Plan((lab.Formula(LENGTH, "yarn"), lab.FineTune(LENGTH, RECIPE)))

CALLS = {
    "benchmarks": lambda m, t, docs, out: lab.benchmarks(m, t, [TASK]),
    "book_questions": lambda m, t, docs, out: lab.book_questions(m, t, docs),
    "book_summaries": lambda m, t, docs, out: lab.book_summaries(m, t, docs),
    "finetune": lambda m, t, docs, out: lab.finetune(m, t, docs, yarn(m), out, recipe=RECIPE),
    "generate": lambda m, t, docs, out: lab.generate(m, [[1, 2]], None, max_new_tokens=2),
    "many_examples": lambda m, t, docs, out: lab.many_examples(m, t),
    "needles": lambda m, t, docs, out: lab.needles(m, t, ["single"], [300], [0.5], 1),
    "passkey": lambda m, t, docs, out: lab.passkey(m, t, [300], [0.5], 1),
    "perplexity": lambda m, t, docs, out: lab.perplexity(m, docs, [LENGTH]),
    "perplexity_by": lambda m, t, docs, out: lab.perplexity_by(m, docs, [64], {"a": {"b": None}}),
    "progressive": lambda m, t, docs, out: lab.progressive(
        m, t, PLAN, out, train_docs=docs, search_docs=docs
    ),
    "reread": lambda m, t, docs, out: lab.reread(m, [[1]], torch.ones(1, 3).long(), yarn(m)),
    "save_gguf": lambda m, t, docs, out: lab.save_gguf(m, t, yarn(m), out / "m.gguf"),
    "save_pretrained": lambda m, t, docs, out: lab.save_pretrained(m, t, yarn(m), out),
    "scoring_cost": lambda m, t, docs, out: lab.scoring_cost(m, [64]),
    "search": lambda m, t, docs, out: lab.search(m, docs, LENGTH, lab.Random(1)),
    "search_cost": lambda m, t, docs, out: lab.search_cost(m, docs, LENGTH, {"a": lab.Random(1)}),
    "start_token_sweep": lambda m, t, docs, out: lab.start_token_sweep(
        m, docs, ["pi"], [LENGTH], [0, 8]
    ),
    "token_losses": lambda m, t, docs, out: lab.token_losses(m, docs[0].ids),
    "training_cost": lambda m, t, docs, out: lab.training_cost(m, [64]),
}


def yarn(model):
    return lab.rope_scaling(lab.rope_spec(model), "yarn", LENGTH)


@pytest.fixture(scope="module")
def hollow():
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(LAB_MODEL))


@pytest.mark.parametrize("name", CALLS)
def test_what_needs_numbers_refuses_it(name, hollow, tokenizer, tmp_path):
    docs = lab.load_corpus("kjv", tokenizer, min_tokens=3000, max_tokens=3000, limit=1)
    with pytest.raises(ValueError, match=r"on the .meta. device|is on meta|are offloaded"):
        CALLS[name](hollow, tokenizer, docs, tmp_path / "out")


def test_every_public_function_that_takes_a_model_is_here():
    taking = {
        name
        for name in lab.__all__
        if (f := getattr(lab, name)) and "PreTrainedModel" in annotation_of_model(f)
    }
    assert taking == CALLS.keys() | TAKEN | BY_NAME


def annotation_of_model(function):
    """What a function's parameter `model` takes, as its source says; nothing if it has none."""
    if (inspect.isclass(function) and function is not lab.apply_scaling) or not callable(function):
        return ""
    model = inspect.signature(function).parameters.get("model")
    return str(model.annotation).replace("ModelSource", "PreTrainedModel") if model else ""
