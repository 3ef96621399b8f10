"""One colour per method: who is drawn in which, also under names that a user makes up."""

from __future__ import annotations

import colorsys

import pytest
from matplotlib.colors import to_rgb

from longrope_lab import plots
from longrope_lab.plots.style import GREY, STYLES, styles_of
from longrope_lab.rope.methods import METHODS, rope_scaling
from longrope_lab.rope.spec import RopeSpec


def hue_and_value(style):
    hue, saturation, value = colorsys.rgb_to_hsv(*to_rgb(style.colour))
    assert saturation > 0.3, f"{style} is grey"
    return hue, value


def lightness(style):
    return sum(to_rgb(style.colour))


@pytest.mark.parametrize(
    "name",
    [
        "longrope", "longrope, 65,536", "longrope_16384", "LongRoPE at 4k", "extended model",
        "extended to 8,192", "evolution", "gradient", "search", "search, n̂ too", "recovery on",
        "recovery off", "two steps", "dimensions", "dimensions and start tokens", "custom",
    ],
)  # fmt: skip
def test_what_longrope_makes_is_vermilion_lighter_or_darker(name):
    hue, _ = hue_and_value(styles_of([name])[name])
    assert hue == pytest.approx(hue_and_value(STYLES["longrope"])[0], abs=0.02)


def test_shades_go_from_light_to_dark_by_length():
    names = ["longrope, 262,144", "longrope, 65,536", "longrope, 524,288"]
    styles = styles_of([*names, "yarn"])
    light, middle, dark = (
        lightness(styles[f"longrope, {n}"]) for n in ("65,536", "262,144", "524,288")
    )
    assert light > middle > dark
    assert styles["longrope, 65,536"].label == "LongRoPE, 65,536"
    assert list(styles) == [*names, "yarn"] and styles["yarn"] == STYLES["yarn"]


def test_a_shade_beside_its_method_is_dashed_and_another_colour():
    styles = styles_of(["pi", "PI, n̂ = 16", "yarn", "YaRN's factors", "Dynamic NTK at 512 tokens"])
    for of, name in (("pi", "PI, n̂ = 16"), ("yarn", "YaRN's factors")):
        assert styles[of] == STYLES[of] and styles[name].line == "--"
        assert styles[name].colour != STYLES[of].colour
        assert hue_and_value(styles[name])[0] == pytest.approx(
            hue_and_value(STYLES[of])[0], abs=0.02
        )
    assert styles["Dynamic NTK at 512 tokens"].colour == STYLES["dynamic_ntk"].colour.lower()


def test_a_name_belongs_to_the_method_of_its_first_word():
    """ "ntk-aware" is NTK's, "pinned" is nobody's."""
    styles = styles_of(["ntk-aware", "pinned", "nonesuch", "random draws"])
    assert styles["ntk-aware"].marker == STYLES["ntk"].marker
    assert styles["random draws"].marker == STYLES["random"].marker
    known = {style.colour for style in STYLES.values()}
    assert not {styles["pinned"].colour, styles["nonesuch"].colour} & known


def test_scalings_under_any_name_have_their_methods_colours():
    spec = RopeSpec(rotary_dim=16, base=10000.0, window=512)
    found = {
        f"{n:,} tokens": rope_scaling(spec, "longrope", n, factors=[n / 512] * 8)
        for n in (1024, 4096)
    }
    (ax,) = plots.factor_profile({**found, "pi": rope_scaling(spec, "pi", 4096)}).axes
    short, long, pi = ax.get_lines()
    assert sum(to_rgb(short.get_color())) > sum(to_rgb(long.get_color()))
    assert pi.get_color() == STYLES["pi"].colour


def test_other_names_can_be_told_apart_and_are_not_grey():
    names = [f"variant {i}" for i in range(9)]
    styles = styles_of(["yarn", *names])
    assert len({styles[name][:2] for name in names}) == 9
    assert styles["yarn"] == STYLES["yarn"] and styles["variant 4"].label == "variant 4"
    assert GREY not in {styles[name].colour for name in names}


def test_no_two_methods_share_a_colour():
    methods = (*METHODS, "gradient", "random")
    assert len({STYLES[name].colour for name in methods}) == len(methods)
