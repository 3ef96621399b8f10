"""What counts in a search: texts, the answers of needle documents, or both by their weight."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from conftest import VOCABULARY, WINDOW, tiny_model

import longrope_lab as lab
from longrope_lab.models.rotary import rope_spec
from longrope_lab.rope.scaling import RopeScaling, compose
from longrope_lab.searches import Both, Budget, Evolution, Gradient, Needles, Perplexity, Random
from longrope_lab.searches import search as plain_search
from longrope_lab.searches.objective import Objective, Trial
from longrope_lab.texts.tokens import Document

LENGTH = 2 * WINDOW
RNG = np.random.default_rng(7)
TEXTS = [Document(f"text {i}", RNG.integers(3, VOCABULARY, LENGTH)) for i in range(3)]
MARKS = np.arange(LENGTH) >= LENGTH - 4
NEEDLES = [
    Document(f"needle {i}", RNG.integers(3, VOCABULARY, LENGTH), answers=MARKS) for i in range(2)
]
DOCS = [*TEXTS, *NEEDLES]
AT_WINDOW = Document("short", RNG.integers(3, VOCABULARY, WINDOW), answers=MARKS[WINDOW:])
METHODS = {
    "evolution": Evolution(population=5, mutations=2, crossovers=2, top=3, rounds=2),
    "racing": Evolution(population=5, mutations=3, crossovers=3, top=3, rounds=3, racing=True),
    "gradient": Gradient(steps=4, validate_every=2, learning_rate=0.3),
    "random": Random(6),
}
GOALS = {"perplexity": Perplexity(), "needles": Needles(), "both": Both(0.3)}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def search(model, docs, method="random", **options):
    method = METHODS[method] if isinstance(method, str) else method
    return plain_search(model, docs, LENGTH, method, **options)


def means(model, scaling):
    """The mean losses of the texts and of the needles' answers, each measured by itself."""

    def mean(docs):
        trial = Trial("validation", scaling, tuple(range(len(docs))))
        return Objective.of(docs, LENGTH).measure(model, trial).mean

    return mean(TEXTS), mean(NEEDLES)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_minimised_and_both_losses_of_what_is_found(model, method, goal):
    found = search(model, DOCS, method, objective=GOALS[goal])
    text, needle = means(model, found.best)
    share = {"perplexity": 0, "needles": 1, "both": 0.3}[goal]
    assert found.text_loss == pytest.approx(text, rel=1e-5)
    assert found.needle_loss == pytest.approx(needle, rel=1e-5)
    assert found.best_loss == pytest.approx((1 - share) * text + share * needle, rel=1e-5)
    assert found.best.objective == str(GOALS[goal]) == found.history["objective"].unique().item()
    assert found.history["best_loss"].iloc[-1] == found.best_loss
    if goal == "both" and method != "racing":
        whole = found.history[found.history["kind"] != "step"]
        mixed = 0.7 * whole["text_loss"] + 0.3 * whole["needle_loss"]
        np.testing.assert_allclose(whole["loss"], mixed, rtol=1e-9)


def test_of_several_candidates_the_one_with_the_least_of_what_counts_wins(model):
    """Each goal against all losses measured one by one."""
    one = search(model, DOCS, Random(12), objective=Both(0.5))
    losses = np.array([means(model, scaling) for scaling in one.scalings])
    for share, goal in ((0.0, Perplexity()), (1.0, Needles()), (0.2, Both(0.2)), (0.9, Both(0.9))):
        found = search(model, DOCS, Random(12), objective=goal)
        least = int(np.argmin(losses @ [1 - share, share]))
        assert found.best == dataclasses.replace(one.scalings[least], objective=str(goal))


def test_a_gradient_is_that_of_what_is_minimised(model):
    goal = Both(0.25)
    scaling = RopeScaling(rope_spec(model), np.linspace(1.1, 2, 8), LENGTH)
    every = tuple(range(len(DOCS)))

    def gradient(docs, goal=None):
        trial = Trial("step", scaling, tuple(range(len(docs))), gradient=True)
        return np.array(Objective.of(docs, LENGTH, goal=goal).measure(model, trial).gradient)

    expected = 0.75 * gradient(TEXTS) + 0.25 * gradient(NEEDLES)
    np.testing.assert_allclose(gradient(DOCS, goal), expected, rtol=1e-4, atol=1e-6)
    # A step reads one document: over all of them its gradients average to the same.
    objective = Objective.of(DOCS, LENGTH, goal=goal)
    steps = [
        objective.measure(model, Trial("step", scaling, (i,), gradient=True)).gradient
        for i in every
    ]
    np.testing.assert_allclose(np.mean(steps, axis=0), expected, rtol=1e-4, atol=1e-6)


def test_documents_that_do_not_count_are_not_searched_on(model):
    """The same search as on the others alone, at their cost."""
    for goal, docs in ((Perplexity(), TEXTS), (Needles(), NEEDLES)):
        found, alone = search(model, DOCS, objective=goal), search(model, docs)
        np.testing.assert_array_equal(found.history["loss"], alone.history["loss"])
        assert found.history["forwards"].iloc[-1] == 6 * len(docs)
    assert math.isnan(search(model, TEXTS, objective=Perplexity()).needle_loss)
    assert math.isnan(search(model, NEEDLES, objective=Needles()).text_loss)


def test_checkpoints_of_perplexity_go_on_and_others_are_told_apart(model, tmp_path):
    path = tmp_path / "log"
    search(model, TEXTS, checkpoint=path, budget=Budget(candidates=2))
    assert "objective" not in json.loads(path.read_text().splitlines()[0])
    found = search(model, DOCS, checkpoint=path, objective=Perplexity())
    assert found.finished and len(path.read_text().splitlines()) == 1 + 6
    mixed = tmp_path / "mixed"
    first = search(model, DOCS, checkpoint=mixed, objective=Both(0.5))
    again = search(model, DOCS, checkpoint=mixed, objective=Both(0.5))
    assert again.best == first.best and again.needle_loss == first.needle_loss
    with pytest.raises(ValueError, match=r"objective: Both\(weight=0.5\) there, Both\(weight=0.4"):
        search(model, DOCS, checkpoint=mixed, objective=Both(0.4))
    with pytest.raises(ValueError, match=r"another search .*objective: .* there, nothing here"):
        search(model, DOCS, checkpoint=mixed)


def test_documents_that_were_searched_on_are_not_reported_on(model):
    found = search(model, TEXTS[:2])
    found.check_unseen([TEXTS[2], *NEEDLES])
    longer = dataclasses.replace(TEXTS[1], ids=np.append(TEXTS[1].ids, [5, 6]))
    with pytest.raises(ValueError, match="'text 1' was searched on, so that its figures say"):
        found.check_unseen([TEXTS[2], longer])


def test_a_scaling_says_what_it_was_found_for(model, tmp_path):
    best = search(model, DOCS, objective=Needles()).best
    assert RopeScaling.load(best.save(tmp_path / "it.json")) == best
    assert best.objective == "Needles()" and best != dataclasses.replace(best, objective="")
    first = RopeScaling(rope_spec(model), np.ones(8), LENGTH)
    second = RopeScaling(first.as_spec(), np.ones(8), 2 * LENGTH, objective="Both(weight=0.5)")
    assert compose(first, second).objective == "Both(weight=0.5)"
    assert "objective" not in first.to_dict()  # as files were before
    with pytest.raises(ValueError, match="objective is 5: it is words"):
        dataclasses.replace(best, objective=5)
    with pytest.raises(ValueError, match="objective is 5: it is words"):
        RopeScaling.from_dict(best.to_dict() | {"objective": 5})


def test_needles_that_are_found_from_the_start_are_told(model, monkeypatch, caplog):
    found = search(model, DOCS, objective=Both(0.5))
    assert not found.at_floor and "told it nothing" not in str(found) and not caplog.records
    assert "answers of needles" in str(found)
    monkeypatch.setattr("longrope_lab.searches.rounds.FLOOR", 99.0)
    easy = search(model, DOCS, objective=Both(0.5))
    assert easy.at_floor and "told it nothing" in str(easy)
    assert "hide harder ones" in caplog.text
    assert not search(model, DOCS, objective=Perplexity()).at_floor  # they do not count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"docs": TEXTS, "objective": Needles()}, "Needles() counts answers, and none of the 3 "),
        ({"docs": TEXTS, "objective": Both(0.1)}, "Both(weight=0.1) counts answers, and none of"),
        (
            {"docs": NEEDLES, "objective": Both(0.9)},
            "Both(weight=0.9) counts the perplexity of texts, and each of the 2 documents marks",
        ),
        ({"docs": NEEDLES, "objective": Perplexity()}, "Perplexity() counts the perplexity of"),
        ({"docs": [], "objective": Perplexity()}, "a search needs at least one document"),
        ({"docs": [], "objective": Needles()}, "none of the 0 documents marks any"),
        (
            {"docs": [AT_WINDOW], "target_length": WINDOW, "objective": Needles()},
            "target_length 64 is not above the window of 64 tokens, so s is 1",
        ),
        ({"objective": "needles"}, "objective is 'needles': it must be "),
        ({"objective": Needles}, "objective is <class"),
    ],
)
def test_objectives_that_cannot_be(change, message, model, tmp_path):
    call = {"model": model, "docs": DOCS, "target_length": LENGTH, "method": Random(1)} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        lab.search(**call, checkpoint=tmp_path / "log")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, "half", None])
def test_weights_outside_their_rule(weight):
    with pytest.raises(ValueError, match=f"weight is {weight}: it is the share of the needles"):
        Both(weight)
    assert Both(1).weight == 1.0 and Both(np.float64(0.5)) == Both(0.5)
