"""LongRoPE2's space: factors in [s, 2s] from a critical pair on, NTK to it below."""

import math

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, WINDOW, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_lab.models.rotary import rope_spec
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.searches import Evolution, Gradient, Random, SearchSpace, search
from longrope_lab.searches.objective import Measured
from longrope_lab.searches.space_rules import ntk_below
from longrope_lab.texts.tokens import Document

SPEC = RopeSpec(64, 512, base=10_000.0)
LLAMA3 = RopeSpec(128, 8192, base=500_000.0)

# What Microsoft released for LLaMA3-8B at 131,072 tokens (microsoft/nnscaler, examples/longrope2),
# in their own digits: every eighth of the factors below pair 33, then pair 33 and the last.
RELEASED = {0: 1.0, 8: 2.111166985, 16: 4.457026037, 24: 9.40952622, 32: 19.8650811}
CRITICAL, FIRST, LAST = 33, 21.81, 26.05


@pytest.mark.parametrize(
    ("spec", "pair"),
    [  # Phi3-mini, LLaMA3-8B, SmolLM2-135M, the lab model
        (RopeSpec(96, 2048, base=10_000.0), 31),
        (LLAMA3, 35),
        (RopeSpec(64, 8192, base=100_000.0), 20),
        (SPEC, 16),
    ],
)
def test_the_theoretical_critical_pair(spec, pair):
    """Closed form, the paper's figures, and the period against the window."""
    half = spec.rotary_dim // 2
    assert spec.critical_pair == pair
    assert math.ceil(half * math.log(spec.window / (2 * math.pi), spec.base)) == pair
    assert spec.wavelengths[pair] >= spec.window > spec.wavelengths[pair - 1]
    assert RopeSpec(8, 10**9, base=100.0).critical_pair == 4  # every pair makes whole turns
    again = RopeSpec(spec.rotary_dim, spec.window, base_frequencies=tuple(spec.frequencies))
    assert again.critical_pair == pair


def test_the_released_factors_of_llama3():
    """They lie in the space, and those below the critical pair follow from that pair's."""
    factors = ntk_below(np.where(np.arange(64) < CRITICAL, 1.0, FIRST), CRITICAL)
    for pair, factor in RELEASED.items():
        assert factors[pair] == pytest.approx(factor, rel=2e-4)  # they give the ratio in 4 digits
    space = SearchSpace.longrope2(LLAMA3, 131_072)
    lowest, highest = space.critical
    assert lowest <= CRITICAL <= highest == LLAMA3.critical_pair
    assert FIRST >= 16 and LAST <= 32 == space.high


def keeps(space, scaling, critical):
    """Whether factors keep to a critical pair, but for the grid's half a step."""
    f, s = scaling.factors, space.target_length / space.spec.window
    slow, fast = f[critical:], f[:critical]
    assert (slow >= s - 1e-9).all() and (slow <= 2 * s + 1e-9).all() and (np.diff(f) >= 0).all()
    expected = f[critical] ** (np.arange(critical) / critical)
    np.testing.assert_allclose(fast, expected, atol=space.step / 2 + 1e-9)
    return True


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), ratio=st.sampled_from([2, 8, 32]))
def test_random_candidates_mutations_and_crossovers_keep_the_rule(seed, ratio):
    space = SearchSpace.longrope2(SPEC, ratio * 512, attention_factors=(1.0, 1.5))
    rng = np.random.default_rng(seed)
    found = Evolution(population=4, probability=0.5, initial=("pi", "yarn", "high")).start(
        space, 1, seed
    )
    one, other = (space.random(rng) for _ in range(2))
    children = [found._mutate(one), found._cross(one, other), found._mutate(found._mutate(other))]
    for candidate in (one, other, *children):
        assert space.critical[0] <= candidate.critical <= space.critical[1]
        assert keeps(space, space.scaling(candidate), candidate.critical)
        assert 1.0 <= space.scaling(candidate).attention_factor <= 1.5


def test_formulas_begin_at_s_and_the_bounds_at_twice_that():
    space = SearchSpace.longrope2(SPEC, 4096)
    for name in ("pi", "ntk", "yarn", "ramp"):
        factors = space.formula_factors(name)
        np.testing.assert_allclose(factors[16:], 8.0)
        np.testing.assert_allclose(factors[:16], 8.0 ** (np.arange(16) / 16))
    np.testing.assert_allclose(space.formula_factors("high")[16:], 16.0)
    fixed = SearchSpace.longrope2(SPEC, 4096, critical=12)
    assert fixed.critical == (12, 12) and fixed.formula_factors("pi")[12] == 8.0
    assert fixed.formula_factors("pi")[6] == pytest.approx(math.sqrt(8))


def a_valley(space, wanted, critical):
    """Distance in log factors of what a search asks for from a point, and its slope."""
    log_wanted = np.log(ntk_below(wanted, critical))

    def tell(trial):
        away = np.log(trial.scaling.factors) - log_wanted
        gradient = (*(2 * away), 0.0) if trial.gradient else None
        return Measured((float(away @ away),), gradient)

    return tell


def test_a_gradient_keeps_the_rule_and_finds_the_bottom():
    space = SearchSpace.longrope2(SPEC, 4096, critical=14)
    tell = a_valley(space, np.linspace(9.0, 15.0, 32), 14)
    searcher = Gradient(steps=120, validate_every=120, initial="pi").start(space, 1, 0)
    losses = []
    while asked := searcher.ask():
        told = [tell(trial) for trial in asked]
        losses += [m.losses[0] for m in told]
        assert all(keeps(space, trial.scaling, 14) for trial in asked)
        searcher.tell(told)
    assert losses[-1] < 1e-3 * losses[0]


def test_the_pull_on_the_critical_factor_is_that_of_all_below_it():
    """Against finite differences through the formula."""
    space = SearchSpace.longrope2(SPEC, 4096, critical=13)
    tell = a_valley(space, np.linspace(9.0, 15.0, 32), 16)
    searcher = Gradient(steps=1, initial="high").start(space, 1, 0)
    x = np.log(np.linspace(9.0, 12.0, 32))

    def loss(x):
        factors = space.kept_to(np.exp(x), 13)
        return tell(_Trial(space.scaling_at(factors))).losses[0]

    full = tell(_Trial(space.scaling_at(space.kept_to(np.exp(x), 13)), gradient=True)).gradient
    tied = searcher._tied(torch.tensor(full[:-1], dtype=torch.float64)).numpy()
    numeric = [
        (loss(x + 1e-6 * np.eye(32)[i]) - loss(x - 1e-6 * np.eye(32)[i])) / 2e-6 for i in range(32)
    ]
    np.testing.assert_allclose(tied, numeric, atol=1e-6)


class _Trial:
    def __init__(self, scaling, gradient=False):
        self.scaling, self.gradient = scaling, gradient


@pytest.mark.parametrize(
    "method",
    [
        Evolution(population=4, mutations=2, crossovers=2, top=2, rounds=2),
        Gradient(steps=2, validate_every=2, learning_rate=0.5),
        Random(5),
    ],
    ids=["evolution", "gradient", "random"],
)
def test_whole_searches_stay_in_the_space(method, tmp_path):
    model, length = tiny_model(), 4 * WINDOW
    ids = np.random.default_rng(0).integers(3, VOCABULARY, length)
    space = SearchSpace.longrope2(rope_spec(model), length)
    options = {"space": space, "checkpoint": tmp_path / "log"}
    found = search(model, [Document("text", ids)], length, method, **options)
    places = range(space.critical[0], space.critical[1] + 1)
    for scaling in found.scalings:
        assert any(_fits(space, scaling, place) for place in places)
    again = search(model, [Document("text", ids)], length, method, **options)
    assert again.best == found.best
    with pytest.raises(ValueError, match=r"another search .*space"):
        other = SearchSpace(rope_spec(model), length)
        search(model, [Document("text", ids)], length, method, **options | {"space": other})


def _fits(space, scaling, critical):
    try:
        return keeps(space, scaling, critical)
    except AssertionError:
        return False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SearchSpace.longrope2(SPEC, 512),
            "target_length 512 is the window itself: name a longer",
        ),
        (lambda: SearchSpace.longrope2(SPEC, 4096, critical=0), "critical is 0: name a pair from"),
        (lambda: SearchSpace.longrope2(SPEC, 4096, critical=32), "critical is 32: name a pair"),
        (lambda: SearchSpace.longrope2(SPEC, 4096, critical=(9, 8)), r"critical is \(9, 8\)"),
        (lambda: SearchSpace(SPEC, 4096, critical=(1, 2, 3)), r"critical is \(1, 2, 3\): name"),
    ],
)
def test_critical_pairs_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()
