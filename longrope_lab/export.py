"""Writes an extended model as a checkpoint that stock transformers loads with its scaling.

What a config can say is in `hf_config.py`. Here the folder is written, loaded again with transformers' own classes,
and kept only if those give this package's logits.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .corpora import Document
from .hf_config import config_with_scaling, spec_from_config
from .models import quiet_transformers
from .perplexity import perplexity
from .rope import RopeScaling, RopeSpec
from .rotary import apply_scaling, find_rotary, rope_spec
from .schedule import DynamicNTK, RopeSchedule, StagedSchedule

log = logging.getLogger(__name__)

# How far stock transformers may be from ours: relative to each rotation, and to the largest logit if that is above 1.
# Its angles are float32, off by up to n * 2**-23 radians at position n, where ours are float64: logits may differ so
# much up to position 256, and in proportion beyond (SmolLM2 at position 8,192: 1.3e-4 of the largest).
ROTATION_TOLERANCE = 1e-5
LOGIT_TOLERANCE = 1e-4
EXACT_UNTIL = 256

# Token positions that a check holds: a longer input is checked at as many, spread over its length.
POSITIONS = 256
BEYOND = 64  # tokens past the switch from short to long


def save_pretrained(
    model: Any,
    tokenizer: Any,
    scaling: RopeScaling | RopeSchedule,
    folder: str | os.PathLike[str],
    *,
    drop_start_tokens: bool = False,
    documents: Sequence[Document] | None = None,
    figures: pd.DataFrame | Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint that ``AutoModelForCausalLM.from_pretrained`` loads with the scaling in its config.

    Beside weights, config and tokenizer (whose `model_max_length` becomes the target) it holds a model card and
    ``scaling.json``, the scaling as it was given. What was written is loaded again with stock classes, in float32 on
    the CPU, and kept only if its logits are those of `apply_scaling`, inside the window and beyond; until then the
    folder has another name, so that nothing half-written stays. The live model is not changed, and a scaling that is
    in place on it is no part of what is written.

    Args:
        model: a Hugging Face causal language model; low-rank updates of PEFT are merged in a copy.
        tokenizer: its tokenizer.
        scaling: a `RopeScaling`, a staged schedule of at most two, or Dynamic NTK, made for this model. Over an
            embedding that was extended before, factors are written relative to the config's own base.
        folder: where to write; new, or empty.
        drop_start_tokens: leave out start tokens, for which transformers has no place.
        documents: what leaving them out costs is measured on these, at the target length or the shortest's own; it
            is logged, and stands in the card.
        figures: measured numbers for the card.

    Returns:
        The folder.

    Raises:
        FileExistsError: there is something in the folder already.
        ValueError: a scaling for another model, or one that a config cannot express (see `config_with_scaling`); a
            quantised model; adapters that do not merge.
        RuntimeError: stock transformers cannot load what was written, or gives other logits; nothing is kept.
    """
    folder = Path(folder).expanduser().resolve()
    _check_free(folder)
    shown = _figures(figures)
    kept = _without_start_tokens(scaling) if drop_start_tokens else scaling
    shell = _shell(model)
    config = config_with_scaling(shell.config, kept)
    _check_same_model(shell, kept)
    cost = _cost_of_dropping(shell, scaling, kept, documents)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with quiet_transformers():
            _write(part, shell, tokenizer, config, kept)
            scaling.save(part / "scaling.json")
            checked = _check(part, shell, kept)
        card = _card(folder.name, shell, config, scaling, [checked, cost], shown)
        (part / "README.md").write_text(card, encoding="utf-8")
        if folder.exists():
            folder.rmdir()  # empty
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty, and nothing is written over: name a new folder, or empty it")


def _without_start_tokens(scaling: RopeScaling | RopeSchedule) -> RopeScaling | RopeSchedule:
    if isinstance(scaling, RopeScaling):
        return replace(scaling, start_tokens=0)
    if isinstance(scaling, StagedSchedule):
        return RopeSchedule.stages([replace(s, start_tokens=0) for s in scaling.scalings], scaling.method)
    return scaling


def _shell(model: Any) -> Any:
    """The model's modules around the same weights, with a config of their own and nothing that hangs on the live ones.

    Only where low-rank updates have to be merged are the weights copied.
    """
    quantiser = getattr(model, "hf_quantizer", None)
    if quantiser is not None:
        method = getattr(quantiser.quantization_config.quant_method, "value", None)
        # A GGUF file's weights are ordinary numbers once loaded, unless kernels are there that multiply packed ones.
        if method != "gguf" or any(weight.dtype == torch.uint8 for weight in model.state_dict().values()):
            raise ValueError(
                f"the model is quantised ({method}), and its weights cannot be compared in float32: load it "
                "unquantised, with dtype=torch.bfloat16"
            )
    if hasattr(model, "merge_and_unload"):
        shell = copy.deepcopy(model).merge_and_unload()
    else:
        weights = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
        shell = copy.deepcopy(model, weights)
    for module in shell.modules():
        if hasattr(module, "lora_A"):
            raise ValueError(
                "the model has low-rank updates that are not merged into its weights: pass peft's PeftModel, which is "
                "merged in a copy, or merge them first"
            )
        module.__dict__.pop("forward", None)  # a scaling in place, or a wrapper for training
    if quantiser is not None:
        shell.hf_quantizer, shell.is_quantized = None, False
        del shell.config.quantization_config
    return shell.eval()


def _check_same_model(model: Any, scaling: RopeScaling | RopeSchedule) -> None:
    with apply_scaling(model, scaling):  # refuses other frequencies
        pass
    windows = [spec.original_length for spec in (rope_spec(model), spec_from_config(model.config))]
    if scaling.spec.original_length not in windows:
        raise ValueError(
            f"this scaling is for a window of {scaling.spec.original_length} tokens; the model's is {windows[0]}: make "
            "it from rope_spec(model)"
        )


def _cost_of_dropping(
    model: Any,
    given: RopeScaling | RopeSchedule,
    kept: RopeScaling | RopeSchedule,
    documents: Sequence[Document] | None,
) -> str:
    """What leaving out start tokens does to the loss, in words for the card; "" if there were none."""
    dropped = _start_tokens(given)
    if not dropped:
        return ""
    words = f"The scaling's {dropped} start tokens, which transformers has no place for, were left out"
    if not documents:
        return words + "; what that costs was not measured."
    length = min(_target(given) or 0, *map(len, documents))
    table = perplexity(model, documents, [length], {"with": given, "without": kept})
    before, after = (table.loc[table["scaling"] == name, "loss"].mean() for name in ("with", "without"))
    words += (
        f": that costs {after - before:.4f} nats a token (mean loss {before:.4f} with them, {after:.4f} without, over "
        f"the first {length:,} tokens of {len(documents)} documents)."
    )
    log.warning("%s", words)
    return words


def _start_tokens(scaling: RopeScaling | RopeSchedule) -> int:
    return max((s.start_tokens for s in _stages(scaling)), default=0)


def _stages(scaling: RopeScaling | RopeSchedule) -> tuple[RopeScaling, ...]:
    if isinstance(scaling, RopeScaling):
        return (scaling,)
    return scaling.scalings if isinstance(scaling, StagedSchedule) else ()


def _target(scaling: RopeScaling | RopeSchedule) -> int | None:
    """The longest input in tokens that it was made for; None for Dynamic NTK, which follows the length."""
    return max((s.target_length for s in _stages(scaling)), default=None)


def _write(part: Path, shell: Any, tokenizer: Any, config: Any, scaling: RopeScaling | RopeSchedule) -> None:
    before = shell.config
    shell.config = config
    shell.save_pretrained(part)
    shell.config = before  # its modules were built from this one
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = _target(scaling) or tokenizer.model_max_length
    tokenizer.save_pretrained(part)


def _check(part: Path, shell: Any, scaling: RopeScaling | RopeSchedule) -> str:
    """Compare stock transformers with ours, and say how near they are. `shell` goes to the CPU in float32.

    Rotations are compared as well as logits, in which a slow dimension that turns by a wrong factor hardly shows.
    """
    import transformers

    stock_name = f"stock transformers {transformers.__version__}"
    way_out = "nothing was kept: use apply_scaling on the model instead"
    short = _stages(scaling)[0].target_length if len(_stages(scaling)) > 1 else scaling.spec.original_length
    lengths = (short, short + BEYOND)
    try:
        stock = transformers.AutoModelForCausalLM.from_pretrained(
            part, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        theirs = [(_rotation(stock, length), _logits(stock, length)) for length in lengths]
    except Exception as error:
        raise RuntimeError(f"{stock_name} cannot run what was written ({error}); {way_out}") from error
    del stock  # two models in float32 may be more than there is memory for
    type(shell).to(shell, "cpu", torch.float32)  # accelerate may have put the live model's own `to` on it
    shell.set_attn_implementation("eager")
    with apply_scaling(shell, scaling):
        ours = [(_rotation(shell, length), _logits(shell, length)) for length in lengths]
    worst = 0.0
    for length, (rotation, logits), (own_rotation, own_logits) in zip(lengths, theirs, ours, strict=True):
        where = f"for an input of {length} tokens"
        turned = ((rotation - own_rotation) / own_rotation).abs()
        if not turned.max() <= ROTATION_TOLERANCE:
            i = int(turned.argmax())
            raise RuntimeError(
                f"{stock_name} turns dimension {i} otherwise than apply_scaling does {where}, m sin θ/λ being "
                f"{rotation[i]:.7g} and not {own_rotation[i]:.7g}; {way_out}"
            )
        off = (logits - own_logits).abs().amax(dim=-1)  # (T,)
        n = _positions(length)
        allowed = LOGIT_TOLERANCE * max(1.0, float(own_logits.abs().max())) * (n / EXACT_UNTIL).clamp(min=1)
        bad = torch.nonzero(~(off <= allowed)).flatten()  # a NaN is bad, too
        if len(bad):
            i = int(bad[0])
            raise RuntimeError(
                f"{stock_name} gives other logits than apply_scaling {where}: off by {off[i]:.2g} at position {n[i]} "
                f"({allowed[i]:.2g} is allowed), by {off.max():.2g} at most; {way_out}"
            )
        worst = max(worst, float(off.max()))
    return (
        f"Checked when it was written: {stock_name} gives longrope_lab's logits to {worst:.1g}, for random tokens at "
        f"inputs of {lengths[0]:,} and {lengths[1]:,} tokens (float32, CPU)."
    )


@torch.no_grad()
def _rotation(model: Any, length: int) -> Tensor:
    """m sin(θ/λ), as the rotary module answers at position 1 of an input of `length` tokens; shape (d,), or (d/2,).

    At position 1 float32 holds the fastest and the slowest dimension to seven digits.
    """
    rotary = find_rotary(model)[0]
    positions = torch.tensor([[1, length - 1]])
    arguments = (positions,) if rotary.layer_type is None else (positions, rotary.layer_type)
    sin: Tensor = rotary.module(torch.zeros(1), *arguments)[1]
    return sin[0, 0]


def _positions(length: int) -> Tensor:
    """Positions (T,) of an input of `length` tokens: all, or `POSITIONS` at most, ever further apart, to its end."""
    if length <= POSITIONS:
        return torch.arange(length)
    return torch.from_numpy(np.unique(np.geomspace(1, length, POSITIONS).round().astype(np.int64) - 1))


@torch.no_grad()
def _logits(model: Any, length: int) -> Tensor:
    """Logits (T, V), float32, of random tokens at the `_positions` of an input."""
    positions = _positions(length)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (1, len(positions)), generator=torch.Generator().manual_seed(0))
    # Given no mask, transformers would take a step of more than one position for the start of another text.
    output = model(input_ids=ids, position_ids=positions[None], attention_mask=torch.ones_like(ids), use_cache=False)
    logits: Tensor = output.logits[0].float()
    return logits


# --- the card ---------------------------------------------------------------------------------------------------------


def _card(
    name: str, model: Any, config: Any, scaling: RopeScaling | RopeSchedule, remarks: Sequence[str], figures: str
) -> str:
    base = str(getattr(model.config, "_name_or_path", "") or "")
    on_hub = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base)) and not Path(base).exists()
    title = base if on_hub else Path(base).name or type(model).__name__  # a local path says nothing to others
    rope = config.get_text_config().rope_parameters
    rope = rope.get("full_attention", rope)
    target = _target(scaling)
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    head += [f"base_model: {base}"] if on_hub else []
    head += ["tags: [long-context, rope, longrope_lab]", "---"]
    reach = f"from {scaling.spec.original_length:,} to {target:,} tokens" if target else "as far as each input reaches"
    lines = [
        *head,
        "",
        f"# {name}",
        "",
        f"{title}, its context window extended {reach} with longrope_lab (`{scaling.method}`).",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f'model = AutoModelForCausalLM.from_pretrained("{name}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        "```",
        "",
        "The scaling is in `config.json`, and nothing else is needed. `scaling.json` holds the exact numbers it was "
        "made of, for `longrope_lab`.",
        "",
        "## Rotary embedding",
        "",
        "| | |",
        "|---|---|",
        f"| rope type | `{rope['rope_type']}` |",
        *_spec_rows(scaling.spec),
        *_stage_rows(scaling),
        "",
        *(remark + "\n" for remark in [_switch(scaling), *remarks] if remark),
    ]
    if figures:
        lines += ["## Measured", "", figures]
    return "\n".join(lines).rstrip() + "\n"


def _spec_rows(spec: RopeSpec) -> list[str]:
    start = f"{spec.base:,g}" if spec.base is not None else "of its own: " + _numbers(spec.frequencies)
    rows = [
        f"| window before, tokens | {spec.original_length:,} |",
        f"| rotary dimension | {spec.rotary_dim} |",
        f"| {'base' if spec.base is not None else 'frequencies before'} | {start} |",
    ]
    return rows + ([f"| attention factor before | {spec.attention_factor:.6g} |"] if spec.attention_factor != 1 else [])


def _stage_rows(scaling: RopeScaling | RopeSchedule) -> list[str]:
    if isinstance(scaling, DynamicNTK):
        return [f"| ratio at l tokens, past the window L | 1 + {scaling.alpha:g} (l / L - 1) |"]
    rows = []
    for stage in _stages(scaling):
        at = f" (for {stage.target_length:,})" if len(_stages(scaling)) > 1 else ""
        rows += [
            f"| target length{at}, tokens | {stage.target_length:,} |",
            f"| factors λ{at} | {_numbers(stage.factors)} |",
            f"| start tokens{at} | {stage.start_tokens}{' (left out)' if stage.start_tokens else ''} |",
            f"| attention factor m{at} | {stage.attention_factor:.6g} |",
        ]
    return rows


def _switch(scaling: RopeScaling | RopeSchedule) -> str:
    """What a user of two sets of factors has to know; "" for one."""
    if len(_stages(scaling)) < 2:
        return ""
    return (
        f"The first factors serve inputs of up to {_stages(scaling)[0].target_length:,} tokens, the second longer "
        "ones. transformers goes by the longest row of a batch; generation that passes this length keeps the keys it "
        "has cached as they are (Phi-3 computes them again)."
    )


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _figures(figures: pd.DataFrame | Mapping[str, Any] | None) -> str:
    """Measured numbers as a Markdown table.

    Raises:
        ValueError: neither a table nor a mapping of names to numbers.
    """
    if figures is None:
        return ""
    rows: Iterable[tuple[Any, ...]]
    if isinstance(figures, pd.DataFrame):
        header, rows = [str(c) for c in figures.columns], figures.itertuples(index=False, name=None)
    elif isinstance(figures, Mapping):
        header, rows = ["", ""], figures.items()
    else:
        raise ValueError(f"figures is a {type(figures).__name__}: pass a DataFrame, or a dict of names and numbers")
    table = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:.4g}" if abs(number) < 1e4 else f"{number:,.0f}"
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return f"{value:,}" if whole else str(value).replace("|", "\\|")
