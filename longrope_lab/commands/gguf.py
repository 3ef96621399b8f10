"""`longrope-lab gguf`: a scaling goes into a file for llama.cpp."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..common.files import at_home
from ..common.quantities import length_in
from ..export.gguf import add_scaling_to_gguf, check_free_file
from ..export.gguf_model import save_gguf
from ..models.loading import load_model
from ..rope.schedule import load_scaling, sets_of


def gguf(options: argparse.Namespace) -> int:
    """Write the file, and say how to serve it.

    Returns:
        The exit status.

    Raises:
        ValueError, OSError: what the user got wrong, or the system refuses.
    """
    scaling = load_scaling(at_home(options.scaling))
    window = None if options.window is None else length_in(options.window)
    if window is not None and window != scaling.spec.window:
        raise ValueError(
            f"--window is {window:,}, and the scaling was made for a window of "
            f"{scaling.spec.window:,}: name that one, or make the scaling again"
        )
    if Path(options.model).suffix == ".gguf":
        out = add_scaling_to_gguf(
            options.model, scaling, options.out, window=window, overwrite=options.overwrite
        )
    else:
        check_free_file(options.out, overwrite=options.overwrite)  # before a model is loaded
        model, tokenizer = load_model(options.model, device="cpu", window=window)
        out = save_gguf(model, tokenizer, scaling, options.out, overwrite=options.overwrite)
    length = sets_of(scaling)[-1].target_length
    print(f"{out}\n\nTo serve it:\n  llama-server -m {out} -c {length} --parallel 1")
    return 0
