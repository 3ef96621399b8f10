"""Interactive explorers on top of the figures of `plots`, for JupyterLab.

Each function returns an explorer, which a notebook shows; `.controls`, `.figure` and what else it
names are for code. Every one comes after a static figure of the same thing, so that a headless run
loses nothing."""

from ..common.doors import door
from .explorer import Explorer
from .factors import FactorEditor, edit_factors
from .passkeys import PasskeyExplorer, explore_passkeys
from .scaling import AngleExplorer, ScalingExplorer, explore_angles, explore_scaling

__all__ = [
    "AngleExplorer",
    "Explorer",
    "FactorEditor",
    "PasskeyExplorer",
    "ScalingExplorer",
    "edit_factors",
    "explore_angles",
    "explore_passkeys",
    "explore_scaling",
]

globals().update({name: door(globals()[name], __name__) for name in __all__})
