"""Extend the small model on a laptop: search, fine-tune, search again, recover, compare, hand over.

    python examples/extend_lab.py                      # 512 -> 1,024 -> 2,048 tokens, minutes
    python examples/extend_lab.py --reach 4096 --steps 16

Its steps are too few to gain much; they show the way. Each stage leaves what it made in the folder,
and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import longrope_lab as lab


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the whole pipeline, and print what each part of it found."""
    options = parser().parse_args(arguments)
    folder = Path(options.folder)

    model, tokenizer = lab.load_model("lab")
    window = lab.rope_spec(model).window
    plan = make_plan(window, options.tuned, options.reach, options.steps)
    print(plan)

    corpora = {"search": "python", "train": "python", "train_split": "validation"}
    docs = plan.documents(tokenizer, **corpora, min_tokens=options.tuned, limit=12)
    extended = lab.progressive(model, tokenizer, plan, folder / "stages", **docs)
    print(f"\n{extended}")

    lengths = sorted({window, options.tuned, options.reach})
    figures = compare(model, tokenizer, extended, lengths, options.documents)
    print(f"\nPerplexity on documents that nobody searched or trained on:\n{figures.round(1)}")

    handed = folder / "extended"
    if not handed.exists():  # nothing is written over
        schedule = extended.for_config(model, docs["search_docs"])
        lab.save_pretrained(model, tokenizer, schedule, handed, figures=figures)
    serve(handed)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--folder", default="results/scratch/extend_lab", help="what is made")
    made.add_argument("--tuned", type=int, default=1024, help="tokens to search and train at")
    made.add_argument("--reach", type=int, default=2048, help="tokens of the second search")
    made.add_argument("--steps", type=int, default=6, help="of each search and of the training")
    made.add_argument("--documents", type=int, default=4, help="to compare on")
    return made


def make_plan(window: int, tuned: int, reach: int, steps: int) -> lab.Plan:
    """Four stages, each with as many steps."""

    def descent(start: str) -> lab.Gradient:
        return lab.Gradient(steps=steps, validate_every=steps, initial=start)

    recipe = lab.Recipe(steps=steps, batch=2, learning_rate=2e-4, warmup=min(1, steps - 1))
    return lab.Plan(
        (
            lab.Search(tuned, descent("yarn"), documents=1),
            lab.FineTune(tuned, recipe),
            lab.Search(reach, descent("yarn"), documents=1),
            lab.Recover(window, descent("high"), documents=1, free_attention_factor=True),
        )
    )


def compare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    extended: lab.Extended,
    lengths: Sequence[int],
    documents: int,
) -> pd.DataFrame:
    """Perplexity by length: as loaded under YaRN, trained without scaling, and extended."""
    reach = max(lengths)
    held_out = lab.load_corpus(
        "python", tokenizer, split="test", min_tokens=reach, max_tokens=reach, limit=documents
    )
    loaded = lab.load_model("lab")[0]
    yarn = lab.rope_scaling(lab.rope_spec(loaded), "yarn", reach)
    before = lab.perplexity(loaded, held_out, lengths, {"as loaded": None, "with YaRN": yarn})
    scalings = {"trained, no scaling": None, "extended": extended.schedule}
    after = lab.perplexity(model, held_out, lengths, scalings)
    both = lab.stack({"before": before, "after": after}, "training")
    return lab.perplexity_summary(both).pivot_table("perplexity", "scaling", "length", sort=False)


def serve(folder: Path) -> None:
    """Load the folder with stock transformers, and let it write a few words."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("In the beginning", return_tensors="pt")
    with torch.inference_mode():
        written = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    rope = model.config.rope_parameters["rope_type"]
    print(f"\n{folder} loads in stock transformers with rope type {rope!r}, and writes:")
    print(tokenizer.decode(written[0]))


if __name__ == "__main__":
    main()
