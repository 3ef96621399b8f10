"""Makes the extended lab model, ``load_model("lab-256k")``, from the lab model by a plan.

::

    python -m longrope_lab.lab_model.extend --search validation.parquet --train train-00.parquet \\
        --test test.parquet --stages stages --out lab-256k

It makes the same calls as the notebooks 05 and 06 in the profile ``scale``, from which the folder
that ships was taken. Beside what `save_pretrained` writes, the folder holds ``schedule.json``, with
a set of factors and an m of its own for each recovered length, and ``training.json``.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

from ..common.files import Json, read_json, write_json
from ..common.identity import digest_of
from ..export.folder import save_pretrained
from ..extend.extended import Extended
from ..extend.progressive import progressive
from ..extend.ready import PLANS
from ..measure.perplexity import perplexity
from ..measure.stats import perplexity_summary
from ..models.loading import load_model
from ..models.rotary import rope_spec
from ..runs.origin import git_commit
from ..texts.corpora import load_corpus

WEIGHTS = "model.safetensors"

# Lines of the loss that training.json keeps of each training.
EVERY = 50


def extend(options: argparse.Namespace) -> Path:
    """Run the plan, and write the folder.

    Raises:
        ValueError, FileNotFoundError: as of `load_corpus`, `progressive` and `save_pretrained`.
    """
    model, tokenizer = load_model("lab")
    window, plan = rope_spec(model).window, PLANS[options.plan]
    corpora = {"search": options.search, "train": options.train}
    docs = plan.documents(tokenizer, **corpora, min_tokens=window, limit=options.documents)
    lengths = [window, 2 * window]
    test = load_corpus(options.test, tokenizer, min_tokens=max(lengths), max_tokens=max(lengths))
    extended = progressive(
        model,
        tokenizer,
        plan,
        options.stages,
        train_docs=docs["train_docs"],
        search_docs=docs["search_docs"],
        seed=options.seed,
    )
    schedule = extended.for_config(model, docs["search_docs"], seed=options.seed)
    variants = {"handed over": schedule, "each length its own m": extended.schedule}
    figures = perplexity_summary(perplexity(model, test, lengths, variants))
    folder = save_pretrained(model, tokenizer, schedule, options.out, figures=figures)
    extended.schedule.save(folder / "schedule.json")
    made = training(extended, read_json(Path(options.stages, "plan.json"), "plan"))
    write_json(folder / "training.json", {"weights": digest_of(folder / WEIGHTS)} | made)
    return folder


def training(extended: Extended, identity: Json) -> Json:
    """What ``training.json`` says: when, by which code and plan, and the loss of each training."""
    losses = {
        name: table.iloc[[0, *range(EVERY - 1, len(table), EVERY)]].to_dict("records")
        for name, table in extended.histories.items()
        if "learning_rate" in table
    }
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"made": date, "commit": git_commit(), "plan": identity, "loss": losses}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--search", required=True, help="books to search on, as load_corpus takes them")
    add("--train", required=True, help="books to train on")
    add("--test", required=True, help="books for the card's figures")
    add("--stages", required=True, help="folder of the stages; the same command goes on there")
    add("--out", required=True, help="folder of the model; new, or empty")
    add("--documents", type=int, default=200, help="of the training books (default: 200)")
    add("--plan", choices=sorted(PLANS), default="scale")
    add("--seed", type=int, default=0)
    print(extend(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
