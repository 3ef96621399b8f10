"""Whether a model can be exported once it is extended, found out before hours go into that."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..common.files import UnwritableError, nearest_folder, writing
from ..models.rotary import rope_spec
from ..rope.methods import rope_scaling
from ..rope.scaling import RopeScaling
from ..rope.schedule import RopeSchedule, Scaling
from .folder import save_pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def try_export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Iterable[int],
    folder: str | os.PathLike[str],
) -> None:
    """Export the model under factors of no formula, as a search finds them, and keep nothing.

    Args:
        model, tokenizer: as `save_pretrained` takes them.
        lengths: tokens that the factors to come are for; a config holds the longest two.
        folder: where the export will be. The trial is written beside it, where there is room for
            the weights or not.

    Raises:
        ValueError: it cannot be exported; the error says why, and what to do without.
        UnwritableError: nothing can be written there.
    """
    scaling = _like_found(model, lengths)
    with contextlib.ExitStack() as stack:
        with writing(folder):
            place = stack.enter_context(
                tempfile.TemporaryDirectory(dir=nearest_folder(folder), prefix=".trial-")
            )
        try:
            save_pretrained(model, tokenizer, scaling, Path(place, "model"))
        except UnwritableError:
            raise
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"an extended {type(model).__name__} cannot be exported ({error}). Nothing was "
                "begun: extend it with longrope_lab.progressive, and use its schedule through "
                "apply_scaling"
            ) from error


def _like_found(model: PreTrainedModel, lengths: Iterable[int]) -> Scaling:
    """Factors that no formula gives, for the longest two lengths, both under one m."""
    *_, longest = ordered = sorted(set(lengths))
    yarn = rope_scaling(rope_spec(model), "yarn", longest)
    assert isinstance(yarn, RopeScaling)
    long = replace(yarn, method="longrope", factors=np.sqrt(yarn.factors * yarn.factors.max()))
    if len(ordered) == 1:
        return long
    short = replace(long, target_length=ordered[-2], factors=np.sqrt(yarn.factors))
    return RopeSchedule.by_length([short, long])
