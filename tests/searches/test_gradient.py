"""Gradients against finite differences, isotonic regression, and steps that keep the rules."""

import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import VOCABULARY, WINDOW, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_space import spaces

from longrope_lab.models.forward import token_losses
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope import methods
from longrope_lab.rope.methods import METHODS, register_method
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import RopeSchedule
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.searches import Gradient, SearchSpace, search
from longrope_lab.searches.gradient import isotonic
from longrope_lab.searches.objective import Measured, Objective, Trial
from longrope_lab.texts.corpora import load_corpus

LENGTH = 2 * WINDOW
DOCUMENTS = tuple(np.random.default_rng(3).integers(3, VOCABULARY, (2, LENGTH)).astype(np.int32))
SPEC = RopeSpec(rotary_dim=16, window=WINDOW, base=10000.0)


def scaling_for(model, start_tokens=0):
    spec = rope_spec(model)
    factors = np.linspace(1.1, 2.4, spec.rotary_dim // 2)
    return RopeScaling(spec, factors, LENGTH, start_tokens=start_tokens, attention_factor=1.1)


def changed(scaling, log_factors, log_m):
    return RopeScaling(
        scaling.spec,
        scaling.factors * np.exp(log_factors),
        scaling.target_length,
        start_tokens=scaling.start_tokens,
        attention_factor=scaling.attention_factor * math.exp(log_m),
    )


@torch.no_grad()
def plain_loss(model, scaling, documents=DOCUMENTS, last=None):
    """The objective from all logits at once, in the model's own precision."""
    losses = []
    with apply_scaling(model, scaling):
        for ids in map(torch.from_numpy, documents):
            ids = ids.long()
            each = F.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
            losses.append(each[-last if last else 0 :].mean().item())
    return np.mean(losses)


def trial(scaling, documents=(0, 1), gradient=True):
    return Trial("step", scaling, documents, gradient=gradient)


@pytest.fixture
def float64(monkeypatch):
    """Nothing is rounded to float32.

    Norms, softmax and losses ask for that even where the weights are float64."""

    def doubled(function):
        def call(*args, **kwargs):
            args = [torch.float64 if a is torch.float32 else a for a in args]
            return function(
                *args, **{k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()}
            )

        return call

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch.Tensor, "to", doubled(torch.Tensor.to))
    monkeypatch.setattr(F, "softmax", doubled(F.softmax))


# --- the gradient ---------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [None, 40])
@pytest.mark.parametrize("start_tokens", [0, 20])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "gpt_neox"])
def test_against_central_differences(family, start_tokens, last, float64):
    """By every log factor and by log m, of a loss from logits that our losses never see."""
    model = tiny_model(family).double()
    scaling = scaling_for(model, start_tokens)
    measured = Objective(DOCUMENTS, last).measure(model, trial(scaling))
    h, expected = 1e-5, []
    for step in np.eye(len(scaling.factors) + 1) * h:
        up, down = (
            plain_loss(model, changed(scaling, s * step[:-1], s * step[-1]), last=last)
            for s in (1, -1)
        )
        expected.append((up - down) / (2 * h))
    assert np.abs(expected).max() > 1e-3  # positions matter to this model
    np.testing.assert_allclose(measured.gradient, expected, rtol=1e-5, atol=1e-8)
    assert np.mean(measured.losses) == pytest.approx(
        plain_loss(model, scaling, last=last), rel=1e-9
    )


@pytest.mark.parametrize("free", [0, 2**40])
@pytest.mark.parametrize("last", [None, 40])
def test_recomputing_in_chunks_changes_nothing(last, free, family, monkeypatch):
    """Against one backward pass through everything, in the model's own precision.

    With little memory and with much."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    model = tiny_model(family)
    scaling = scaling_for(model, 5)
    measured = Objective(DOCUMENTS, last).measure(model, trial(scaling, (0,)))
    factors, m = (
        torch.zeros(len(scaling.factors), dtype=torch.float64, requires_grad=True),
        torch.zeros(()),
    )
    m = m.double().requires_grad_()
    ids = torch.from_numpy(DOCUMENTS[0]).long()
    with apply_scaling(model, scaling, log_offsets=(factors, m)):
        logits = model(ids[None]).logits[0, :-1].float()
    F.cross_entropy(logits, ids[1:], reduction="none")[-last if last else 0 :].mean().backward()
    expected = np.array([*factors.grad, m.grad])
    np.testing.assert_allclose(
        measured.gradient, expected, atol=2e-5 * max(1, np.abs(expected).max())
    )


def test_the_gradient_is_that_of_the_mean_over_documents():
    model = tiny_model()
    scaling = scaling_for(model)
    each = [Objective(DOCUMENTS).measure(model, trial(scaling, (i,))) for i in (0, 1)]
    both = Objective(DOCUMENTS).measure(model, trial(scaling))
    np.testing.assert_allclose(
        both.gradient, np.mean([m.gradient for m in each], axis=0), atol=1e-9
    )
    assert both.losses == each[0].losses + each[1].losses
    assert trial(scaling).forwards == 8 and trial(scaling, gradient=False).forwards == 2


def test_the_loss_is_that_of_measuring_without_a_gradient():
    model = tiny_model()
    scaling = scaling_for(model, 3)
    for last in (None, 1, LENGTH - 1):
        with_it, without = (
            Objective(DOCUMENTS, last).measure(model, trial(scaling, gradient=g))
            for g in (True, False)
        )
        assert without.gradient is None
        np.testing.assert_allclose(with_it.losses, without.losses, rtol=1e-5)
        with apply_scaling(model, scaling):
            expected = [
                token_losses(model, ids)[-last if last else 0 :].double().mean().item()
                for ids in DOCUMENTS
            ]
        assert list(without.losses) == expected


# --- the model is left as it was ------------------------------------------------------------------


def state_of(model):
    return [
        (name, dict(vars(module)).get("forward"), sorted(vars(module)), module.training)
        for name, module in model.named_modules()
    ], [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()]


@pytest.mark.parametrize("gradient", [True, False])
def test_the_model_is_left_as_it_was(gradient, family):
    model = tiny_model(family)
    model.get_input_embeddings().weight.requires_grad_(False)
    next(model.base_model.children()).train()
    ids = torch.from_numpy(DOCUMENTS[0]).long()[None]
    with torch.no_grad():
        stock = model(ids).logits
    before = state_of(model)
    Objective(DOCUMENTS).measure(model, trial(scaling_for(model, 2), gradient=gradient))
    assert state_of(model) == before
    with torch.no_grad():
        assert torch.equal(model(ids).logits, stock)
    weights = [p for p in model.parameters() if p.requires_grad]
    assert weights and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("gradient", [True, False])
def test_a_failure_leaves_it_as_it_was_too(gradient):
    model = tiny_model()
    hook = model.model.layers[1].mlp.register_forward_hook(lambda *_: 1 / 0)
    before = state_of(model)
    with pytest.raises(ZeroDivisionError):
        Objective(DOCUMENTS).measure(model, trial(scaling_for(model), gradient=gradient))
    assert state_of(model) == before
    hook.remove()


def test_a_frozen_model_gives_a_gradient():
    model = tiny_model()
    expected = Objective(DOCUMENTS).measure(model, trial(scaling_for(model)))
    model.requires_grad_(False)
    with torch.no_grad():
        assert Objective(DOCUMENTS).measure(model, trial(scaling_for(model))) == expected
    assert not any(p.requires_grad for p in model.parameters())


# --- isotonic regression --------------------------------------------------------------------------

sequences = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


def pooled(values, weights=None):
    """Pool adjacent violators, as in the textbooks."""
    blocks = []
    for value, weight in zip(
        values, np.ones(len(values)) if weights is None else weights, strict=True
    ):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, n, k), (a, m, j) = blocks.pop(), blocks.pop()
            blocks.append([(a * m + b * n) / (m + n), m + n, j + k])
    return [mean for mean, _, count in blocks for _ in range(count)]


@given(values=sequences)
def test_isotonic_regression(values):
    rising = isotonic(values)
    assert rising.shape == (len(values),) and (np.diff(rising) >= 0).all()
    np.testing.assert_allclose(rising, pooled(values), atol=1e-10)
    np.testing.assert_allclose(isotonic(rising), rising, atol=1e-10)
    assert rising.mean() == pytest.approx(np.mean(values), abs=1e-10)
    np.testing.assert_allclose(isotonic(np.sort(values)), np.sort(values), atol=1e-10)


@given(values=sequences, seed=st.integers(0, 2**32))
def test_no_other_rising_sequence_is_nearer(values, seed):
    rng = np.random.default_rng(seed)
    rising = isotonic(values)
    nearest = np.square(rising - values).sum()
    others = np.sort(
        rising + rng.normal(size=(50, len(values))) * rng.choice([1e-3, 0.1, 10], (50, 1)), axis=1
    )
    others = np.concatenate((others, np.sort(rng.uniform(-100, 100, (50, len(values))), axis=1)))
    assert (np.square(others - values).sum(axis=1) >= nearest - 1e-9).all()


@given(
    pairs=st.lists(st.tuples(st.floats(-100, 100), st.floats(0.01, 100)), min_size=1, max_size=12)
)
def test_weighted_isotonic_regression(pairs):
    values, weights = np.array(pairs).T
    rising = isotonic(values, weights)
    assert (np.diff(rising) >= -1e-9).all()
    np.testing.assert_allclose(rising, pooled(values, weights), atol=1e-7)
    np.testing.assert_allclose(
        isotonic(values, np.full(len(values), 7.0)), isotonic(values), atol=1e-9
    )


def test_isotonic_by_hand():
    assert isotonic([3, 1], [3, 1]).tolist() == [2.5, 2.5]
    assert isotonic([3, 1, 2]).tolist() == [2, 2, 2]
    assert isotonic([1, 3, 2, 4]).tolist() == [1, 2.5, 2.5, 4]
    assert isotonic([5]).tolist() == [5]
    grid = np.array(list(itertools.combinations_with_replacement(np.arange(0, 3.01, 0.25), 3)))
    for values in (
        [2.0, 0.0, 1.0],
        [0.0, 3.0, 0.0],
        [1.5, 1.0, 0.5],
    ):  # whose answers lie on this grid
        best = grid[np.square(grid - values).sum(axis=1).argmin()]
        np.testing.assert_allclose(isotonic(values), best)


# --- steps ----------------------------------------------------------------------------------------


def asked_for(method, space, gradient, documents=2, seed=0):
    """All trials, as (kind, documents, scaling), of a search with these gradients."""
    steps, asked = method.start(space, documents, seed), []
    while trials := steps.ask():
        asked += [(t.kind, t.documents, t.scaling) for t in trials]
        steps.tell(
            [Measured((1.0,), tuple(gradient(t.scaling)) if t.gradient else None) for t in trials]
        )
    return asked


@settings(deadline=None, max_examples=50)
@given(
    space=spaces(),
    seed=st.integers(0, 2**32),
    rate=st.floats(0.01, 3),
    start=st.sampled_from(["pi", "ntk"]),
    weighted=st.booleans(),
)
def test_every_step_keeps_the_rules(space, seed, rate, start, weighted):
    noise, pairs = np.random.default_rng(seed), space.spec.rotary_dim // 2
    method = Gradient(
        steps=6, learning_rate=rate, validate_every=2, initial=start, weighted=weighted
    )
    for _, _, scaling in asked_for(method, space, lambda _: noise.normal(size=pairs + 1)):
        low, high = space.bounds
        assert (scaling.factors >= low).all() and (scaling.factors <= high).all()
        if space.monotone:
            assert (np.diff(scaling.factors) >= -1e-12).all()
        assert scaling.start_tokens == space.start_tokens[0]
        assert scaling.target_length == space.target_length and scaling.spec == space.spec


@pytest.mark.parametrize("limits", [(0.9, 1.6), (1.3, 1.6), (0.7, 0.9), (1.1, 1.1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_m_stays_within_its_range(limits, sign):
    """From the first measurement on: the formula's m, sqrt(1 + 1/6) here, may lie outside."""
    space = SearchSpace(SPEC, LENGTH, attention_factors=limits)
    asked = asked_for(Gradient(steps=20, learning_rate=0.3), space, lambda _: [0.0] * 8 + [sign])
    ms = [scaling.attention_factor for _, _, scaling in asked]
    assert min(ms) >= limits[0] - 1e-12 and max(ms) <= limits[1] + 1e-12
    assert ms[-1] == pytest.approx(limits[0] if sign > 0 else limits[1])


@pytest.mark.parametrize(
    ("given_", "m"), [(None, math.sqrt(1 + math.log(2) / math.log(WINDOW))), (1.234, 1.234)]
)
def test_m_stays_where_it_is_not_searched(given_, m):
    space = SearchSpace(SPEC, LENGTH, attention_factors=given_)
    asked = asked_for(Gradient(steps=5, learning_rate=0.5), space, lambda _: [1.0] * 9)
    assert {scaling.attention_factor for _, _, scaling in asked} == {m}


def test_it_may_start_from_the_upper_bounds():
    high = (1.0, 1.5, 2, 2, 2, 2, 3, 4)
    space = SearchSpace(SPEC, LENGTH, high=high)
    asked = asked_for(Gradient(steps=2, initial="high"), space, lambda _: [1.0] * 9)
    assert asked[0][2].factors.tolist() == list(high)
    assert (asked[-1][2].factors[1:] < high[1:]).all()
    free = dataclasses.replace(space, attention_factors=(1.0, 1.7))
    assert (
        asked_for(Gradient(steps=1, initial="high"), free, lambda _: [1.0] * 9)[0][
            2
        ].attention_factor
        == 1.7
    )


@pytest.mark.parametrize("better", ["high", "none", "pi"])
def test_of_several_starts_it_goes_on_from_the_best(better):
    """With what that start alone would do."""
    space = SearchSpace(
        SPEC, LENGTH, high=(1.0, 1.5, 2, 2, 2, 2, 3, 4), attention_factors=(1.0, 1.7)
    )
    names = ("high", "none", "pi")
    searcher = Gradient(steps=3, validate_every=3, initial=names).start(space, 2, 0)
    alone = Gradient(steps=3, validate_every=3, initial=better).start(space, 2, 0)
    asked = searcher.ask()
    assert [trial.kind for trial in asked] == ["validation"] * 3
    none = asked[1].scaling  # nothing scaled, m included
    assert (none.factors == 1).all() and none.attention_factor == 1
    losses = {
        name: (1.0, 2.0) if name == better else (math.nan, 1.0) if name == "pi" else (2.0, 2.0)
        for name in names
    }
    searcher.tell([Measured(losses[name]) for name in names])
    alone.tell([Measured((1.0, 2.0))])
    while expected := alone.ask():
        found = searcher.ask()
        assert [trial.digest for trial in found] == [trial.digest for trial in expected]
        for each in (searcher, alone):
            each.tell(
                [Measured((1.0,), (0.5,) * 9 if trial.gradient else None) for trial in expected]
            )
    assert searcher.ask() == []


def test_pushing_against_a_bound_leaves_no_debt():
    """Many steps that want more than the highest factor, and one back: it is back at once."""
    gradients = iter([-1.0] * 6 + [1e3] * 2)
    method = Gradient(steps=8, learning_rate=0.1, validate_every=9, initial="high")
    asked = asked_for(method, SearchSpace(SPEC, LENGTH), lambda _: np.full(9, next(gradients)))
    factors = [scaling.factors[0] for _, _, scaling in asked[1:]]
    assert factors[:7] == 7 * [2.5]
    assert factors[7] < 2.49


def test_on_top_of_another_extension():
    """The factors in place are constant: moving the product's logarithms is moving those on top."""
    first = RopeScaling(SPEC, np.linspace(1, 2, 8), LENGTH, start_tokens=4, attention_factor=1.1)
    space = SearchSpace.on_top_of(first, 2 * LENGTH, attention_factors=(0.5, 1.5))
    method = Gradient(steps=1, learning_rate=0.1, initial="pi")
    asked = [scaling for _, _, scaling in asked_for(method, space, lambda _: np.ones(9))]
    np.testing.assert_allclose(asked[0].factors, 2 * first.factors)
    np.testing.assert_allclose(asked[-1].factors, 2 * first.factors * math.exp(-0.1), rtol=1e-4)
    m = 1.1 * math.sqrt(1 + math.log(2) / math.log(LENGTH))
    assert [s.attention_factor for s in asked] == pytest.approx([m, m, m * math.exp(-0.05)])
    assert all(
        s.spec == SPEC and s.start_tokens == 4 and s.target_length == 2 * LENGTH for s in asked
    )


def test_the_first_step_in_closed_form():
    """Adam's first step is the learning rate, whatever the gradient's size; for m half of it."""
    space = SearchSpace(SPEC, 8 * WINDOW, low=1.0, high=16.0, attention_factors=(0.5, 2.0))
    gradient = np.array([1e-3, -5, 2, -1e-2, 1, -1, 30, -0.2, -4])
    formula = np.full(8, math.log(8))
    for monotone, weighted in itertools.product((True, False), repeat=2):
        space = SearchSpace(
            SPEC, 8 * WINDOW, 1.0, 16.0, attention_factors=(0.5, 2.0), monotone=monotone
        )
        method = Gradient(steps=1, learning_rate=0.2, initial="pi", weighted=weighted)
        first, step, last = (
            scaling for _, _, scaling in asked_for(method, space, lambda _: gradient)
        )
        assert first == step and np.log(first.factors) == pytest.approx(formula)
        moved = formula - 0.2 * np.sign(gradient[:-1])
        expected = pooled(moved, np.abs(gradient[:-1]) if weighted else None) if monotone else moved
        np.testing.assert_allclose(np.log(last.factors), expected, atol=1e-4)
        assert math.log(last.attention_factor / first.attention_factor) == pytest.approx(
            0.1, abs=1e-6
        )


def test_one_document_is_never_read_twice_at_the_same_factors():
    """A step reads all that a validation would. What comes out is what two documents of the same
    losses give."""
    space = SearchSpace(SPEC, LENGTH)
    method = Gradient(steps=6, validate_every=2)

    def kinds(documents):
        asked = asked_for(method, space, lambda s: [*np.log(s.factors), 0.0], documents)
        return [kind for kind, _, _ in asked], [scaling for _, _, scaling in asked]

    alone, scalings = kinds(1)
    assert alone == ["validation", "step", "validation", "step", "validation", "step", "validation"]
    assert len(set(scalings)) == len(scalings)
    pair, with_two = kinds(2)
    validated = [s for kind, s in zip(pair, with_two, strict=True) if kind == "validation"]
    assert scalings[::2] == validated
    many_starts = Gradient(steps=2, validate_every=2, initial=("yarn", "pi"))
    assert [k for k, _, _ in asked_for(many_starts, space, lambda _: [1.0] * 9, 1)] == [
        "validation", "validation", "step", "step", "validation",
    ]  # fmt: skip
    for settings_, documents in itertools.product((method, many_starts), (1, 2)):
        trials = asked_for(settings_, space, lambda _: [1.0] * 9, documents)
        assert sum(count for count, _ in settings_.ahead(documents)) == len(trials)


def test_starts_are_compared_on_one_document_and_the_best_goes_on():
    """At one pass each; then steps, and one measurement on all documents at the end."""
    space, names = SearchSpace(SPEC, 8 * WINDOW), ("pi", "yarn", "ramp")
    method = Gradient(steps=2, validate_every=2, initial=names, start_documents=1)
    searcher = method.start(space, 3, 0)
    trials = searcher.ask()
    assert [(t.kind, t.documents, t.gradient) for t in trials] == [("start", (0,), False)] * 3
    searcher.tell([Measured((loss,)) for loss in (3.0, 2.0, 1.0)])
    first = searcher.ask()
    assert [t.kind for t in first] == ["step"] and first[0].scaling == trials[2].scaling
    asked = asked_for(method, space, lambda _: [1.0] * 9, 3)
    assert [kind for kind, _, _ in asked] == ["start"] * 3 + ["step"] * 2 + ["validation"]
    assert sum(count for count, _ in method.ahead(3)) == len(asked)
    assert sum(count * cost for count, cost in method.ahead(3)) == 3 + 2 * 4 + 3
    # As checkpoints and folders of plans had it before, where nothing is said of it.
    assert "start_documents" not in Gradient().identity() and "start_" not in repr(Gradient())
    assert "start_documents=1" in repr(method) and method.identity()["start_documents"] == 1
    with pytest.raises(ValueError, match="start_documents is 1, and initial names 'yarn' alone"):
        Gradient(start_documents=1)
    with pytest.raises(ValueError, match="start_documents is 0"):
        Gradient(initial=names, start_documents=0)


def test_steps_get_shorter():
    space = SearchSpace(SPEC, 8 * WINDOW, high=1e6)
    asked = asked_for(
        Gradient(steps=10, learning_rate=0.2, initial="pi"), space, lambda _: [-1.0] * 9
    )
    logs = [math.log(scaling.factors[0]) for kind, _, scaling in asked if kind == "step"]
    moves = np.diff([*logs, math.log(asked[-1][2].factors[0])])
    expected = [0.2 * (0.55 + 0.45 * math.cos(math.pi * step / 10)) for step in range(10)]
    np.testing.assert_allclose(moves, expected, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_it_goes_to_the_nearest_that_is_allowed(weighted):
    """Led to log factors that fall, the search ends at their isotonic regression."""
    space, wanted = SearchSpace(SPEC, 8 * WINDOW), np.log([1.2, 1.1, 2.0, 2.5, 2.0, 4.0, 7.0, 6.0])
    method = Gradient(steps=300, learning_rate=0.05, weighted=weighted)
    asked = asked_for(method, space, lambda s: [*(np.log(s.factors) - wanted), 0.0])
    np.testing.assert_allclose(np.log(asked[-1][2].factors), pooled(wanted), atol=0.02)


def test_a_dimension_that_matters_is_not_outvoted():
    """Four of next to no effect want to fall below one that matters and wants to rise: it rises."""
    space = SearchSpace(SPEC, 8 * WINDOW)
    weight, wanted = (
        np.array([1, 1, 1, 1.0, 1e-4, 1e-4, 1e-4, 1e-4]),
        np.log([1, 1, 2, 4.0, 1, 1, 1, 1]),
    )
    method = Gradient(steps=300, learning_rate=0.05, weighted=True)
    asked = asked_for(method, space, lambda s: [*weight * (np.log(s.factors) - wanted), 0.0])
    np.testing.assert_allclose(np.log(asked[-1][2].factors), pooled(wanted, weight), atol=0.02)


def test_gradients_of_nothing_weigh_alike():
    """All zero, or a thousand-millionth beside a hundred: nothing moves that has no reason to."""
    space = SearchSpace(SPEC, 8 * WINDOW)
    method = Gradient(steps=5, initial="pi", weighted=True)
    assert len({scaling for _, _, scaling in asked_for(method, space, lambda _: np.zeros(9))}) == 1
    gradient = np.array([100.0, 100, 100, 100, 1e-9, 0, 0, 0, 0])
    end = asked_for(method, space, lambda _: gradient)[-1][2].factors
    assert (end[:4] < 7).all() and end[4] < 8 and end[5:].tolist() == pytest.approx([8.0] * 3)


def test_closed_dimensions_do_not_weigh():
    """However loud their gradient, fast dimensions stay, and those above them follow their own."""
    space = SearchSpace(SPEC, 8 * WINDOW, high=(1.0, 1.0, 1.0, 10, 10, 10, 10, 10))
    gradient = np.array([-1e3, -1e3, -1e3, 1, 1, 1, 1, 1, 0])
    asked = asked_for(Gradient(steps=30, initial="high", weighted=True), space, lambda _: gradient)
    assert asked[-1][2].factors[:3].tolist() == [1.0] * 3
    assert asked[-1][2].factors[3:].max() < 2.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, -1])
def test_a_gradient_that_is_no_number_moves_nothing(bad, where):
    space, given_ = SearchSpace(SPEC, LENGTH, attention_factors=(0.9, 1.5)), np.ones(9)
    given_[where] = bad
    asked = asked_for(Gradient(steps=4, batch=2, validate_every=2), space, lambda _: given_)
    assert len({scaling for _, _, scaling in asked}) == 1
    assert [kind for kind, _, _ in asked].count("step") == 8  # and the search comes to its end


def test_a_bad_gradient_spoils_no_later_step():
    gradients = iter([np.ones(9), np.full(9, math.nan), np.ones(9)])
    asked = asked_for(
        Gradient(steps=3, validate_every=9),
        SearchSpace(SPEC, 8 * WINDOW),
        lambda _: next(gradients),
    )
    first = [scaling.factors[-1] for _, _, scaling in asked]
    assert first[0] == first[1] > first[2] == first[3] > first[4] > 1


def test_validations_and_passes_over_the_documents():
    method = Gradient(steps=7, batch=2, validate_every=3)
    asked = asked_for(method, SearchSpace(SPEC, LENGTH), lambda _: np.ones(9), documents=5)
    kinds = [kind for kind, _, _ in asked]
    three = 6 * ["step"]
    assert kinds == [
        "validation",
        *three,
        "validation",
        *three,
        "validation",
        *three[:2],
        "validation",
    ]
    assert all(documents == (0, 1, 2, 3, 4) for kind, documents, _ in asked if kind == "validation")
    drawn = [documents[0] for kind, documents, _ in asked if kind == "step"]
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == [0, 1, 2, 3, 4]
    others = asked_for(method, SearchSpace(SPEC, LENGTH), lambda _: np.ones(9), documents=5, seed=1)
    assert [d for kind, d, _ in others if kind == "step"] != [
        d for kind, d, _ in asked if kind == "step"
    ]


def test_a_batch_moves_by_its_mean():
    space = SearchSpace(SPEC, 8 * WINDOW)
    gradients = itertools.cycle([np.full(9, 3.0), np.full(9, -1.0)])
    asked = asked_for(
        Gradient(steps=3, batch=2, validate_every=9), space, lambda _: next(gradients), documents=2
    )
    alone = asked_for(Gradient(steps=3, validate_every=9), space, lambda _: np.full(9, 1.0))
    assert asked[-1][2] == alone[-1][2] != asked[0][2]


# --- a search -------------------------------------------------------------------------------------


def test_it_improves_the_lab_model(lab):
    model, tokenizer = lab
    docs = load_corpus(
        "kjv", tokenizer, split="validation", min_tokens=1024, max_tokens=1024, limit=1
    )
    before = state_of(model)
    result = search(model, docs, 1024, Gradient(steps=3, learning_rate=0.2, validate_every=2))
    validated = result.history.query("kind == 'validation'")["loss"].tolist()
    assert len(validated) == 3 and result.finished
    assert result.best_loss == min(validated) < validated[0] - 0.01
    result.best.check_monotone()
    assert result.best.factors.min() >= 1 and result.best.factors.max() <= 2.5
    with apply_scaling(model, result.best):
        assert token_losses(model, docs[0].ids).double().mean().item() == pytest.approx(
            result.best_loss, abs=1e-5
        )
    assert state_of(model) == before


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0: it must be a whole number from 1"),
        ({"batch": 0}, "batch is 0: it must be a whole number from 1"),
        ({"validate_every": -1}, "validate_every is -1: it must be a whole number from 1"),
        ({"steps": 1.5}, "steps is 1.5: it must be a whole number from 1"),
        ({"steps": math.nan}, "steps is nan: it must be a whole number from 1"),
        ({"steps": math.inf}, "steps is inf: it must be a whole number from 1"),
        ({"batch": 0.5}, "batch is 0.5: it must be a whole number from 1"),
        ({"validate_every": "often"}, "validate_every is often: it must be a whole number"),
        ({"learning_rate": 0}, "learning_rate is 0: it must be a finite number above 0"),
        ({"learning_rate": math.inf}, "learning_rate is inf: it must be"),
        ({"learning_rate": math.nan}, "learning_rate is nan: it must be"),
        ({"initial": []}, r"initial is \[\]: name at least one start"),
        ({"initial": "yarm"}, "unknown start of a search 'yarm': did you mean 'yarn'"),
        ({"initial": ("pi", "hihg")}, "unknown start of a search 'hihg': did you mean 'high'"),
        ({"initial": "dynamic_ntk"}, "unknown start of a search 'dynamic_ntk': .*Known: none, pi"),
        ({"initial": "longrope"}, "unknown start of a search 'longrope': .*Known: none, pi"),
        ({"initial": None}, "initial is None: it must be a text or a list of texts$"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Gradient(**options)


@pytest.fixture
def own_methods(monkeypatch):
    """Two of a user's own: one that gives factors, and one that gives a schedule."""
    monkeypatch.setattr("longrope_lab.rope.methods.METHODS", {**METHODS})
    monkeypatch.setattr("longrope_lab.searches.starts.METHODS", methods.METHODS)

    @register_method("root")
    def root(spec, target_length):
        factors = np.full(spec.rotary_dim // 2, math.sqrt(target_length / spec.window))
        return RopeScaling(spec, factors, target_length, "root")

    @register_method("staircase")
    def staircase(spec, target_length):
        return RopeSchedule.by_length([root(spec, target_length)])


def test_it_may_start_from_a_method_of_ones_own(own_methods):
    asked = asked_for(
        Gradient(steps=1, initial="root"), SearchSpace(SPEC, LENGTH), lambda _: [1] * 9
    )
    np.testing.assert_allclose(asked[0][2].factors, math.sqrt(2))
    with pytest.raises(ValueError, match="'staircase' gives a schedule, and a search starts from"):
        Gradient(initial="staircase").start(SearchSpace(SPEC, LENGTH), 1, 0)


def test_everything_is_part_of_its_identity():
    others = [
        Gradient(steps=65),
        Gradient(batch=2),
        Gradient(learning_rate=0.2),
        Gradient(initial="pi"),
    ]
    assert all(other.identity() != Gradient().identity() for other in others)
    assert hash(Gradient(initial=["pi", "ntk"])) == hash(Gradient(initial=("pi", "ntk")))


def test_whole_numbers_of_other_types_are_the_same_settings():
    ours = Gradient(np.int64(5), 2.0, learning_rate=np.float64(0.25), validate_every=np.float32(3))
    plain = Gradient(5, 2, learning_rate=0.25, validate_every=3)
    assert ours == plain and json.dumps(ours.identity()) == json.dumps(plain.identity())
