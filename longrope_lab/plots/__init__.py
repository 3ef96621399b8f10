"""Figures as functions of tables: each returns a matplotlib `Figure` and measures nothing.

Every method has one colour throughout (Okabe and Ito's palette, safe for colour-blind readers).
Lengths are on an axis of base 2, the trained window is marked, and intervals are drawn."""

from ..common.doors import door
from .benchmarks import benchmark_scores
from .choices import choice_curves
from .measured import accuracy_curves, cost_curves, passkey_heatmap, perplexity_curves
from .needles import needle_heatmap, trade_off_curves
from .nonuniformity import paired_ratios, start_token_curves
from .phases import pair_angles, phase_circles, phase_curves, telling_pairs
from .rotary import factor_profile, rescaled_wavelengths, wavelengths
from .scores import coefficient_profile, score_bounds, score_fit
from .search import loss_curves, search_curves
from .style import STYLES, tokens

__all__ = [
    "STYLES",
    "accuracy_curves",
    "benchmark_scores",
    "choice_curves",
    "coefficient_profile",
    "cost_curves",
    "factor_profile",
    "loss_curves",
    "needle_heatmap",
    "pair_angles",
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
    "trade_off_curves",
    "wavelengths",
]

globals().update({name: door(globals()[name], __name__) for name in __all__})
