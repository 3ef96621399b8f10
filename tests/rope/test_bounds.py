"""PI's bounds on attention scores against brute force, and their constants against the paper."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_lab.rope import bounds
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.spec import RopeSpec

LLAMA = RopeSpec(rotary_dim=128, window=2048, base=10000.0)  # the setting of PI's paper
LAB = RopeSpec(rotary_dim=64, window=512, base=10000.0)
SMALL = RopeSpec(rotary_dim=8, window=64, base=100.0)

specs = st.builds(
    lambda pairs, base: RopeSpec(rotary_dim=2 * pairs, window=64, base=base),
    st.integers(2, 40),
    st.floats(2.0, 1e6),
)


def random_h(spec, seed):
    generator = np.random.default_rng(seed)
    h = generator.standard_normal(spec.rotary_dim // 2) + 1j * generator.standard_normal(
        spec.rotary_dim // 2
    )
    return h * generator.exponential(2.0, len(h))


def rotated(vector, angles):
    """A vector of d dimensions, its pairs (2i, 2i + 1) turned by the angles with 2x2 matrices."""
    out = np.empty_like(vector)
    for i, angle in enumerate(angles):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        out[2 * i : 2 * i + 2] = turn @ vector[2 * i : 2 * i + 2]
    return out


@pytest.mark.parametrize(("m", "n"), [(0, 0), (5, 5), (700, 3), (3, 700), (41, 40)])
def test_attention_score_is_the_dot_product_of_rotated_vectors(m, n):
    q, k = np.random.default_rng(1).standard_normal((2, 8))
    h = (q[0::2] + 1j * q[1::2]) * np.conj(k[0::2] + 1j * k[1::2])
    angles = rope_scaling(SMALL, "none", 64).angles([m, n])
    expected = rotated(q, angles[0]) @ rotated(k, angles[1])
    assert bounds.attention_score(SMALL, h, m - n) == pytest.approx(expected, abs=1e-12)


def test_several_scores_at_once():
    h, s = (
        np.stack([random_h(SMALL, k) for k in range(6)]).reshape(2, 3, 4),
        np.arange(20).reshape(4, 5),
    )
    together = bounds.attention_score(SMALL, h, s)
    assert together.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(
        together[1, 2], bounds.attention_score(SMALL, h[1, 2], s), atol=1e-12
    )


def test_linear_score_meets_its_ends():
    h = random_h(SMALL, 0)
    ends = bounds.attention_score(SMALL, h, [7, 9])
    np.testing.assert_allclose(
        bounds.linear_score(SMALL, h, [7, 8, 9], 7, 9), [ends[0], ends.mean(), ends[1]]
    )


# --- the interpolation bound ---


@settings(deadline=None, max_examples=200)
@given(spec=specs, seed=st.integers(0, 10**6), before=st.floats(0, 5000), gap=st.floats(0.01, 20))
def test_no_score_leaves_the_line_by_more_than_the_bound(spec, seed, before, gap):
    h, after = random_h(spec, seed), before + gap
    s = np.linspace(before, after, 41)
    deviation = np.abs(
        bounds.attention_score(spec, h, s) - bounds.linear_score(spec, h, s, before, after)
    )
    for largest in (np.abs(h).max(), np.abs(h)):
        assert (
            deviation <= bounds.interpolation_bound(spec, largest, s, before, after) + 1e-9
        ).all()


def test_the_bound_is_nearly_attained():
    """By h turned so that every pair has its largest curvature in the middle.

    So no smaller constant would do."""
    middle, gap = 300.25, 0.05
    h = np.exp(-1j * middle * LLAMA.frequencies)
    line = bounds.linear_score(LLAMA, h, middle, middle - gap, middle + gap)
    deviation = abs(bounds.attention_score(LLAMA, h, middle) - line)
    bound = bounds.interpolation_bound(LLAMA, 1, middle, middle - gap, middle + gap)
    assert 0.999 < deviation / bound <= 1


def test_the_published_constants():
    """PI, section 2.3: d max|h| / 294.73 midway between positions, and a ratio of 2 * 294.73."""
    assert LLAMA.rotary_dim / bounds.published_interpolation_bound(
        LLAMA, 1, 0.5, 0, 1
    ) == pytest.approx(294.73, abs=5e-3)
    assert bounds.published_interpolation_bound(LLAMA, 3, 10.25, 10, 11) == pytest.approx(
        3 * 128 * 0.25 * 0.75 / (8 * math.log(10000))
    )
    assert bounds.bound_ratio(LLAMA) == pytest.approx(2 * 294.73, abs=1e-2)
    assert bounds.bound_ratio(LAB) == pytest.approx(2 * 294.73, abs=1e-2)  # whatever d
    at = np.array([3.0, 5000.0])
    expected = bounds.extrapolation_bound(LLAMA, 1, at) / bounds.published_interpolation_bound(
        LLAMA, 1, 0.5, 0, 1
    )
    np.testing.assert_allclose(bounds.bound_ratio(LLAMA, at), expected)


@pytest.mark.parametrize("spec", [LLAMA, LAB])
def test_the_published_constant_can_be_broken_and_the_exact_one_not(spec):
    h = np.exp(-1j * 1000.5 * spec.frequencies)  # max|h| = 1
    deviation = abs(
        bounds.attention_score(spec, h, 1000.5) - bounds.linear_score(spec, h, 1000.5, 1000, 1001)
    )
    assert deviation > 1.1 * bounds.published_interpolation_bound(spec, 1, 1000.5, 1000, 1001)
    assert deviation <= bounds.interpolation_bound(spec, 1, 1000.5, 1000, 1001)
    assert deviation == pytest.approx(bounds.worst_deviation(spec), rel=1e-9)


@settings(deadline=None, max_examples=100)
@given(spec=specs)
def test_the_sum_of_squares_has_the_closed_form_and_the_limit_of_the_docstring(spec):
    total = 8 * float(bounds.interpolation_bound(spec, 1, 0.5, 0, 1))
    c, d = spec.base, spec.rotary_dim
    assert total == pytest.approx((1 - c**-2) / (1 - c ** (-4 / d)), rel=1e-9)
    assert total <= d / (4 * math.log(c)) + 1


def test_how_much_too_small_the_published_constant_is():
    for spec, share in ((LLAMA, 0.13), (LAB, 0.24)):
        published, exact = (
            float(bound(spec, 1, 0.5, 0, 1))
            for bound in (bounds.published_interpolation_bound, bounds.interpolation_bound)
        )
        assert 1 - published / exact == pytest.approx(share, abs=0.005)


@settings(deadline=None, max_examples=100)
@given(spec=specs, seed=st.integers(0, 10**6), s=st.integers(0, 5000))
def test_nothing_exceeds_the_worst_deviation(spec, seed, s):
    h = random_h(spec, seed)
    deviation = abs(
        bounds.attention_score(spec, h, s + 0.5) - bounds.linear_score(spec, h, s + 0.5, s, s + 1)
    )
    assert deviation <= np.abs(h).max() * bounds.worst_deviation(spec) + 1e-9


# --- the extrapolation bound ---


def slow_partial_sums(spec, s):
    theta = [spec.base ** (-2 * j / spec.rotary_dim) for j in range(spec.rotary_dim // 2)]
    return sum(
        abs(sum(complex(math.cos(s * t), math.sin(s * t)) for t in theta[: k + 1]))
        for k in range(len(theta))
    )


@pytest.mark.parametrize("s", [0, 1, 17, 2000, 31415.9])
def test_partial_sums_by_brute_force(s):
    assert bounds.partial_sums(SMALL, s) == pytest.approx(slow_partial_sums(SMALL, s), rel=1e-9)
    assert bounds.partial_sums(SMALL, [[s]]).shape == (1, 1)


def test_partial_sums_at_distance_zero_count_the_pairs():
    assert bounds.partial_sums(LLAMA, 0) == pytest.approx(64 * 65 / 2)


@settings(deadline=None, max_examples=200)
@given(spec=specs, seed=st.integers(0, 10**6), s=st.floats(0, 1e5))
def test_no_score_exceeds_the_extrapolation_bound(spec, seed, s):
    h = random_h(spec, seed)
    steps = np.abs(np.diff(np.append(h, 0))).max()  # max |h_{j+1} - h_j|, with h_{d/2} = 0
    score = abs(bounds.attention_score(spec, h, s))
    assert score <= steps * bounds.partial_sums(spec, s) + 1e-9
    assert (
        steps * bounds.partial_sums(spec, s)
        <= bounds.extrapolation_bound(spec, np.abs(h).max(), s) + 1e-9
    )


def test_pis_observation_of_the_partial_sums():
    """Appendix B of PI: B(s)/d is almost always above 1 in its setting.

    That is not a theorem: far out, it falls below."""
    near = np.arange(4097)
    assert (bounds.partial_sums(LLAMA, near) > 128).all()
    assert bounds.partial_sums(LLAMA, 22297) < 128


def test_random_coefficients_have_size_one():
    h = bounds.random_coefficients(LAB, 5, seed=3)
    assert h.shape == (5, 32)
    np.testing.assert_allclose(np.abs(h), 1)
    np.testing.assert_array_equal(
        h, bounds.random_coefficients(LAB, 5, seed=np.random.default_rng(3))
    )
    assert not np.allclose(h, bounds.random_coefficients(LAB, 5, seed=4))


def test_bounds_table():
    table = bounds.bounds_table(LAB, 4096, trials=20, points=60, seed=1)
    assert table["position"].iloc[[0, -1]].tolist() == [1, 4096]
    assert table["position"].is_monotonic_increasing and table["position"].is_unique
    assert (table["largest_score"] <= table["plain_bound"]).all()
    assert (table["plain_bound"] < table["extrapolation_bound"]).all()
    assert (table["largest_deviation"] <= table["interpolation_bound"]).all()
    row, h = table.iloc[-1], bounds.random_coefficients(LAB, 20, seed=1)
    assert row["partial_sums"] == pytest.approx(slow_partial_sums(LAB, 4096), rel=1e-9)
    alone = [abs(float(bounds.attention_score(LAB, one, 4096))) for one in h]
    assert row["largest_score"] == pytest.approx(max(alone))
    off = [
        abs(
            float(
                bounds.attention_score(LAB, one, 4096.5)
                - bounds.linear_score(LAB, one, 4096.5, 4096, 4097)
            )
        )
        for one in h
    ]
    assert row["largest_deviation"] == pytest.approx(max(off))


def test_bounds_summary():
    value = bounds.bounds_summary(LAB, 4096).set_index(["case", "quantity"])["value"]
    assert value["ratio", "published bounds with B(s) = d, 64 ln base"] == pytest.approx(
        589.46, abs=0.01
    )
    assert value["ratio", "attained by the worst h"] == pytest.approx(
        32 / bounds.worst_deviation(LAB)
    )
    beyond = bounds.partial_sums(LAB, np.arange(512, 4097))
    assert value["beyond", "bound 2 B(s), the smallest"] == pytest.approx(2 * beyond.min())
    assert value["beyond", "share of s with B(s) > d"] == pytest.approx((beyond > 64).mean())


# --- messages ---

NO_BASE = RopeSpec(rotary_dim=4, window=64, base_frequencies=(1.0, 0.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: bounds.attention_score(SMALL, np.ones(3), 1),
            r"shape \(3,\): they must be 4 finite complex numbers",
        ),
        (lambda: bounds.attention_score(SMALL, [1, 1, 1, np.nan], 1), "finite complex numbers"),
        (
            lambda: bounds.interpolation_bound(SMALL, 1, 3.5, 1, 2),
            "not between the neighbours 1 and 2",
        ),
        (
            lambda: bounds.interpolation_bound(SMALL, 1, 2, 2, 2),
            "not between the neighbours 2 and 2",
        ),
        (
            lambda: bounds.published_interpolation_bound(NO_BASE, 1, 0.5, 0, 1),
            "no base.*use interpolation_bound",
        ),
        (lambda: bounds.bound_ratio(NO_BASE), "no base"),
        (lambda: bounds.bounds_table(SMALL, 32), "target_length 32 is shorter"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_exact_bound_takes_any_frequencies():
    assert bounds.interpolation_bound(NO_BASE, 2, 0.5, 0, 1) == pytest.approx(2 * 1.01 / 8)
