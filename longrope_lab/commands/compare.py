"""`longrope-lab compare`: perplexity and passkeys of several models, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..common.checks import seed_of, whole
from ..common.files import at_home
from ..common.quantities import length_in
from ..export.folder import check_free
from ..measure.needle_prompts import passkey_prompt, trials_asked
from ..measure.needles import passkey
from ..measure.perplexity import perplexity
from ..measure.stats import accuracy_summary, perplexity_summary
from ..measure.tables import with_interval
from ..models.loading import load_model, load_tokenizer, too_large
from ..models.read_config import spec_from_config
from ..plots.measured import accuracy_curves, perplexity_curves
from ..runs.record import record
from ..texts.corpora import load_corpus
from ..texts.tokens import Document

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Models with their tokenizers, by name.
Loaded: TypeAlias = "Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]]"


def compare(options: argparse.Namespace) -> int:
    """Measure models, each with the scaling of its config; print the tables, and keep them.

    Returns:
        The exit status.

    Raises:
        ValueError, OSError: what the user got wrong, or the system refuses.
    """
    if options.out is not None:
        check_free(options.out)
    _check_numbers(options)
    asked = [length_in(text) for text in options.lengths or ()]
    window = options.window and length_in(options.window)
    _check_sizes(options, asked)
    if options.chat or asked:  # a prompt is made for each, before any model is loaded
        for name in options.models:
            passkey_prompt(load_tokenizer(name), min(asked, default=4096), 0.5, chat=options.chat)
    loaded = {
        name: load_model(name, device=options.device, window=window)
        for name in dict.fromkeys(options.models)
    }
    windows = {name: _windows(model) for name, (model, _) in loaded.items()}
    lengths = asked or doubled(n for pair in windows.values() for n in pair)
    trained = {window for window, _ in windows.values()}
    one = trained.pop() if len(trained) == 1 else None

    items = _perplexities(loaded, lengths, one, options)
    items |= _passkeys(loaded, lengths, one, options)
    if options.out is not None:
        record(at_home(options.out), **items)
        print(f"\nTables and figures are in {options.out}.")
    return 0


def _check_numbers(options: argparse.Namespace) -> None:
    seed_of(options.seed)
    whole("--documents", options.documents, 1)
    whole("--trials", options.trials, 1)


def _check_sizes(options: argparse.Namespace, lengths: Sequence[int]) -> None:
    """Refuse lengths and trials that this machine cannot hold, before any model is loaded."""
    trials_asked(options.trials, lengths or [1], [0.5])
    for name in options.models:
        if shortage := too_large(name, max(lengths, default=0)):
            raise ValueError(f"the model {name!r} takes {shortage}: name shorter --lengths")


def doubled(windows: Iterable[int]) -> list[int]:
    """Lengths from half of the shortest window, doubled up to the longest, which is the last.

    >>> doubled([512, 4096]), doubled([512, 1280])
    ([256, 512, 1024, 2048, 4096], [256, 512, 1024, 1280])
    """
    ordered = sorted(windows)
    length, longest = ordered[0] // 2, ordered[-1]
    lengths = []
    while length < longest:
        lengths.append(length)
        length *= 2
    return [*lengths, longest]


def _windows(model: PreTrainedModel) -> tuple[int, int]:
    """The window that a model was first trained for, and the one that its config states."""
    config = model.config.get_text_config()
    return spec_from_config(config).window, int(config.max_position_embeddings)


def _perplexities(
    loaded: Loaded, lengths: Sequence[int], window: int | None, options: argparse.Namespace
) -> dict[str, pd.DataFrame | Figure]:
    """Table and figure, printed; nothing if the models' tokens differ, which is said."""
    size = {"min_tokens": max(lengths), "max_tokens": max(lengths), "limit": options.documents}
    docs = {
        name: load_corpus(options.corpus, of[1], column=options.column, **size)
        for name, of in loaded.items()
    }
    first, *others = docs
    different = [name for name in others if not _same(docs[first], docs[name])]
    if different:
        print(
            f"No perplexities: {different[0]!r} splits the texts into other tokens than {first!r}, "
            "and losses per token cannot be compared across them. Compare models of one tokenizer."
        )
        return {}
    each = [
        perplexity(model, docs[first], lengths, {name: None}) for name, (model, _) in loaded.items()
    ]
    table = pd.concat(each, ignore_index=True)
    print(f"Perplexity on {options.documents} documents of {options.corpus}, by length:")
    print(_shown(perplexity_summary(table), "perplexity", digits=1))
    return {"perplexity": table, "perplexity_curves": perplexity_curves(table, window)}


def _same(one: Sequence[Document], other: Sequence[Document]) -> bool:
    """Whether two tokenizers gave the same tokens."""
    pairs = zip(one, other, strict=True)
    return all(np.array_equal(a.ids, b.ids) for a, b in pairs)


def _passkeys(
    loaded: Loaded, lengths: Sequence[int], window: int | None, options: argparse.Namespace
) -> dict[str, pd.DataFrame | Figure]:
    """Table and figure, printed."""
    asked = {"trials": options.trials, "seed": options.seed, "chat": options.chat}
    each = [
        passkey(model, tokenizer, lengths, scalings={name: None}, **asked)
        for name, (model, tokenizer) in loaded.items()
    ]
    table = pd.concat(each, ignore_index=True)
    summary = accuracy_summary(table)
    print(f"\nShare of passkeys found, of {summary['trials'].max()} per length:")
    print(_shown(summary, "accuracy", digits=2))
    return {"passkeys": table, "passkey_curves": accuracy_curves(summary, window)}


def _shown(summary: pd.DataFrame, value: str, digits: int) -> str:
    """Each value with its interval: a row per length, a column per model."""
    table = with_interval(summary, value, "length", "scaling", digits=digits)
    return table.rename_axis(columns=None).reset_index().to_string(index=False)
