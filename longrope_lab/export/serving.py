"""Does an engine compute our scaling? If not, what does it compute?"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..common.checks import above, whole
from ..models.forward import hidden_states
from ..models.head import chunked_logits
from ..models.loading import load_model
from ..models.read_config import scaling_from_config
from ..models.rotary import apply_scaling
from ..rope.scaling import RopeScaling
from ..rope.schedule import Scaling, sets_of
from ..rope.spec import RopeSpec
from ..texts.corpora import load_corpus
from ..texts.tokens import Document, check_ids
from .check import embedding_under
from .engines import find_engine
from .hypotheses import Hypothesis, hypotheses
from .servers import Answers, Engine, Server

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Mean differences of log-probabilities, in nats. Below SAME nothing else is looked for: engines in
# float32 were seen at 1e-5 to 2e-3, llama.cpp with 16-bit weights and cache at 1e-3. TOLERANCE has
# room for 16-bit arithmetic. Beyond STRANGE it is another model: no scaling at all costs the lab
# model 1.6 at eight times its window, and next to nothing inside it.
SAME, TOLERANCE, STRANGE = 5e-4, 0.03, 0.5

# Positions that are compared at each length.
POSITIONS = 32

# A text in which tokenizers differ: digits, capitals, spaces, line ends, letters and marks.
SAMPLE = "In 2024, it's 12345.67 of  CamelCase\n\n  go; 東京 naïve"


@dataclass(frozen=True)
class ServedLength:
    """What an engine was seen to compute for inputs of one length.

    Args:
        length: tokens of the input.
        right: whether it is the scaling that was meant.
        off: the mean difference from the log-probabilities that were meant, in nats.
        most: the largest difference.
        computes: what it computes, by the nearest hypothesis; "" where none is near.
        apart: the mean difference from that one, in nats.
    """

    length: int
    right: bool
    off: float
    most: float
    computes: str
    apart: float

    def __str__(self) -> str:
        said = f"{self.length:>9,} tokens: off by {self.off:.2g} nats, {self.most:.2g} at most"
        if self.right:
            return f"{said}: right"
        if self.computes:
            return f"{said}: WRONG, it computes {self.computes} (to {self.apart:.2g})"
        return f"{said}: WRONG, and near nothing that is known here"


@dataclass(frozen=True)
class Served:
    """What an engine computes, by length, the shortest first; `right` where all are."""

    engine: str
    lengths: tuple[ServedLength, ...]

    @property
    def right(self) -> bool:
        """Whether it computes what was meant, at every length."""
        return all(row.right for row in self.lengths)

    def __str__(self) -> str:
        verdict = "computes this scaling" if self.right else "does NOT compute this scaling"
        return "\n".join([f"{self.engine} {verdict}", *map(str, self.lengths)])


def serving_table(checks: Mapping[str, Served]) -> pd.DataFrame:
    """What `check_serving` saw of several engines or files, as a table.

    Args:
        checks: by the names that the rows get.

    Returns:
        One row per check and length: engine (its name), and the fields of `ServedLength`.
    """
    columns = ["engine", *(field.name for field in fields(ServedLength))]
    rows = [(name, *astuple(row)) for name, check in checks.items() for row in check.lengths]
    return pd.DataFrame(rows, columns=columns)


def check_serving(
    model: PreTrainedModel | str | os.PathLike[str],
    engine: Engine | str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    scaling: Scaling | None = None,
    docs: Sequence[Document] = (),
    lengths: Sequence[int] | None = None,
    tolerance: float = TOLERANCE,
) -> Served:
    """Compare an engine's log-probabilities with ours, and name what it computes.

    >>> model, tokenizer = lab.load_model("lab")
    >>> yarn = lab.rope_scaling(lab.rope_spec(model), "yarn", 1024)
    >>> def unscaled(ids, positions):
    ...     losses = lab.token_losses(model, ids)
    ...     return [{ids[n + 1]: -losses[n].item()} for n in positions]
    >>> served = lab.check_serving(
    ...     model, unscaled, tokenizer=tokenizer, scaling=yarn, lengths=[1000]
    ... )
    >>> served.right, served.lengths[0].computes
    (False, 'no scaling')

    Token ids go to the engine at three lengths: inside the window, just past it, and the target.
    What comes back is compared with this model under its scaling. Where it differs, the nearest of
    the known mistakes is named: no scaling, a formula's m, the other set of factors, YaRN's ramp
    rounded or not, a base of 10,000.

    Args:
        model: with its scaling: a folder or .gguf file that this package wrote, or whatever
            `load_model` takes; or a live model, with `tokenizer` and `scaling`.
        engine: the address of a running server ("http://localhost:8000" of vLLM, SGLang or
            llama-server); "llama.cpp", "mlx-lm" or "ctranslate2" in this process, on the path that
            `model` is, or on another ("llama.cpp:FILE.gguf"); or a function of token ids (T,) and
            positions, which returns for each position a dict from tokens to log-probabilities.
        tokenizer: of a live model; makes the ids, and is compared with the server's own.
        scaling: of a live model, or in place of what a model's config carries.
        docs: texts to read; without any, the King James Bible.
        lengths: of the inputs, in tokens.
        tolerance: mean difference in nats that passes for rounding; about 0.2 for 4-bit weights.

    Returns:
        For each length whether it is right, by how much it is off, and what the engine computes.

    Raises:
        ValueError: an unknown engine, or one that is not installed; a server that is none, gives no
            log-probabilities, has another tokenizer or another model, or refuses the length.
        ConnectionError: no server answers.
        FileNotFoundError: there is nothing at a path.
    """
    tolerance = above("tolerance", tolerance, 0)
    path = model if isinstance(model, str | os.PathLike) else None
    ask, name = find_engine(engine, path)
    live, tokenizer = _loaded(model, tokenizer)
    scaling = scaling_from_config(live.config) if scaling is None else scaling
    plain = embedding_under(live, scaling)
    wanted = _lengths(scaling, lengths)
    if isinstance(ask, Server) and tokenizer is not None:
        _check_tokenizer(ask, tokenizer)
    ids = _text(docs, tokenizer, wanted[-1])
    check_ids(np.array(ids), live.get_input_embeddings().weight.shape[0])
    rows = [_at_length(live, ask, ids[:n], (scaling, plain), tolerance) for n in wanted]
    nearest = min(row.apart for row in rows)
    if nearest > max(STRANGE, 2 * tolerance):
        raise ValueError(
            f"{name} answers nothing like this model under any scaling that is known here (off by "
            f"{nearest:.2g} nats at best): it serves another model, or other weights"
        )
    return Served(name, tuple(rows))


def _loaded(
    model: PreTrainedModel | str | os.PathLike[str], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """A model in float32: ours are the numbers that others are held to."""
    if not isinstance(model, str | os.PathLike):
        return model, tokenizer
    loaded, own = load_model(model, dtype=torch.float32)
    return loaded, tokenizer or own


def _lengths(scaling: Scaling, lengths: Sequence[int] | None) -> list[int]:
    """Lengths to compare, the shortest first.

    One is inside the window and one just past it. The last leaves room for a token of the answer,
    without which a server would refuse it.
    """
    if lengths is not None:
        if not len(lengths):
            raise ValueError("lengths is empty: name one, or leave it out")
        return sorted({whole("a length", n, 2, "it has at least 2 tokens") for n in lengths})
    sets = sets_of(scaling)
    window = sets[0].target_length if len(sets) > 1 else scaling.spec.window
    target = sets[-1].target_length if sets else 2 * window
    past = window + max(window // 6, 2)
    return sorted({max(3 * window // 5, 2), *(n for n in (past,) if n < target), target - 1})


def _check_tokenizer(server: Server, tokenizer: PreTrainedTokenizerBase) -> None:
    theirs = server.ids_of(SAMPLE)
    ours = tokenizer(SAMPLE, add_special_tokens=False).input_ids
    if theirs is not None and theirs != list(ours):
        raise ValueError(
            f"{server.url} has another tokenizer: it makes {_shown(theirs)} of a sample of which "
            f"this model's makes {_shown(ours)}; serve the folder with the tokenizer in it"
        )


def _shown(ids: Sequence[int]) -> str:
    return f"{len(ids)} tokens ({', '.join(map(str, ids[:6]))}, ...)"


def _text(
    docs: Sequence[Document], tokenizer: PreTrainedTokenizerBase | None, length: int
) -> list[int]:
    """So many token ids (T,), of the first document that is long enough."""
    if not docs:
        if tokenizer is None:
            raise ValueError("there is nothing to read: pass tokenizer=, or documents as docs=")
        docs = load_corpus("kjv", tokenizer, min_tokens=length, max_tokens=length, limit=1)
    for doc in docs:
        if len(doc) >= length:
            return [int(i) for i in doc.ids[:length]]
    longest = max(map(len, docs))
    raise ValueError(
        f"the longest document has {longest:,} tokens, and {length:,} are read: pass a longer one, "
        "or shorter lengths"
    )


def _at_length(
    model: PreTrainedModel,
    ask: Engine,
    ids: list[int],
    scaling: tuple[Scaling, RopeSpec],
    tolerance: float,
) -> ServedLength:
    """What an engine computes for one input."""
    length = len(ids)
    positions = _positions(length, scaling[1].window)
    answers = _checked(ask(ids, positions), positions)
    ours, *others = hypotheses(*scaling, length)
    off, most = _apart(model, ids, positions, answers, ours)
    nearest, apart = ours, off
    for other in others if off > SAME else ():
        if (distance := _apart(model, ids, positions, answers, other)[0]) < apart:
            nearest, apart = other, distance
    # Two that are as near are told apart by rounding alone.
    right = off <= tolerance and (nearest is ours or apart > off / 2)
    named = apart <= max(tolerance, off / 4)
    return ServedLength(length, right, off, most, nearest.name if named else "", apart)


def _positions(length: int, window: int) -> list[int]:
    """Positions after which tokens are compared, near the end of the input.

    They are past the window, if the input is: servers are asked for what follows a shorter input.
    """
    first = max(3 * length // 4, window if length > window else 0)
    spread = np.linspace(min(first, length - 2), length - 2, POSITIONS).round()
    return [int(n) for n in np.unique(spread)]


def _checked(answers: Answers, positions: Sequence[int]) -> Answers:
    """Refuse what is no answer to the question."""
    if not isinstance(answers, Sequence) or not all(isinstance(a, Mapping) for a in answers):
        raise ValueError(f"the engine answered {reprlib.repr(answers)}: return a list of dicts")
    pairs = [pair for each in answers for pair in each.items()]
    right = all(
        isinstance(token, Integral) and isinstance(value, Real) and math.isfinite(value)
        for token, value in pairs
    )
    if len(answers) != len(positions) or not pairs or not right:
        raise ValueError(
            f"the engine answered for {len(answers)} of {len(positions)} positions, or with values "
            "that are no numbers: return a dict from tokens to log-probabilities for each"
        )
    return answers


def _apart(
    model: PreTrainedModel,
    ids: list[int],
    positions: list[int],
    answers: Answers,
    hypothesis: Hypothesis,
) -> tuple[float, float]:
    """Mean and largest difference of an engine's log-probabilities from a hypothesis, in nats."""
    rows = log_probs_at(model, ids, positions, hypothesis)
    pairs = [
        (row, token, value) for row, each in enumerate(answers) for token, value in each.items()
    ]
    where, tokens, theirs = zip(*pairs, strict=True)
    check_ids(np.array(tokens), rows.shape[1], "the engine serves another model")
    off = (rows[list(where), list(tokens)] - torch.tensor(theirs)).abs()
    return float(off.mean()), float(off.max())


@torch.no_grad()
def log_probs_at(
    model: PreTrainedModel, ids: list[int], positions: list[int], hypothesis: Hypothesis
) -> Tensor:
    """Log-probabilities (positions, V) of the tokens after some positions of an input, float32."""
    offsets = torch.from_numpy(hypothesis.log_offsets), torch.zeros((), dtype=torch.float64)
    batch = torch.tensor([ids], device=model.device)
    scaling: RopeScaling = hypothesis.scaling
    with apply_scaling(model, scaling, log_offsets=offsets):
        hidden = hidden_states(model, batch)[:, positions]
        rows = [logits for _, logits in chunked_logits(model, hidden, POSITIONS)]
    return torch.cat(rows).log_softmax(dim=-1).cpu()
