"""Running notebooks headlessly, and recording what they made."""

from ..common.renames import former_module

# What `runs.py` of the release before held.
__getattr__ = former_module(
    __name__,
    find_notebook="notebooks",
    find_notebooks="notebooks",
    profile_parameters="notebooks",
    run="run_one",
)
