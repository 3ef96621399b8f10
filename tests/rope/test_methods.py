"""The formulas: closed forms, the registry, and the messages for what a user can get wrong."""

import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from longrope_lab.rope.formulas import ntk_factors, yarn_factors
from longrope_lab.rope.methods import (
    FORMULAS,
    METHODS,
    named_scalings,
    register_method,
    rope_scaling,
)
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import DynamicNTK
from longrope_lab.rope.spec import RopeSpec

SPEC = RopeSpec(rotary_dim=64, window=512, base=10000.0)

dims = st.integers(2, 64).map(lambda pairs: 2 * pairs)
bases = st.floats(math.log(500), math.log(1e7)).map(math.exp)
windows = st.integers(128, 131072)
ratios = st.floats(1, 64)


@st.composite
def stretches(draw):
    """A spec and any whole target from the window on, so the ratio is hardly ever whole."""
    spec = RopeSpec(draw(dims), draw(windows), draw(bases))
    return spec, draw(st.integers(spec.window, 64 * spec.window))


def as_array(spec):
    """The same embedding, given by its frequencies."""
    return RopeSpec(spec.rotary_dim, spec.window, base_frequencies=spec.frequencies)


# --- closed forms ---


@settings(deadline=None, max_examples=50)
@given(stretch=stretches())
def test_none_and_pi(stretch):
    spec, target = stretch
    none, pi = rope_scaling(spec, "none", target), rope_scaling(spec, "pi", target)
    assert (none.factors == 1).all()
    assert (pi.factors == target / spec.window).all()
    # Interpolation: the target's last position is turned as the window's was.
    np.testing.assert_allclose(pi.angles(target), none.angles(spec.window), rtol=1e-13)
    for s, method in ((none, "none"), (pi, "pi")):
        assert (s.spec, s.target_length, s.method) == (spec, target, method)
        assert (s.start_tokens, s.attention_factor) == (0, 1.0)


@settings(deadline=None, max_examples=50)
@given(stretch=stretches())
def test_ntk_is_a_change_of_base(stretch):
    spec, target = stretch
    s, d = target / spec.window, spec.rotary_dim
    ntk = rope_scaling(spec, "ntk", target)
    other_base = RopeSpec(d, spec.window, spec.base * s ** (d / (d - 2)))
    np.testing.assert_allclose(ntk.frequencies, other_base.frequencies, rtol=1e-12)
    assert ntk.factors[0] == 1.0
    assert ntk.factors[-1] == pytest.approx(s, rel=1e-13)
    assert (ntk.method, ntk.target_length, ntk.start_tokens, ntk.attention_factor) == (
        "ntk",
        target,
        0,
        1.0,
    )


@settings(deadline=None, max_examples=100)
@given(stretch=stretches(), fast=st.floats(4, 64), slow=st.floats(0.5, 4), truncate=st.booleans())
def test_yarn_ends_and_ramp(stretch, fast, slow, truncate):
    spec, target = stretch
    assume(target > spec.window)
    s = target / spec.window
    yarn = rope_scaling(spec, "yarn", target, beta_fast=fast, beta_slow=slow, truncate=truncate)
    turns = spec.window * spec.frequencies / (2 * math.pi)
    assert (yarn.factors[turns > fast] == 1).all()
    np.testing.assert_allclose(yarn.factors[turns < slow], s, rtol=1e-12)
    if not truncate:  # which widens the ramp, but never beyond the first dimension
        between = yarn.factors[1:][(turns[1:] < fast * 0.999) & (turns[1:] > slow * 1.001)]
        assert ((between > 1) & (between < s)).all()
    # In between it is the frequency that goes down in a straight line over the dimensions.
    share = 1 / yarn.factors
    inside = share[(share < 1 - 1e-9) & (share > 1 / s + 1e-9)]
    np.testing.assert_allclose(np.diff(inside, n=2), 0, atol=1e-9)
    yarn.check_monotone()


def test_yarn_on_llama():
    # d = 128, base 10000, 4096 tokens: d ln(L/2πr) / 2 ln(base) is 20.944 for 32 turns and 45.027
    # for one.
    llama = RopeSpec(128, 4096, 10000.0)
    s = rope_scaling(llama, "yarn", 65536)
    assert (s.factors[:21] == 1).all()
    np.testing.assert_allclose(s.factors[46:], 16, rtol=1e-12)
    ramp = {21: 1 / 26, 33: 13 / 26, 45: 25 / 26}  # from 20 to 46
    for i, slowed in ramp.items():
        assert 1 / s.factors[i] == pytest.approx(1 - slowed * 15 / 16, rel=1e-12)
    exact = rope_scaling(llama, "yarn", 65536, truncate=False)
    ramp = {21: 0.056 / 24.083, 33: 12.056 / 24.083, 45: 24.056 / 24.083}  # from 20.944 to 45.027
    for i, slowed in ramp.items():
        assert 1 / exact.factors[i] == pytest.approx(1 - slowed * 15 / 16, abs=1e-4)


def test_yarn_attention_factor():
    # The constant of gpt-oss, whose window was stretched 32 times.
    assert rope_scaling(SPEC, "yarn", 32 * 512).attention_factor == pytest.approx(
        1.3465735902799727, rel=1e-14
    )
    assert rope_scaling(SPEC, "yarn", 512).attention_factor == 1.0
    assert rope_scaling(SPEC, "yarn", 1024, attention_factor=1.7).attention_factor == 1.7


def test_yarn_where_both_betas_meet_is_a_step():
    s = rope_scaling(SPEC, "yarn", 4096, beta_fast=8, beta_slow=8, truncate=False)
    turns = SPEC.rotations
    assert (s.factors[turns > 8] == 1).all()
    np.testing.assert_allclose(s.factors[turns < 8], 8)


@settings(deadline=None, max_examples=50)
@given(stretch=stretches(), fast=st.floats(4, 64), slow=st.floats(0.5, 4), truncate=st.booleans())
def test_a_base_and_its_frequencies_are_one_model(stretch, fast, slow, truncate):
    spec, target = stretch
    assume(spec.rotary_dim > 2)
    yarn = {"beta_fast": fast, "beta_slow": slow, "truncate": truncate}
    for method, options in (("pi", {}), ("ntk", {}), ("yarn", yarn)):
        one, other = (
            rope_scaling(each, method, target, **options) for each in (spec, as_array(spec))
        )
        np.testing.assert_allclose(one.factors, other.factors, rtol=1e-9)
        np.testing.assert_allclose(one.frequencies, other.frequencies, rtol=1e-9)
        assert one.attention_factor == other.attention_factor


def test_yarn_on_a_model_that_was_extended_before():
    # After NTK the frequencies are those of a larger base, so YaRN must find the same turns as with
    # that base.
    first = rope_scaling(SPEC, "ntk", 4096)
    other_base = RopeSpec(64, 4096, 10000.0 * 8 ** (64 / 62))
    again = rope_scaling(first.as_spec(), "yarn", 32768)
    np.testing.assert_allclose(
        again.factors, rope_scaling(other_base, "yarn", 32768).factors, rtol=1e-9
    )
    # After PI every dimension makes the turns that it made before.
    slower = rope_scaling(rope_scaling(SPEC, "pi", 4096).as_spec(), "yarn", 32768)
    np.testing.assert_allclose(slower.factors, rope_scaling(SPEC, "yarn", 4096).factors, rtol=1e-9)


def test_yarn_finds_its_ramp_in_any_falling_frequencies():
    theta = [1.0, 0.3, 0.05, 0.02, 0.001, 0.0004]
    spec = RopeSpec(12, 512, base_frequencies=theta)
    turns = [512 * f / (2 * math.pi) for f in theta]
    # Half way between two dimensions on a logarithmic scale; and as far past the last as that is
    # from the one before.
    fast, slow, beyond = (
        math.sqrt(turns[1] * turns[2]),
        math.sqrt(turns[3] * turns[4]),
        turns[5] ** 2 / turns[4],
    )
    for beta_slow, end in ((slow, 3.5), (beyond, 6)):
        s = yarn_factors(spec, 8.0, (fast, beta_slow), truncate=False)
        ramp = [min(max((i - 1.5) / (end - 1.5), 0), 1) for i in range(6)]
        np.testing.assert_allclose(1 / s, [1 - r * 7 / 8 for r in ramp], rtol=1e-12)


def test_the_ramp_lies_between_yarns_ends_and_is_straight_in_the_factor():
    """Where YaRN slows by 1 or by s, so does the ramp; in between by 1 + t(s - 1)."""
    spec, s = RopeSpec(128, 4096, 10000.0), 16
    ramp, yarn = (rope_scaling(spec, name, s * 4096) for name in ("ramp", "yarn"))
    t = np.clip((np.arange(64) - 20) / 26, 0, 1)  # from 20 to 46, as YaRN's: see above
    np.testing.assert_allclose(ramp.factors, 1 + t * (s - 1), rtol=1e-12)
    assert (ramp.factors[t == 0] == yarn.factors[t == 0]).all()
    between = (t > 0) & (t < 1)
    assert (ramp.factors[between] > yarn.factors[between]).all()
    assert ramp.attention_factor == pytest.approx(math.sqrt(1 + math.log(s) / math.log(4096)))
    assert rope_scaling(spec, "ramp", 8192, attention_factor=1.0).attention_factor == 1.0


def test_llama3_mixes_frequencies_by_turns():
    """The numbers of Llama 3.1: 8,192 tokens, base 500,000, a factor of 8 for 16 windows."""
    spec = RopeSpec(128, 8192, 500_000.0)
    scaling = rope_scaling(spec, "llama3", 131_072, factor=8)
    expected = []
    for theta in spec.frequencies:
        turns = 8192 * theta / (2 * math.pi)
        share = min(max((turns - 1) / 3, 0), 1)
        expected.append(theta * share + theta / 8 * (1 - share))
    np.testing.assert_allclose(scaling.frequencies, expected, rtol=1e-12)
    assert (scaling.target_length, scaling.attention_factor) == (131_072, 1.0)
    assert rope_scaling(spec, "llama3", 131_072).factors.max() == pytest.approx(16)


def test_longrope_takes_its_factors():
    factors = np.linspace(1, 8, 32)
    s = rope_scaling(SPEC, "longrope", 4096, factors=factors, start_tokens=4)
    assert (s.factors == factors).all()
    assert (s.method, s.start_tokens, s.target_length) == ("longrope", 4, 4096)
    assert s.attention_factor == pytest.approx(math.sqrt(1 + math.log(8) / math.log(512)))
    assert (
        rope_scaling(SPEC, "longrope", 4096, factors=factors, attention_factor=1.0).attention_factor
        == 1.0
    )


def test_dynamic_ntk_is_a_schedule():
    assert rope_scaling(SPEC, "dynamic_ntk", 4096, alpha=2.0) == DynamicNTK(SPEC, 2.0)
    assert rope_scaling(SPEC, "dynamic_ntk", 4096) == DynamicNTK(SPEC, 1.0)


@pytest.mark.parametrize("method", ["none", "pi", "ntk", "yarn", "ramp", "geometric", "llama3"])
def test_a_target_equal_to_the_window_changes_nothing(method):
    s = rope_scaling(SPEC, method, 512)
    assert (s.factors == 1).all()
    assert s.attention_factor == 1.0


# --- the registry ---


def test_the_methods_are_those_of_the_readme():
    names = ["none", "pi", "ntk", "dynamic_ntk", "yarn", "ramp", "geometric", "llama3", "longrope"]
    assert list(METHODS) == names


def test_all_but_longrope_need_no_more_than_a_target():
    formulas = tuple(name for name in METHODS if name != "longrope")
    assert (
        tuple(name for name in formulas if name not in ("ramp", "geometric", "llama3")) == FORMULAS
    )
    for name in formulas:
        assert rope_scaling(SPEC, name, 4096).at(4096).target_length == 4096


def test_a_method_of_ones_own(monkeypatch):
    monkeypatch.setitem(METHODS, "half", METHODS["pi"])  # taken away again at the end

    @register_method("half")
    def half(spec, target_length, power=0.5):
        s = target_length / spec.window
        return RopeScaling(spec, np.full(spec.rotary_dim // 2, s**power), target_length, "half")

    assert rope_scaling(SPEC, "half", 2048).factors[0] == 2.0
    assert rope_scaling(SPEC, "half", 2048, power=1).factors[0] == 4.0
    with pytest.raises(ValueError, match="unknown half option 'powr': did you mean 'power'"):
        rope_scaling(SPEC, "half", 2048, powr=1)
    with pytest.raises(ValueError, match="name is ' ': a method needs one"):
        register_method(" ")
    with pytest.raises(ValueError, match="5 stands where the function of 'mine' should"):
        register_method("mine")(5)
    assert "mine" not in METHODS


# --- messages ---


@pytest.mark.parametrize(
    ("method", "target", "options", "message"),
    [
        (
            "yarm",
            4096,
            {},
            "unknown method 'yarm': did you mean 'yarn'? Known: none, pi, ntk, dynamic_ntk, yarn, "
            "ramp, geometric, llama3, longrope",
        ),
        ("dynamic", 4096, {}, "unknown method 'dynamic': did you mean 'dynamic_ntk'?"),
        ("yarn", 4096, {"beta_quick": 8}, "unknown yarn option 'beta_quick': did you mean 'beta_"),
        ("pi", 4096, {"factor": 8}, "unknown pi option 'factor': Known: (none)"),
        ("pi", 511, {}, "target_length 511 is shorter than the window of 512 tokens"),
        ("dynamic_ntk", 511, {}, "target_length 511 is shorter than the window of 512 tokens"),
        ("yarn", math.nan, {}, "target_length is nan: it counts tokens"),
        ("pi", "4k", {}, "target_length is 4k: it counts tokens"),
        (
            "yarn",
            4096,
            {"beta_fast": 1, "beta_slow": 32},
            "beta_fast is 1 and beta_slow 32: they are turns",
        ),
        ("yarn", 4096, {"beta_slow": 0}, "beta_fast is 32.0 and beta_slow 0: they are turns"),
        ("yarn", 4096, {"beta_slow": math.nan}, "beta_slow nan: they are turns"),
        ("yarn", 4096, {"beta_fast": math.inf}, "beta_fast is inf"),
        (
            "yarn",
            4096,
            {"attention_factor": -1},
            "attention_factor is -1: it must be a finite number above 0",
        ),
        (
            "dynamic_ntk",
            4096,
            {"alpha": 0.5},
            "alpha is 0.5: it must be a finite number of at least 1",
        ),
        ("llama3", 4096, {"factor": math.nan}, "factor is nan: it must be a finite number above 0"),
        ("llama3", 4096, {"high_freq_factor": 1}, "high_freq_factor is 1 and low_freq_factor 1.0"),
        ("llama3", 4096, {"low_freq_factor": "1"}, "low_freq_factor is 1: it must be a finite"),
        ("yarn", 4096, {"beta_fast": "x"}, "beta_fast is x and beta_slow 1.0: they are turns"),
        ("yarn", 4096, {"truncate": "no"}, "truncate is 'no': it must be True or False"),
        ("longrope", 4096, {}, "method 'longrope' has no formula: pass factors=, or load"),
        (
            "longrope",
            4096,
            {"factors": [1, 2]},
            "factors have shape (2,): rotary_dim 64 needs shape (32,)",
        ),
        (
            "longrope",
            4096,
            {"factors": np.linspace(0.9, 8, 32)},
            "factor 0 is 0.9: rescale factors are at least 1",
        ),
        ("longrope", 4096, {"factors": np.full(32, math.nan)}, "factor 0 is nan"),
        (
            "longrope",
            4096,
            {"factors": np.linspace(8, 1, 32)},
            "factors fall from 8 (dimension 0) to",
        ),
    ],
)
def test_what_a_user_can_get_wrong(method, target, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rope_scaling(SPEC, method, target, **options)


def test_embeddings_that_a_formula_does_not_fit():
    with pytest.raises(
        ValueError, match="NTK scaling needs a rotary_dim of at least 4; this model has 2"
    ):
        ntk_factors(RopeSpec(2, 512, 10000.0), 2.0)
    for theta in ([1, 0.1, 0.1, 0.01], [0.001, 0.01, 0.1, 1]):
        with pytest.raises(
            ValueError,
            match="YaRN needs base frequencies that fall from each dimension to the next",
        ):
            yarn_factors(RopeSpec(8, 512, base_frequencies=theta), 8.0)
    with pytest.raises(ValueError, match="YaRN needs base frequencies"):
        yarn_factors(RopeSpec(2, 512, base_frequencies=[1.0]), 8.0)
    assert yarn_factors(RopeSpec(2, 512, 10000.0), 8.0).shape == (1,)


def test_scalings_by_name(tmp_path):
    """Formulas, and what a search left; two of one name would hide each other in every table."""
    found = rope_scaling(SPEC, "longrope", 1024, factors=np.linspace(1, 2, 32))
    for name in ("a/longrope.json", "b/longrope.json", "b/yarn.json"):
        found.save(tmp_path / name)
    scalings = named_scalings(SPEC, ["pi", "yarn"], 2048, [tmp_path / "a" / "longrope.json"])
    assert list(scalings) == ["pi", "yarn", "longrope"]
    assert scalings["pi"] == rope_scaling(SPEC, "pi", 2048) and scalings["longrope"] == found
    first, second = (tmp_path / name / "longrope.json" for name in "ab")
    words = re.escape(f"{second} would be called 'longrope', as is {first}: rename the file")
    with pytest.raises(ValueError, match=words):
        named_scalings(SPEC, ["pi"], 2048, [first, second])
    with pytest.raises(ValueError, match="would be called 'yarn', as is a formula"):
        named_scalings(SPEC, ["yarn"], 2048, [tmp_path / "b" / "yarn.json"])
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        named_scalings(SPEC, [], 2048, [tmp_path / "none.json"])
