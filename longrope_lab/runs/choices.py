"""Refuses names that a notebook would look up in the package, before it begins.

The names are those of the package's own registries, so this module is not quick to import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..common.checks import unknown
from ..export.engines import OF_FILES
from ..extend.ready import PLANS
from ..measure.book_questions import LEADS
from ..measure.many_examples import EXAMPLES
from ..rope.methods import METHODS
from ..searches.evolution import PRESETS
from ..searches.settings import SEARCHES
from ..searches.starts import NO_START
from ..texts.corpora import SPLITS
from ..texts.needle_tasks import NEEDLES
from .preparing import Prepared

# What a parameter may name, in every notebook that has it: all formulas, or those with factors of
# their own for one target.
FORMULAS = [name for name in METHODS if name != "longrope"]
TRAINABLE = [name for name in METHODS if name not in NO_START]
CHOICES: Mapping[str, Iterable[str]] = {
    "plan": PLANS,
    "preset": PRESETS,
    "methods": FORMULAS,
    "formula": FORMULAS,
    "formulas": TRAINABLE,
    "engines": OF_FILES,
    "two_steps_method": TRAINABLE,
    "search_method": ("gradient", "evolution"),
    "starts": [*TRAINABLE, "high"],
    "train_split": SPLITS,
}

# Where the same word means something else.
APART: Mapping[str, Mapping[str, Iterable[str]]] = {
    "03_search": {"methods": SEARCHES},
    "11_needles": {"tasks": NEEDLES, "compared": NEEDLES},
    "13_many_examples": {"tasks": EXAMPLES, "asked": LEADS},
}


def check_choices(prepared: Sequence[Prepared]) -> None:
    """See whether the names among the parameters of some notebooks exist.

    Raises:
        ValueError: one does not; the nearest is offered.
    """
    for ready in prepared:
        name = ready.notebook.stem
        known = {**CHOICES, **APART.get(name, {})}
        for parameter in ready.parameters.keys() & known.keys():
            value = ready.parameters[parameter]
            for each in value if isinstance(value, list) else [value]:
                # Where it may be empty, which `prepare` has checked, its help says what that means.
                if each != "" and each not in known[parameter]:
                    raise unknown(f"{parameter} of {name}", each, known[parameter])
