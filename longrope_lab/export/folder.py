"""Writes an extended model as a checkpoint that stock transformers loads with its scaling.

What a config can say is in `hf_config.py`, what a reader is told in `card.py`. Here the folder is
written, loaded again with transformers' own classes, and kept only if those give this package's
logits."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from ..measure.perplexity import perplexity
from ..models.config import FULL_ATTENTION, config_with_scaling, spec_from_config
from ..models.loading import forget_quantization, packed, quiet_transformers
from ..models.rotary import apply_scaling, rope_spec
from ..rope.scaling import RopeScaling
from ..rope.schedule import LengthSchedule, RopeSchedule, Scaling, sets_of
from ..texts.tokens import Document
from .card import figures_table, model_card
from .check import _check

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def save_pretrained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scaling: Scaling,
    folder: str | os.PathLike[str],
    *,
    drop_start_tokens: bool = False,
    documents: Sequence[Document] = (),
    figures: pd.DataFrame | Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint that ``AutoModelForCausalLM.from_pretrained`` loads with the scaling in
    its config.

    Beside weights, config and tokenizer (whose `model_max_length` becomes the target) it holds a
    model card and ``scaling.json``, the scaling as it was given. What was written is loaded again
    with stock classes, in float32 on the CPU, and kept only if its logits are those of
    `apply_scaling`, inside the window and beyond; how near they are stands in the card. Until then
    the folder has another, hidden name: nothing half-written stays, unless the process is killed,
    and that under the hidden name. The live model is not changed, and a scaling that is in place on
    it is no part of what is written. Of several processes (``accelerate launch``) the first writes,
    and the others go on.

        extended = lab.progressive(model, tokenizer, plan, "run", train_docs=train,
        search_docs=books) table = lab.perplexity(model, test_docs, [512, 4096], {"extended":
        extended.schedule}) lab.save_pretrained(model, tokenizer, extended.schedule, "my-model-4k",
        figures=lab.perplexity_summary(table))

    Args:
        model: a Hugging Face causal language model; low-rank updates of PEFT are merged in a copy.
        tokenizer: its tokenizer.
        scaling: a `RopeScaling`, a staged schedule of at most two, or Dynamic NTK, made for this
            model. Over an embedding that was extended before, factors are written relative to the
            config's own base.
        folder: where to write; new, or empty.
        drop_start_tokens: leave out start tokens, for which transformers has no place.
        documents: what leaving them out costs is measured on these, at each target length or the
            shortest's own; it is logged, and stands in the card.
        figures: measured numbers for the card.

    Returns:
        The folder.

    Raises:
        FileExistsError: there is something in the folder already.
        ValueError: a scaling for another model, or one that a config cannot express (see
            `config_with_scaling`); start tokens to drop and no documents; a quantised or offloaded
            model, or one without a language-modelling head; adapters that do not merge.
        RuntimeError: the folder cannot be written (a full disk), or stock transformers cannot load
            what was written, or gives other logits; nothing is kept.
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
        raise FileExistsError(
            f"{folder} is not empty, and nothing is written over: name a new folder, or empty it"
        )


def _is_of_the_disk(error: BaseException) -> bool:
    """Files are written by Python, by safetensors and by tokenizers, whose errors have classes of their own."""
    return isinstance(error, OSError) or "os error" in str(error)


def _without_start_tokens(scaling: Scaling) -> Scaling:
    if isinstance(scaling, RopeScaling):
        return replace(scaling, start_tokens=0)
    if isinstance(scaling, LengthSchedule):
        return RopeSchedule.by_length(
            [replace(s, start_tokens=0) for s in scaling.scalings], scaling.method
        )
    return scaling


def _shell(model: PreTrainedModel) -> Any:
    """The model's modules around the same weights, with a config of their own and nothing that
    hangs on the live ones.

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


def _check_whole(model: PreTrainedModel) -> None:
    """Refuse what could not be written as one ordinary model."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"model is a {type(model).__name__}: pass transformers' own model (model._orig_mod, if torch.compile "
            "wrapped it), or a PEFT model whose adapters can be merged"
        )
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"a {type(model).__name__} has no language-modelling head: load it with AutoModelForCausalLM"
        )
    if any(hasattr(module, "get_base_layer") for module in model.modules()):
        raise ValueError(
            "the model has adapters that are not merged into its weights: pass peft's PeftModel, which is merged in a "
            "copy, or merge them first"
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            "some of the model's weights are offloaded: load it on one device, or on the CPU"
        )


def _check_same_model(model: PreTrainedModel, scaling: Scaling) -> None:
    with apply_scaling(model, scaling):  # refuses other frequencies
        pass
    windows = [spec.window for spec in (rope_spec(model), spec_from_config(model.config))]
    if scaling.spec.window not in windows:
        raise ValueError(
            f"this scaling is for a window of {scaling.spec.window} tokens; the model's is {windows[0]}: make "
            "it from rope_spec(model)"
        )


def _cost_of_dropping(
    model: PreTrainedModel,
    given: Scaling,
    kept: Scaling,
    documents: Sequence[Document],
) -> str:
    """What leaving out start tokens does to the loss, in words for the card; "" if there were none."""
    stages = sets_of(given)
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


def _write(
    part: Path,
    shell: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    scaling: Scaling,
) -> None:
    before, generation = shell.config, shell.generation_config
    stages = sets_of(scaling)
    tokenizer = copy.deepcopy(tokenizer)
    if stages:
        tokenizer.model_max_length = stages[-1].target_length
        if (
            generation.max_length == scaling.spec.window
        ):  # LLaMA-2's, for one: it would refuse longer prompts
            generation.max_length = stages[-1].target_length
    shell.config = config
    shell.save_pretrained(part)
    shell.config = before  # its modules were built from this one
    tokenizer.save_pretrained(part)
