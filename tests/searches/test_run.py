"""Whole searches on a tiny model: history, budgets, checkpoints, interruptions, messages."""

import dataclasses
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import VOCABULARY, WINDOW, tiny_model

from longrope_lab.common.json_lines import taken
from longrope_lab.models.forward import token_losses
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.searches import (
    PRESETS,
    Budget,
    Evolution,
    Gradient,
    Random,
    SearchSpace,
    measuring,
    search,
)
from longrope_lab.searches.objective import Objective, Trial
from longrope_lab.texts.tokens import Document

LENGTH = 2 * WINDOW
SPEC = RopeSpec(rotary_dim=16, window=WINDOW, base=10000.0)
DOCS = [
    Document(f"book {i}", np.random.default_rng(i).integers(3, VOCABULARY, LENGTH + extra))
    for i, extra in enumerate((9, 0, 40))
]
EVOLUTION = Evolution(
    population=6, mutations=3, crossovers=3, top=4, rounds=3
)  # 24 trials of 3 passes
METHODS = {
    "evolution": EVOLUTION,
    "racing": dataclasses.replace(EVOLUTION, racing=True, rounds=5),
    "gradient": Gradient(
        steps=5, batch=2, validate_every=2, learning_rate=0.3
    ),  # 4 validations, 10 documents
    "random": Random(20),
}
COLUMNS = [
    "round",
    "number",
    "kind",
    "documents",
    "loss",
    "best_loss",
    "best_perplexity",
    "dropped",
    "forwards",
    "tokens",
    "start_tokens",
    "attention_factor",
    "text_loss",
    "needle_loss",
    "objective",
]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


# What fixtures put something else in the place of.
MEASURE, CLOCK = Objective.measure, measuring.time


@pytest.fixture(scope="module")
def undisturbed(model):
    """What a method finds when nothing happens to it, and nobody counts."""
    torch.set_num_threads(1)

    @functools.cache
    def find(name):
        with pytest.MonkeyPatch.context() as as_it_was:
            as_it_was.setattr(Objective, "measure", MEASURE)
            as_it_was.setattr(measuring, "time", CLOCK)
            return search(model, DOCS, LENGTH, METHODS[name], seed=4)

    return find


@pytest.fixture
def measured(monkeypatch):
    """The trials that are really measured, as they come."""
    trials, measure = [], Objective.measure

    def spy(self, model, trial):
        trials.append(trial)
        return measure(self, model, trial)

    monkeypatch.setattr(Objective, "measure", spy)
    return trials


def assert_same(one, other, count=None):
    """The same search, or the same first `count` rows of it."""
    count = len(other.history) if count is None else count
    pd.testing.assert_frame_equal(one.history, other.history[:count], check_exact=True)
    assert one.scalings == other.scalings[:count]
    if count == len(other.history):
        assert (
            one.best == other.best
            and one.best_loss == other.best_loss
            and one.finished == other.finished
        )


def lines_of(path):
    """A log without its timings."""
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


# --- what a search returns ------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_the_history_says_what_happened(name, undisturbed):
    result = undisturbed(name)
    history = result.history
    assert list(history) == COLUMNS and result.finished and len(result.scalings) == len(history)
    full = ~history["dropped"] & (history["kind"] != "step")
    assert (history["documents"][full] == 3).all() and (
        history["documents"][history["kind"] == "step"] == 1
    ).all()
    assert (history["documents"][history["dropped"]] < 3).all()
    np.testing.assert_allclose(
        history["best_loss"], history["loss"].where(full).cummin().ffill(), rtol=1e-12
    )
    np.testing.assert_allclose(history["best_perplexity"], np.exp(history["best_loss"]))
    costs = history["documents"] * np.where(history["kind"] == "step", 4, 1)
    assert history["forwards"].tolist() == costs.cumsum().tolist()
    assert history["tokens"].tolist() == (LENGTH * costs.cumsum()).tolist()
    assert history["start_tokens"].tolist() == [s.start_tokens for s in result.scalings]
    assert history["attention_factor"].tolist() == [s.attention_factor for s in result.scalings]
    places = list(zip(history["round"], history["number"], strict=True))
    assert places == sorted(set(places)) and places[0] == (0, 0)
    assert result.seconds > 0


@pytest.mark.parametrize("name", METHODS)
def test_the_best_loss_is_one_of_the_losses(name, undisturbed):
    """To the last bit: ``history.query("loss == best_loss")`` finds the rows that were the best."""
    history = undisturbed(name).history
    full = ~history["dropped"] & (history["kind"] != "step")
    np.testing.assert_array_equal(
        history["best_loss"], history["loss"].where(full).cummin().ffill()
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_best_can_be_measured_again(name, undisturbed, model):
    result = undisturbed(name)
    assert result.best_loss == result.history["best_loss"].iloc[-1]
    with apply_scaling(model, result.best):
        losses = [token_losses(model, doc.ids[:LENGTH]).double().mean().item() for doc in DOCS]
    assert np.mean(losses) == pytest.approx(result.best_loss, abs=1e-12)
    row = result.scalings.index(result.best)
    assert result.history["loss"][row] == pytest.approx(result.best_loss, abs=1e-12)
    assert result.best.spec == SPEC and result.best.target_length == LENGTH


def test_sizes_and_kinds(undisturbed):
    kinds = {name: undisturbed(name).history["kind"].tolist() for name in METHODS}
    round_ = 3 * ["mutation"] + 3 * ["crossover"]
    assert kinds["evolution"] == 3 * ["initial"] + 3 * ["mutation"] + 3 * round_
    assert kinds["random"] == 20 * ["random"]
    steps = 4 * ["step"]
    assert kinds["gradient"] == [
        "validation",
        *steps,
        "validation",
        *steps,
        "validation",
        *steps[:2],
        "validation",
    ]


def test_racing_drops_and_agrees_with_itself(undisturbed):
    history = undisturbed("racing").history
    assert (
        0 < history["dropped"].sum() < len(history)
        and not undisturbed("evolution").history["dropped"].any()
    )
    assert not history["dropped"][:6].any()  # the first round has no limit yet
    limits = history.query("not dropped").groupby("round")["loss"]
    assert limits.count().sum() + history["dropped"].sum() == len(history)


def test_forward_passes_are_counted_as_they_are_made(undisturbed, model):
    count = [0]
    hook = model.model.layers[0].mlp.register_forward_pre_hook(
        lambda *_: count.__setitem__(0, count[0] + 1)
    )
    for name in ("evolution", "racing", "random"):
        count[0] = 0
        result = search(model, DOCS, LENGTH, METHODS[name], seed=4)
        assert_same(result, undisturbed(name))
        assert count[0] == result.history["forwards"].iloc[-1]
    hook.remove()


@pytest.mark.parametrize("last", [1, 30, LENGTH - 1])
def test_the_last_tokens_alone(last, model):
    result = search(model, DOCS[:1], LENGTH, Random(3), last=last)
    with apply_scaling(model, result.best):
        expected = token_losses(model, DOCS[0].ids[:LENGTH])[-last:].double().mean().item()
    assert result.best_loss == pytest.approx(expected, abs=1e-12)
    everything = search(model, DOCS[:1], LENGTH, Random(3)).history["loss"]
    assert everything.equals(result.history["loss"]) == (last == LENGTH - 1)


def test_seeds(model, undisturbed):
    np.random.seed(1)  # noqa: NPY002 - the point is that it does not matter
    torch.manual_seed(1)
    assert_same(search(model, DOCS, LENGTH, EVOLUTION, seed=4), undisturbed("evolution"))
    other = search(model, DOCS, LENGTH, EVOLUTION, seed=5)
    assert other.scalings[3:] != undisturbed("evolution").scalings[3:]


def test_the_model_is_left_as_it_was(model, undisturbed):
    weights = {name: w.clone() for name, w in model.state_dict().items()}
    for name in METHODS:
        search(model, DOCS, LENGTH, METHODS[name], budget=Budget(candidates=7))
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_function_that_makes_the_model(undisturbed):
    calls = []
    made = search(lambda: calls.append(1) or tiny_model(), DOCS, LENGTH, METHODS["random"], seed=4)
    assert_same(made, undisturbed("random"))
    assert calls == [1]


def test_a_preset_is_an_evolution(model, undisturbed):
    budget = Budget(candidates=10)
    by_name = search(model, DOCS, LENGTH, preset="tiny", budget=budget)
    assert_same(by_name, search(model, DOCS, LENGTH, PRESETS["tiny"], budget=budget))
    paper = search(model, DOCS, LENGTH, budget=budget)
    assert_same(paper, search(model, DOCS, LENGTH, "evolution", preset="paper", budget=budget))


def test_a_space_of_ones_own(model):
    space = SearchSpace(SPEC, LENGTH, high=1.5, start_tokens=(4, 8), attention_factors=(0.9, 1.0))
    for method in METHODS.values():
        result = search(model, DOCS, LENGTH, method, space=space, budget=Budget(candidates=8))
        assert all(
            s.factors.max() <= 1.5 + 1e-9 and s.start_tokens in (4, 8) for s in result.scalings
        )


def test_a_window_that_was_stated_stays_with_what_is_found(model):
    space = SearchSpace(rope_spec(model, window=WINDOW // 2), LENGTH)
    best = search(model, DOCS, LENGTH, Random(2), space=space).best
    assert (best.spec.window, best.ratio) == (WINDOW // 2, 4)


def test_a_second_search_on_top_of_the_first(model, undisturbed, tmp_path):
    """Its scalings apply to the model as loaded, and what is below is part of its identity."""
    first = undisturbed("random").best
    docs = [Document(doc.title, np.tile(doc.ids, 2)) for doc in DOCS]
    space = SearchSpace.on_top_of(first, 2 * LENGTH)
    result = search(model, docs, 2 * LENGTH, EVOLUTION, space=space, checkpoint=tmp_path / "log")
    assert result.finished and all(s.spec == SPEC for s in result.scalings)
    np.testing.assert_allclose(result.scalings[0].factors, 2 * first.factors)  # PI on top
    with apply_scaling(model, result.best):
        losses = [token_losses(model, doc.ids[: 2 * LENGTH]).double().mean().item() for doc in docs]
    assert np.mean(losses) == pytest.approx(result.best_loss, abs=1e-12)
    other = SearchSpace.on_top_of(dataclasses.replace(first, attention_factor=1.3), 2 * LENGTH)
    with pytest.raises(ValueError, match=r"another search \(space: "):
        search(model, docs, 2 * LENGTH, EVOLUTION, space=other, checkpoint=tmp_path / "log")


# --- losses that are no numbers -------------------------------------------------------------------


@pytest.fixture
def some_fail(model):
    """The model, but without a number wherever the last frequency is slowed by less than 1.3."""
    broken = tiny_model()
    theta = SPEC.frequencies[-1]

    def spoil(module, given, out):
        cos, sin = out
        slowed = 50 * theta / math.acos((cos[0, 50, -1] / cos[0, 0, -1]).clamp(-1, 1).item() or 1)
        return (cos * math.nan, sin) if slowed < 1.3 else out

    broken.model.rotary_emb.register_forward_hook(spoil)
    return broken


def test_losses_that_are_no_numbers_are_kept_and_lose(some_fail, tmp_path):
    result = search(some_fail, DOCS, LENGTH, Random(40), checkpoint=tmp_path / "log")
    lost = result.history["loss"].isna()
    assert 0 < lost.sum() < 40
    assert result.best_loss == pytest.approx(result.history["loss"].min(), rel=1e-12)
    expected = result.history["loss"].cummin().ffill().fillna(math.inf)
    np.testing.assert_allclose(result.history["best_loss"], expected, rtol=1e-12)
    assert_same(search(some_fail, DOCS, LENGTH, Random(40), checkpoint=tmp_path / "log"), result)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_but_failures(name):
    broken = tiny_model()
    broken.lm_head.weight.data[:] = math.nan
    with pytest.raises(
        RuntimeError, match=r"none of the \d+ trials gave a finite loss on all documents: check"
    ):
        search(broken, DOCS, LENGTH, METHODS[name])


# --- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("candidates", [1, 5, 6, 7, 13])
def test_a_budget_of_candidates(name, candidates, model, undisturbed):
    result = search(
        model, DOCS, LENGTH, METHODS[name], seed=4, budget=Budget(candidates=candidates)
    )
    assert len(result.history) == candidates and not result.finished
    assert_same(result, undisturbed(name), candidates)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("tokens", [3 * LENGTH, 20 * LENGTH - 1, 20 * LENGTH, 35 * LENGTH + 1])
def test_a_budget_of_tokens(name, tokens, model, undisturbed):
    result = search(model, DOCS, LENGTH, METHODS[name], seed=4, budget=Budget(tokens=tokens))
    used, count, whole = result.history["tokens"].iloc[-1], len(result.history), undisturbed(name)
    assert 0 < used <= tokens and not result.finished
    assert_same(result, whole, count)
    cost = 4 if whole.history["kind"][count] == "step" else 3
    # Racing may end a round early with some left, since each trial must be affordable at its full
    # cost beforehand.
    assert used + cost * LENGTH > tokens or (name == "racing" and result.history["dropped"].any())


@pytest.mark.parametrize("name", METHODS)
def test_a_budget_that_just_suffices(name, model, undisturbed):
    whole = undisturbed(name)
    budget = Budget(candidates=len(whole.history), seconds=1e9)
    assert_same(search(model, DOCS, LENGTH, METHODS[name], seed=4, budget=budget), whole)
    if name != "racing":
        budget = Budget(tokens=int(whole.history["tokens"].iloc[-1]))
        assert_same(search(model, DOCS, LENGTH, METHODS[name], seed=4, budget=budget), whole)


@pytest.fixture
def one_second_each(monkeypatch):
    """Time passes by a second with each look at the clock, so that each trial takes one."""
    now = iter(range(10**6))
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: next(now)))


@pytest.mark.parametrize("name", METHODS)
def test_a_budget_of_seconds_counts_those_before(
    name, model, undisturbed, one_second_each, measured, tmp_path
):
    def result(seconds):
        budget = Budget(seconds=seconds)
        return search(
            model, DOCS, LENGTH, METHODS[name], seed=4, budget=budget, checkpoint=tmp_path / "log"
        )

    for seconds, count in ((0.01, 1), (5, 5), (4.5, 5), (5, 5), (7.5, 8)):
        found = result(seconds)
        assert not found.finished and found.seconds == count
        assert_same(found, undisturbed(name), count)
        assert len(measured) == count
    assert_same(result(1000), undisturbed(name))


def test_the_first_limit_reached_counts(model):
    budget = Budget(candidates=9, tokens=21 * LENGTH, seconds=1e9)
    assert len(search(model, DOCS, LENGTH, EVOLUTION, budget=budget).history) == 7
    budget = Budget(candidates=5, tokens=21 * LENGTH)
    assert len(search(model, DOCS, LENGTH, EVOLUTION, budget=budget).history) == 5


@pytest.mark.parametrize("name", ["candidates", "tokens"])
@pytest.mark.parametrize("amount", [0, -1, 0.5, math.nan, math.inf, "all"])
def test_a_budget_that_is_no_count(name, amount):
    rule = "it must be a whole number from 1, or None for no limit"
    with pytest.raises(ValueError, match=f"the budget's {name} is {amount}: {rule}"):
        Budget(**{name: amount})


@pytest.mark.parametrize("amount", [0, -1, math.nan, math.inf, "long"])
def test_a_budget_of_no_time(amount):
    rule = "it must be a finite number above 0"
    with pytest.raises(ValueError, match=f"the budget's seconds is {amount}: {rule}"):
        Budget(seconds=amount)


@pytest.mark.parametrize("name", ["candidates", "tokens"])
def test_a_budget_written_as_a_float(name, model):
    """As 1e3 or 2e6 is."""
    amount = {"candidates": 7.0, "tokens": 21.0 * LENGTH}[name]
    assert len(search(model, DOCS, LENGTH, EVOLUTION, budget=Budget(**{name: amount})).history) == 7


@pytest.mark.parametrize("name", METHODS)
def test_a_budget_too_small_for_one_trial(name, model, measured):
    with pytest.raises(
        ValueError,
        match="budget of 383 tokens is too small for one trial of 384: give more, or fewer",
    ):
        search(model, DOCS, LENGTH, METHODS[name], budget=Budget(tokens=3 * LENGTH - 1))
    assert measured == []


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_changes_nothing(name, model, undisturbed, measured, tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    first = search(model, DOCS, LENGTH, METHODS[name], seed=4, checkpoint=path)
    assert_same(first, undisturbed(name))
    count, content = len(measured), path.read_bytes()
    assert count == len(first.history) == len(lines_of(path)) - 1
    again = search(model, DOCS, LENGTH, METHODS[name], seed=4, checkpoint=str(path))
    assert_same(again, first)
    assert again.seconds == first.seconds
    assert len(measured) == count and path.read_bytes() == content  # nothing was measured again


@pytest.mark.parametrize("name", METHODS)
def test_a_search_cut_off_anywhere_ends_the_same(name, model, undisturbed, tmp_path):
    """The log cut at ten random bytes, in the first line and in the middle of others."""
    path = tmp_path / "log"
    search(model, DOCS, LENGTH, METHODS[name], seed=4, checkpoint=path)
    content, lines = path.read_bytes(), lines_of(path)
    offsets = np.random.default_rng(7).integers(1, len(content), 8)
    for offset in (*offsets, 100, content.index(b"\n") + 1):
        path.write_bytes(content[:offset])
        assert_same(
            search(model, DOCS, LENGTH, METHODS[name], seed=4, checkpoint=path), undisturbed(name)
        )
        assert lines_of(path) == lines


@pytest.mark.parametrize("name", METHODS)
def test_a_search_stopped_again_and_again_ends_the_same(
    name, model, undisturbed, measured, tmp_path
):
    """Each time after a random number of trials, with half a line left behind."""
    rng, path, count = np.random.default_rng(8), tmp_path / "log", 0
    for _ in range(10):
        count += int(rng.integers(1, 3))
        budget = Budget(candidates=min(count, len(undisturbed(name).history)))
        search(model, DOCS, LENGTH, METHODS[name], seed=4, checkpoint=path, budget=budget)
        with path.open("ab") as file:
            file.write(b'{"round": 1, "number": 0, "tri'[: rng.integers(0, 30)])
    assert_same(
        search(model, DOCS, LENGTH, METHODS[name], seed=4, checkpoint=path), undisturbed(name)
    )
    assert len(measured) == len(undisturbed(name).history)  # none twice


KILLED = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from conftest import tiny_model
from test_run import DOCS, EVOLUTION, LENGTH
from dataclasses import replace
from longrope_lab.searches import search

path, chance, model = sys.argv[1], random.Random(0), tiny_model()
search(model, DOCS, LENGTH, EVOLUTION)  # so that each child starts at once
for _ in range(10):
    before = os.path.getsize(path) if os.path.exists(path) else 0
    child = os.fork()
    if not child:
        try:
            search(model, DOCS, LENGTH, replace(EVOLUTION, rounds=10**9), seed=4, checkpoint=path)
        finally:
            os._exit(1)
    grown = before + chance.randrange(1, 500)
    while not os.path.exists(path) or os.path.getsize(path) < grown:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended by itself"
        time.sleep(0.0005)
    time.sleep(chance.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


def test_a_search_killed_ten_times_ends_the_same(model, measured, tmp_path):
    """By SIGKILL, at random moments; then it goes on for two rounds as if nothing had been."""
    path = tmp_path / "log"
    paths = os.pathsep.join(
        map(str, [*Path(__file__).parents[:2], *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": paths},
    )
    whole = path.read_bytes().splitlines(keepends=True)
    whole = whole if whole[-1].endswith(b"\n") else whole[:-1]
    known, reached = len(whole) - 1, json.loads(whole[-1])["round"]
    assert known >= 10
    longer = dataclasses.replace(EVOLUTION, rounds=reached + 2)
    resumed = search(model, DOCS, LENGTH, longer, seed=4, checkpoint=path)
    assert 0 < len(measured) == len(resumed.history) - known
    assert_same(resumed, search(model, DOCS, LENGTH, longer, seed=4))


@pytest.mark.parametrize("empty", [b"", None])
def test_an_empty_checkpoint_is_a_new_one(empty, model, undisturbed, tmp_path):
    path = tmp_path / "log"
    if empty is not None:
        path.write_bytes(empty)
    assert_same(
        search(model, DOCS, LENGTH, EVOLUTION, seed=4, checkpoint=path), undisturbed("evolution")
    )
    assert len(lines_of(path)) == 25


def test_more_rounds_go_on_where_fewer_ended(model, undisturbed, measured, tmp_path):
    path, fewer = tmp_path / "log", dataclasses.replace(EVOLUTION, rounds=1)
    short = search(model, DOCS, LENGTH, fewer, seed=4, checkpoint=path)
    assert short.finished and len(measured) == 12
    longer = search(model, DOCS, LENGTH, EVOLUTION, seed=4, checkpoint=path)
    assert len(measured) == 24
    assert_same(longer, undisturbed("evolution"))
    assert_same(
        search(model, DOCS, LENGTH, fewer, seed=4, checkpoint=path), short
    )  # and back again
    assert len(measured) == 24


def test_more_random_candidates_too(model, undisturbed, measured, tmp_path):
    for count in (5, 18, 20):
        result = search(model, DOCS, LENGTH, Random(count), seed=4, checkpoint=tmp_path / "log")
        assert len(measured) == count
        assert_same(result, undisturbed("random"), count)


def test_a_larger_budget_goes_on(model, undisturbed, measured, tmp_path):
    for count in (2, 8, 9, 24):
        budget = Budget(candidates=count)
        result = search(
            model, DOCS, LENGTH, EVOLUTION, seed=4, budget=budget, checkpoint=tmp_path / "log"
        )
        assert len(measured) == count
        assert_same(result, undisturbed("evolution"), count)


CHANGES = {
    "model": {"model": 1},
    "documents": {"docs": DOCS[:2]},
    "last": {"last": 9},
    "space": {"space": SearchSpace(SPEC, LENGTH, start_tokens=(0,))},
    "method": {"method": METHODS["gradient"]},
    "settings": {"method": METHODS["racing"]},
    "seed": {"seed": 5},
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_checkpoint_of_another_search(what, model, measured, tmp_path):
    path = tmp_path / "log"
    search(model, DOCS, LENGTH, EVOLUTION, seed=4, checkpoint=path, budget=Budget(candidates=2))
    content = path.read_bytes()
    call = {
        "model": model,
        "docs": DOCS,
        "target_length": LENGTH,
        "method": EVOLUTION,
        "seed": 4,
    } | CHANGES[what]
    if what == "model":
        call["model"] = tiny_model(seed=1)
    pattern = (
        rf"log is the checkpoint of another search \((.*; )?{what}: .* there, .* here.*\): name "
        "another"
    )
    with pytest.raises(ValueError, match=pattern) as caught:
        search(**call, checkpoint=path)
    named = re.findall(r"(?:[(]|; )(\w+): ", str(caught.value))
    assert named == (["method", "settings"] if what == "method" else [what])
    assert path.read_bytes() == content and len(measured) == 2


def test_the_same_documents_in_another_order_or_cut_elsewhere(model, tmp_path):
    path = tmp_path / "log"
    search(model, DOCS, LENGTH, EVOLUTION, checkpoint=path, budget=Budget(candidates=2))
    with pytest.raises(ValueError, match=r"another search \(documents: "):
        search(model, DOCS[::-1], LENGTH, EVOLUTION, checkpoint=path)
    longer = [
        Document("renamed", np.concatenate((doc.ids[:LENGTH], [5, 6]))) for doc in DOCS
    ]  # what counts is alike
    assert (
        len(
            search(
                model, longer, LENGTH, EVOLUTION, checkpoint=path, budget=Budget(candidates=3)
            ).history
        )
        == 3
    )


def test_the_same_weights_in_another_model(tmp_path):
    """Cohere multiplies its logits by a number of its config: other losses, same weights."""
    models = [tiny_model("cohere", logit_scale=scale) for scale in (0.5, 0.05)]
    losses = [search(model, DOCS, LENGTH, Random(1)).best_loss for model in models]
    assert abs(losses[0] - losses[1]) > 0.1
    search(models[0], DOCS, LENGTH, Random(1), checkpoint=tmp_path / "log")
    with pytest.raises(ValueError, match="the checkpoint of another search"):
        search(models[1], DOCS, LENGTH, Random(1), checkpoint=tmp_path / "log")


def damaged(content, how):
    lines = content.splitlines(keepends=True)
    line = json.loads(lines[2])
    new = {
        "junk": b"\x00\xff\xfe nothing\n",
        "no JSON": b'{"round": 0, "number\n',
        "a list": b"[1, 2]\n",
        "a number": b"5\n",
        "a field is missing": json.dumps({k: v for k, v in line.items() if k != "losses"}).encode()
        + b"\n",
        "another digit": json.dumps(line | {"losses": [1.24] * 3}).encode() + b"\n",
        "no losses": json.dumps(line | {"losses": None}).encode() + b"\n",
    }[how]
    return b"".join([*lines[:2], new, *lines[3:]])


@pytest.mark.parametrize(
    "how",
    ["junk", "no JSON", "a list", "a number", "a field is missing", "another digit", "no losses"],
)
def test_a_damaged_checkpoint(how, model, measured, tmp_path):
    path = tmp_path / "log"
    search(model, DOCS, LENGTH, EVOLUTION, checkpoint=path, budget=Budget(candidates=4))
    content = damaged(path.read_bytes(), how)
    path.write_bytes(content)
    with pytest.raises(
        ValueError,
        match=r"log is not the checkpoint of a search, or it is damaged \(.*\): remove it, or",
    ):
        search(model, DOCS, LENGTH, EVOLUTION, checkpoint=path)
    assert path.read_bytes() == content and len(measured) == 4


@pytest.mark.parametrize(
    "content",
    [
        b"length,loss\n512,3.1\n",
        b"5\n",
        b"\x89PNG\r\n\x1a\n\x00",
        b'{"kind": "scaling"}\n',
        b"[]\n",
        b'"format"\n',
        b'{"kind": "readings", "format": 1}\n',  # of a perplexity
    ],
)
def test_a_file_that_is_no_checkpoint(content, model, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"log is not the checkpoint of a search"):
        search(model, DOCS, LENGTH, EVOLUTION, checkpoint=path)
    assert path.read_bytes() == content


def test_a_checkpoint_that_another_search_writes_to(model, tmp_path, monkeypatch):
    path = tmp_path / "log"
    with taken(path, "search"), pytest.raises(ValueError, match="another search is writing to "):
        search(model, DOCS, LENGTH, EVOLUTION, checkpoint=path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    search(model, DOCS, LENGTH, Random(1), checkpoint="~/log")
    assert [each.name for each in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(
    "content", [b"my notes, on one line", b'{"kind": "scaling", "factors": [1, 2]}', b"\x00\x01"]
)
def test_a_file_without_a_whole_line_is_not_overwritten(content, model, tmp_path):
    """It is somebody's, unless it is the beginning of this search's own first line."""
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="log is not the checkpoint of a search"):
        search(model, DOCS, LENGTH, EVOLUTION, checkpoint=path)
    assert path.read_bytes() == content


# What the version before wrote first, when the window was called "original_length".
FORMAT_1 = (
    '{"format": 1, "model": "c4a3d0e1b5f60718", "documents": "0123456789abcdef", "last": null, '
    '"space": {"spec": {"rotary_dim": 16, "original_length": 64, "base": 10000.0, '
    '"attention_factor": 1.0}, "target_length": 128, "low": 1.0, "high": 2.5, "step": 0.01, '
    '"start_tokens": [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256], '
    '"attention_factors": null, "monotone": true, "over": null}, "method": "random", '
    '"settings": {}, "seed": 4}\n'
)


@pytest.mark.parametrize("more", ["", '{"round": 0, "of": "another shape"}\n', '{"round": 0, "nu'])
def test_a_checkpoint_of_the_version_before(more, model, measured, tmp_path):
    """It is refused for its format, whatever its lines look like, and left as it is."""
    path = tmp_path / "log"
    path.write_text(FORMAT_1 + more)
    message = (
        r"log was written by another version of longrope_lab \(format 1, and this one writes 2\): "
        "name another checkpoint, or remove this one"
    )
    with pytest.raises(ValueError, match=message):
        search(model, DOCS, LENGTH, Random(2), seed=4, checkpoint=path)
    assert path.read_text() == FORMAT_1 + more and measured == []


def test_the_first_line_of_a_checkpoint(model, tmp_path):
    search(model, DOCS, LENGTH, Random(1), seed=4, checkpoint=tmp_path / "log")
    ours, theirs = lines_of(tmp_path / "log")[0], json.loads(FORMAT_1)
    assert ours["format"] == 2 and ours["space"]["spec"].pop("window") == WINDOW
    theirs["space"]["spec"].pop("original_length")
    theirs["space"]["start_tokens"].remove(256)  # more than the target, and tried no more
    changed = {"format", "model", "documents"}
    assert list(ours) == list(theirs)
    assert {name for name in ours if ours[name] != theirs[name]} == changed


def test_a_trial_of_another_version(model, tmp_path):
    path = tmp_path / "log"
    search(model, DOCS, LENGTH, EVOLUTION, checkpoint=path, budget=Budget(candidates=9))
    lines = path.read_text().splitlines()
    other = json.loads(lines[8]) | {"trial": "0" * 16}
    del other["check"]  # as of the version before
    lines[8] = json.dumps(other)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        ValueError,
        match="log holds another trial at round 1, number 1: it was written by another ver",
    ):
        search(model, DOCS, LENGTH, EVOLUTION, checkpoint=path)


@pytest.mark.parametrize("what", ["seed", "target_length", "last"])
def test_numbers_of_numpy(what, model, tmp_path):
    """As they come out of an array of lengths or seeds."""
    call = {"seed": 4, "target_length": LENGTH, "last": 9}
    plain = search(model, DOCS, method=Random(2), **call)
    call[what] = np.int64(call[what])
    assert_same(search(model, DOCS, method=Random(2), checkpoint=tmp_path / "log", **call), plain)


# --- progress -------------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What a search tells a runner, every trial of it."""
    file = tmp_path / "progress"
    monkeypatch.setenv("LONGROPE_LAB_PROGRESS_FILE", str(file))
    monkeypatch.setattr("longrope_lab.common.progress.TELL_EVERY", -1)

    def run(method, **options):
        file.write_text("")
        result = search(*options.pop("of"), LENGTH, method, seed=4, **options)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert lines[-1] == {"over": lines[0]["what"]}
        return result, lines[:-1]

    return run


@pytest.mark.parametrize("name", ["evolution", "gradient", "random"])
def test_a_search_knows_its_end(name, model, told):
    """Trials, and the passes that they take, are as many as the settings say."""
    result, lines = told(METHODS[name], of=(model, DOCS))
    costs = [cost for count, cost in METHODS[name].ahead(len(DOCS)) for _ in range(count)]
    assert {line["total"] for line in lines} == {len(costs)} == {len(result.history)}
    assert [line["done"] for line in lines] == list(range(len(costs) + 1))
    passes = result.history["forwards"].diff().fillna(result.history["forwards"])
    assert passes.tolist() == costs
    assert lines[0]["left"] is None and lines[-1]["left"] == 0
    assert all(line["left"] >= 0 for line in lines[1:-1] if line["left"] is not None)


@pytest.mark.parametrize("name", ["evolution", "gradient", "random"])
@pytest.mark.parametrize("budget", [Budget(candidates=7), Budget(tokens=40 * LENGTH)], ids=str)
def test_a_search_knows_where_its_budget_ends(name, budget, model, told):
    result, lines = told(METHODS[name], of=(model, DOCS), budget=budget)
    assert not result.finished
    assert {line["total"] for line in lines} == {len(result.history)}
    assert lines[-1]["done"] == len(result.history) and lines[-1]["left"] == 0


def test_a_search_knows_when_its_time_is_over(model, told, monkeypatch):
    """Trials of 0.1 s each, and a budget of one second: after five, half of it is ahead."""
    monkeypatch.setattr(measuring.time, "perf_counter", iter(np.arange(100) / 10).__next__)
    shares = []
    monkeypatch.setattr(
        "longrope_lab.common.progress.Progress.advance",
        lambda self, count, note, share: shares.append(share),
    )
    result, _ = told(METHODS["evolution"], of=(model, DOCS), budget=Budget(seconds=1))
    assert shares == pytest.approx([0.1 * n for n in range(1, len(result.history) + 1)])


def test_a_resumed_search_judges_its_pace_by_what_is_new(model, told, tmp_path):
    options = {"of": (model, DOCS), "checkpoint": tmp_path / "log"}
    told(METHODS["random"], budget=Budget(candidates=12), **options)
    _, lines = told(METHODS["random"], **options)
    assert [(line["done"], line["left"]) for line in lines[:2]] == [(0, None), (12, None)]
    assert lines[2]["done"] == 13 and lines[2]["left"] > 0


def test_a_method_that_does_not_say_what_is_ahead(model, told):
    class Silent:
        def start(self, *arguments):
            return METHODS["random"].start(*arguments)

        def identity(self):
            return {}

    _, lines = told(Silent(), of=(model, DOCS))
    assert {line["total"] for line in lines} == {None}
    _, lines = told(Silent(), of=(model, DOCS), budget=Budget(candidates=5))
    assert {line["total"] for line in lines} == {5}


def test_a_result_prints_itself(model, undisturbed):
    first, second, third = repr(undisturbed("gradient")).splitlines()
    found = undisturbed("gradient")
    perplexity = found.history["best_perplexity"].iloc[-1]
    assert first == (
        f"SearchResult: perplexity {perplexity:.4g}, {found.best_loss:.4f} nats per token"
    )
    assert second == f"  {found.best}"
    assert re.fullmatch(r"  14 trials, 6.66 k tokens in [\d.]+ s; finished", third)
    stopped = search(model, DOCS, LENGTH, METHODS["random"], budget=Budget(candidates=1))
    assert re.search(r"\n  1 trial, 384 tokens in .*; stopped before its end$", repr(stopped))
    assert max(map(len, repr(found).splitlines())) <= 100


# --- stopped by hand ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_ctrl_c_returns_what_there_is(name, model, undisturbed, monkeypatch, capsys, tmp_path):
    count, measure = [0], Objective.measure

    def interrupted(self, model, trial):
        count[0] += 1
        if count[0] == 8:
            signal.raise_signal(signal.SIGINT)
        return measure(self, model, trial)

    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell starts background jobs without it
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "measure", interrupted)
        try:
            result = search(model, DOCS, LENGTH, METHODS[name], seed=4, checkpoint=tmp_path / "log")
        except KeyboardInterrupt:  # would end all tests
            pytest.fail("it was not caught")
        finally:
            signal.signal(signal.SIGINT, before)
    assert not result.finished
    assert_same(result, undisturbed(name), 7)
    assert (
        "search: stopped by hand after 7 trials; with a checkpoint, call again to go on"
        in capsys.readouterr().err
    )
    assert not any("forward" in vars(module) for module in model.modules())
    assert_same(
        search(model, DOCS, LENGTH, METHODS[name], seed=4, checkpoint=tmp_path / "log"),
        undisturbed(name),
    )


def test_ctrl_c_before_the_first_measurement_is_just_that(model, monkeypatch):
    def interrupted(self, model, trial):
        raise KeyboardInterrupt

    monkeypatch.setattr(Objective, "measure", interrupted)
    try:
        search(model, DOCS, LENGTH, EVOLUTION)
    except KeyboardInterrupt:  # would end all tests
        return
    pytest.fail("there is no result to return")


def test_a_failure_is_not_swallowed_and_loses_nothing(model, undisturbed, monkeypatch, tmp_path):
    count, measure = [0], Objective.measure

    def failing(self, model, trial):
        count[0] += 1
        return measure(self, model, trial) if count[0] < 8 else 1 / 0

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Objective, "measure", failing)
        search(model, DOCS, LENGTH, EVOLUTION, seed=4, checkpoint=tmp_path / "log")
    assert len(lines_of(tmp_path / "log")) == 1 + 7
    assert_same(
        search(model, DOCS, LENGTH, EVOLUTION, seed=4, checkpoint=tmp_path / "log"),
        undisturbed("evolution"),
    )


# --- messages -------------------------------------------------------------------------------------

SHORT = [
    Document("one", np.ones(LENGTH - 1, dtype=np.int64)),
    DOCS[1],
    Document("two", np.ones(5, dtype=np.int64)),
]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"docs": []}, "a search needs at least one document: load some with load_corpus"),
        (
            {"docs": SHORT},
            "2 of the 3 documents are shorter than the target of 128 tokens ('one' has 127): load "
            "them with min_tokens=128, or search for a shorter target",
        ),
        (
            {"target_length": 1300},
            "3 of the 3 documents are shorter than the target of 1,300 tokens ('book 0' has",
        ),
        ({"target_length": WINDOW - 1}, "target_length 63 is shorter than the window of 64"),
        ({"last": 0}, "last is 0: it counts the tokens scored, from 1 to 127"),
        ({"last": -3}, "last is -3: it counts"),
        ({"last": LENGTH}, "last is 128: it counts the tokens scored, from 1 to 127"),
        (
            {"method": "evolutoin"},
            "unknown search method 'evolutoin': did you mean 'evolution'? Known: evolution,",
        ),
        (
            {"method": None},
            "method is None: name one of evolution, gradient, random, strategy, or pass settings",
        ),
        (
            {"method": 5},
            "method is 5: name one of evolution, gradient, random, strategy, or pass settings",
        ),
        ({"method": Gradient}, "method is <class 'longrope_lab.searches.gradient.Gradient'>: name"),
        ({"seed": -1}, "seed is -1: it must be a whole number from 0"),
        ({"seed": 0.5}, "seed is 0.5: it must be a whole number from 0"),
        ({"target_length": 100.5}, "target_length is 100.5: it counts tokens, so a whole number"),
        ({"target_length": None}, "target_length is None: it counts tokens"),
        ({"last": 1.5}, "last is 1.5: it counts the tokens scored, from 1 to 127"),
        ({"last": math.nan}, "last is nan: it counts the tokens scored, from 1 to 127"),
        (
            {"preset": "papper"},
            "unknown preset 'papper': did you mean 'paper'? Known: paper, paper_512k, small, tiny",
        ),
        (
            {"preset": "paper", "method": EVOLUTION},
            "preset 'paper' sizes method='evolution' alone: leave it out, or",
        ),
        ({"preset": "tiny", "method": "random"}, "preset 'tiny' sizes method='evolution' alone"),
        (
            {"space": SearchSpace(SPEC, 4 * WINDOW)},
            "and 256 tokens, the search for",
        ),
        (
            {"space": SearchSpace(RopeSpec(16, WINDOW, base=500.0), LENGTH)},
            "make it as SearchSpace(rope_spec(model), 128)",
        ),
    ],
)
def test_searches_that_cannot_be(change, message, model, measured, tmp_path):
    call = {"model": model, "docs": DOCS, "target_length": LENGTH} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        search(**call, checkpoint=tmp_path / "log")
    assert measured == [] and not (tmp_path / "log").exists()


def test_the_space_of_a_model_is_made_from_it(model):
    assert rope_spec(model) == SPEC
    result = search(model, DOCS, LENGTH, Random(1), space=SearchSpace(rope_spec(model), LENGTH))
    assert isinstance(result.best, RopeScaling) and result.best.method == "longrope"


def marked(*places, length=LENGTH):
    marks = np.zeros(length, bool)
    marks[list(places)] = True
    return dataclasses.replace(DOCS[2], ids=DOCS[2].ids[:length], answers=marks)


@pytest.mark.parametrize(("last", "places"), [(None, [3, 100, 120]), (30, [100, 120])])
def test_of_a_document_that_marks_its_answers_these_alone_count(model, last, places):
    """Beside another document, which counts as ever; with a gradient and without."""
    docs = [marked(0, 3, 100, 120), DOCS[0]]
    objective = Objective.of(docs, LENGTH, last)
    scaling = RopeScaling(SPEC, np.linspace(1, 2, 8), target_length=LENGTH)
    with apply_scaling(model, scaling):
        losses = [token_losses(model, doc.ids[:LENGTH]) for doc in docs]
    answers = losses[0][[place - 1 for place in places]]  # entry t is the loss of token t + 1
    expected = tuple(float(each.mean()) for each in (answers, losses[1][-(last or 0) :]))
    for gradient in (False, True):
        trial = Trial("step", scaling, (0, 1), gradient=gradient)
        assert objective.measure(model, trial).losses == pytest.approx(expected, abs=1e-5)
    assert search(model, docs, LENGTH, Random(2), last=last).best_loss > 0


def test_a_search_on_answers_is_another_search(model, tmp_path):
    whole = dataclasses.replace(DOCS[1], ids=DOCS[1].ids[:LENGTH])
    search(model, [marked(5)], LENGTH, Random(1), checkpoint=tmp_path / "log")
    for docs in ([whole], [marked(6)]):
        with pytest.raises(ValueError, match="another search"):
            search(model, docs, LENGTH, Random(1), checkpoint=tmp_path / "log")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: marked(), "mark 0 of 128 tokens: mark at least one after the first"),
        (lambda: marked(0), "mark 1 of 128 tokens: mark at least one after the first"),
        (lambda: dataclasses.replace(DOCS[1], answers=np.ones(3, bool)), "mark 3 of 3 tokens"),
        (
            lambda: Objective.of([marked(140, length=150)], LENGTH),
            "answers of 'book 2' are not among the tokens measured: its first 128$",
        ),
        (
            lambda: Objective.of([marked(5)], LENGTH, 9),
            "are not among the tokens measured: its first 128, and the last 9 of these",
        ),
    ],
)
def test_answers_that_nothing_measures_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_checkpoint_that_cannot_be_written_is_named(model, tmp_path):
    (tmp_path / "file").touch()
    words = r"file.x\.jsonl cannot be written \(.*\): something is in the way: move it"
    with pytest.raises(ValueError, match=words):
        search(model, DOCS, LENGTH, "random", checkpoint=tmp_path / "file" / "x.jsonl")


def test_a_folder_is_no_checkpoint(model, tmp_path):
    words = r"is a folder: name a file for the checkpoint"
    with pytest.raises(ValueError, match=words):
        search(model, DOCS, LENGTH, Random(1), checkpoint=tmp_path)
