"""Perplexity of long documents, truncated or with a sliding window, under any scalings."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ..common.checks import whole
from ..common.progress import progress
from ..models.forward import perplexity_of
from ..models.loading import ModelSource
from ..models.rotary import by_name
from ..rope.scaling import RopeScaling
from ..rope.schedule import Scaling
from ..texts.tokens import Document
from .passes import LostProcessError, Pass
from .readings import Reading, readings_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COLUMNS = ["scaling", "length", "document", "tokens", "loss", "perplexity"]


def perplexity(
    model: ModelSource,
    docs: Sequence[Document],
    lengths: Sequence[int],
    scalings: Mapping[Any, Scaling | None] | None = None,
    stride: int | None = None,
    *,
    bos: int | None = None,
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Perplexity at each length, for each document, under each scaling.

    >>> model, tokenizer = lab.load_model("lab")  # a window of 512 tokens
    >>> docs = lab.load_corpus("kjv", tokenizer, min_tokens=1024, limit=1)
    >>> yarn = lab.rope_scaling(lab.rope_spec(model), "yarn", 1024)
    >>> table = lab.perplexity(model, docs, [512, 1024], {"none": None, "yarn": yarn})
    >>> table[["scaling", "length", "tokens", "perplexity"]].round()
      scaling  length  tokens  perplexity
    0    none     512     511        32.0
    1    none    1024    1023        46.0
    2    yarn     512     511        30.0
    3    yarn    1024    1023        28.0

    Without `stride`, a document's first `length` tokens are scored. With it, the whole document is
    scored with a sliding window (Press et al., arXiv 2012.15409; LongRoPE Tables 5 and 6). Windows
    of `length` tokens, each `stride` tokens further, count the tokens that no earlier window
    counted. So all but the first window's have at least ``length - stride`` tokens of context.
    Windows that do not overlap (`stride` the same as the length) leave their first token out: it
    has no context.

    Args:
        model: a Hugging Face causal language model, a name for `load_model`, or a function without
            arguments that returns one. With an executor it must be one of the last two, since each
            worker loads the model, once per call.
        docs: documents of at least the longest length.
        lengths: in tokens.
        scalings: name -> scaling; None as a scaling (or as `scalings`) means the model as it
            stands. A schedule is asked for the set of each length. What turns the model alike is
            read once.
        stride: tokens between two windows, at most the shortest length.
        bos: id of the token that begins a text (`tokenizer.bos_token_id`), for models that were
            never trained without one. It takes the place of each window's first token, which is
            only read and never scored, as llama.cpp has it. None leaves windows as they are: of a
            document that begins with one, only the first does.
        executor: who reads; None for this process. `SequenceParallel()` splits long documents among
            the GPUs of a machine, and gives each GPU one of the others; in a script that
            ``torchrun`` started, it does so with the processes that there are and a live model.
        checkpoint: a file that keeps what each document gave as soon as it is read; a call that was
            killed goes on from it when it is made again. It may serve several calls, one after the
            other: what another model, scaling or text gave is not taken. None keeps nothing.

    Returns:
        One row per scaling, length and document: scaling, length, document, tokens (scored), loss
        (mean, in nats per token), perplexity (its exponential).

    Raises:
        ValueError: no documents, lengths or scalings, a document shorter than a length, a length,
            stride or bos that is not a whole number in its range, a loss that is not a number, or a
            live model where an executor's processes must load their own, or a checkpoint that is
            something else, damaged, in use, or cannot be written (`UnwritableError`).
        RuntimeError: a process was lost twice on one document; the error's `measured` is the table
            of what was measured before.
    """
    lengths, stride = _checked(docs, lengths, stride)
    bos = None if bos is None else whole("bos", bos, 0, "it is a token id, a whole number from 0")
    scalings = by_name(scalings)
    groups: dict[Hashable, _Group] = {}
    for name, scaling in scalings.items():
        for together in _lengths_of_one_forward(scaling, lengths, stride):
            fixed = None if scaling is None else scaling.at(max(together))
            same = (_rotation(fixed), *together)
            groups.setdefault(same, _Group(fixed, together, [])).names.append(name)
    work = [(each, document) for each in groups.values() for document in docs]
    passes = [Pass(each.scaling, doc, tuple(each.lengths), stride, bos) for each, doc in work]
    sizes = [_tokens_read(document, max(each.lengths), stride) for each, document in work]
    rows: list[tuple[object, ...]] = []
    try:
        with contextlib.closing(readings_of(model, passes, executor, checkpoint)) as found:
            for each, document in progress(work, "perplexity", sizes):
                rows += _rows(each, document, next(found))
    except LostProcessError as error:
        error.measured = pd.DataFrame(rows, columns=COLUMNS)
        error.add_note(f"its `measured` has the {len(rows)} rows of the table so far")
        raise
    table = pd.DataFrame(rows, columns=COLUMNS)
    # In the order that was asked for, whatever forward a length came from.
    order = {(n, k): i for i, (n, k) in enumerate((n, k) for n in scalings for k in lengths)}
    keys = table[["scaling", "length"]].apply(tuple, axis=1).map(order)
    return table.iloc[np.argsort(keys.to_numpy(), kind="stable")].reset_index(drop=True)


def perplexity_by(
    model: PreTrainedModel,
    docs: Sequence[Document],
    lengths: Sequence[int],
    groups: Mapping[str, Mapping[str, Scaling | None]],
) -> dict[str, pd.DataFrame]:
    """`perplexity` of several groups of scalings; what turns the model alike is read once.

    Args:
        model, docs, lengths: as `perplexity` takes them.
        groups: each with its scalings, by name.

    Returns:
        The table of each group.

    Raises:
        ValueError: as `perplexity`.
    """
    scalings = {(g, name): scaling for g, of in groups.items() for name, scaling in of.items()}
    table = perplexity(model, docs, lengths, scalings)
    group = table["scaling"].str[0]
    table["scaling"] = [name for _, name in table["scaling"]]
    return {g: table[group == g].reset_index(drop=True) for g in groups}


def _checked_loss(reading: Reading, names: Sequence[object], length: int, title: str) -> float:
    """The mean loss, if it is a number; else an error that says of what."""
    if math.isnan(reading.loss):
        raise ValueError(
            f"the loss of {title!r} at {length:,} tokens under {names[0]!r} is not a number: the "
            "model has weights or activations that are not finite; load it again, or in another "
            "dtype (float16 holds no number above 65,504)"
        )
    return reading.loss


class _Group(NamedTuple):
    """A pass over each document, and whose it is."""

    scaling: RopeScaling | None
    lengths: list[int]
    names: list[object]


def _rows(
    group: _Group, document: Document, measured: Sequence[Reading]
) -> Iterator[tuple[object, ...]]:
    """The table's rows that a pass gives."""
    for length, reading in zip(group.lengths, measured, strict=True):
        loss = _checked_loss(reading, group.names, length, document.title)
        for name in group.names:
            yield name, length, document.title, reading.tokens, loss, perplexity_of(loss)


def _rotation(scaling: RopeScaling | None) -> Hashable:
    """What two scalings share that turn a model alike."""
    if scaling is None:
        return None
    return (
        scaling.spec,
        scaling.factors.tobytes(),
        scaling.start_tokens,
        scaling.attention_factor,
    )


def _lengths_of_one_forward(
    scaling: Scaling | None, lengths: Sequence[int], stride: int | None
) -> list[list[int]]:
    """Lengths grouped so that each group needs one forward pass per document.

    A causal model's losses on a prefix do not depend on what follows, unless its rotation depends
    on the length. Then, and with sliding windows, each length is a pass of its own.
    """
    if stride is not None or scaling is None:
        return [[length] for length in lengths]
    groups: dict[RopeScaling, list[int]] = {}
    for length in lengths:
        groups.setdefault(scaling.at(length), []).append(length)
    return list(groups.values())


def _tokens_read(document: Document, length: int, stride: int | None) -> int:
    """How many tokens the model is given: of each sliding window all, about."""
    windows = 1 if stride is None else 1 + -(-(len(document) - length) // stride)
    return windows * length


def _checked(
    docs: Sequence[Document], lengths: Sequence[int], stride: int | None
) -> tuple[list[int], int | None]:
    """The lengths and the stride as whole numbers within their ranges."""
    if not len(docs) or not len(lengths):
        raise ValueError("perplexity needs at least one document and one length")
    start = "lengths start at 2 tokens, of which the second is predicted"
    # Each once: the same documents twice would make an interval too narrow.
    lengths = list(dict.fromkeys(whole("length", length, 2, start) for length in lengths))
    shortest = min(docs, key=len)
    if len(shortest) < max(lengths):
        raise ValueError(
            f"the document {shortest.title!r} has {len(shortest):,} tokens and length "
            f"{max(lengths):,} asks for more: load documents with min_tokens={max(lengths)}, or "
            "measure shorter lengths"
        )
    if stride is not None:
        rule = f"it must be a whole number from 1 to the shortest length, {min(lengths)}"
        stride = whole("stride", stride, 1, rule)
        if stride > min(lengths):
            raise ValueError(f"stride is {stride}: {rule}")
    return lengths, stride
