"""longrope_lab: extend a language model's context window by LongRoPE, and see why it works.

import longrope_lab as lab

model, tokenizer = lab.load_model("lab")
spec = lab.rope_spec(model)
docs = lab.load_corpus("kjv", tokenizer, min_tokens=4096, limit=4)
yarn = lab.rope_scaling(spec, "yarn", 4096)
table = lab.perplexity(model, docs, [512, 4096], {"yarn": yarn})
lab.plots.perplexity_curves(table, window=spec.window)
lab.save_pretrained(model, tokenizer, yarn, "lab-4k")  # for stock transformers
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.abc
import sys
from pathlib import Path

from .common.renames import warn_renamed

__version__ = "0.1.0"

# Modules that the release before kept beside one another, and where they are now.
MOVED = {
    "benchmarks": "measure.benchmarks", "bounds": "rope.bounds", "card": "export.card",
    "corpora": "texts.corpora", "cost": "measure.cost", "errors": "common.checks",
    "experiments": "report.experiments", "files": "common.files", "finetune": "extend.finetune",
    "from_scratch": "extend.from_scratch", "generation": "models.generation",
    "harness": "measure.harness", "hf_config": "models.read_config", "losses": "models.forward",
    "memory": "models.estimates", "methods": "rope.methods", "origin": "runs.origin",
    "passkey": "measure.needles", "perplexity": "measure.perplexity", "plans": "extend.plan",
    "progress": "common.progress", "progressive": "extend.progressive",
    "questions": "measure.tasks", "recipe": "extend.recipe", "rotary": "models.rotary",
    "schedule": "rope.schedule", "search": "searches", "stages": "extend.stages",
    "stats": "measure.stats", "trainer": "extend.trainer",
}  # fmt: skip


@functools.cache
def _public() -> dict[str, str]:
    """The module of each public name, from ``__init__.pyi``, where type checkers find them too."""
    listed = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in listed.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f".{node.module or alias.name}" for node in imports for alias in node.names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: nobody waits for what they do not use."""
    if name == "__all__":
        return sorted(_public())
    if where := _public().get(name):
        module = importlib.import_module(where, __name__)
        doors = importlib.import_module(".common.doors", __name__)
        found = module if where == f".{name}" else doors.door(getattr(module, name), __name__)
        for other, place in _public().items():  # a class has methods wherever its objects are from
            cls = getattr(sys.modules.get(f"{__name__}{place}"), other, None)
            if isinstance(cls, type):
                doors.door(cls, __name__)
        return globals().setdefault(name, found)
    if name in MOVED:  # from longrope_lab import bounds
        warn_renamed(f"{__name__}.{name}", f"{__name__}.{MOVED[name]}")
        return importlib.import_module(f".{MOVED[name]}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_public()})


class _Moved(importlib.abc.MetaPathFinder):
    """Says where a module has moved to when it is imported by its old name."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        package, _, name = fullname.rpartition(".")
        if package == __name__ and name in MOVED:
            raise ModuleNotFoundError(f"{fullname} is now {__name__}.{MOVED[name]}", name=fullname)


# Before all others: a folder that an update left behind, of caches alone, would count as a module.
sys.meta_path.insert(0, _Moved())
