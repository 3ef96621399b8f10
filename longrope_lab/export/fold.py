"""Moves of the attention factor what no formula gives into the query weights.

Engines other than transformers pass over `attention_factor` and compute m by the formula of the
rope type (YaRN's, or LongRoPE's). Attention scores grow with m squared. So a model whose rotated
queries are multiplied by (m / formula)² is, at the formula's m, the model that was extended.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..models.config_fields import FULL_ATTENTION, ORIGINAL, PHIMOE, yarn_formula
from ..models.rotary import apply_scaling
from ..models.write_config import config_with_scaling
from ..rope.formulas import longrope_formula
from ..rope.scaling import RopeScaling
from ..rope.schedule import LengthSchedule, Scaling, sets_of
from .check import LOGIT_TOLERANCE, checked_lengths, logits_at

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Where attention layers keep what makes the queries, and a norm of theirs behind it.
PROJECTIONS = ("q_proj", "qkv_proj", "query_key_value")
NORMS = ("q_norm", "q_layernorm", "query_layernorm", "query_norm")
WAY_OUT = "leave fold_attention_factor out"


def fold_attention_factor(shell: PreTrainedModel, scaling: Scaling) -> tuple[float | None, str]:
    """Multiply the queries of a model so that a config needs no attention factor.

    Args:
        shell: gets new query weights; those it had are left as they are, wherever else they serve.
        scaling: without start tokens, as a config takes it.

    Returns:
        The attention factor that its sets have with the new weights (`with_attention_factor`), and
        what was done in words for the card. (None, "") for a schedule that has none, as Dynamic
        NTK.

    Raises:
        ValueError: attention of this model is not understood here, or the scaling is one that a
            config does not take.
    """
    sets = sets_of(scaling)
    if not sets:
        return None, ""
    before = sets[-1].spec.attention_factor
    m = before * sets[-1].attention_factor
    formula = _formula(
        config_with_scaling(shell.config, with_attention_factor(scaling, 1 / before))
    )
    folded = with_attention_factor(scaling, formula / before)
    by = (m / formula) ** 2
    exact, lengths = copy.deepcopy(shell), checked_lengths(scaling)
    type(exact).to(exact, "cpu", torch.float32)  # accelerate may have put a `to` of its own on it
    ours = _log_probs(exact, scaling, lengths)
    _multiply_queries(exact, sets[0].spec.rotary_dim, by)
    off = (_log_probs(exact, folded, lengths) - ours).abs()
    if not off.max() <= LOGIT_TOLERANCE * max(1.0, float(ours.abs().max())):
        raise ValueError(
            f"the attention of {type(shell).__name__} is not understood: with the attention factor "
            f"in its query weights, log-probabilities differ by {off.max():.2g}; {WAY_OUT}"
        )
    _multiply_queries(shell, sets[0].spec.rotary_dim, by)
    dtype = str(next(shell.parameters()).dtype).removeprefix("torch.")
    exact.load_state_dict(shell.state_dict())
    off = (_log_probs(exact, folded, lengths) - ours).abs()
    words = (
        f"The attention factor m = {m:.6g} is in the query weights: they were multiplied by "
        f"({m:.6g} / {formula:.6g})² = {by:.6g}, and `config.json` names none. Engines that apply "
        f"the formula, {formula:.6g}, compute what was extended; so does `scaling.json`, for these "
        f"weights alone. They were rounded to {dtype} once more, which changes log-probabilities "
        f"by {off.max():.2g} nats at most and {off.mean():.2g} on average (random tokens)."
    )
    return formula / before, words


def with_attention_factor(scaling: Scaling, m: float | None) -> Scaling:
    """The scaling with another attention factor in all its sets; None leaves it as it is."""
    if m is None:
        return scaling
    if isinstance(scaling, RopeScaling):
        return replace(scaling, attention_factor=m)
    if isinstance(scaling, LengthSchedule):
        sets = [replace(s, attention_factor=m) for s in scaling.scalings]
        return LengthSchedule(tuple(sets), scaling.method)
    return scaling


def formula_config(config: PreTrainedConfig, scaling: Scaling) -> PreTrainedConfig:
    """A config with a scaling at the formula's attention factor, which it leaves out."""
    config = config_with_scaling(config, scaling)
    parameters = config.get_text_config().rope_parameters
    parameters.get(FULL_ATTENTION, parameters).pop("attention_factor", None)
    return config


def _formula(config: PreTrainedConfig) -> float:
    """The attention factor that engines compute for a config that names none.

    Raises:
        ValueError: the model has fields of its own for it.
    """
    text = config.get_text_config()
    parameters = text.rope_parameters
    own = parameters.get(FULL_ATTENTION, parameters)
    if text.model_type == PHIMOE or own.get("mscale_all_dim"):
        raise ValueError(
            f"a {text.model_type} config has an attention factor of its own, which no formula "
            f"gives: {WAY_OUT}"
        )
    if own["rope_type"] == "yarn":
        return yarn_formula(own, own["factor"])
    if own["rope_type"] != "longrope":
        return 1.0
    return longrope_formula(own["factor"], own[ORIGINAL])


def _log_probs(model: PreTrainedModel, scaling: Scaling, lengths: list[int]) -> Tensor:
    """Log-probabilities of the next token at the positions that an export is checked at."""
    found = []
    for length in lengths:
        with apply_scaling(model, scaling, length=length), torch.no_grad():
            found.append(logits_at(model, length).log_softmax(dim=-1))
    return torch.cat(found)


def _multiply_queries(model: PreTrainedModel, rotary_dim: int, by: float) -> None:
    """Multiply what turns of the queries of each layer that is scaled.

    Raises:
        ValueError: a layer's attention is not known here.
    """
    config = model.config.get_text_config()
    found = 0
    for name, layer in model.named_modules():
        if not any(isinstance(getattr(layer, part, None), nn.Linear) for part in PROJECTIONS):
            continue
        found += 1
        if _is_scaled(config, name):
            _multiply(layer, config, rotary_dim, by)
    if found != config.num_hidden_layers or getattr(config, "clip_qkv", None):
        raise ValueError(
            f"{type(model).__name__} makes its queries in a way that is not known here (known are "
            f"{', '.join(PROJECTIONS)} in each layer, unclipped): {WAY_OUT}"
        )


def _is_scaled(config: PreTrainedConfig, name: str) -> bool:
    """Whether the layer of this attention is turned by the factors: others keep their own."""
    number = next(int(part) for part in name.split(".") if part.isdigit())
    kinds = getattr(config, "layer_types", None)
    if FULL_ATTENTION in config.rope_parameters and kinds:
        return bool(kinds[number] == FULL_ATTENTION)
    turned = getattr(config, "no_rope_layers", None)  # SmolLM3: 1 where a layer is turned
    return not turned or bool(turned[number])


def _multiply(layer: Any, config: PreTrainedConfig, rotary_dim: int, by: float) -> None:
    """Multiply the turned dimensions of a layer's queries: of its norm, if there is one."""
    heads = config.num_attention_heads
    part = next(name for name in PROJECTIONS if isinstance(getattr(layer, name, None), nn.Linear))
    projection: nn.Linear = getattr(layer, part)
    width: int = getattr(layer, "head_dim", None) or config.hidden_size // heads
    one_head = torch.ones(width, dtype=torch.float64)
    one_head[:rotary_dim] = by
    norm = next((n for name in NORMS if (n := getattr(layer, name, None)) is not None), None)
    if norm is not None:
        _multiply_norm(norm, one_head)
        return
    rows = torch.ones(projection.out_features, dtype=torch.float64)
    if part == "query_key_value":  # of each head its query, key and value
        rows.view(heads, 3, width)[:, 0] = one_head
    else:
        rows[: heads * width] = one_head.repeat(heads)
    projection.weight = _times(projection.weight, rows[:, None])
    if projection.bias is not None:
        projection.bias = _times(projection.bias, rows)


def _multiply_norm(norm: Any, one_head: Tensor) -> None:
    weight: Tensor | None = getattr(norm, "weight", None)
    if weight is None or weight.numel() % len(one_head):
        raise ValueError(f"a {type(norm).__name__} of queries is not known here: {WAY_OUT}")
    rows = one_head.repeat(weight.numel() // len(one_head)).reshape(weight.shape)
    # Gemma's multiplies by 1 + weight: with weights of 0 it gives something.
    probe = copy.deepcopy(norm).to("cpu", torch.float32)
    nn.init.zeros_(probe.weight)
    if getattr(norm, "bias", None) is not None:
        nn.init.zeros_(probe.bias)
        norm.bias = _times(norm.bias, rows)
    with torch.no_grad():
        above_one = probe(torch.arange(1.0, weight.shape[-1] + 1).expand(1, *weight.shape)).any()
    norm.weight = _times(weight, rows, 1.0 if above_one else 0.0)


def _times(weight: Tensor, rows: Tensor, above: float = 0.0) -> nn.Parameter:
    """A new parameter, (weight + above) * rows - above, rounded to the weight's own type."""
    rows = rows.to(weight.device)
    new = (weight.detach().double() + above) * rows - above
    return nn.Parameter(new.to(weight.dtype), requires_grad=False)
