"""The passes that a table of perplexities needs: in this process, or on an executor."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..models.forward import token_losses
from ..models.loading import ModelSource, model_of
from ..models.rotary import scaled
from ..rope.scaling import RopeScaling
from ..searches.measuring import check_sent, check_source, held
from ..searches.sequence_parallel import SequenceParallel
from ..texts.tokens import Document

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Token losses at each length of a pass.
Losses = list[NDArray[np.float64]]


class LostProcessError(RuntimeError):
    """A process was lost twice on one pass; `measured` has the rows of the table so far."""

    measured: pd.DataFrame


@dataclass(frozen=True)
class Pass:
    """What one document gives under one scaling.

    Args:
        scaling: None for the model as it stands.
        document: the whole one.
        lengths: each is scored for itself; of what comes before one, the losses are the same.
        stride: of sliding windows of the only length; None for none.
        bos: the token that begins each window; None for its own.
    """

    scaling: RopeScaling | None
    document: Document
    lengths: tuple[int, ...]
    stride: int | None
    bos: int | None

    def losses(self, model: PreTrainedModel) -> Losses:
        """What it gives under a model."""
        ids = self.document.ids
        with scaled(model, self.scaling):
            if self.stride is not None:
                return [sliding_losses(model, ids, self.lengths[0], self.stride, self.bos)]
            losses = _losses(model, ids[: max(self.lengths)], self.bos)
        return [losses[: length - 1] for length in self.lengths]


def losses_of_passes(
    model: ModelSource, passes: Sequence[Pass], executor: Executor | None
) -> Generator[Losses, None, None]:
    """What each pass gives, in order.

    Raises:
        ValueError: the executor's processes cannot load the model.
        LostProcessError: a process was lost twice on one of them.
    """
    if executor is None:
        here = model_of(model)
        yield from (each.losses(here) for each in passes)
        return
    check_source(model, executor)
    # The key is new: what a folder or a function gives may have changed since the last call.
    send = partial(_send, executor, uuid.uuid4().hex, model)
    sent = [send(each) for each in passes]
    try:
        for each, future in zip(passes, sent, strict=True):
            yield _result(each, future, send)
    finally:
        for future in sent:
            future.cancel()


def _send(executor: Executor, key: str, model: ModelSource, each: Pass) -> Future[Losses]:
    if isinstance(executor, SequenceParallel):
        executor = executor.of_length(max(each.lengths))
    return executor.submit(_on_worker, key, model, each)


def _on_worker(key: str, model: ModelSource, each: Pass) -> Losses:
    with held(key, model) as live:
        return each.losses(live)


def _result(each: Pass, future: Future[Losses], send: Callable[[Pass], Future[Losses]]) -> Losses:
    """What a pass gives; it is sent once more if its process is lost."""
    try:
        return future.result()
    except Exception as error:
        check_sent(error)
        if not isinstance(error, RuntimeError):  # as a dead process, memory or a GPU raise
            raise
    try:
        return send(each).result()
    except RuntimeError as error:
        raise LostProcessError(
            f"a process was lost twice on {each.document.title!r} at {max(each.lengths):,} tokens "
            f"({type(error).__name__}: {error}): it may be out of memory, or its GPU gone"
        ) from error


def sliding_losses(
    model: PreTrainedModel,
    ids: NDArray[np.int64],
    length: int,
    stride: int,
    bos: int | None = None,
) -> NDArray[np.float64]:
    """Losses of a whole document in windows of `length` tokens, each `stride` further.

    Each begins with the token `bos` in place of its own first one, if there is a `bos`.

    Returns:
        (T - 1,), in nats. With ``stride == length`` there is one less for each window after the
        first.
    """
    counted = 0
    parts = []
    for start in range(0, len(ids) - 1, stride):
        window = ids[start : start + length]
        # Of tokens start + 1 ... start + len(window) - 1: the first has nothing before it.
        losses = _losses(model, window, bos)
        parts.append(losses[max(counted - start - 1, 0) :])
        counted = start + len(window)
        if counted == len(ids):
            break
    return np.concatenate(parts)


def _losses(
    model: PreTrainedModel, window: NDArray[np.int64], bos: int | None
) -> NDArray[np.float64]:
    """Losses of all but the first token of a window, which `bos` takes the place of."""
    if bos is not None:
        window = np.array([bos, *window[1:]])
    losses: NDArray[np.float64] = token_losses(model, window).double().cpu().numpy()
    return losses
