"""Several plans: each as `progressive` runs it, here or in processes of their own."""

from __future__ import annotations

import pandas as pd
import pytest
from conftest import WINDOW, tiny_model
from finetuning import DOCS, LENGTH, RECIPE, TOKENIZER, weights

from longrope_lab.extend.plan import Plan
from longrope_lab.extend.progressive import progressive
from longrope_lab.extend.several_plans import run_plans
from longrope_lab.extend.stages import FineTune, Formula

PLANS = {
    "pi": Plan((Formula(LENGTH, "pi"), FineTune(LENGTH, RECIPE))),
    "in two": Plan((Formula(LENGTH, "yarn"), Formula(4 * WINDOW, "yarn"))),
}


@pytest.mark.parametrize("processes", [1, 2])
def test_each_plan_is_run_on_a_model_of_its_own(processes, tmp_path):
    options = {"train_docs": DOCS, "seed": 3}
    done = run_plans(tiny_model, TOKENIZER, PLANS, tmp_path, processes=processes, **options)
    assert list(done) == list(PLANS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in_two", "pi"]
    for name, plan in PLANS.items():
        alone = progressive(tiny_model(), TOKENIZER, plan, tmp_path / "alone" / name, **options)
        assert done[name].scalings == alone.scalings and done[name].plan == plan
    pd.testing.assert_frame_equal(done["pi"].training_loss, alone_loss(tmp_path, options))


def alone_loss(tmp_path, options):
    folder = tmp_path / "alone" / "pi"
    return progressive(tiny_model(), TOKENIZER, PLANS["pi"], folder, **options).training_loss


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    run_plans(tiny_model, TOKENIZER, PLANS, tmp_path, train_docs=DOCS)
    monkeypatch.setattr("longrope_lab.extend.plan_run.finetune", None)
    run_plans(tiny_model, TOKENIZER, PLANS, tmp_path, train_docs=DOCS)
    model = tiny_model()
    before = weights(model)
    progressive(model, TOKENIZER, PLANS["pi"], tmp_path / "pi", train_docs=DOCS)
    assert any((before[name] != p).any() for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"processes": -1}, "processes is -1: it must be a whole number from 1"),
        ({"processes": 1.5}, "processes is 1.5"),
        ({"plans": {}}, "plans is empty"),
        ({"plans": {"../x": PLANS["pi"]}}, "a plan is called '../x': its name is that of a folder"),
        ({"plans": {"a b": PLANS["pi"], "a_b": PLANS["in two"]}}, "would share a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(changes, words, tmp_path):
    given = {"plans": PLANS, "processes": 1} | changes
    with pytest.raises(ValueError, match=words):
        run_plans(None, TOKENIZER, given["plans"], tmp_path, processes=given["processes"])
