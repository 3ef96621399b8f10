"""Refuses parameters that do not fit one another, or the model's window, before a run begins.

Each line of `RULES` is one rule of one notebook: a cell further on would fail by it, or show
something else than it says.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.files import Json, at_home, check_writable
from ..extend.ready import PLANS
from ..extend.stages import Recover
from ..measure.benchmarks import check_tasks
from ..measure.book_questions import KEPT, TOO_SHORT
from ..measure.many_examples import EXAMPLES, examples_prompt
from ..measure.needle_prompts import passkey_prompt, trials_asked
from ..measure.tasks import LEAST_PASSAGE
from ..models.loading import load_tokenizer, local_config
from ..models.read_config import spec_from_config
from ..models.window import window_of
from ..rope.scaling import RopeScaling
from ..rope.spec import RopeSpec
from ..searches.workers import MOST
from .preparing import PLACES, Prepared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What is wrong with a notebook's parameters, in words; None if nothing is.
Rule = Callable[[Json], str | None]

# Parameters that name a length which a scaling is made for, and so is at least the window.
TARGETS = (
    "target", "targets", "two_steps", "aim", "objective_target", "ablation_target", "search_length",
)  # fmt: skip


def check_relations(prepared: Sequence[Prepared]) -> None:
    """See whether the parameters of some notebooks fit one another.

    Raises:
        ValueError: some do not.
    """
    for ready in prepared:
        name = ready.notebook.stem
        for rule in (*RULES.get(name, ()), *EVERYWHERE):
            if wrong := rule(ready.parameters):
                raise ValueError(f"parameters of {name}: {wrong}")


def _reaches_window(given: Json) -> str | None:
    """No scaling is made for a length below the window, and no plan has such a stage."""
    window: int = given["window"] if "window" in given else window_of(given.get("model_name")) or 0
    for name in TARGETS:
        for length in _listed(given.get(name, [])):
            if length < window:
                return _too_short(name, length, window)
    for stage in PLANS[given["plan"]].stages if "plan" in given else ():
        if stage.length < window and not isinstance(stage, Recover):
            return _too_short(f"a stage of the plan {given['plan']!r}", stage.length, window)
    return None


def _too_short(what: str, length: int, window: int) -> str:
    return (
        f"{what} is {length:,}, and the trained window is {window:,} tokens: a scaling extends it, "
        "so name at least that"
    )


def _rising(name: str) -> Rule:
    def rule(given: Json) -> str | None:
        values = given[name]
        if all(a < b for a, b in itertools.pairwise(values)):
            return None
        return f"{name} is {values}: each must be above the one before"

    return rule


def _as_many(name: str, other: str) -> Rule:
    def rule(given: Json) -> str | None:
        here, there = len(given[name]), len(given[other])
        if here == there:
            return None
        return f"{name} has {here} values and {other} {there}: give each its own"

    return rule


def _once(name: str) -> Rule:
    def rule(given: Json) -> str | None:
        twice = [value for value in given[name] if given[name].count(value) > 1]
        return f"{name} names {twice[0]!r} twice: name each once" if twice else None

    return rule


def _at_most(name: str, other: str, why: str) -> Rule:
    """The greatest value of one is at most the least of another."""

    def rule(given: Json) -> str | None:
        greatest, least = max(_listed(given[name])), min(_listed(given[other]))
        if greatest <= least:
            return None
        return f"{name} is {greatest:,} and {other} {least:,}: {why}"

    return rule


def _at_least(name: str, least: int, why: str) -> Rule:
    def rule(given: Json) -> str | None:
        lowest = min(_listed(given[name]), default=least)
        return f"{name} has {lowest:,}: {why}" if lowest < least else None

    return rule


def _long_corpus(given: Json) -> str | None:
    count, number = len(given["corpora"]), given["long_corpus"]
    if -count <= number < count:
        return None
    return f"long_corpus is {number}, and corpora has {count}: count them from 0"


def _start_tokens(given: Json) -> str | None:
    values, nearest = given["start_tokens"], given["targets"][0]
    if values[0] != 0:
        return f"start_tokens begins with {values[0]}: its first is the reference, 0"
    for name in ("start_tokens", "start_tokens_tried"):
        if (most := max(given[name])) >= nearest:
            return f"{name} has {most:,}, and targets begins with {nearest:,}: keep fewer"
    return None


def _reaches_length(given: Json) -> str | None:
    """Notebook 04 aims for the longest of its lengths."""
    longest, window = max(given["lengths"]), window_of(given["model_name"]) or 0
    return _too_short("the longest of lengths", longest, window) if longest < window else None


def _recovers(given: Json) -> str | None:
    """Notebook 06 shows what a recovery does at or below its length."""
    recovered = [s.length for s in PLANS[given["plan"]].stages if isinstance(s, Recover)]
    if not recovered:
        with_one = [n for n, p in PLANS.items() if any(isinstance(s, Recover) for s in p.stages)]
        return f"the plan {given['plan']!r} has no recovery: name one of {', '.join(with_one)}"
    longest = max(given["lengths"])
    if longest > max(recovered):
        return f"lengths has {longest:,}, and {max(recovered):,} tokens are recovered: name no more"
    return None


def _aimed(given: Json) -> str | None:
    """Notebook 10 compares the lengths from the window to the target with one another."""
    window = window_of(given["model_name"]) or 0
    if any(window <= length <= given["target"] for length in given["lengths"]):
        return None
    return (
        f"lengths is {given['lengths']}: name one from the window ({window:,}) to the target "
        f"({given['target']:,})"
    )


def _formulas_read(given: Json) -> str | None:
    """Notebook 10 compares them with one another at lengths from the window to the target."""
    read_to, target = given["formulas_to"], given["target"]
    last = max(length for length in given["lengths"] if length <= target)
    if read_to == 0 or read_to >= last:
        return None
    return (
        f"formulas_to is {read_to:,}: let it be at least {last:,}, the last of lengths up to the "
        "target, or 0"
    )


def _rotary(given: Json) -> str | None:
    """Notebook 01 makes its embedding of these three."""
    RopeSpec(given["rotary_dim"], given["window"], base=given["base"])
    return None


def _lengths(given: Json) -> str | None:
    """A text of one token has no loss."""
    for name in (name for name in given if name.endswith("lengths")):
        if given[name] and min(given[name]) < 2:
            return f"{name} has {min(given[name])}: a text has at least 2 tokens"
    return None


def _trials(given: Json) -> str | None:
    if {"trials", "lengths"} <= given.keys():
        lengths = given["key_lengths"] if "key_lengths" in given else given["lengths"]
        trials_asked(given["trials"], lengths, given.get("depths") or [0.5])
    return None


def _found(given: Json) -> str | None:
    """Scalings of files are for heads as wide as the model's, and each has a name of its own."""
    found = given.get("found", [])
    # A notebook that runs before may write what is not there yet.
    paths = [p for p in map(Path, [found] if isinstance(found, str) else found) if p.is_file()]
    config = local_config(given["model_name"]) if paths else None
    width = None if config is None else spec_from_config(config).rotary_dim
    for path in paths if width else ():
        here = RopeScaling.load(path).spec.rotary_dim
        if here != width:
            return f"{path} is for {here} rotary dimensions, and the model has {width}"
    names = [path.stem for path in paths]
    twice = [name for name in names if names.count(name) > 1]
    return f"two files of found would be called {twice[0]!r}: rename one" if twice else None


def _workers(given: Json) -> str | None:
    """No more processes than work together."""
    most = max([0, *given.get("workers", []), given.get("processes", 0)])
    return f"{most:,} processes are asked for: {MOST:,} work together" if most > MOST else None


def _places(given: Json) -> str | None:
    """Folders that are written to in the end can be made."""
    for name in PLACES & given.keys() - {"out"}:
        if given[name]:
            if at_home(given[name]).is_file():
                return f"{name} is {given[name]!r}, a file: name a folder"
            check_writable(at_home(given[name]))
    return None


def _tasks(given: Json) -> None:
    check_tasks(given["tasks"])


def _room(name: str, made: Callable[[Json, PreTrainedTokenizerBase, int], object]) -> Rule:
    """The shortest of some prompts can be made; asked where the model is on this machine."""

    def rule(given: Json) -> str | None:
        shortest: int = min(given[name])
        if local_config(given["model_name"]) is None:
            return None
        try:
            made(given, load_tokenizer(given["model_name"]), shortest)
        except ValueError as error:
            return f"{name} has {shortest:,}: {error}"
        return None

    return rule


def _passkey(given: Json, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    passkey_prompt(tokenizer, length, 0.5)


def _examples(given: Json, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    for task in given["tasks"]:
        examples_prompt(tokenizer, EXAMPLES[task], length)


def _listed(value: object) -> list[int]:
    """A parameter of numbers as a list."""
    return value if isinstance(value, list) else [value]  # type: ignore[list-item]


EVERYWHERE: Sequence[Rule] = (_reaches_window, _lengths, _trials, _found, _workers, _places)

RULES: Mapping[str, Sequence[Rule]] = {
    "00_quickstart": (_room("key_lengths", _passkey),),
    "01_rope_and_interpolation": (_rotary,),
    "02_nonuniformity": (
        _rising("targets"),
        _as_many("corpora", "search_corpora"),
        _long_corpus,
        _start_tokens,
    ),
    "03_search": (
        _once("targets"),
        _once("methods"),
        _once("weights"),
        _as_many("targets", "forwards"),
    ),
    "04_without_finetuning": (_reaches_length,),
    "05_progressive_extension": (_rising("two_steps"), _once("formulas")),
    "06_short_context_recovery": (_recovers,),
    "07_passkey": (_room("lengths", _passkey),),
    "08_short_context_benchmarks": (
        _tasks,
        _at_least("passage_tokens", LEAST_PASSAGE, f"it takes {LEAST_PASSAGE} tokens at least"),
    ),
    "09_two_nonuniformities": (_rising("targets"),),
    "10_long_documents": (
        _at_most("sliding_lengths", "sliding_tokens", "no window is longer than its document"),
        _at_most("stride", "sliding_lengths", "tokens between two windows would be read in none"),
        _aimed,
        _formulas_read,
    ),
    "12_hand_over": (
        _at_least("compared", 2, "a text has at least 2 tokens"),
        _room("lengths", _passkey),
    ),
    "13_many_examples": (
        _at_least("book_lengths", 2 * KEPT, TOO_SHORT),
        _room("lengths", _examples),
    ),
}
