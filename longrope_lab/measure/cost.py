"""What scoring, searching and training cost: seconds and peak memory, measured."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ..common.checks import seed_of, whole
from ..common.progress import progress
from ..models.estimates import check_fits, saving_memory
from ..models.forward import fast_attention, in_float32, mean_loss, token_losses
from ..models.loading import ModelSource, model_of
from ..models.rotary import rope_spec
from ..searches.measuring import on_workers
from ..searches.objective import Objective, Trial
from ..searches.run import search
from ..searches.settings import Settings
from ..searches.space import SearchSpace
from ..searches.workers import WorkerProcesses
from ..texts.tokens import Document
from .meters import PeakMemory, attention_share, compiled_seconds, seconds_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def scoring_cost(
    model: PreTrainedModel,
    lengths: Sequence[int],
    *,
    repeats: int = 3,
    plain_up_to: int = 0,
    seed: int = 0,
    with_compiled: bool = False,
) -> pd.DataFrame:
    """Time and memory of `token_losses` at each length.

    Token ids are random, since the cost does not depend on them. Up to `plain_up_to` tokens the
    plain way, all logits at once, is measured in turn. Each runs once first; figures are medians.

    Args:
        model: a Hugging Face causal language model.
        lengths: in tokens, measured in rising order: a CPU knows only its highest memory so far.
        repeats: measured runs per length.
        plain_up_to: longest length at which the plain way is measured too.
        seed: of the token ids.
        with_compiled: measure `compiled` layers too, in the end; to compile takes a minute or so.

    Returns:
        One row per length: length, seconds, tokens_per_second, peak_gib (above what was in use
        before, so above the weights), plain_seconds and slowdown (median of the seconds over
        plain_seconds, pair by pair; NaN beyond `plain_up_to`). With `with_compiled` also
        compiled_seconds and compiled_speedup (seconds over these; NaN if the compiler fails).

    Raises:
        ValueError: no lengths, or some that are not whole numbers from 2, or repeats from 1.
    """
    lengths, repeats = _checked(model, lengths, repeats)
    rng = np.random.default_rng(seed_of(seed))
    vocabulary = model.get_input_embeddings().weight.shape[0]
    memory = PeakMemory(model.device)
    rows, plain_up_to = [], whole("plain_up_to", plain_up_to, 0)
    drawn = [torch.from_numpy(rng.integers(0, vocabulary, length)) for length in lengths]
    texts = [ids.to(model.device) for ids in drawn]
    for length, ids in zip(progress(lengths, "scoring cost"), texts, strict=True):
        plain = length <= plain_up_to
        memory.reset()
        token_losses(model, ids)
        peak = memory.gib  # before the plain way, which needs more
        if plain:
            _plain_losses(model, ids)
        pairs = [
            (
                seconds_of(token_losses, model, ids),
                seconds_of(_plain_losses, model, ids) if plain else float("nan"),
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
    table = pd.DataFrame(rows)
    if with_compiled:
        table["compiled_seconds"] = compiled_seconds(model, texts, repeats)
        table["compiled_speedup"] = table["seconds"] / table["compiled_seconds"]
    return table


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
        One row per search, with the columns below.

    Raises:
        ValueError: no searches, or what `search` refuses.

    The columns:

        search, trials
        dropped             trials, by racing
        forwards            passes of one document, as counted
        forward_tokens      the same in tokens
        seconds             of the whole search
        seconds_a_forward   over those of bare scoring: 1 if it does nothing but forward passes
        peak_gib            above what was in use before; on a CPU the highest so far
        best_perplexity
    """
    if not searches:
        raise ValueError("searches is empty: name at least one search and its settings")
    objective = Objective.of(docs, target_length)
    memory = PeakMemory(model.device)
    rows = []
    for name, settings in searches.items():
        memory.reset()
        ids = [torch.from_numpy(ids) for ids in objective.documents]
        token_losses(model, ids[0])  # the first pass of all also prepares the machine
        bare = statistics.mean(seconds_of(token_losses, model, each) for each in ids)
        found = search(model, docs, target_length, settings, seed=seed)
        peak = memory.gib
        bare = statistics.mean([bare, *(seconds_of(token_losses, model, each) for each in ids)])
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
    """Time and memory of the forward and backward pass of one segment, as `finetune` makes them.

    Token ids are random. Weights are held in float32 and on a GPU multiplied in bfloat16. Layers
    are computed again in the backward pass where memory is tight (`saving_memory`), and the loss is
    in chunks. The optimiser's own step, which no length changes, is left out, and with it the two
    moments that it keeps (8 bytes per weight).

    The model is as before at the end; gradients that it had are dropped.

    Args:
        model: a Hugging Face causal language model with weights to train.
        lengths: tokens per segment, measured in rising order; see `scoring_cost`.
        repeats: measured runs per length, after one unmeasured; figures are medians. One more is
            profiled.
        seed: of the token ids.

    Returns:
        One row per length: length, seconds, tokens_per_second, peak_gib (above what was in use
        before, the weights in float32 included, so with the gradients), attention_share (see
        `attention_share`).

    Raises:
        ValueError: no lengths, or some that are not whole numbers from 2, or repeats from 1.
    """
    lengths, repeats = _checked(model, lengths, repeats)
    rng = np.random.default_rng(seed_of(seed))
    vocabulary = model.get_input_embeddings().weight.shape[0]
    training, rows = model.training, []
    with in_float32(model):
        model.zero_grad()
        memory = PeakMemory(model.device)
        model.train()
        try:
            for length in progress(lengths, "training cost"):
                ids = torch.from_numpy(rng.integers(0, vocabulary, length)).to(model.device)
                memory.reset()
                _training_step(model, ids)
                peak = memory.gib
                times = [seconds_of(_training_step, model, ids) for _ in range(repeats)]
                seconds = statistics.median(times)
                rows.append((length, seconds, length / seconds, peak, _profiled_share(model, ids)))
        finally:
            model.train(training)
    return pd.DataFrame(
        rows, columns=["length", "seconds", "tokens_per_second", "peak_gib", "attention_share"]
    )


def worker_cost(
    model: ModelSource,
    docs: Sequence[Document],
    target_length: int,
    *,
    counts: Sequence[int] = (1, 2),
    candidates: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Candidates per second with so many worker processes, their start left out.

    Each process has one CPU thread, or one GPU.

    Args:
        model: a name for `load_model`, or a function without arguments that returns a model: each
            worker calls it.
        docs: documents of at least `target_length` tokens.
        target_length: L' in tokens.
        counts: numbers of processes to compare, the first being the yardstick.
        candidates: measured for each count.
        seed: of the candidates.

    Returns:
        One row per count: workers, candidates, seconds, candidates_a_second, speedup (over the
        first count).

    Raises:
        ValueError: counts or candidates that are not whole numbers from 1, or what `search`
            refuses.
    """
    if not len(counts):
        raise ValueError("counts is empty: name at least one number of workers")
    counts = [whole("a count of workers", count, 1) for count in counts]
    candidates = whole("candidates", candidates, 1)
    objective = Objective.of(docs, target_length)
    space = SearchSpace(rope_spec(model_of(model)), target_length)
    rng = np.random.default_rng(seed_of(seed))
    everything = tuple(range(len(docs)))
    trials = {
        i: Trial("random", space.scaling(space.random(rng)), everything) for i in range(candidates)
    }
    rows: list[dict[str, float]] = []
    for count in counts:
        with WorkerProcesses(count, threads=1) as executor:
            # Each loads the model.
            warm = {i: Trial("random", trials[0].scaling, (0,)) for i in range(count)}
            list(on_workers(executor, "cost", model, objective, warm))
            started = time.perf_counter()
            list(on_workers(executor, "cost", model, objective, trials))
            seconds = time.perf_counter() - started
        per_second = candidates / seconds
        speedup = per_second / (rows[0]["candidates_a_second"] if rows else per_second)
        rows.append(
            {
                "workers": count,
                "candidates": candidates,
                "seconds": seconds,
                "candidates_a_second": per_second,
                "speedup": speedup,
            }
        )
    return pd.DataFrame(rows)


def _checked(model: PreTrainedModel, lengths: Sequence[int], repeats: int) -> tuple[list[int], int]:
    """The lengths in rising order, and the repeats."""
    if not len(lengths):
        raise ValueError("lengths is empty: name at least one, in tokens")
    rising = sorted(whole("length", each, 2) for each in lengths)
    check_fits(model, rising[-1])
    return rising, whole("repeats", repeats, 1)


def _plain_losses(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The bare forward with all logits, and their cross-entropy."""
    with torch.inference_mode(), fast_attention():
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        return F.cross_entropy(logits, ids[1:], reduction="none")


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
    # The profiler's start and stop would stand in executed notebooks.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    on_gpu = model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiled:
        _training_step(model, ids).item()
    return attention_share(profiled.events(), "device" if on_gpu else "cpu")
