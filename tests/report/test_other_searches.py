"""The table of searches that others wrote."""

import longrope_lab as lab


def test_microsofts_curve_beside_ours():
    table = lab.other_searches()
    theirs = table[table["search"] == "microsoft/LongRoPE"]
    assert theirs["forwards"].tolist() == [72, 318, 612]  # 24, 106 and 204 candidates on 3 books
    assert theirs["best_perplexity"].is_monotonic_decreasing
    assert theirs["ratio"].notna().tolist() == [False, False, True]
    assert (table["source"].str.len() > 20).all() and table["setting"].nunique() == 1
    assert (table.groupby("search")["ratio"].last() < 1).all()
