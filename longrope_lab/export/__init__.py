"""Handing an extended model over to whatever runs it."""

from ..common.renames import former_module

# What `export.py` of the release before held.
__getattr__ = former_module(
    __name__,
    save_pretrained="folder",
)
