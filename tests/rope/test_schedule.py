"""Schedules: which scaling acts at which length, their files, and their messages."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import DynamicNTK, LengthSchedule, RopeSchedule
from longrope_lab.rope.spec import RopeSpec

SPEC = RopeSpec(rotary_dim=8, window=512, base=10000.0)


def scaling(target_length, top=None, spec=SPEC, **options):
    top = top or target_length / spec.window
    return RopeScaling(spec, np.linspace(1, top, spec.rotary_dim // 2), target_length, **options)


def test_factors_change_after_their_target():
    short, middle, long = scaling(512), scaling(1024), scaling(4096)
    schedule = RopeSchedule.by_length([long, short, middle])  # in any order
    assert schedule.scalings == (short, middle, long)
    expected = {1: short, 511: short, 512: short, 513: middle, 1024: middle, 1025: long, 4096: long}
    for length, s in expected.items():
        assert schedule.at(length) is s, length
    assert schedule.at(4097) is long  # beyond the last there is nothing better
    assert schedule.at(10**7) is long
    assert schedule.spec == SPEC
    assert schedule.method == "longrope"
    assert RopeSchedule.by_length([short], method="mine").method == "mine"


@settings(deadline=None, max_examples=50)
@given(
    targets=st.lists(st.integers(512, 100_000), min_size=1, max_size=6, unique=True),
    length=st.integers(1, 120_000),
)
def test_in_force_is_the_shortest_that_reaches(targets, length):
    schedule = RopeSchedule.by_length(scaling(t) for t in targets)
    assert schedule.target_length == max(targets)
    chosen = schedule.at(length).target_length
    reach = [t for t in targets if t >= length]
    assert chosen == (min(reach) if reach else max(targets))


def test_schedules_compare_by_value():
    assert RopeSchedule.by_length([scaling(512), scaling(4096)]) == RopeSchedule.by_length(
        [scaling(4096), scaling(512)]
    )
    assert RopeSchedule.by_length([scaling(512)]) != RopeSchedule.by_length([scaling(4096)])
    assert hash(RopeSchedule.by_length([scaling(512)])) == hash(
        RopeSchedule.by_length([scaling(512)])
    )
    assert DynamicNTK(SPEC) == DynamicNTK(SPEC, 1.0) != DynamicNTK(SPEC, 2.0)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 8])
def test_dynamic_ntk_leaves_the_window_alone(alpha):
    schedule = DynamicNTK(SPEC, alpha)
    for length in (1, 511, 512):
        s = schedule.at(length)
        assert (s.factors == 1).all()
        assert (s.target_length, s.attention_factor, s.start_tokens) == (512, 1.0, 0)
    assert (schedule.at(513).factors[1:] > 1).all()
    assert schedule.method == schedule.at(600).method == "dynamic_ntk"


@settings(deadline=None, max_examples=50)
@given(length=st.integers(513, 100_000), alpha=st.floats(1, 16))
def test_dynamic_ntk_is_ntk_at_the_running_length(length, alpha):
    s = DynamicNTK(SPEC, alpha).at(length)
    ratio = alpha * length / 512 - (alpha - 1)
    base = 10000.0 * ratio ** (8 / 6)
    np.testing.assert_allclose(s.frequencies, [base ** (-2 * i / 8) for i in range(4)], rtol=1e-12)
    assert s.target_length == length
    if alpha == 1:
        np.testing.assert_allclose(s.factors, rope_scaling(SPEC, "ntk", length).factors, rtol=1e-12)


# --- files ---


@st.composite
def schedules(draw):
    pairs, length = draw(st.integers(2, 6)), draw(st.integers(2, 5000))
    if draw(st.booleans()):
        spec = RopeSpec(
            2 * pairs,
            length,
            base=draw(st.floats(1.5, 1e8)),
            attention_factor=draw(st.floats(0.5, 2)),
        )
    else:
        theta = draw(st.lists(st.floats(1e-9, 10), min_size=pairs, max_size=pairs))
        spec = RopeSpec(2 * pairs, length, base_frequencies=theta)
    if draw(st.booleans()):
        return DynamicNTK(spec, draw(st.floats(1, 100)))
    targets = draw(st.lists(st.integers(length, 10**6), min_size=1, max_size=3, unique=True))
    factors = st.lists(st.floats(1, 1e5), min_size=pairs, max_size=pairs)
    held = [
        RopeScaling(
            spec,
            draw(factors),
            t,
            start_tokens=draw(st.integers(0, 64)),
            attention_factor=draw(st.floats(1, 2)),
        )
        for t in targets
    ]
    return RopeSchedule.by_length(held, method=draw(st.sampled_from(["longrope", "recovered"])))


@settings(deadline=None, max_examples=50)
@given(schedule=schedules())
def test_json_round_trip_is_exact(schedule, tmp_path_factory):
    path = tmp_path_factory.mktemp("schedule") / "deep" / "schedule.json"
    assert schedule.save(path) == path
    back = RopeSchedule.load(path)
    assert type(back) is type(schedule)
    assert back == schedule
    assert back.to_dict() == schedule.to_dict()
    for length in (1, schedule.spec.window + 1, 10**6):
        assert back.at(length).frequencies.tobytes() == schedule.at(length).frequencies.tobytes()


# --- names and files of the release before ---


def test_the_old_name_of_by_length_warns_and_works():
    with pytest.warns(
        FutureWarning, match=r"RopeSchedule\.stages is now RopeSchedule\.by_length; the old name"
    ) as caught:
        old = RopeSchedule.stages([scaling(512), scaling(4096)], method="recovered")
    assert Path(caught[0].filename) == Path(__file__)
    assert old == RopeSchedule.by_length([scaling(512), scaling(4096)], method="recovered")


OLD_SPEC = '{"rotary_dim": 8, "original_length": 512, "base": 10000.0, "attention_factor": 1.0}'
OLD_FILE = """{
 "kind": "stages",
 "method": "recovered",
 "stages": [
  {"kind": "scaling", "method": "longrope", "spec": SPEC, "target_length": 512,
   "factors": [1.0, 1.0, 1.0, 1.0], "start_tokens": 0, "attention_factor": 1.5},
  {"kind": "scaling", "method": "longrope", "spec": SPEC, "target_length": 2048,
   "factors": [1.0, 2.0, 3.0, 4.0], "start_tokens": 4, "attention_factor": 1.5}
 ]
}
""".replace("SPEC", OLD_SPEC)


@pytest.mark.filterwarnings("error")
def test_a_schedule_of_the_release_before_is_read(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(OLD_FILE)
    short = scaling(512, attention_factor=1.5)
    long = scaling(2048, start_tokens=4, attention_factor=1.5)
    expected = RopeSchedule.by_length([short, long], method="recovered")
    assert RopeSchedule.load(path) == expected
    assert RopeSchedule.load(expected.save(tmp_path / "new.json")) == expected


@pytest.mark.filterwarnings("error")
def test_a_dynamic_schedule_of_the_release_before_is_read(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(f'{{"kind": "dynamic_ntk", "spec": {OLD_SPEC}, "alpha": 2.0}}')
    assert RopeSchedule.load(path) == DynamicNTK(SPEC, 2.0)


# --- messages ---


def test_scalings_that_do_not_belong_together():
    with pytest.raises(
        ValueError, match="a schedule needs at least one RopeScaling; this list is empty"
    ):
        RopeSchedule.by_length([])
    other = RopeSpec(8, 512, 500000.0)
    with pytest.raises(ValueError, match="must share one RopeSpec: these are for different models"):
        RopeSchedule.by_length([scaling(512), scaling(4096, spec=other)])
    with pytest.raises(
        ValueError, match=r"need different target lengths; these are \[512, 4096, 4096\]"
    ):
        LengthSchedule((scaling(4096), scaling(512), scaling(4096, top=9)))


@pytest.mark.parametrize("alpha", [0.5, -1, float("nan"), float("inf"), "2", None])
def test_a_bad_alpha(alpha):
    with pytest.raises(
        ValueError, match=f"alpha is {alpha}: it must be a finite number of at least 1"
    ):
        DynamicNTK(SPEC, alpha)


def test_a_missing_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no schedule at .*none\.json: save one with \.save"
    ):
        RopeSchedule.load(tmp_path / "none.json")


def test_a_scaling_is_not_a_schedule(tmp_path):
    path = scaling(4096).save(tmp_path / "one.json")
    with pytest.raises(
        ValueError, match=r"one\.json holds 'scaling', not a schedule.*RopeScaling\.load"
    ):
        RopeSchedule.load(path)


HELD = RopeSchedule.by_length([scaling(512), scaling(4096)]).to_dict()
DYNAMIC = DynamicNTK(SPEC).to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not readable JSON"),
        ('{"kind": "by_length", ', "is not readable JSON"),
        ("[]", "holds None, not a schedule"),
        ('{"rope_theta": 10000.0}', "holds None, not a schedule"),
        (
            json.dumps({"kind": "by_length"}),
            "is not a schedule that longrope_lab wrote: it has no 'scalings'",
        ),
        (json.dumps(HELD | {"scalings": []}), "this list is empty"),
        (json.dumps(HELD | {"scaling": 1}), "unknown field 'scaling': did you mean 'scalings'?"),
        (json.dumps(HELD | {"scalings": 3}), "is not a schedule that longrope_lab wrote"),
        (
            json.dumps(HELD | {"scalings": [HELD["scalings"][0], {"kind": "scaling"}]}),
            "scaling 1 is not a scaling",
        ),
        (json.dumps(HELD | {"scalings": [HELD]}), "scaling 0 holds 'by_length', not one scaling"),
        (json.dumps({k: v for k, v in DYNAMIC.items() if k != "alpha"}), "it has no 'alpha'"),
        (json.dumps(DYNAMIC | {"alpha": 0}), "alpha is 0"),
        (json.dumps(DYNAMIC | {"alpha": "x"}), "alpha is x"),
        (json.dumps(DYNAMIC | {"spec": DYNAMIC["spec"] | {"base": 0.5}}), "base is 0.5"),
    ],
)
def test_a_bad_file_is_refused_by_name(text, message, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.json .*" + re.escape(message)):
        RopeSchedule.load(path)


@pytest.mark.parametrize("length", [-5, math.nan, "x", 1.5, None])
def test_a_length_that_no_text_has(length):
    spec = RopeSpec(16, 64, base=10_000.0)
    scalings = [rope_scaling(spec, "pi", target) for target in (128, 256)]
    for schedule in (RopeSchedule.by_length(scalings), rope_scaling(spec, "dynamic_ntk", 128)):
        with pytest.raises(ValueError, match=f"length is {length}: it must be a whole number"):
            schedule.at(length)
