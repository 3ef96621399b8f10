"""Writes an extended model as a checkpoint that stock transformers loads with its scaling.

What a config can say is in `models/write_config.py`, what a reader is told in `card.py`. Here the
folder is written, loaded again with transformers' own classes, and kept only if those give this
package's logits (`check.py`).
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from torch import nn

from ..common.files import at_home, check_writable
from ..common.processes import alone, is_main
from ..common.renames import renamed_arguments
from ..measure.perplexity import perplexity
from ..models.config_fields import FULL_ATTENTION, TRAINED
from ..models.loading import quiet_transformers
from ..models.old_form import add_old_form
from ..models.read_config import spec_from_config
from ..models.repairs import forget_quantization, packed
from ..models.rotary import apply_scaling, window_from_config
from ..models.stand_in import remove_stand_in
from ..models.write_config import config_with_scaling
from ..rope.scaling import RopeScaling
from ..rope.schedule import LengthSchedule, RopeSchedule, Scaling, sets_of
from ..texts.tokens import Document
from . import fold
from .card import figures_table, model_card, read_by
from .check import check_export
from .tokenizer import write_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@renamed_arguments(documents="docs")
def save_pretrained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scaling: Scaling,
    folder: str | os.PathLike[str],
    *,
    drop_start_tokens: bool = False,
    docs: Sequence[Document] = (),
    figures: pd.DataFrame | Mapping[str, object] | None = None,
    fold_attention_factor: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a checkpoint that ``AutoModelForCausalLM.from_pretrained`` loads with the scaling.

    The scaling is in its config, in the form of transformers 5 and in the older one, which
    transformers 4.57 and other engines read (`models.old_form`). Beside weights, config and
    tokenizer (whose `model_max_length` becomes the target) the folder holds a model card and
    ``scaling.json``, the scaling as it was given (at another m, where that is folded).

    What was written is loaded again with stock classes, in float32 on the CPU. It is kept only if
    its logits are those of `apply_scaling`, inside the window and beyond; the card says how near
    they are. Until then the folder has another, hidden name: nothing half-written stays, except
    under that name if the process is killed. The live model is not changed, and a scaling that is
    in place on it is no part of what is written. Of several processes (``accelerate launch``) the
    first writes, and the others go on.

    >>> import longrope_lab as lab
    >>> model, tokenizer = lab.load_model("lab", device="cpu")
    >>> scaling = lab.rope_scaling(lab.rope_spec(model), "yarn", 1024)
    >>> folder = save_pretrained(model, tokenizer, scaling, "lab-1k")
    >>> lab.load_model(folder)[0].config.rope_parameters["rope_type"]
    'yarn'

    Args:
        model: a Hugging Face causal language model; low-rank updates of PEFT are merged in a copy.
        tokenizer: its tokenizer.
        scaling: made for this model: a `RopeScaling`, a schedule of at most two (of a plan,
            `Extended.for_config`), or Dynamic NTK. Over an embedding that was extended before,
            factors are written relative to the config's own base.
        folder: where to write; new, or empty.
        drop_start_tokens: leave out start tokens, for which transformers has no place.
        docs: what leaving them out costs is measured on these, at each target length or the
            shortest's own; it is logged, and stands in the card.
        figures: measured numbers for the card.
        fold_attention_factor: move into the query weights what the formula of the rope type does
            not give of m, for engines that read no `attention_factor` (`fold.py`). The card says
            what rounding the weights once more does.
        overwrite: take the place of a folder that this function wrote earlier, once the new one is
            whole. Anything else is refused all the same.

    Returns:
        The folder.

    Raises:
        FileExistsError: there is something in the folder already.
        ValueError: a scaling for another model, or one that a config cannot express (see
            `config_with_scaling`); start tokens to drop and no documents; a quantised or offloaded
            model, or one without a language-modelling head; adapters that do not merge; attention
            that is not understood, where m is folded; a folder that another process writes to.
        RuntimeError: the folder cannot be written (a full disk), or stock transformers cannot load
            what was written, or gives other logits; nothing is kept.
    """
    folder = at_home(folder).resolve()
    if not is_main():
        return folder
    check_free(folder, overwrite=overwrite)
    shown = figures_table(figures)
    kept = _without_start_tokens(scaling) if drop_start_tokens else scaling
    shell, folded = shell_of(model), ""
    config = config_with_scaling(shell.config, kept)
    if fold_attention_factor:
        m, folded = fold.fold_attention_factor(shell, kept)
        scaling, kept = (fold.with_attention_factor(s, m) for s in (scaling, kept))
        config = fold.formula_config(shell.config, kept)
    window = _check_same_model(shell, kept)
    cost = _cost_of_dropping(shell, scaling, kept, docs)
    with alone(folder, "export"), _new_folder(folder, overwrite) as part:
        with quiet_transformers():
            _write(part, shell, tokenizer, config, kept)
            remarks = [read_by(add_old_form(part / "config.json", type(config)))]
            scaling.save(part / "scaling.json")
            remarks += [folded, check_export(part, shell, kept), window, cost]
        rope = config.get_text_config().rope_parameters
        rope_type = rope.get(FULL_ATTENTION, rope)["rope_type"]
        origin = str(getattr(config, "_name_or_path", "") or type(shell).__name__)
        card = model_card(folder.name, origin, rope_type, scaling, remarks, shown)
        (part / "README.md").write_text(card, encoding="utf-8")
    return folder


def check_free(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Refuse a folder that holds something, or something else than an earlier export.

    Raises:
        FileExistsError: it does, or is a file.
        UnwritableError: it cannot be made.
    """
    folder = at_home(folder)
    check_writable(folder)
    if overwrite and all((folder / name).is_file() for name in ("scaling.json", "config.json")):
        return
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder} is not empty, and nothing is written over: name a new folder, or empty it"
        )


@contextlib.contextmanager
def _new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A hidden folder to write to, which becomes `folder` at the end: whole or not at all."""
    check_free(folder, overwrite=overwrite)  # another export may have ended since
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    before = part.with_suffix(".before")
    try:
        yield part
        if folder.exists():  # empty, or an earlier export
            folder.replace(before)
        part.replace(folder)
    except BaseException as error:
        if before.exists():
            before.replace(folder)
        shutil.rmtree(part, ignore_errors=True)
        if _is_of_the_disk(error):
            raise RuntimeError(
                f"{folder} cannot be written ({error}), and nothing was kept: free some space, or "
                "name another folder"
            ) from error
        raise
    shutil.rmtree(before, ignore_errors=True)


def _is_of_the_disk(error: BaseException) -> bool:
    """Whether a write failed; safetensors and tokenizers have error classes of their own."""
    return isinstance(error, OSError) or "os error" in str(error)


def _without_start_tokens(scaling: Scaling) -> Scaling:
    if isinstance(scaling, RopeScaling):
        return replace(scaling, start_tokens=0)
    if isinstance(scaling, LengthSchedule):
        kept = [replace(s, start_tokens=0) for s in scaling.scalings]
        return RopeSchedule.by_length(kept, scaling.method)
    return scaling


def shell_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model's modules around the same weights, with a config of their own.

    Nothing that hangs on the live modules is on these. Only where low-rank updates have to be
    merged are the weights copied.
    """
    quantiser = getattr(model, "hf_quantizer", None)
    if quantiser is not None:
        method = getattr(quantiser.quantization_config.quant_method, "value", None)
        if method != "gguf" or packed(model):
            raise ValueError(
                f"the model is quantised ({method}), and its weights cannot be compared in "
                "float32: load it unquantised, with dtype=torch.bfloat16"
            )
    if hasattr(model, "merge_and_unload"):
        shell = copy.deepcopy(model).merge_and_unload()
    else:
        _check_whole(model)
        weights = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
        shell = copy.deepcopy(model, weights)
    for module in shell.modules():
        remove_stand_in(module)  # a scaling in place, or a wrapper for training
    if quantiser is not None:
        forget_quantization(shell)
    return shell.eval()


def _check_whole(model: PreTrainedModel) -> None:
    """Refuse what could not be written as one ordinary model."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"model is a {type(model).__name__}: pass transformers' own model (model._orig_mod, if "
            "torch.compile wrapped it), or a PEFT model whose adapters can be merged"
        )
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"a {type(model).__name__} has no language-modelling head: load it with "
            "AutoModelForCausalLM"
        )
    if any(hasattr(module, "get_base_layer") for module in model.modules()):
        raise ValueError(
            "the model has adapters that are not merged into its weights: pass peft's PeftModel, "
            "which is merged in a copy, or merge them first"
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            "some of the model's weights are offloaded: load it on one device, or on the CPU"
        )


def _check_same_model(model: PreTrainedModel, scaling: Scaling) -> str:
    """Refuse a scaling for other frequencies; say where the window is not the config's."""
    with apply_scaling(model, scaling):
        pass  # refuses other frequencies
    config = copy.deepcopy(model.config)
    vars(config.get_text_config()).pop(TRAINED, None)
    stated = window_from_config(config)
    if scaling.spec.window in (stated, spec_from_config(config).window):
        return ""
    words = (
        f"The window before the extension was taken to be {scaling.spec.window:,} tokens; the "
        f"model's own config states {stated:,}."
    )
    log.warning("%s", words)
    return words


def _cost_of_dropping(
    model: PreTrainedModel, given: Scaling, kept: Scaling, docs: Sequence[Document]
) -> str:
    """What leaving out start tokens does to the loss, in words; "" if there were none."""
    sets = sets_of(given)
    dropped = max((s.start_tokens for s in sets), default=0)
    if not dropped:
        return ""
    if not docs:
        raise ValueError(
            f"drop_start_tokens=True leaves out {dropped} start tokens, and what that costs is "
            "measured on documents: pass docs=, from load_corpus"
        )
    longest = min(map(len, docs))
    lengths = sorted({min(s.target_length, longest) for s in sets})
    table = perplexity(model, docs, lengths, {"with": given, "without": kept})
    means = table.groupby(["scaling", "length"])["loss"].mean()
    costs = "; ".join(
        f"{means['without', n] - means['with', n]:+.4f} at {n:,} tokens (from "
        f"{means['with', n]:.4f} to {means['without', n]:.4f})"
        for n in lengths
    )
    words = (
        f"The scaling's {dropped} start tokens, which transformers has no place for, were left "
        f"out. Change of the mean loss over {len(docs)} documents, nats per token: {costs}."
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
    target = None
    if sets := sets_of(scaling):
        target = sets[-1].target_length
        # LLaMA-2's is the window, for one: it would refuse longer prompts.
        if generation.max_length == scaling.spec.window:
            generation.max_length = target
    shell.config = config
    shell.save_pretrained(part)
    shell.config = before  # its modules were built from this one
    write_tokenizer(part, tokenizer, target)
