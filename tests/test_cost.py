"""The cost table: its columns, its order, and that it measures what it says."""

from __future__ import annotations

import numpy as np

from longrope_lab.cost import scoring_cost


def test_scoring_cost_of_the_lab_model(lab):
    model = lab[0]
    table = scoring_cost(model, [512, 64], repeats=2, plain_up_to=64)
    assert table["length"].tolist() == [64, 512]  # rising, so that a CPU's high-water mark means something
    assert (table["seconds"] > 0).all() and (table["peak_gib"] >= 0).all()
    np.testing.assert_allclose(table["tokens_per_second"], table["length"] / table["seconds"])
    assert np.isfinite(table["slowdown"][0]) and np.isnan(table["slowdown"][1])
