"""PI's Figure 2: the fit against linear algebra, and the explosion that the figure shows."""

import numpy as np
import pytest
from test_bounds import LAB, SMALL, random_h

from longrope_lab.rope.bounds import attention_score
from longrope_lab.rope.score_fit import fit_coefficients, score_fit, score_fit_sweep


def test_fit_solves_the_ridge_equations():
    scores = np.random.default_rng(5).standard_normal(64)
    h = fit_coefficients(SMALL, scores, ridge=0.3)
    n = np.arange(64)
    design = np.concatenate(
        [np.cos(np.outer(n, SMALL.frequencies)), -np.sin(np.outer(n, SMALL.frequencies))], axis=1
    )
    x = np.concatenate([h.real, h.imag])
    expected = np.linalg.solve(design.T @ design + 0.3 * np.eye(8), design.T @ scores)
    np.testing.assert_allclose(x, expected, atol=1e-10)
    np.testing.assert_allclose(attention_score(SMALL, h, n), design @ x, atol=1e-12)


def test_fit_finds_scores_that_rope_made():
    h = random_h(SMALL, 2)
    found = fit_coefficients(SMALL, attention_score(SMALL, h, np.arange(64)), ridge=1e-10)
    np.testing.assert_allclose(found, h, atol=1e-5)


def test_score_fit_is_calm_inside_explodes_beyond_and_pi_stays_calm():
    table = score_fit(LAB, 4096, seed=0)
    curve = dict(list(table.groupby("curve")))
    assert set(curve) == {"data", "inside", "none", "pi", "between", "trained"}
    assert len(curve["data"]) == 512
    assert curve["inside"]["score"].abs().max() < 2
    assert curve["pi"]["score"].abs().max() < 2
    beyond = curve["none"].query("position > 512")["score"]
    assert beyond.abs().max() > 100
    assert curve["none"]["position"].max() == curve["pi"]["position"].max() == 4095
    np.testing.assert_allclose(curve["pi"]["angle_position"], curve["pi"]["position"] / 8)
    # Both are one function of the angles: PI's scores are the fit's at an eighth of the distance.
    h = fit_coefficients(LAB, curve["data"]["score"])
    np.testing.assert_allclose(
        curve["pi"]["score"], attention_score(LAB, h, curve["pi"]["position"] / 8), atol=1e-7
    )
    assert curve["trained"]["position"].tolist() == list(range(40, 49))


def test_score_fit_depends_on_the_seed_alone():
    first, again = (score_fit(SMALL, 128, seed=1) for _ in range(2))
    assert first.equals(again)
    assert first.equals(score_fit(SMALL, 128, seed=np.random.default_rng(1)))
    assert not np.allclose(first["score"], score_fit(SMALL, 128, seed=2)["score"])


def test_the_explosion_is_no_accident_and_shrinks_with_the_ridge():
    sweep = score_fit_sweep(LAB, 4096, trials=6, seed=3)
    assert len(sweep) == 4 * 6
    assert (sweep[sweep["ridge"] == 1e-8]["beyond"] > 100).all()
    assert (sweep[["inside", "interpolated"]] < 2).all(axis=None)
    medians = sweep.groupby("ridge")[["beyond", "largest_coefficient"]].median()
    assert (medians.diff().iloc[1:] < 0).all(axis=None)
    one = sweep.query("ridge == 1e-8 and trial == 2").iloc[0]
    h = fit_coefficients(LAB, np.random.default_rng(3).spawn(6)[2].standard_normal(512))
    assert one["largest_coefficient"] == pytest.approx(np.abs(h).max(), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fit_coefficients(SMALL, [1.0, 2.0], ridge=0),
            "ridge is 0: it must be above 0",
        ),
        (lambda: fit_coefficients(SMALL, [1.0, np.inf]), "finite numbers in one row"),
        (lambda: fit_coefficients(SMALL, np.ones((2, 2))), r"shape \(2, 2\)"),
        (lambda: score_fit(SMALL, 128, zoom=(60, 64)), r"zoom is \(60, 64\).*window of 64"),
        (lambda: score_fit(SMALL, 32), "target_length 32 is shorter than the window"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
