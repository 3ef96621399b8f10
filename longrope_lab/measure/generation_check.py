"""Whether generated tokens are those that a pass from scratch finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from ..models.parts import check_has_weights, is_whole
from ..models.rotary import apply_scaling
from ..rope.schedule import Scaling
from ..texts.tokens import check_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COLUMNS = ["prompt", "end", "factors for", "tokens equal", "of", "behind"]


def reread(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    generated: Tensor,
    schedule: Scaling,
) -> pd.DataFrame:
    """Read generated texts again from scratch, without a cache: is each token the likeliest?

    Args:
        model: a Hugging Face causal language model.
        prompts: token ids of each row, without padding.
        generated: (B, T), what `generate` made of them greedily: every row padded on the left to
            the longest prompt, and as many new tokens after it.
        schedule: as `generate` had it; each row is read under the set for its whole length.

    Returns:
        One row per prompt: prompt and end (its length, in tokens, before and after), factors for
        (the target length of its set), tokens equal to the likeliest, of (how many new ones),
        behind (by how much, in logits, the worst of them misses the likeliest).

    Raises:
        ValueError: no prompts, or no new tokens for each; a model without weights.
    """
    check_has_weights(model)
    shape, longest = tuple(generated.shape), max(map(len, prompts), default=0)
    fits = len(shape) == 2 and shape[0] == len(prompts) > 0 and shape[1] > longest
    if not fits or not is_whole(generated):
        raise ValueError(
            f"generated is {generated.dtype} of shape {shape} for {len(prompts)} prompts of up to "
            f"{longest} tokens: pass the token ids that generate returned for them"
        )
    check_ids(generated.long(), model.get_input_embeddings().weight.shape[0])
    new = generated.shape[1] - longest
    rows = []
    for prompt, row in zip(prompts, generated, strict=True):
        ids = torch.tensor([*prompt, *row[-new:].tolist()], device=model.device)
        scaling = schedule.at(len(ids))
        with apply_scaling(model, scaling), torch.inference_mode():
            read = model(ids[None], use_cache=False, logits_to_keep=new + 1)
        logits = read.logits[0, :-1].float()
        behind = logits.amax(dim=1) - logits.gather(1, ids[-new:, None])[:, 0]
        equal = int((behind == 0).sum())
        rows.append((len(prompt), len(ids), scaling.target_length, equal, new, behind.max().item()))
    return pd.DataFrame(rows, columns=COLUMNS)
