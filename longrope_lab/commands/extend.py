"""`longrope-lab extend`: a plan for a model is explained, run, and handed over as a folder."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from ..common.files import at_home
from ..common.quantities import length_in
from ..export.folder import check_free, save_pretrained
from ..export.trial import try_export
from ..extend.plan import Plan
from ..extend.progressive import is_begun, progressive
from ..extend.ready import PLANS, plan_to
from ..extend.recipe import RECIPES, by_name
from ..extend.stages import Recover
from ..models.loading import load_model
from ..models.rotary import rope_spec
from ..texts.corpora import load_corpus


def extend(options: argparse.Namespace) -> int:
    """Extend a model as the options say.

    Returns:
        The exit status: 1 if the answer was no.

    Raises:
        ValueError, OSError, RuntimeError: what the user got wrong, or the system refuses.
        KeyboardInterrupt: stopped by hand; what has finished is kept.
    """
    out = at_home(options.out)
    check_free(out)
    if not options.yes and not (sys.stdin and sys.stdin.isatty()):
        raise ValueError("there is no terminal to ask on before it begins: pass --yes to go ahead")
    window = options.window and length_in(options.window)
    model, tokenizer = load_model(options.model, device=options.device, window=window)
    plan = _plan(options, rope_spec(model).window)
    of = {"limit": options.documents, "column": options.column}
    corpus = load_corpus(options.corpus, tokenizer, split="validation", **of)
    run = {**plan.divided(corpus), "seed": options.seed}
    stages = out.resolve().with_name(f"{out.resolve().name}-stages")
    begun = is_begun(model, tokenizer, plan, stages, **run)
    print(plan.explain(model))
    if begun:
        print(f"{stages} holds a part of this, which is not run again.")
    if not options.yes and not _agreed():
        print("Nothing was begun.")
        return 1
    if not begun:
        recovered = [stage.length for stage in plan.stages if isinstance(stage, Recover)]
        try_export(model, tokenizer, [*recovered, plan.reach], out)
    extended = progressive(model, tokenizer, plan, stages, **run)
    docs = run["search_docs"]
    scaling = extended.for_config(model, docs, seed=options.seed)
    fold = options.fold_attention_factor
    save_pretrained(
        model, tokenizer, scaling, out, drop_start_tokens=True, docs=docs,
        fold_attention_factor=fold,
    )  # fmt: skip
    print(
        f"{replace(extended, schedule=scaling)}\n\nTo load it, here or with transformers alone:\n"
        f"  lab.load_model({str(out)!r})\n  AutoModelForCausalLM.from_pretrained({str(out)!r})"
    )
    return 0


def _plan(options: argparse.Namespace, window: int) -> Plan:
    if options.plan is None:
        recipe = by_name("recipe", "small" if options.recipe is None else options.recipe, RECIPES)
        return plan_to(window, *map(length_in, options.to), recipe=recipe)
    if options.recipe is not None:
        raise ValueError(
            f"--recipe {options.recipe} goes with --to, and a plan has its own: leave one out"
        )
    return by_name("plan", options.plan, PLANS)


def _agreed() -> bool:
    try:
        return input("Go on? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # the terminal was closed, or Ctrl-D
        print()
        return False
