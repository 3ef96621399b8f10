"""Figures as functions of tables: each returns a matplotlib `Figure` and measures nothing.

One colour a method throughout (Okabe and Ito's palette, safe for colour-blind readers), lengths on an axis of base 2,
the trained window marked, intervals drawn.
"""

from .measured import cost_curves, passkey_heatmap, perplexity_curves
from .nonuniformity import paired_ratios, start_token_curves
from .rotary import (
    coefficient_profile,
    factor_profile,
    phase_circles,
    phase_curves,
    rescaled_wavelengths,
    score_bounds,
    score_fit,
    telling_pairs,
    wavelengths,
)
from .search import search_curves
from .style import STYLES, tokens

__all__ = [
    "STYLES",
    "coefficient_profile",
    "cost_curves",
    "factor_profile",
    "paired_ratios",
    "passkey_heatmap",
    "perplexity_curves",
    "phase_circles",
    "phase_curves",
    "rescaled_wavelengths",
    "score_bounds",
    "score_fit",
    "search_curves",
    "start_token_curves",
    "telling_pairs",
    "tokens",
    "wavelengths",
]
