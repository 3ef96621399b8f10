"""How far does each search get for how many forward passes? One line of JSON per search.

    python examples/search_budgets.py                  # the small model, minutes per search
    python examples/search_budgets.py smollm2 --corpus books/validation.parquet \
        --test-corpus books/test.parquet --length 65536 --documents 3 --test-documents 10

Each search is judged by its perplexity over YaRN's, on documents that it never saw, and by the
passkeys that are found. A search that fails says so in its line, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import longrope_lab as lab
from longrope_lab.searches.settings import Settings

FREE_M = (1.0, 1.5)
STARTS = ("yarn", "ramp", "geometric", "ntk")


@dataclass(frozen=True)
class Run:
    """A search to make: its settings, its space, what it minimises, its passes at most."""

    method: Callable[[int], Settings]  # of the number of documents
    passes: int
    space: Callable[[lab.RopeSpec, int], lab.SearchSpace] | None = None
    objective: lab.Perplexity | lab.Needles | lab.Both | None = None
    stretches: int = 1


def free_m(spec: lab.RopeSpec, length: int) -> lab.SearchSpace:
    """Table 4's space with m in a range, and no start tokens."""
    return lab.SearchSpace(spec, length, start_tokens=(0,), attention_factors=FREE_M)


def longrope2(spec: lab.RopeSpec, length: int) -> lab.SearchSpace:
    """LongRoPE2's space with m in a range."""
    return lab.SearchSpace.longrope2(spec, length, attention_factors=FREE_M)


def evolution(_: int) -> Settings:
    """Algorithm 1 at the size `small`, from more formulas than the paper's."""
    return replace(lab.PRESETS["small"], initial=("pi", *STARTS), rounds=40)


def shorter(passes: int, rate: float = 0.1) -> Callable[[int], Settings]:
    """A gradient within so many passes."""
    return lambda docs: replace(lab.Gradient.within(passes, docs), learning_rate=rate)


RUNS = {
    "gradient 40": Run(shorter(40), 40, free_m),
    "gradient 40, half the rate": Run(shorter(40, 0.05), 40, free_m),
    "gradient 40, twice the rate": Run(shorter(40, 0.2), 40, free_m),
    "gradient 160": Run(shorter(160), 160, free_m),
    "gradient 160, half the rate": Run(shorter(160, 0.05), 160, free_m),
    "gradient 160, other stretches": Run(shorter(160), 160, free_m, stretches=4),
    "gradient 160, LongRoPE2": Run(shorter(160), 160, longrope2),
    "gradient 160, both": Run(shorter(160), 160, free_m, lab.Both(0.5)),
    "gradient 160, needles": Run(shorter(160), 160, free_m, lab.Needles()),
    "strategy": Run(lambda _: lab.Strategy(initial=STARTS, rounds=40), 612),
    "strategy, m free": Run(lambda _: lab.Strategy(initial=STARTS, rounds=40), 612, free_m),
    "evolution": Run(evolution, 612),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the searches that were asked for, and print what each of them found."""
    options = parser().parse_args(arguments)
    model, tokenizer = lab.load_model(options.model)
    length = options.length
    docs = lab.load_corpus(
        options.corpus, tokenizer, split="validation", min_tokens=length, limit=options.documents
    )
    size = {"min_tokens": length, "max_tokens": length}
    test = lab.load_corpus(options.test_corpus, tokenizer, limit=options.test_documents, **size)
    yarn = lab.rope_scaling(lab.rope_spec(model), "yarn", length)
    before = lab.perplexity(model, test, [length], {"yarn": yarn})
    for name in options.only or RUNS:
        try:
            row = judged(name, RUNS[name], model, tokenizer, docs, (before, test), options)
        except Exception as error:  # the others are worth having
            row = {"search": name, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(row), flush=True)
        if options.out:
            with Path(options.out).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def judged(name, run, model, tokenizer, docs, judges, options):  # type: ignore[no-untyped-def]
    """The line of one search."""
    length, spec = options.length, lab.rope_spec(model)
    texts = parts(docs, length, run.stretches)
    if run.objective is not None:
        hard = "multikey in documents"
        texts += lab.needle_documents(docs, length, options.needles, tokenizer, tasks=hard)
    started = time.perf_counter()
    found = lab.search(
        model, texts, length, run.method(len(texts)),
        space=run.space(spec, length) if run.space else lab.SearchSpace(spec, length),
        objective=run.objective,
        budget=lab.Budget(tokens=run.passes * length),
    )  # fmt: skip
    seconds = time.perf_counter() - started
    before, test = judges
    after = lab.perplexity(model, test, [length], {"found": found.best})
    table = lab.stack({"yarn": before, "found": after}, "from").drop(columns="from")
    over_yarn = lab.paired_comparison(table, "found", "yarn").iloc[0]
    row = {"search": name, "seconds": round(seconds, 1), "told nothing": found.at_floor}
    row |= {key: round(float(over_yarn[key]), 4) for key in ("ratio", "low", "high")}
    row["curve"] = [
        [int(passes), round(float(lowest), 3)]
        for passes, lowest in found.history[["forwards", "best_perplexity"]].to_numpy()
        if lowest < float("inf")
    ]
    row |= {"m": found.best.attention_factor, "factors": found.best.factors.round(3).tolist()}
    row |= {"text loss": found.text_loss, "needle loss": found.needle_loss}
    if options.passkeys:
        keys = lab.passkey(
            model, tokenizer, [length], scalings={"found": found.best}, trials=options.passkeys
        )
        row["passkeys"] = int(keys["correct"].sum())
    return row


def parts(docs: Sequence[lab.Document], length: int, count: int) -> list[lab.Document]:
    """Up to so many stretches of each document, that begin evenly over it; the first at its start.

    Steps that read other stretches fit the few books less.
    """
    made = []
    for doc in docs:
        many = min(count, len(doc) // length)
        for number in range(many):
            begin = number * (len(doc) - length) // max(many - 1, 1)
            made.append(lab.Document(f"{doc.title}, {begin}", doc.ids[begin : begin + length]))
    return made


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("model", nargs="?", default="lab", help="a name for load_model, or a folder")
    made.add_argument("--corpus", default="python", help="to search on")
    made.add_argument("--test-corpus", default="python", help="to judge on")
    made.add_argument("--length", type=int, default=4096, help="tokens to extend to")
    made.add_argument("--documents", type=int, default=2, help="to search on")
    made.add_argument("--test-documents", type=int, default=6, help="to judge on")
    made.add_argument("--needles", type=int, default=4, help="needle documents of an objective")
    made.add_argument("--passkeys", type=int, default=0, help="to ask for at each of five depths")
    made.add_argument("--only", nargs="*", choices=[*RUNS], help="searches; all, if none is named")
    made.add_argument("--out", help="a file that gets the lines, too")
    return made


if __name__ == "__main__":
    main()
