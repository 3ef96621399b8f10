"""The trained window of a model that is not loaded, from its config alone."""

from __future__ import annotations

import contextlib

from .loading import local_config
from .rotary import window_from_config


def window_of(name: object) -> int | None:
    """Tokens of the window that `rope_spec` gives a model, once it is loaded.

    Args:
        name: as `load_model` takes it.

    Returns:
        None if it cannot be told here: another machine has the config, or it is not read before the
        model is.
    """
    with contextlib.suppress(ValueError, FileNotFoundError):  # whoever loads it says so
        config = local_config(str(name))
        return None if config is None else window_from_config(config)
    return None
