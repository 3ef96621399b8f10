"""`longrope-lab serve-check`: does an engine compute a model's scaling, and if not, what?"""

from __future__ import annotations

import argparse

from ..common.files import at_home
from ..common.quantities import length_in
from ..export.serving import check_serving
from ..rope.schedule import load_scaling


def serve_check(options: argparse.Namespace) -> int:
    """Ask an engine, and print what it computes.

    Returns:
        The exit status: 1 if it computes something else.

    Raises:
        ValueError, OSError: what the user got wrong, or an engine refuses.
    """
    lengths = [length_in(text) for text in options.lengths or ()] or None
    file = options.scaling
    scaling = None if file is None else load_scaling(at_home(file))
    served = check_serving(
        options.model, options.engine, scaling=scaling, lengths=lengths, tolerance=options.tolerance
    )
    print(served)
    return 0 if served.right else 1
