"""How to fine-tune: the settings, those of the papers among them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ..common.checks import above, named, unknown, whole
from ..common.identity import words_of

T = TypeVar("T")

DECAYS = ("linear", "constant", "cosine")
NEEDLE_LOSSES = ("answers", "all")
# Their order is laid down before the first is read.
MOST_SEGMENTS = 10**8
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, repr=False)
class Recipe:
    """Settings of a fine-tuning.

    Fixed are AdamW with beta 0.9 and 0.95, no weight decay (YaRN, section 4.1), and gradients
    clipped at norm 1.

    Args:
        steps: of the optimiser.
        batch: segments per step, over all processes.
        learning_rate: AdamW's, at its highest.
        decay: "linear" or "cosine" (both to 0) or "constant", after the warm-up.
        warmup: steps of linear rise, from 0 in the first one; fewer than `steps`.
        lora_rank: 0 trains all weights. Otherwise `lora_modules` get low-rank updates, which are
            merged at the end, and norms and embeddings are trained in full (LongLoRA, arXiv
            2309.12307, section 3.3).
        lora_modules: names of the linear layers that get such updates.
        save_every: steps between two checkpoints.
        short_share: share of the segments that are read short, from 0 to less than 1, spread
            evenly. Instead of each of these, as many tokens are read in pieces of the model's
            window, with the embedding unscaled (or as a schedule has it there). So the weights
            learn the long factors and keep short texts: mixed context window training (LongRoPE2,
            arXiv 2502.20082). The pieces are cut from all segments and shuffled; of a segment's
            pieces the first alone begins with BOS.
        needle_share: share of the segments that are needle documents, spread evenly among those
            that are not short: a number hidden far back, asked for at the end, and answered. See
            `needle_segments`.
        needle_loss: what counts of a needle document: its "answers" alone, or "all" its tokens. A
            model of seven million parameters learns to look things up from answers alone; one of a
            hundred million from all tokens too, which keeps more of its texts (LOG.md).
        skip_share: share of the segments whose positions skip at a few places, spread evenly among
            those that are not short; each spans the scaling's target. So the weights learn
            distances that no segment is long enough for (PoSE, arXiv 2309.10400). Needle documents
            are spread in the same way: were both shares the same, they alone would skip.

    Raises:
        ValueError: a number below its least, a share that leaves no long segment, shares of more
            than all segments, a warm-up as long as the training, an unknown decay or loss,
            more than a hundred million segments.
    """

    steps: int = 400
    batch: int = 32
    learning_rate: float = 2e-5
    decay: str = "linear"
    warmup: int = 20
    lora_rank: int = 0
    lora_modules: tuple[str, ...] = ATTENTION
    save_every: int = 50
    short_share: float = 0.0
    needle_share: float = 0.0
    needle_loss: str = "answers"
    skip_share: float = 0.0

    def __repr__(self) -> str:
        return words_of(self, later=["skip_share"])

    def __post_init__(self) -> None:
        lowest = {"steps": 1, "batch": 1, "warmup": 0, "lora_rank": 0, "save_every": 1}
        for name, least in lowest.items():
            # Out of an array it is numpy's, which JSON does not know.
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        rate = above("learning_rate", self.learning_rate, 0)
        object.__setattr__(self, "learning_rate", rate)
        if self.decay not in DECAYS:
            raise unknown("decay", self.decay, DECAYS)
        if self.needle_loss not in NEEDLE_LOSSES:
            raise unknown("needle_loss", self.needle_loss, NEEDLE_LOSSES)
        self._check_size()
        if self.warmup >= self.steps:
            raise ValueError(
                f"warmup is {self.warmup} and steps {self.steps}: the learning rate would never "
                f"reach {self.learning_rate:g}; pass a shorter warmup, such as warmup=0"
            )
        if not 0 <= self.short_share < 1:
            raise ValueError(
                f"short_share is {self.short_share}: it must be a share of the segments, from 0 "
                "(all are long) to less than 1 (none would be long)"
            )
        object.__setattr__(self, "short_share", float(self.short_share))
        for name in ("needle_share", "skip_share"):
            share = getattr(self, name)
            # As floats, 1 - 0.8 is a little below 0.2.
            if not 0 <= share <= 1 - self.short_share + 1e-9:
                raise ValueError(
                    f"{name} is {share} and short_share {self.short_share:g}: both are shares of "
                    "the segments, from 0, and together at most 1"
                )
            object.__setattr__(self, name, float(share))
        modules = tuple(named("a name in lora_modules", name) for name in self.lora_modules)
        object.__setattr__(self, "lora_modules", modules)
        if self.lora_rank and not self.lora_modules:
            raise ValueError(
                f"lora_rank is {self.lora_rank} and lora_modules is empty: name the layers to "
                "update"
            )

    def _check_size(self) -> None:
        if self.steps * self.batch > MOST_SEGMENTS:
            raise ValueError(
                f"steps is {self.steps:,} and batch {self.batch:,}: a training reads at most "
                f"{MOST_SEGMENTS:,} segments, so take fewer of either"
            )

    def short_of(self, count: int) -> int:
        """How many of the first `count` segments are read in short pieces."""
        return int(self.short_share * count + 1e-9)  # as floats, 0.29 * 100 is a little below 29

    def needles_of(self, count: int) -> int:
        """How many of the first `count` segments are needle documents; none of these is short."""
        return self._of_long(self.needle_share, count)

    def skipping_of(self, count: int) -> int:
        """How many of the first `count` segments skip positions; none of these is short."""
        return self._of_long(self.skip_share, count)

    def _of_long(self, share: float, count: int) -> int:
        long = count - self.short_of(count)
        return int(share / (1 - self.short_share) * long + 1e-9)

    def check_segment(self, length: int, window: int, target: int) -> None:
        """See whether a model of that window can read segments of `length` tokens as it says here.

        Args:
            length: of a segment, in tokens.
            window: the model's, in tokens.
            target: the scaling's, in tokens; 0 of one that has none.

        Raises:
            ValueError: some are to be read short, and they are hardly longer than the window; or
                some are to skip positions, and the scaling is for no more tokens than they have, or
                there is none that says for how many it is.
        """
        if self.skip_share and not target:
            raise ValueError(
                f"skip_share is {self.skip_share:g}, and no scaling says up to which position to "
                "skip: train at a RopeScaling or a schedule of several, or set skip_share=0"
            )
        if self.skip_share and length >= target:
            raise ValueError(
                f"skip_share is {self.skip_share:g}, and segments of {length:,} tokens leave no "
                f"positions to skip before the scaling's target, {target:,}: train in shorter "
                "segments, or set skip_share=0"
            )
        if self.short_share and length < 2 * window:
            raise ValueError(
                f"short_share is {self.short_share:g}, and segments of {length:,} tokens do not "
                f"hold two pieces of the model's window, {window:,}: train on longer segments, or "
                "set short_share=0"
            )


RECIPES = {
    # LongRoPE, section 4.1: LLaMA2 to 128k; 600 steps more to 256k. The warm-up is YaRN's.
    "llama2": Recipe(),
    # LongRoPE, section 4.1: Mistral, whatever the target, on segments of 16k tokens.
    "mistral": Recipe(batch=64, learning_rate=1e-6, decay="constant"),
    # A model of a hundred million parameters, on one GPU in minutes.
    "small": Recipe(steps=64, batch=1, learning_rate=3e-4, decay="cosine", warmup=4, save_every=32),
    # The lab model, on a laptop.
    "tiny": Recipe(steps=30, batch=2, learning_rate=2e-4, decay="cosine", warmup=3, save_every=10),
}


def by_name(kind: str, value: object, ready: Mapping[str, T]) -> T:
    """What a name stands for among those that are ready; anything of their type is taken as it is.

    Args:
        kind: what it is, in words: "recipe".
        value: a name, or the thing itself.
        ready: by name; it is called RECIPES.

    Raises:
        ValueError: an unknown name, or something else.
    """
    if isinstance(value, str):
        if value not in ready:
            raise unknown(kind, value, ready)
        return ready[value]
    made = type(next(iter(ready.values())))
    if not isinstance(value, made):
        raise ValueError(
            f"{kind} is {reprlib.repr(value)}: pass a {made.__name__}, or one of {kind.upper()}S"
        )
    return value
