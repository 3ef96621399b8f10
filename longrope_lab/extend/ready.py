"""Plans that are ready to run, as data, and one for any model and length."""

from __future__ import annotations

from dataclasses import replace

from ..searches.evolution import PRESETS
from ..searches.gradient import Gradient
from .plan import Plan
from .recipe import RECIPES, Recipe
from .stages import FineTune, Formula, Recover, Search, Stage

PAPER_RECOVERY = replace(PRESETS["paper"], initial=("high", "pi", "ntk", "yarn"))

# A range of attention factors.
FREE_M = (1.0, 1.5)

# In two fine-tunings, as the paper: after one alone, this model's perplexity more than doubled at
# eight times its length. Three quarters of the segments are read short, and the learning rate falls
# in the second training only. A plan with a fall in each and fewer short texts read the window
# worse, and 512k better.
SMOLLM2: tuple[Stage, ...] = (
    Search(65_536, Gradient(steps=32), documents=4, attention_factors=FREE_M),
    FineTune(65_536, replace(RECIPES["small"], steps=96, decay="constant", short_share=0.75)),
    Search(262_144, Gradient(steps=5, validate_every=5), 3, FREE_M),
    FineTune(
        262_144, replace(RECIPES["small"], steps=24, warmup=2, save_every=12, short_share=0.75)
    ),
    Search(524_288, Gradient(2, 1, 0.05, 2, weighted=True), 1, FREE_M, keep_rotations=32),
)

# To eight times the longest segment. The weights see the farthest factors from the start, and half
# of the long segments skip positions, and span the target: to weights trained at nearer ones, text
# two million positions back did harm. Some are needle documents, all of whose tokens count: on
# books alone this model forgets how to look something up (LOG.md).
FAR = replace(
    RECIPES["small"],
    steps=36,
    batch=6,
    decay="constant",
    short_share=2 / 3,
    needle_share=0.4 / 3,
    needle_loss="all",
    skip_share=0.5 / 3,
)
SMOLLM2_2048K: tuple[Stage, ...] = (
    Search(
        65_536,
        Gradient(8, validate_every=4, initial=("ramp", "yarn")),
        documents=3,
        attention_factors=FREE_M,
        keep_range=True,
    ),
    Formula(2_097_152, "ramp", on_top_of=65_536),
    FineTune(2_097_152, FAR, segment=65_536),
    FineTune(
        2_097_152,
        replace(FAR, steps=13, warmup=1, decay="cosine", save_every=13),
        segment=262_144,
    ),
)

# m is free: inside its window an m of 1.09 alone costs this model 7 % in perplexity.
SMOLLM2_RECOVERY = Recover(
    8192, Gradient(64, batch=2, initial=("high", "none")), 8, free_attention_factor=True
)

# 512 to 16k, 32k and 256k tokens is 4k to 128k, 256k and 2048k: 32, 64 and 512 times the window. On
# books alone this model forgets passkeys even inside its window, so needle documents are among what
# it trains on, and among what its last search measures.
SCALE_RECIPE = Recipe(
    steps=300,
    batch=8,
    learning_rate=1e-3,
    decay="constant",
    save_every=100,
    short_share=0.25,
    needle_share=0.3,
)
SCALE_RECOVERY = Gradient(32, batch=2, validate_every=8, initial=("high", "none"))
SCALE: tuple[Stage, ...] = (
    Search(16_384, Gradient(steps=24, validate_every=8), 5, FREE_M),
    FineTune(16_384, SCALE_RECIPE),
    Search(32_768, Gradient(steps=8, validate_every=4), 5, FREE_M),
    FineTune(32_768, replace(SCALE_RECIPE, steps=200, decay="cosine")),
    Search(
        262_144,
        Gradient(steps=12, batch=2, validate_every=4, initial=("ramp", "yarn")),
        documents=2,
        needles=4,
    ),
    Recover(512, SCALE_RECOVERY, 8, free_attention_factor=True),
    Recover(1024, SCALE_RECOVERY, 8, free_attention_factor=True),
)

PLANS: dict[str, Plan] = {
    # Sections 3.3 and 4.1: both searches on the pre-trained model, 400 steps and 600 more, then
    # eight times further.
    "paper_llama2": Plan(
        (
            Search(131_072),
            Search(262_144),
            FineTune(131_072, Recipe(steps=400)),
            FineTune(262_144, Recipe(steps=600)),
            Search(2_097_152, PRESETS["paper_512k"], documents=3),
            Recover(4096, PAPER_RECOVERY),
            Recover(8192, PAPER_RECOVERY),
        )
    ),
    "paper_mistral": Plan(
        (
            Search(131_072),
            Search(262_144),
            FineTune(131_072, RECIPES["mistral"], segment=16_384),
            FineTune(262_144, RECIPES["mistral"], segment=16_384),
            Search(2_097_152, PRESETS["paper_512k"], documents=3),
            Recover(8192, PAPER_RECOVERY),
        )
    ),
    # SmolLM2-135M on one GPU, in minutes.
    "smollm2": Plan((*SMOLLM2, SMOLLM2_RECOVERY)),
    # The same model to 2048k tokens, where a forward pass takes minutes.
    "smollm2_2048k": Plan((*SMOLLM2_2048K, SMOLLM2_RECOVERY)),
    # The lab model at the paper's own ratios, an eighth of its lengths, on one GPU in minutes.
    "scale": Plan(SCALE),
    # The lab model, on a laptop.
    "lab": Plan(
        (
            Search(4096, Gradient(steps=6, validate_every=6), 2, FREE_M),
            FineTune(
                4096,
                Recipe(
                    steps=5, batch=1, learning_rate=5e-4, decay="cosine", warmup=1, save_every=5
                ),
            ),
            Search(16_384, Gradient(steps=1, validate_every=1), documents=1),
            Recover(
                512,
                Gradient(16, 2, validate_every=8, initial=("high", "none")),
                8,
                free_attention_factor=True,
            ),
        )
    ),
    # The lab model again, in seconds: enough to see the stages run, not to gain anything.
    "tiny": Plan(
        (
            Search(576, Gradient(steps=1, validate_every=1), documents=1),
            FineTune(576, Recipe(steps=2, batch=1, learning_rate=1e-4, warmup=0, save_every=2)),
            Search(640, Gradient(steps=1, validate_every=1), documents=1),
            Recover(
                512,
                Gradient(steps=1, validate_every=1, initial="high"),
                documents=1,
                free_attention_factor=True,
            ),
        )
    ),
}


def plan_to(window: int, *lengths: int, recipe: Recipe = RECIPES["small"]) -> Plan:
    """A plan for any model: search and train at each length in turn, then recover short texts.

    >>> plan_to(512, 4096)
    Plan of 3 stages:
      00_search_4096    gradient search on 3 documents
      01_finetune_4096  64 steps of 1 segment of 4,096 tokens
      02_recover_512    gradient search on 3 documents

    The recovery keeps the attention factor, so that a Hugging Face config holds the whole schedule.

    Args:
        window: the model's, in tokens.
        lengths: to extend to, in tokens, rising. About eight times are one step: LongRoPE trains at
            32 times and at twice that, and small models at eight and at four times.
        recipe: of each training.

    Raises:
        ValueError: no length, one that is not above the window, or lengths that do not rise.
    """
    for length in lengths:
        if length <= window:
            raise ValueError(
                f"length {length:,} is not above the model's window of {window:,} tokens, so there "
                f"is nothing to extend: name a longer one, such as {2 * window}"
            )
    steps = [(Search(n, Gradient(steps=32), 3, FREE_M), FineTune(n, recipe)) for n in lengths]
    return Plan((*(stage for pair in steps for stage in pair), Recover(window, documents=3)))
