"""RopeSpec, RopeScaling, compose and their files.

They are compared with closed forms, plain loops and high precision; and each message is checked.
"""

import dataclasses
import json
import math
import re
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_lab.rope.formulas import longrope_attention_factor
from longrope_lab.rope.scaling import RopeScaling, compose
from longrope_lab.rope.schedule import RopeSchedule
from longrope_lab.rope.spec import RopeSpec

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
SPEC = RopeSpec(rotary_dim=8, window=512, base=10000.0)


def scaling(factors=(1.0, 2.0, 4.0, 8.0), target_length=4096, spec=SPEC, **options):
    return RopeScaling(spec, np.array(factors), target_length, **options)


@st.composite
def specs(draw):
    pairs = draw(st.integers(1, 12))
    length = draw(st.integers(2, 200_000))
    m = draw(st.floats(0.1, 4))
    if draw(st.booleans()):
        return RopeSpec(2 * pairs, length, base=draw(st.floats(1.5, 1e8)), attention_factor=m)
    theta = draw(st.lists(st.floats(1e-9, 10), min_size=pairs, max_size=pairs))
    return RopeSpec(2 * pairs, length, base_frequencies=theta, attention_factor=m)


@st.composite
def scalings(draw, spec=None):
    spec = spec or draw(specs())
    pairs = spec.rotary_dim // 2
    target = draw(st.integers(spec.window, 4_000_000))
    return RopeScaling(
        spec,
        np.array(draw(st.lists(st.floats(1, 1e6), min_size=pairs, max_size=pairs))),
        target,
        draw(st.sampled_from(["longrope", "yarn", "λ by hand"])),
        draw(st.integers(0, min(512, target))),
        draw(st.floats(0.1, 4)),
    )


# --- the frequencies and the angles ---


@pytest.mark.parametrize("base", [10000.0, 500000.0, 10000])
@pytest.mark.parametrize("rotary_dim", [2, 6, 64, 128])
def test_frequencies_are_powers_of_the_base(rotary_dim, base):
    spec = RopeSpec(rotary_dim, 4096, base)
    expected = [1 / math.pow(base, 2 * i / rotary_dim) for i in range(rotary_dim // 2)]
    np.testing.assert_allclose(spec.frequencies, expected, rtol=1e-14)
    assert spec.frequencies.dtype == np.float64


def test_wavelengths_and_rotations_are_counted_in_tokens_and_turns():
    spec = RopeSpec(4, 1000, base_frequencies=[2 * math.pi / 10, 2 * math.pi / 4000])
    np.testing.assert_allclose(spec.wavelengths, [10, 4000])  # tokens in a turn
    np.testing.assert_allclose(spec.rotations, [100, 0.25])  # turns inside the window


@settings(deadline=None, max_examples=50)
@given(
    s=scalings(),
    positions=st.lists(st.integers(0, 3_000_000), min_size=1, max_size=4),
    data=st.data(),
)
def test_angles_follow_equation_3(s, positions, data):
    positions += [s.start_tokens, max(s.start_tokens - 1, 0)]  # both sides of the border
    angles = s.angles(positions)
    assert angles.dtype == np.float64
    for row, n in zip(angles, positions, strict=True):
        for i in range(s.spec.rotary_dim // 2):
            theta = (
                s.spec.base ** (-2 * i / s.spec.rotary_dim)
                if s.spec.base
                else s.spec.base_frequencies[i]
            )
            expected = n * theta if n < s.start_tokens else n * theta / float(s.factors[i])
            assert row[i] == pytest.approx(expected, rel=1e-13, abs=0)


def test_angles_keep_the_shape_of_the_positions():
    s = scaling()
    assert s.angles(7).shape == (4,)
    assert s.angles(np.arange(6).reshape(2, 3)).shape == (2, 3, 4)
    np.testing.assert_array_equal(s.angles(np.arange(6).reshape(2, 3))[1, 2], s.angles(5))


def exact_angle(n, base, i, d, factor):
    """The angle in radians, modulo a turn, to 50 digits."""
    with localcontext() as context:
        context.prec = 60
        theta = Decimal(base) ** (Decimal(-2 * i) / Decimal(d))
        return (n * theta / Decimal(factor)) % (2 * PI)


def distance_on_the_circle(angle, exact):
    with localcontext() as context:
        context.prec = 60
        gap = (Decimal(float(angle)) - exact) % (2 * PI)
        return float(min(gap, 2 * PI - gap))


@pytest.mark.parametrize("n", [2_000_003, 20_000_001])  # the second is no float32 itself
def test_angles_of_millions_of_tokens_are_exact_where_float32_is_lost(n):
    d, base = 64, 10000
    s = RopeScaling(RopeSpec(d, 4096, base), np.geomspace(1, 500, d // 2), 2_097_152)
    single = np.float32(n) * s.frequencies.astype(np.float32)
    exact = [exact_angle(n, base, i, d, float(s.factors[i])) for i in range(d // 2)]
    ours = [distance_on_the_circle(a, e) for a, e in zip(s.angles(n), exact, strict=True)]
    theirs = [distance_on_the_circle(a, e) for a, e in zip(single, exact, strict=True)]
    assert max(ours) < n * 1e-15
    assert max(theirs) > 0.01  # the trap: this is what casting before the product costs


# --- RopeScaling ---


def test_factors_are_a_read_only_float64_copy():
    mine = np.array([1, 2, 3, 4], dtype=np.float32)
    s = RopeScaling(SPEC, mine, 1024)
    mine[0] = 9
    assert s.factors.tolist() == [1, 2, 3, 4]
    assert s.factors.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        s.factors[0] = 2


def test_rounding_just_below_one_becomes_one():
    assert scaling([1 - 1e-12, 1, 1, 1]).factors[0] == 1.0


def test_ratio_frequencies_and_at():
    s = scaling()
    assert s.ratio == 8
    np.testing.assert_allclose(s.frequencies * [1, 2, 4, 8], [1, 0.1, 0.01, 0.001])
    assert s.at(10) is s
    assert s.at(10**7) is s


def test_equality_and_hash_look_at_every_field():
    s = scaling()
    assert s == scaling()
    assert hash(s) == hash(scaling())
    others = [
        scaling(factors=(1.0, 2.0, 4.0, 9.0)),
        scaling(target_length=4097),
        scaling(method="yarn"),
        scaling(start_tokens=1),
        scaling(attention_factor=1.5),
        scaling(spec=RopeSpec(8, 512, 10001.0)),
    ]
    assert all(s != other for other in others)
    assert s != "longrope"


def test_repr_says_what_it_is():
    assert repr(scaling(start_tokens=4, attention_factor=1.25)) == (
        "RopeScaling(longrope, 512 -> 4096 tokens, factors 1 to 8, start_tokens=4, m=1.25)"
    )


def test_numpy_numbers_become_plain_ones():
    spec = RopeSpec(np.int64(8), np.int32(512), np.float32(10000), attention_factor=np.float32(1))
    s = RopeScaling(
        spec, np.ones(4), np.int64(1024), start_tokens=np.int64(4), attention_factor=np.float64(1.5)
    )
    json.dumps(s.to_dict())  # raises on what JSON does not know
    assert s == RopeScaling(RopeSpec(8, 512, 10000.0), [1, 1, 1, 1], 1024, "longrope", 4, 1.5)


def test_as_spec_is_the_embedding_after_the_extension():
    spec = RopeSpec(8, 512, 10000.0, attention_factor=1.5)
    after = scaling(spec=spec, attention_factor=2.0).as_spec()
    assert (after.rotary_dim, after.window, after.attention_factor) == (8, 4096, 3.0)
    np.testing.assert_allclose(after.frequencies, [1, 0.1 / 2, 0.01 / 4, 0.001 / 8], rtol=1e-15)
    with pytest.raises(
        ValueError, match=r"keeps 4 start tokens, which a RopeSpec cannot express: .*start_tokens=0"
    ):
        scaling(start_tokens=4).as_spec()


def test_check_monotone():
    s = scaling([1, 2, 2, 3])
    assert s.check_monotone() is s
    with pytest.raises(
        ValueError, match=r"factors fall from 3 \(dimension 1\) to 2\.5 \(dimension 2\).*sort them"
    ):
        scaling([1, 3, 2.5, 4]).check_monotone()


def test_attention_factor_of_longrope():
    # As stored in the metadata of Phi-3-mini-128k's GGUF files: 4096 to 131072 tokens.
    assert longrope_attention_factor(RopeSpec(96, 4096, 10000.0), 131072) == pytest.approx(
        1.190238, abs=5e-7
    )
    # L**2 is twice the logarithm of L: sqrt(1 + 1).
    assert longrope_attention_factor(RopeSpec(64, 512, 10000.0), 512 * 512) == pytest.approx(
        math.sqrt(2), rel=1e-14
    )
    assert longrope_attention_factor(RopeSpec(64, 512, 10000.0), 512) == 1.0


# --- compose ---


@settings(deadline=None, max_examples=50)
@given(data=st.data(), first=scalings())
def test_composed_angles_are_those_of_one_after_the_other(data, first):
    between = RopeSpec(
        first.spec.rotary_dim,
        first.target_length,
        base_frequencies=first.frequencies,
        attention_factor=first.spec.attention_factor * first.attention_factor,
    )
    if first.start_tokens == 0:
        assert first.as_spec() == between
    pairs = first.spec.rotary_dim // 2
    second = RopeScaling(
        between,
        data.draw(st.lists(st.floats(1, 100), min_size=pairs, max_size=pairs)),
        data.draw(st.integers(between.window, 10_000_000)),
        start_tokens=first.start_tokens,
        attention_factor=data.draw(st.floats(0.5, 2)),
    )
    both = compose(first, second)
    assert both.spec == first.spec
    assert (both.target_length, both.start_tokens) == (second.target_length, first.start_tokens)
    np.testing.assert_allclose(
        both.factors, [a * b for a, b in zip(first.factors, second.factors, strict=True)]
    )
    for n in (0, first.start_tokens - 1, first.start_tokens, 12_345):
        turned = first.angles(n)  # by the first, then slowed by the second where that acts
        if n >= first.start_tokens:
            turned = turned / second.factors
        np.testing.assert_allclose(both.angles(n), turned, rtol=1e-12)
    # What cos and sin are multiplied by in all, from either end.
    assert both.spec.attention_factor * both.attention_factor == pytest.approx(
        second.spec.attention_factor * second.attention_factor
    )


def test_compose_takes_the_float32_frequencies_of_a_live_model():
    first = scaling()
    live = RopeSpec(8, 4096, base_frequencies=first.frequencies.astype(np.float32))
    assert compose(first, RopeScaling(live, [2, 2, 2, 2], 8192)).factors.tolist() == [2, 4, 8, 16]


def test_compose_refuses_scalings_that_do_not_follow_each_other():
    first = scaling(attention_factor=1.5)
    after = first.as_spec()
    with pytest.raises(
        ValueError,
        match=r"cannot compose scalings with 0 and 4 start tokens.*the first's start_tokens",
    ):
        compose(first, RopeScaling(after, np.ones(4), 8192, start_tokens=4))
    theta = after.base_frequencies
    strangers = [
        RopeSpec(8, 2048, base_frequencies=theta, attention_factor=1.5),
        RopeSpec(8, 4096, base_frequencies=[2 * f for f in theta], attention_factor=1.5),
        RopeSpec(8, 4096, base_frequencies=theta),
        RopeSpec(6, 4096, base_frequencies=theta[:3], attention_factor=1.5),
    ]
    for spec in strangers:
        with pytest.raises(
            ValueError,
            match=r"not for the embedding that the first leaves .*make it from first.as_spec",
        ):
            compose(first, RopeScaling(spec, np.ones(spec.rotary_dim // 2), 8192))


# --- files ---


@settings(deadline=None, max_examples=50)
@given(s=scalings())
def test_json_round_trip_is_exact(s, tmp_path_factory):
    path = tmp_path_factory.mktemp("scaling") / "made" / "s.json"  # the folder is made
    assert s.save(path) == path
    back = RopeScaling.load(path)
    assert back == s
    assert back.factors.tobytes() == s.factors.tobytes()
    assert back.spec.frequencies.tobytes() == s.spec.frequencies.tobytes()
    assert back.to_dict() == s.to_dict()


@settings(deadline=None, max_examples=25)
@given(factors=st.lists(st.floats(1, 1e4), min_size=4, max_size=4))
def test_csv_as_microsofts_search_writes_it(factors, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "result_final.csv"
    np.savetxt(path, factors, delimiter="\n")
    s = RopeScaling.load(path, spec=SPEC, target_length=4096, start_tokens=8)
    assert s.factors.tolist() == factors
    assert (s.target_length, s.start_tokens, s.method, s.spec) == (4096, 8, "longrope", SPEC)
    assert s.attention_factor == pytest.approx(math.sqrt(1 + math.log(8) / math.log(512)))
    assert RopeScaling.load(path, SPEC, 4096, attention_factor=1.0).attention_factor == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "1\n2\n3\n4",
        "1\n2\n3\n4\n",
        "1\r\n2\r\n3\r\n4\r\n\r\n",
        "1,2,3,4",
        "1, 2, 3, 4\n",
        "1,2,3,4\n" * 32,
        "\ufeff1\n2\n3\n4",
    ],
    ids=[
        "no newline at the end",
        "newline",
        "windows",
        "one line",
        "spaces",
        "a line for each layer",
        "byte order mark",
    ],
)
def test_csv_shapes(text, tmp_path):
    path = tmp_path / "factors.CSV"
    path.write_bytes(text.encode())
    assert RopeScaling.load(path, SPEC, 4096).factors.tolist() == [1, 2, 3, 4]


def test_csv_of_a_single_factor(tmp_path):
    (tmp_path / "one.csv").write_text("2.5\n")
    assert RopeScaling.load(
        tmp_path / "one.csv", RopeSpec(2, 512, 10000.0), 2048
    ).factors.tolist() == [2.5]


# --- names and files of the release before ---


def test_the_window_is_still_found_under_its_old_name():
    with pytest.warns(
        FutureWarning,
        match=r"original_length= of RopeSpec is now window=; the old name goes with the next",
    ) as caught:
        old = RopeSpec(rotary_dim=8, original_length=512, base=10000.0)
    assert old == SPEC
    assert Path(caught[0].filename) == Path(__file__)  # the line that has to change
    with pytest.warns(
        FutureWarning, match=r"RopeSpec\.original_length is now RopeSpec\.window;"
    ) as caught:
        assert old.original_length == 512
    assert Path(caught[0].filename) == Path(__file__)


def test_replace_takes_the_old_name_of_the_window():
    with pytest.warns(FutureWarning, match="is now window=;"):
        replaced = dataclasses.replace(SPEC, original_length=1024)
    assert replaced == RopeSpec(8, 1024, 10000.0)


@pytest.mark.filterwarnings("error")
def test_the_new_name_of_the_window_does_not_warn():
    assert dataclasses.replace(SPEC, window=1024).window == 1024
    assert RopeSpec.from_dict({"rotary_dim": 8, "original_length": 512, "base": 10000.0}) == SPEC


OLD_FILE = """{
 "kind": "scaling",
 "method": "yarn",
 "spec": {
  "rotary_dim": 8,
  "original_length": 512,
  "base": 10000.0,
  "attention_factor": 1.0
 },
 "target_length": 4096,
 "factors": [
  1.0,
  2.0,
  4.0,
  8.0
 ],
 "start_tokens": 16,
 "attention_factor": 1.25
}
"""


@pytest.mark.filterwarnings("error")
def test_a_file_of_the_release_before_is_read(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(OLD_FILE)
    expected = scaling(method="yarn", start_tokens=16, attention_factor=1.25)
    assert RopeScaling.load(path) == expected
    assert RopeScaling.load(path).spec == SPEC
    assert RopeScaling.load(expected.save(tmp_path / "new.json")) == expected
    assert "original_length" not in (tmp_path / "new.json").read_text()


# --- messages ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotary_dim": 7}, "rotary_dim is 7: it must be even and at least 2"),
        ({"rotary_dim": 0}, "rotary_dim is 0: it must be even and at least 2"),
        ({"rotary_dim": 8.5}, "rotary_dim is 8.5: it must be even"),
        ({"rotary_dim": None}, "rotary_dim is None: it must be even"),
        ({"rotary_dim": "8"}, "rotary_dim is 8: it must be even"),
        ({"window": 1}, "window is 1: a window has at least 2 tokens"),
        ({"window": math.nan}, "window is nan: a window has"),
        ({"window": math.inf}, "window is inf: a window has"),
        ({"base": 1.0}, "base is 1.0: it must be a finite number above 1"),
        ({"base": math.nan}, "base is nan: it must be a finite number above 1"),
        ({"base": "10k"}, "base is 10k: it must be a finite number above 1"),
        ({"base": None}, "takes either base or base_frequencies: give exactly one"),
        (
            {"base_frequencies": [1, 1, 1, 1]},
            "takes either base or base_frequencies: give exactly one",
        ),
        (
            {"base": None, "base_frequencies": [1, 0.1, 0.01]},
            "base_frequencies has shape (3,): rotary_dim 8 needs shape (4,), one frequency per",
        ),
        ({"base": None, "base_frequencies": np.ones((4, 1))}, "base_frequencies has shape (4, 1)"),
        (
            {"base": None, "base_frequencies": [1, 0.1, 0, 1]},
            "a base frequency is 0.0: it must be a finite number above 0",
        ),
        ({"base": None, "base_frequencies": [1, math.inf, 1, 1]}, "a base frequency is inf"),
        ({"attention_factor": 0}, "attention_factor is 0: it must be a finite number above 0"),
        ({"attention_factor": math.inf}, "attention_factor is inf"),
    ],
)
def test_a_bad_spec_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RopeSpec(**({"rotary_dim": 8, "window": 512, "base": 10000.0} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"factors": [1, 2, 4]},
            "factors have shape (3,): rotary_dim 8 needs shape (4,), one factor per pair",
        ),
        ({"factors": np.ones((4, 1))}, "factors have shape (4, 1)"),
        ({"factors": 2.0}, "factors have shape ()"),
        ({"factors": [1, 0.5, 1, 1]}, "factor 1 is 0.5: rescale factors are at least 1"),
        ({"factors": [1, 1, 1, -3]}, "factor 3 is -3: rescale factors are at least 1"),
        ({"factors": [0.9, 1, 1, 1]}, "factor 0 is 0.9: rescale factors are at least 1"),
        ({"factors": [1, 1, math.nan, 1]}, "factor 2 is nan: rescale factors must be finite"),
        ({"factors": [math.inf, 1, 1, 1]}, "factor 0 is inf: rescale factors must be finite"),
        (
            {"target_length": 511},
            "target_length 511 is shorter than the window of 512 tokens: a scaling extends",
        ),
        ({"target_length": -1}, "target_length is -1: it counts tokens"),
        ({"target_length": math.nan}, "target_length is nan: it counts tokens, so a whole number"),
        ({"target_length": math.inf}, "target_length is inf: it counts tokens"),
        ({"target_length": 1024.5}, "target_length is 1024.5: it counts tokens"),
        ({"start_tokens": -1}, "start_tokens is -1: it counts tokens, so a whole number from 0"),
        ({"start_tokens": 1.5}, "start_tokens is 1.5: it counts tokens"),
        ({"start_tokens": math.nan}, "start_tokens is nan: it counts tokens"),
        ({"attention_factor": 0.0}, "attention_factor is 0.0: it must be a finite number above 0"),
        ({"attention_factor": math.nan}, "attention_factor is nan"),
        ({"attention_factor": None}, "attention_factor is None"),
    ],
)
def test_a_bad_scaling_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RopeScaling(**({"spec": SPEC, "factors": [1, 1, 1, 1], "target_length": 4096} | arguments))


GOOD = scaling().to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not readable JSON"),
        ('{"kind": "scaling", ', "is not readable JSON"),
        (b"\xff\xfe", "is not readable JSON"),
        ("[1, 2]", "is not a scaling that longrope_lab wrote"),
        ("3", "is not a scaling that longrope_lab wrote"),
        ('{"rope_theta": 10000.0}', "is not a scaling that longrope_lab wrote: it has no 'spec'"),
        (json.dumps(GOOD | {"kind": "recipe"}), "holds 'recipe', not one scaling"),
        (json.dumps(GOOD | {"factor": 8}), "unknown field 'factor': did you mean 'factors'?"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "factors"}), "it has no 'factors'"),
        (json.dumps(GOOD | {"factors": [1, 2, 3]}), "factors have shape (3,)"),
        (json.dumps(GOOD | {"factors": [1, 2, "x", 4]}), "factors must be numbers"),
        (
            json.dumps(GOOD | {"target_length": 5}),
            "target_length 5 is shorter than the window of 512",
        ),
        (json.dumps(GOOD | {"target_length": "long"}), "target_length is long: it counts tokens"),
        (json.dumps(GOOD | {"spec": {"rotary_dim": 8}}), "window"),
        (json.dumps(GOOD | {"spec": GOOD["spec"] | {"flavour": 1}}), "flavour"),
        (json.dumps(GOOD | {"attention_factor": math.nan}), "attention_factor is nan"),
    ],
)
def test_a_bad_json_file_is_refused_by_name(text, message, tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"mine\.json .*" + re.escape(message)):
        RopeScaling.load(path)


def test_a_schedule_is_not_a_scaling(tmp_path):
    path = RopeSchedule.by_length([scaling()]).save(tmp_path / "schedule.json")
    with pytest.raises(
        ValueError, match=r"schedule\.json holds 'by_length', not one scaling.*RopeSchedule\.load"
    ):
        RopeScaling.load(path)


def test_from_dict_names_its_source():
    with pytest.raises(ValueError, match=r"^the checkpoint is not a scaling"):
        RopeScaling.from_dict({}, source="the checkpoint")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no scaling at .*none\.json: save one with \.save, or check"
    ):
        RopeScaling.load(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"no factors at .*none\.csv: check the path"):
        RopeScaling.load(tmp_path / "none.csv", SPEC, 4096)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"factor\n1\n2\n3\n4\n", "could not convert string 'factor'"),
        (b"# factors\n1\n2\n3\n4\n", "could not convert string '# factors'"),
        (b"1\n2\n3\n", "factors have shape (3,)"),
        (b"4\n1\n2\n3\n4\n", "factors have shape (5,)"),
        (b"1\n0.5\n3\n4\n", "factor 1 is 0.5"),
        (b"1\nnan\n3\n4\n", "factor 1 is nan"),
        (b"1,nan,3,4\n", "factor 1 is nan"),
        (b"1,2\n3,4\n", "it has 2 different lines of 2 values"),
        (b"1,2,3,4\n1,2,3,5\n", "it has 2 different lines of 4 values"),
        (b"1\n2,3\n4\n", "number of columns changed"),
        (b"1\n\xff\n3\n4\n", "codec can't decode"),
    ],
)
def test_a_bad_csv_file_is_refused_by_name(text, message, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"mine\.csv .*" + re.escape(message)):
        RopeScaling.load(path, SPEC, 4096)


def test_a_csv_needs_a_spec_and_a_target(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("1\n2\n3\n4\n")
    for arguments in ({}, {"spec": SPEC}, {"target_length": 4096}):
        with pytest.raises(
            ValueError, match=r"mine\.csv is a CSV of factors alone: pass spec= and target_length="
        ):
            RopeScaling.load(path, **arguments)
    with pytest.raises(ValueError, match="target_length 100 is shorter than the window"):
        RopeScaling.load(path, SPEC, 100)


def test_json_does_not_drop_arguments_that_contradict_it(tmp_path):
    s = scaling(start_tokens=4)
    path = s.save(tmp_path / "s.json")
    assert RopeScaling.load(path, SPEC, 4096, 4, 1.0) == s
    for arguments, name in (
        ({"spec": RopeSpec(8, 256, 10000.0)}, "spec"),
        ({"target_length": 8192}, "target_length=4096, not 8192"),
        ({"start_tokens": 8}, "start_tokens=4, not 8"),
        ({"attention_factor": 1.5}, "attention_factor=1.0, not 1.5"),
    ):
        with pytest.raises(ValueError, match=f"s.json holds a scaling with {name}.*complete a CSV"):
            RopeScaling.load(path, **arguments)
