"""What scoring, searching and training cost: seconds and peak memory, measured; and estimates beforehand."""

from __future__ import annotations

import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ..common.progress import progress
from ..models.estimates import GIB, saving_memory
from ..models.forward import fast_attention, in_float32, mean_loss, token_losses
from ..models.loading import model_of
from ..models.rotary import rope_spec
from ..searches.objective import Objective, Trial
from ..searches.run import Settings, on_workers, search
from ..searches.space import SearchSpace
from ..searches.workers import WorkerProcesses
from ..texts.tokens import Document

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def scoring_cost(
    model: PreTrainedModel,
    lengths: Sequence[int],
    *,
    repeats: int = 3,
    plain_up_to: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Time and memory of `token_losses` at each length, on random token ids (the cost does not
    depend on them).

    Up to `plain_up_to` tokens it alternates with the plain way, all logits at once, as the
    yardstick. Each way runs once unmeasured first; figures are medians.

    Args:
        model: a Hugging Face causal language model.
        lengths: tokens, measured in rising order, since a CPU's peak memory is known only as the
            highest so far, which makes it an upper bound.
        repeats: measured runs a length.
        plain_up_to: longest length at which the plain way is measured too.
        seed: of the token ids.

    Returns:
        A row a length: length, seconds, tokens_per_second, peak_gib (above what was in use before,
        so above the weights), plain_seconds and slowdown (median of the seconds over plain_seconds,
        pair by pair; NaN beyond `plain_up_to`).
    """
    rng = np.random.default_rng(seed)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    in_use = _memory_in_use(model.device)
    rows = []
    for length in progress(sorted(lengths), "scoring cost"):
        ids = torch.from_numpy(rng.integers(0, vocabulary, length)).to(model.device)
        plain = length <= plain_up_to
        _reset_peak(model.device)
        token_losses(model, ids)
        peak = _peak_gib(model.device, in_use)  # before the plain way, which needs more
        if plain:
            _plain_losses(model, ids)
        pairs = [
            (
                _seconds(token_losses, model, ids),
                _seconds(_plain_losses, model, ids) if plain else float("nan"),
            )
            for _ in range(repeats)
        ]
        seconds = statistics.median(ours for ours, _ in pairs)
        rows.append(
            {
                "length": length,
                "seconds": seconds,
                "tokens_per_second": length / seconds,
                "peak_gib": peak,
                "plain_seconds": statistics.median(theirs for _, theirs in pairs),
                "slowdown": statistics.median(ours / theirs for ours, theirs in pairs),
            }
        )
    return pd.DataFrame(rows)


def search_cost(
    model: PreTrainedModel,
    docs: Sequence[Document],
    target_length: int,
    searches: Mapping[str, Settings],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """What each search spends to its end, beside the bare scoring of a document.

    Args:
        model: a Hugging Face causal language model.
        docs: documents of at least `target_length` tokens.
        target_length: L' in tokens.
        searches: name -> settings.
        seed: of the searches.

    Returns:
        A row a search: search, trials, dropped (by racing), forwards (of one document, as counted),
        forward_tokens, seconds, seconds_a_forward (over those of bare scoring, pair by pair in
        time: 1 means that all it spends is forward passes, as counted), peak_gib (above what was in
        use before; on a CPU the highest so far, an upper bound), best_perplexity.
    """
    objective = Objective.of(docs, target_length)
    in_use = _memory_in_use(model.device)
    rows = []
    for name, settings in searches.items():
        _reset_peak(model.device)
        ids = [torch.from_numpy(ids) for ids in objective.documents]
        token_losses(model, ids[0])  # the first pass of all also prepares the machine
        bare = statistics.mean(_seconds(token_losses, model, each) for each in ids)
        found = search(model, docs, target_length, settings, seed=seed)
        peak = _peak_gib(model.device, in_use)
        bare = statistics.mean([bare, *(_seconds(token_losses, model, each) for each in ids)])
        forwards = int(found.history["forwards"].iloc[-1])
        rows.append(
            {
                "search": name,
                "trials": len(found.history),
                "dropped": int(found.history["dropped"].sum()),
                "forwards": forwards,
                "forward_tokens": forwards * target_length,
                "seconds": found.seconds,
                "seconds_a_forward": found.seconds / forwards / bare,
                "peak_gib": peak,
                "best_perplexity": float(np.exp(found.best_loss)),
            }
        )
    return pd.DataFrame(rows)


def training_cost(
    model: PreTrainedModel, lengths: Sequence[int], *, repeats: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Time and memory of forward and backward pass of one segment, as `finetune` makes them, on
    random token ids.

    Weights are held in float32 and on a GPU multiplied in bfloat16; layers are computed again in
    the backward pass where memory is tight (`saving_memory`), and the loss is in chunks. The
    optimiser's own step, which no length changes, is left out, and with it the two moments that it
    keeps (8 bytes a weight). The model is as before at the end; gradients that it had are dropped.

    Args:
        model: a Hugging Face causal language model with weights to train.
        lengths: tokens a segment, measured in rising order; see `scoring_cost`.
        repeats: measured runs a length, after one unmeasured; figures are medians. One more is
            profiled.
        seed: of the token ids.

    Returns:
        A row a length: length, seconds, tokens_per_second, peak_gib (above what was in use before,
        the weights in float32 included, so with the gradients), attention_share (see
        `attention_share`).
    """
    rng = np.random.default_rng(seed)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    training, rows = model.training, []
    with in_float32(model):
        model.zero_grad()
        in_use = _memory_in_use(model.device)
        model.train()
        try:
            for length in progress(sorted(lengths), "training cost"):
                ids = torch.from_numpy(rng.integers(0, vocabulary, length)).to(model.device)
                _reset_peak(model.device)
                _training_step(model, ids)
                peak = _peak_gib(model.device, in_use)
                seconds = statistics.median(
                    _seconds(_training_step, model, ids) for _ in range(repeats)
                )
                rows.append((length, seconds, length / seconds, peak, _profiled_share(model, ids)))
        finally:
            model.train(training)
    return pd.DataFrame(
        rows, columns=["length", "seconds", "tokens_per_second", "peak_gib", "attention_share"]
    )


def _training_step(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Forward and backward pass of ids (T,); the loss. The gradients are dropped."""
    kind = model.device.type
    with fast_attention(), saving_memory(model, len(ids)):
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            loss = mean_loss(model, ids[None])
        torch.autograd.backward(loss)
    model.zero_grad()
    return loss.detach()


def _profiled_share(model: PreTrainedModel, ids: Tensor) -> float:
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "6"
    )  # the profiler's start and stop would stand in executed notebooks
    on_gpu = model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiled:
        _training_step(model, ids).item()
    return attention_share(profiled.events(), "device" if on_gpu else "cpu")


def attention_share(operations: Iterable[Any], clock: str) -> float:
    """The time in scaled_dot_product_attention, forward and backward, over that in all operations.

    PyTorch's plain way ("math"), which a machine with a fast kernel does not take, has no backward
    operation of its own: its backward pass is not counted.

    Args:
        operations: what `torch.profiler` has recorded, as its `events()` gives it.
        clock: "cpu", or "device" for what kernels took on a GPU.

    Returns:
        A number from 0 to 1; NaN if the profiler has seen no time at all, as on a GPU whose
        counters it cannot read.
    """
    attention = whole = 0.0
    for operation in operations:
        if (
            operation.device_type.name != "CPU"
        ):  # a kernel: its time is that of the operation that launched it
            continue
        whole += getattr(operation, f"self_{clock}_time_total")
        if _is_attention(operation) and not any(map(_is_attention, _around(operation))):
            attention += getattr(operation, f"{clock}_time_total")  # with all that is inside
    return attention / whole if whole else float("nan")


def _is_attention(operation: Any) -> bool:
    return bool(
        re.fullmatch(
            r"aten::(scaled_dot_product_attention|_scaled_dot_product_\w+_backward)", operation.name
        )
    )


def _around(operation: Any) -> Iterator[Any]:
    """The operations that it is part of: under autocast one attention is inside another."""
    while (operation := operation.cpu_parent) is not None:
        yield operation


def worker_cost(
    model: PreTrainedModel,
    docs: Sequence[Document],
    target_length: int,
    *,
    counts: Sequence[int] = (1, 2),
    candidates: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Candidates a second with so many worker processes of one CPU thread (or one GPU) each, their
    start left out.

    Args:
        model: a name for `load_model`, or a function without arguments that returns a model: each
            worker calls it.
        docs: documents of at least `target_length` tokens.
        target_length: L' in tokens.
        counts: numbers of processes to compare, the first being the yardstick.
        candidates: measured for each count.
        seed: of the candidates.

    Returns:
        A row a count: workers, candidates, seconds, candidates_a_second, speedup (over the first
            count).
    """
    objective = Objective.of(docs, target_length)
    space = SearchSpace(rope_spec(model_of(model)), target_length)
    rng = np.random.default_rng(seed)
    everything = tuple(range(len(docs)))
    trials = {
        i: Trial("random", space.scaling(space.random(rng)), everything) for i in range(candidates)
    }
    rows: list[dict[str, float]] = []
    for count in counts:
        with WorkerProcesses(count, threads=1) as executor:
            warm = {
                i: Trial("random", trials[0].scaling, (0,)) for i in range(count)
            }  # each loads the model
            list(on_workers(executor, "cost", model, objective, warm))
            started = time.perf_counter()
            list(on_workers(executor, "cost", model, objective, trials))
            seconds = time.perf_counter() - started
        a_second = candidates / seconds
        speedup = a_second / (rows[0]["candidates_a_second"] if rows else a_second)
        rows.append(
            {
                "workers": count,
                "candidates": candidates,
                "seconds": seconds,
                "candidates_a_second": a_second,
                "speedup": speedup,
            }
        )
    return pd.DataFrame(rows)


def _plain_losses(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The bare forward with all logits, and their cross-entropy."""
    with torch.inference_mode(), fast_attention():
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        return F.cross_entropy(logits, ids[1:], reduction="none")


def _seconds(
    function: Callable[[Any, Tensor], Tensor], model: PreTrainedModel, ids: Tensor
) -> float:
    started = time.perf_counter()
    function(model, ids).sum().item()  # the sum on the CPU: a GPU has finished when it is there
    return time.perf_counter() - started


def _memory_in_use(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def _peak_gib(device: torch.device, in_use: int) -> float:
    """Above what was in use: on a GPU the most allocated since the reset, on a CPU the process's most so far."""
    if device.type == "cuda":
        most = int(torch.cuda.max_memory_allocated(device))
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
    return max(most - in_use, 0) / GIB  # Linux counts the most a few pages behind what is in use


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
