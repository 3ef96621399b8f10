"""The passes that a table of perplexities needs: in this process, or on an executor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..common.identity import digest
from ..models.forward import token_losses
from ..models.loading import ModelSource, model_of
from ..models.rotary import scaled
from ..rope.scaling import RopeScaling
from ..searches.measuring import loaded
from ..searches.sequence_parallel import SequenceParallel
from ..texts.tokens import Document

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How often a pass is sent to processes that die of it.
TRIES = 2


class LostProcessError(RuntimeError):
    """A process died twice on one pass; `measured` has the rows of the table so far."""

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

    def losses(self, model: PreTrainedModel) -> list[NDArray[np.float64]]:
        """Token losses at each length."""
        ids = self.document.ids
        with scaled(model, self.scaling):
            if self.stride is not None:
                return [sliding_losses(model, ids, self.lengths[0], self.stride, self.bos)]
            losses = _losses(model, ids[: max(self.lengths)], self.bos)
        return [losses[: length - 1] for length in self.lengths]


def losses_of_passes(
    model: ModelSource, passes: Sequence[Pass], executor: Executor | None
) -> Iterator[list[NDArray[np.float64]]]:
    """What each pass gives, in order.

    Raises:
        LostProcessError: a process died twice on one of them.
    """
    if executor is None:
        here = model_of(model)
        yield from (each.losses(here) for each in passes)
        return
    key = model if isinstance(model, str) else digest(str(id(model)))
    sent = [_send(executor, key, model, each) for each in passes]
    try:
        for future, each in zip(sent, passes, strict=True):
            yield _result(executor, key, model, each, future)
    finally:
        for future in sent:
            future.cancel()


def _send(
    executor: Executor, key: str, model: ModelSource, each: Pass
) -> Future[list[NDArray[np.float64]]]:
    if isinstance(executor, SequenceParallel):
        executor = executor.of_length(max(each.lengths))
    return executor.submit(_on_worker, key, model, each)


def _result(
    executor: Executor,
    key: str,
    model: ModelSource,
    each: Pass,
    future: Future[list[NDArray[np.float64]]],
) -> list[NDArray[np.float64]]:
    """What a pass gives, which is sent again if a process dies of it."""
    for last in [False] * (TRIES - 1) + [True]:
        try:
            return future.result()
        except BrokenProcessPool as error:
            if last:
                raise LostProcessError(
                    f"a process died twice on {each.document.title!r} at {max(each.lengths):,} "
                    f"tokens ({error}): it may be out of memory, or its GPU lost"
                ) from error
            future = _send(executor, key, model, each)
    raise AssertionError


def _on_worker(key: str, model: ModelSource, each: Pass) -> list[NDArray[np.float64]]:
    return each.losses(loaded(key, model))


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
