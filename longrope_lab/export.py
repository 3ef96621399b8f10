"""Writes an extended model as a checkpoint that stock transformers loads with its scaling.

What a config can say is in `hf_config.py`, what a reader is told in `card.py`. Here the folder is written, loaded again
with transformers' own classes, and kept only if those give this package's logits.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .card import figures_table, model_card
from .corpora import Document
from .hf_config import FULL_ATTENTION, config_with_scaling, spec_from_config
from .models import forget_quantization, packed, quiet_transformers
from .perplexity import perplexity
from .rope import RopeScaling
from .rotary import apply_scaling, find_rotary, rope_spec
from .schedule import RopeSchedule, StagedSchedule, stages_of

log = logging.getLogger(__name__)

# How far stock transformers may be from ours. Its frequencies are float32, and so are its angles: at position n they
# are off by up to n * 7e-7 radians, where ours are float64. So each frequency is held to three times that (room for a
# formula that says nearly the same), and logits to 1e-4 of the largest one up to position 512, in proportion beyond,
# and not at all from 65,536, where the fastest angles are off by a twentieth of a radian: how far positions turn is
# known from the frequencies, and all else is the same at any position.
# Measured: 5e-6 of the largest at 512 tokens, 5e-5 at 4,096 (lab model; two attention kernels of stock transformers
# differ by 4e-6), 1.3e-4 at 8,192 (SmolLM2). With stock's rotary module in place of ours, the lab model's logits are
# equal to the bit.
ROTATION_TOLERANCE = 2e-6
LOGIT_TOLERANCE = 1e-4
EXACT_UNTIL = 512
JUDGED_UNTIL = 65_536

# Token positions that a check holds: a longer input is checked at as many, spread over its length.
POSITIONS = 256


def save_pretrained(
    model: Any,
    tokenizer: Any,
    scaling: RopeScaling | RopeSchedule,
    folder: str | os.PathLike[str],
    *,
    drop_start_tokens: bool = False,
    documents: Sequence[Document] = (),
    figures: pd.DataFrame | Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint that ``AutoModelForCausalLM.from_pretrained`` loads with the scaling in its config.

    Beside weights, config and tokenizer (whose `model_max_length` becomes the target) it holds a model card and
    ``scaling.json``, the scaling as it was given. What was written is loaded again with stock classes, in float32 on
    the CPU, and kept only if its logits are those of `apply_scaling`, inside the window and beyond; how near they are
    stands in the card. Until then the folder has another, hidden name: nothing half-written stays, unless the process
    is killed, and that under the hidden name. The live model is not changed, and a scaling that is in place on it is
    no part of what is written. Of several processes (``accelerate launch``) the first writes, and the others go on.

        extended = lab.progressive(model, tokenizer, plan, "run", train_docs=train, search_docs=books)
        table = lab.perplexity(model, test_docs, [512, 4096], {"extended": extended.schedule})
        lab.save_pretrained(model, tokenizer, extended.schedule, "my-model-4k", figures=lab.perplexity_summary(table))

    Args:
        model: a Hugging Face causal language model; low-rank updates of PEFT are merged in a copy.
        tokenizer: its tokenizer.
        scaling: a `RopeScaling`, a staged schedule of at most two, or Dynamic NTK, made for this model. Over an
            embedding that was extended before, factors are written relative to the config's own base.
        folder: where to write; new, or empty.
        drop_start_tokens: leave out start tokens, for which transformers has no place.
        documents: what leaving them out costs is measured on these, at each target length or the shortest's own; it
            is logged, and stands in the card.
        figures: measured numbers for the card.

    Returns:
        The folder.

    Raises:
        FileExistsError: there is something in the folder already.
        ValueError: a scaling for another model, or one that a config cannot express (see `config_with_scaling`); start
            tokens to drop and no documents; a quantised or offloaded model, or one without a language-modelling head;
            adapters that do not merge.
        RuntimeError: the folder cannot be written (a full disk), or stock transformers cannot load what was written, or
            gives other logits; nothing is kept.
    """
    folder = Path(folder).expanduser().resolve()
    if int(os.environ.get("RANK", 0)):
        return folder
    _check_free(folder)
    shown = figures_table(figures)
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
        rope = config.get_text_config().rope_parameters
        rope_type = rope.get(FULL_ATTENTION, rope)["rope_type"]
        origin = str(getattr(config, "_name_or_path", "") or type(shell).__name__)
        card = model_card(folder.name, origin, rope_type, scaling, [checked, cost], shown)
        (part / "README.md").write_text(card, encoding="utf-8")
        if folder.exists():
            folder.rmdir()  # empty
        part.replace(folder)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if _is_of_the_disk(error):
            raise RuntimeError(
                f"{folder} cannot be written ({error}), and nothing was kept: free some space, or name another folder"
            ) from error
        raise
    return folder


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty, and nothing is written over: name a new folder, or empty it")


def _is_of_the_disk(error: BaseException) -> bool:
    """Files are written by Python, by safetensors and by tokenizers, whose errors have classes of their own."""
    return isinstance(error, OSError) or "os error" in str(error)


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
        if method != "gguf" or packed(model):
            raise ValueError(
                f"the model is quantised ({method}), and its weights cannot be compared in float32: load it "
                "unquantised, with dtype=torch.bfloat16"
            )
    if hasattr(model, "merge_and_unload"):
        shell = copy.deepcopy(model).merge_and_unload()
    else:
        _check_whole(model)
        weights = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
        shell = copy.deepcopy(model, weights)
    for module in shell.modules():
        module.__dict__.pop("forward", None)  # a scaling in place, or a wrapper for training
    if quantiser is not None:
        forget_quantization(shell)
    return shell.eval()


def _check_whole(model: Any) -> None:
    """Refuse what could not be written as one ordinary model."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"model is a {type(model).__name__}: pass transformers' own model (model._orig_mod, if torch.compile "
            "wrapped it), or a PEFT model whose adapters can be merged"
        )
    if model.get_output_embeddings() is None:
        raise ValueError(f"a {type(model).__name__} has no language-modelling head: load it with AutoModelForCausalLM")
    if any(hasattr(module, "get_base_layer") for module in model.modules()):
        raise ValueError(
            "the model has adapters that are not merged into its weights: pass peft's PeftModel, which is merged in a "
            "copy, or merge them first"
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError("some of the model's weights are offloaded: load it on one device, or on the CPU")


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
    documents: Sequence[Document],
) -> str:
    """What leaving out start tokens does to the loss, in words for the card; "" if there were none."""
    stages = stages_of(given)
    dropped = max((stage.start_tokens for stage in stages), default=0)
    if not dropped:
        return ""
    if not documents:
        raise ValueError(
            f"drop_start_tokens=True leaves out {dropped} start tokens, and what that costs is measured on documents: "
            "pass documents=, from load_corpus"
        )
    longest = min(map(len, documents))
    lengths = sorted({min(stage.target_length, longest) for stage in stages})
    table = perplexity(model, documents, lengths, {"with": given, "without": kept})
    means = table.groupby(["scaling", "length"])["loss"].mean()
    costs = "; ".join(
        f"{means['without', n] - means['with', n]:+.4f} at {n:,} tokens (from {means['with', n]:.4f} to "
        f"{means['without', n]:.4f})"
        for n in lengths
    )
    words = (
        f"The scaling's {dropped} start tokens, which transformers has no place for, were left out. Change of the mean "
        f"loss over {len(documents)} documents, nats a token: {costs}."
    )
    log.warning("%s", words)
    return words


def _write(part: Path, shell: Any, tokenizer: Any, config: Any, scaling: RopeScaling | RopeSchedule) -> None:
    before, generation = shell.config, shell.generation_config
    stages = stages_of(scaling)
    tokenizer = copy.deepcopy(tokenizer)
    if stages:
        tokenizer.model_max_length = stages[-1].target_length
        if generation.max_length == scaling.spec.original_length:  # LLaMA-2's, for one: it would refuse longer prompts
            generation.max_length = stages[-1].target_length
    shell.config = config
    shell.save_pretrained(part)
    shell.config = before  # its modules were built from this one
    tokenizer.save_pretrained(part)


def _check(part: Path, shell: Any, scaling: RopeScaling | RopeSchedule) -> str:
    """Compare stock transformers with ours, and say how near they are. `shell` goes to the CPU in float32.

    Rotations are compared as well as logits, in which a slow dimension that turns by a wrong factor hardly shows.
    """
    import transformers

    stock_name = f"stock transformers {transformers.__version__}"
    way_out = "nothing was kept: use apply_scaling on the model instead"
    lengths = _lengths(scaling)
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
    found, largest = [], 0.0
    for length, (rotation, logits) in zip(lengths, theirs, strict=True):
        with apply_scaling(shell, scaling, length=length):
            own_rotation, own_logits = _rotation(shell, length), _logits(shell, length)
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
        largest = max(largest, float(own_logits.abs().max()))
        allowed = LOGIT_TOLERANCE * max(1.0, largest) * (n / EXACT_UNTIL).clamp(min=1)
        allowed[n >= JUDGED_UNTIL] = torch.inf  # a NaN is still refused
        bad = torch.nonzero(~(off <= allowed)).flatten()
        if len(bad):
            i = int(bad[0])
            raise RuntimeError(
                f"{stock_name} gives other logits than apply_scaling {where}: off by {off[i]:.2g} at position {n[i]} "
                f"({allowed[i]:.2g} is allowed), by {off.max():.2g} at most; {way_out}"
            )
        found.append(f"{off.max():.1g} at {length:,} tokens")
    return (
        f"Checked when it was written: {stock_name} gives longrope_lab's logits to {', '.join(found)} (the largest "
        f"logit being {largest:.3g}; random tokens, at most {POSITIONS} of them spread over the length; float32, CPU). "
        "Its angles are float32, so that the difference grows with the position."
    )


def _lengths(scaling: RopeScaling | RopeSchedule) -> list[int]:
    """Input lengths to compare: the last of the window (or of the short factors), the first beyond it, the longest."""
    stages = stages_of(scaling)
    window = stages[0].target_length if len(stages) > 1 else scaling.spec.original_length
    return sorted({window, window + 1, stages[-1].target_length if stages else 2 * window})


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
