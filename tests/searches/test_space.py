"""What a search may choose from: Table 4, candidates that keep the rules, where it may start."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling, compose
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.searches.space import SearchSpace

SPEC = RopeSpec(rotary_dim=8, window=512, base=10000.0)


@st.composite
def spaces(draw, monotone=None):
    """Any space that is not empty: its bounds lie around grid values that never fall."""
    pairs, window = draw(st.integers(2, 8)), draw(st.integers(16, 5000))
    spec = RopeSpec(2 * pairs, window, base=draw(st.floats(10, 1e7)))
    target = math.ceil(window * draw(st.floats(1, 32)))
    step = draw(st.sampled_from([0.01, 0.05, 0.3, 1.0]))
    options = {
        "step": step,
        "start_tokens": tuple(
            draw(st.lists(st.integers(0, min(300, target)), min_size=1, max_size=4))
        ),
        "attention_factors": draw(
            st.sampled_from([None, 1.07, (1.0, 1.25), (0.8, 0.8), (0.5, 2.0)])
        ),
        "monotone": draw(st.booleans()) if monotone is None else monotone,
    }
    if draw(st.booleans()):
        least = math.ceil(1 / step)
        inside = step * np.sort(
            draw(st.lists(st.integers(least, least + 500), min_size=pairs, max_size=pairs))
        )
        margins = st.lists(st.floats(0, 3), min_size=pairs, max_size=pairs)
        options["low"] = tuple(np.maximum(inside - draw(margins), 1.0))
        options["high"] = tuple(inside + draw(margins))
    return SearchSpace(spec, target, **options)


def assert_inside(space, scaling):
    """`scaling` follows every rule of `space`, as its arguments state them."""
    factors, pairs = scaling.factors, space.spec.rotary_dim // 2
    assert scaling.spec == space.spec and scaling.target_length == space.target_length
    assert factors.shape == (pairs,)
    np.testing.assert_allclose(factors, np.rint(factors / space.step) * space.step, atol=1e-9)
    assert (factors >= np.array(space.low) - 1e-6).all() and (
        factors <= np.array(space.high) + 1e-6
    ).all()
    if space.monotone:
        assert (np.diff(factors) >= 0).all()
    assert scaling.start_tokens in space.start_tokens
    if space.attention_factors is None:
        ratio = space.target_length / space.spec.window
        assert scaling.attention_factor == pytest.approx(
            math.sqrt(1 + math.log(ratio) / math.log(space.spec.window))
        )
    else:
        lowest, highest = np.broadcast_to(space.attention_factors, 2)
        assert lowest - 1e-9 <= scaling.attention_factor <= highest + 1e-9


# --- Table 4 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1, 2, 4, 8, 64, 512])
def test_table_4(ratio):
    space = SearchSpace(SPEC, 512 * ratio)
    low, high = space.bounds
    assert (low == 1.0).all() and (high == 1.25 * ratio).all() and low.shape == high.shape == (4,)
    lowest, highest = space.grid  # in steps of 0.01
    assert (lowest == 100).all() and (highest == 125 * ratio).all()
    assert space.start_tokens == (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
    assert len(space.start_tokens) == 14
    assert space.monotone and space.attention_factors is None and space.step == 0.01


@given(ratio=st.floats(1, 600))
def test_a_ratio_that_is_not_whole(ratio):
    target = math.ceil(512 * ratio)
    _, highest = SearchSpace(SPEC, target).grid
    assert (highest == math.floor(125 * target / 512 + 1e-6)).all()


# --- candidates -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(space=spaces(), seed=st.integers(0, 2**32))
def test_random_candidates_keep_the_rules(space, seed):
    rng = np.random.default_rng(seed)
    for _ in range(5):
        assert_inside(space, space.scaling(space.random(rng)))


@settings(deadline=None, max_examples=100)
@given(space=spaces(), data=st.data())
def test_the_candidate_nearest_to_given_values(space, data):
    pairs = space.spec.rotary_dim // 2
    wanted = data.draw(st.lists(st.floats(0, 50), min_size=pairs, max_size=pairs))
    wanted = np.sort(wanted) if space.monotone else np.array(wanted)
    m, start = data.draw(st.floats(0.3, 3)), data.draw(st.integers(0, 500))
    scaling = space.scaling(space.candidate(wanted, start, m))
    assert_inside(space, scaling)
    nearest = np.clip(wanted, *space.bounds)
    assert (np.abs(scaling.factors - nearest) <= space.step * 1.001).all()
    assert abs(scaling.start_tokens - start) == min(abs(n - start) for n in space.start_tokens)
    if isinstance(space.attention_factors, tuple):
        assert abs(scaling.attention_factor - np.clip(m, *space.attention_factors)) <= 0.0051


@settings(deadline=None, max_examples=50)
@given(space=spaces(), seed=st.integers(0, 2**32))
def test_a_candidate_survives_its_scaling(space, seed):
    candidate = space.random(np.random.default_rng(seed))
    scaling = space.scaling(candidate)
    again = space.candidate(scaling.factors, scaling.start_tokens, scaling.attention_factor)
    assert again == candidate and hash(again) == hash(candidate)


def test_every_point_of_a_small_space_can_be_drawn():
    spec = RopeSpec(4, 512, base=10000.0)
    rng = np.random.default_rng(0)
    options = {"high": 1.2, "step": 0.1, "start_tokens": (0, 3), "attention_factors": (1.1, 1.11)}
    rising = SearchSpace(spec, 1024, **options)
    drawn = {rising.random(rng) for _ in range(2000)}
    assert len(drawn) == 6 * 2 * 2  # pairs of three values that do not fall, start tokens, m
    free = SearchSpace(spec, 1024, monotone=False, **options)
    assert len({free.random(rng) for _ in range(2000)}) == 9 * 2 * 2


@pytest.mark.parametrize(("lowest", "highest"), [(1.004, 1.2), (1.1, 1.118), (0.001, 0.5)])
def test_m_off_the_grid_stays_within_its_range(lowest, highest):
    """Bounds of m need not be multiples of 0.01, just as those of the factors need not be."""
    space = SearchSpace(SPEC, 1024, attention_factors=(lowest, highest))
    rng = np.random.default_rng(0)
    drawn = [space.random(rng) for _ in range(300)]
    drawn += [space.candidate(np.ones(4), 0, m) for m in (1e-9, 1.0, 5.0)]
    for candidate in drawn:
        assert lowest - 1e-9 <= space.scaling(candidate).attention_factor <= highest + 1e-9


def test_what_a_candidate_stands_for():
    space = SearchSpace(SPEC, 1024, attention_factors=(1.0, 1.2))
    scaling = space.scaling(space.candidate([1.0, 1.238, 1.5, 7.0], 30, 1.117))
    expected = RopeScaling(
        SPEC, np.array([1, 1.24, 1.5, 2.5]), 1024, start_tokens=28, attention_factor=1.12
    )
    np.testing.assert_allclose(scaling.factors, expected.factors, rtol=1e-12)
    assert scaling.start_tokens == 28
    assert scaling.attention_factor == pytest.approx(1.12)
    assert scaling.method == "longrope"


def test_a_number_fixes_m():
    space = SearchSpace(SPEC, 1024, attention_factors=1.0371)
    rng = np.random.default_rng(0)
    drawn = [space.scaling(space.random(rng)) for _ in range(5)] + [space.scaling_at(np.ones(4))]
    # Off the grid of those that are searched.
    assert {scaling.attention_factor for scaling in drawn} == {1.0371}
    narrow = SearchSpace(SPEC, 1024, attention_factors=np.float32(1.25))
    assert narrow.scaling_at(np.ones(4)).attention_factor == 1.25


def test_a_range_of_m_may_be_a_list():
    """As it comes out of a notebook's parameters or a file."""
    listed, tupled = (
        SearchSpace(SPEC, 1024, attention_factors=kind((1.2, 1.3))) for kind in (list, tuple)
    )
    assert listed == tupled
    drawn = listed.scaling(listed.random(np.random.default_rng(0)))
    assert 1.2 <= drawn.attention_factor <= 1.3


def test_factors_may_fall_without_the_rule():
    free = SearchSpace(SPEC, 1024, monotone=False)
    scaling = free.scaling(free.candidate([2.0, 1.0, 1.5, 1.0], 0))
    np.testing.assert_allclose(scaling.factors, [2.0, 1.0, 1.5, 1.0])
    assert scaling.attention_factor == pytest.approx(math.sqrt(1 + math.log(2) / math.log(512)))
    rng = np.random.default_rng(0)
    assert any((np.diff(free.random(rng).factors) < 0).any() for _ in range(20))


def test_the_rule_narrows_the_bounds():
    space = SearchSpace(SPEC, 4096, low=(1, 3, 2, 4), high=(9, 5, 6, 5))
    low, high = space.bounds
    assert low.tolist() == [1, 3, 3, 4] and high.tolist() == [5, 5, 5, 5]
    free = SearchSpace(SPEC, 4096, low=(1, 3, 2, 4), high=(9, 5, 6, 5), monotone=False)
    assert free.bounds[0].tolist() == [1, 3, 2, 4] and free.bounds[1].tolist() == [9, 5, 6, 5]


def test_fast_dimensions_may_be_left_alone():
    """By their turns in the window of the model as it is loaded, also on top of an extension."""
    spec = RopeSpec(64, 8192, base=100_000.0)
    turns = 8192 * 100_000.0 ** (-np.arange(32) / 32) / (2 * np.pi)
    fast = turns > 32
    assert 5 < fast.sum() < 20
    first = SearchSpace(spec, 65_536, start_tokens=(0,), keep_rotations=32)
    low, high = first.bounds
    assert (high[fast] == 1).all() and (high[~fast] == 10).all() and (low == 1).all()
    assert first == SearchSpace(
        spec, 65_536, start_tokens=(0,), high=tuple(np.where(fast, 1.0, 10.0))
    )
    assert first.to_dict() != SearchSpace(spec, 65_536, start_tokens=(0,)).to_dict()
    assert dataclasses.replace(first, step=0.1).high == first.high
    on_top = SearchSpace.on_top_of(
        first.scaling_at(np.where(fast, 1.0, 2.0)), 524_288, keep_rotations=32
    )
    assert (on_top.spec.rotations > 32).sum() > fast.sum()  # in the longer window
    assert (on_top.bounds[1] == high).all()
    rising = SearchSpace(
        spec, 65_536, low=tuple(1 + np.arange(32) / 100), high=8.0, keep_rotations=32
    )
    low, high = rising.bounds
    assert (high[fast] == low[fast]).all() and (high[~fast] == 8).all()


@pytest.mark.parametrize("keep", [None, 32])
def test_slow_dimensions_keep_to_the_angles_of_training(keep):
    """From the critical pair on a text of the target turns them no further than the window did."""
    spec = RopeSpec(64, 8192, base=100_000.0)
    free = SearchSpace(spec, 65_536, start_tokens=(0,), keep_rotations=keep)
    space = SearchSpace(spec, 65_536, start_tokens=(0,), keep_rotations=keep, keep_range=True)
    slow = np.arange(32) >= spec.critical_pair
    assert slow.sum() == 12
    (low, high), (freely, highest) = space.bounds, free.bounds
    assert (
        (low[slow] == 8).all() and (low[~slow] == freely[~slow]).all() and (high == highest).all()
    )
    drawn = space.scaling(space.random(np.random.default_rng(0)))
    for found in (drawn, space.scaling_at(space.formula_factors("none"))):
        angles = 65_536 * found.frequencies
        assert (angles[slow] <= 8192 * spec.frequencies[slow] * (1 + 1e-12)).all()
    # As a formula on top of it to a farther target has them, and a second search of this kind.
    further = compose(drawn, rope_scaling(drawn.as_spec(), "ramp", 2_097_152))
    above = SearchSpace.on_top_of(drawn, 2_097_152, keep_range=True)
    for found in (further, above.scaling(above.random(np.random.default_rng(1)))):
        assert (found.factors[slow] >= 256 * (1 - 1e-12)).all()


# --- formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [2, 4, 16])
@pytest.mark.parametrize(
    "spec", [RopeSpec(64, 512, base=10000.0), RopeSpec(128, 4096, base=500000.0)]
)
def test_formulas_in_closed_form(spec, ratio):
    space = SearchSpace(spec, ratio * spec.window)
    i, d = np.arange(spec.rotary_dim // 2), spec.rotary_dim

    def index(turns):  # the dimension that turns so often inside the window (YaRN's code)
        return d * math.log(spec.window / (2 * math.pi * turns)) / (2 * math.log(spec.base))

    low, high = math.floor(index(32)), math.ceil(index(1))
    slowed = np.clip((i - low) / (high - low), 0, 1)
    expected = {
        "pi": np.full(d // 2, float(ratio)),
        "ntk": ratio ** (2 * i / (d - 2)),
        "yarn": 1 / (slowed / ratio + 1 - slowed),
        "ramp": 1 + slowed * (ratio - 1),
        "geometric": ratio**slowed,
    }
    m = math.sqrt(1 + math.log(ratio) / math.log(spec.window))  # LongRoPE's, and not YaRN's own
    for name, factors in expected.items():
        np.testing.assert_allclose(space.formula_factors(name), factors, rtol=1e-12)
        individual = space.scaling(space.candidate(space.formula_factors(name), 0))
        assert_inside(space, individual)
        assert individual.start_tokens == 0
        np.testing.assert_allclose(individual.factors, factors, atol=0.00501)
        for scaling in (individual, space.scaling_at(factors)):
            assert scaling.attention_factor == pytest.approx(m, rel=1e-12)
    np.testing.assert_array_equal(space.formula_factors("high"), np.full(d // 2, 1.25 * ratio))


@settings(deadline=None, max_examples=50)
@given(space=spaces(), name=st.sampled_from(["pi", "ntk", "yarn", "ramp", "geometric", "llama3"]))
def test_formulas_are_cut_to_the_bounds(space, name):
    factors, (low, high) = space.formula_factors(name), space.bounds
    assert (factors >= low).all() and (factors <= high).all()
    free = rope_scaling(space.spec, name, space.target_length).factors
    inside = (free >= low) & (free <= high)
    np.testing.assert_array_equal(factors[inside], free[inside])
    np.testing.assert_array_equal(space.formula_factors("high"), high)


# --- on top of another extension ------------------------------------------------------------------

FIRST = RopeScaling(
    SPEC, np.array([1.0, 1.5, 3.0, 4.0]), 2048, start_tokens=8, attention_factor=1.1
)


def test_a_second_search_multiplies_the_first():
    """LongRoPE section 3.3: four times further, and applied to the model as it was loaded."""
    space = SearchSpace.on_top_of(FIRST, 8192)
    assert space.model_spec == SPEC and space.spec.window == 2048
    np.testing.assert_allclose(space.spec.frequencies, FIRST.frequencies)
    assert (space.bounds[1] == 5.0).all() and space.start_tokens == (
        8,
    )  # 1.25 times what is left to do
    m = math.sqrt(1 + math.log(4) / math.log(2048))
    second = space.scaling(space.candidate([1, 2, 2, 4.5], 0))
    np.testing.assert_allclose(second.factors, [1, 3, 6, 18])
    assert second.spec == SPEC and second.target_length == 8192 and second.start_tokens == 8
    assert second.attention_factor == pytest.approx(1.1 * m)
    rng = np.random.default_rng(0)
    for scaling in (space.scaling(space.random(rng)) for _ in range(20)):
        times = scaling.factors / FIRST.factors
        assert (
            (times >= 1 - 1e-9).all()
            and (times <= 5 + 1e-9).all()
            and (np.diff(scaling.factors) >= 0).all()
        )
    assert SearchSpace(SPEC, 8192).model_spec == SPEC


def test_a_second_search_may_fix_m():
    space = SearchSpace.on_top_of(FIRST, 8192, attention_factors=1.0, monotone=False)
    scaling = space.scaling_at([4.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(scaling.factors, [4, 1.5, 3, 4])
    assert scaling.attention_factor == pytest.approx(1.1)


def test_start_tokens_that_differ_from_those_below():
    """Between two counts only one of the scalings would act; to be said when the space is made."""
    spec = dataclasses.replace(FIRST, start_tokens=0).as_spec()
    with pytest.raises(ValueError, match="start tokens"):
        SearchSpace(spec, 8192, start_tokens=(0, 8), over=FIRST)


# --- files and messages ---------------------------------------------------------------------------


def test_numbers_of_numpy_are_the_same_space():
    space = SearchSpace(
        SPEC, np.int64(1024), np.float32(1), 2, step=np.float64(0.1), start_tokens=np.array([0, 4])
    )
    same = SearchSpace(SPEC, 1024, 1.0, 2.0, step=0.1, start_tokens=(0, 4))
    assert space == same and json.dumps(space.to_dict()) == json.dumps(same.to_dict())


def test_what_tells_one_space_from_another():
    same = SearchSpace(SPEC, 1024, low=np.ones(4), high=[2.0, 2.0, 2.0, 2.0])
    assert same == SearchSpace(SPEC, 1024, low=(1.0,) * 4, high=(2.0,) * 4)
    hash(same)
    plain = SearchSpace(SPEC, 1024).to_dict()
    assert json.loads(json.dumps(plain)) == plain
    changes = [
        {"low": 1.1},
        {"high": 2.0},
        {"step": 0.1},
        {"start_tokens": (0,)},
        {"attention_factors": (1.0, 1.2)},
        {"attention_factors": 1.2},
        {"monotone": False},
    ]
    dicts = [SearchSpace(SPEC, 1024, **change).to_dict() for change in changes]
    above = [
        SearchSpace.on_top_of(dataclasses.replace(FIRST, attention_factor=m), 4096)
        for m in (1.1, 1.2)
    ]
    dicts += [space.to_dict() for space in above]
    dicts += [
        SearchSpace(SPEC, 2048).to_dict(),
        SearchSpace(RopeSpec(8, 512, base=500.0), 1024).to_dict(),
        plain,
    ]
    assert len({json.dumps(d) for d in dicts}) == len(dicts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"low": 3.0, "high": 2.0},
            "the space is empty: dimension 0 has low 3 above high 2; lower low or raise high",
        ),
        ({"low": (1, 1, 2.6, 1)}, "dimension 2 has low 2.6 above high 2.5"),
        (
            {"low": (1, 2, 1, 1), "high": (2, 2, 1.5, 2)},
            "the space is empty: factors may not fall, so dimension 1 must reach 2 and stay "
            "below 1.5; change the bounds, or set monotone=False",
        ),
        (
            {"low": 1.011, "high": 1.019},
            "the space is empty: no multiple of the step 0.01 lies between low 1.011 and high "
            "1.019 of dimension 0; take a smaller step or wider bounds",
        ),
        (
            {"low": (1, 1, 1, 1.55), "high": 1.8, "step": 0.5},
            "no multiple of the step 0.5 lies between low 1.55",
        ),
        ({"low": 0.5}, "low is 0.5, high is 2.5: bounds of factors are finite and at least 1"),
        ({"low": (1, 1, 0.99, 1)}, "bounds of factors are finite and at least 1"),
        ({"low": math.nan}, "bounds of factors are finite"),
        ({"high": math.inf}, "bounds of factors are finite"),
        ({"high": 0.5}, "has low 1 above high 0.5"),
        ({"low": (1, 1)}, "low has shape (2,): give one number, or 4, one per pair of dimensions"),
        ({"high": (2,) * 5}, "high has shape (5,): give one number, or 4"),
        ({"start_tokens": ()}, "start_tokens is (): name at least one whole number from 0"),
        (
            {"start_tokens": (0, -1)},
            "a value of start_tokens is -1: it must be a whole number from 0",
        ),
        ({"start_tokens": (1.5,)}, "a value of start_tokens is 1.5: it must be a whole number"),
        (
            {"attention_factors": (1.2, 1.0)},
            "attention_factors is (1.2, 1.0): give (lowest, highest), 0 < lowest",
        ),
        ({"attention_factors": (0, 1.0)}, "attention_factors is (0, 1.0): give"),
        ({"attention_factors": (1.0, math.inf)}, "attention_factors is (1.0, inf): give"),
        ({"attention_factors": (math.nan, 1.0)}, "attention_factors is (nan, 1.0): give"),
        (
            {"keep_rotations": 0},
            "keep_rotations is 0: it counts turns, so a number above 0, or None",
        ),
        ({"keep_rotations": math.nan}, "keep_rotations is nan: it counts turns"),
        ({"step": 0}, "step is 0: it must be a finite number above 0"),
        ({"step": -0.01}, "step is -0.01: it must be"),
        ({"step": math.nan}, "step is nan: it must be"),
        ({"step": math.inf}, "step is inf: it must be"),
    ],
)
def test_spaces_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SearchSpace(SPEC, 1024, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_tokens": 4}, "start_tokens is 4"),  # a number alone, where a set of them is wanted
        ({"start_tokens": (math.nan,)}, "a value of start_tokens is nan"),
        ({"start_tokens": ("four",)}, "a value of start_tokens is four"),
        ({"attention_factors": 0.0}, "attention_factors is 0.0"),
        ({"attention_factors": (1.0, 1.1, 1.2)}, "attention_factors is (1.0, 1.1, 1.2)"),
        ({"low": np.ones((2, 4))}, "low has shape (2, 4)"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SearchSpace(SPEC, 1024, **options)


def test_a_target_below_the_window():
    with pytest.raises(ValueError, match="target_length 256 is shorter than the window of 512"):
        SearchSpace(SPEC, 256)


def test_bounds_that_cross_only_under_the_rule():
    options = {"low": (1, 2, 1, 1), "high": (2, 2, 1.5, 2)}
    assert SearchSpace(SPEC, 1024, monotone=False, **options).bounds[0].tolist() == [1, 2, 1, 1]
