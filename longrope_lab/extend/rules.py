"""What a plan may be: the stages that fit a model, and which of them may follow which."""

from __future__ import annotations

from collections.abc import Sequence

from ..rope.spec import RopeSpec, check_target
from ..searches.space import SearchSpace
from .stages import FineTune, Formula, Recover, Search, Stage
from .wording import naming, title


def check_stage(stage: Stage, spec: RopeSpec) -> None:
    """See whether a stage fits a model's rotary embedding.

    Raises:
        ValueError: a length below the window, attention factors that are not a range, a search that
            cannot start, a formula that gives a schedule or nothing, a recipe that reads short
            pieces of segments that hardly hold two, or skips where nothing is left to skip. The
            error names the stage.
    """
    with naming(stage):
        check_target(spec, stage.length)
        match stage:
            case Formula():
                stage.scaling(spec)
            case Search():
                stage.method.start(stage.space(spec), stage.documents, 0)
            case Recover():
                stage.method.start(SearchSpace(spec, stage.length), stage.documents, 0)
            case FineTune():
                stage.recipe.check_segment(stage.segment_tokens, spec.window, stage.length)


def check_after(stage: Stage, before: Sequence[Stage]) -> None:
    """See whether a stage may follow those before it.

    Raises:
        ValueError: it breaks one of the rules; see `Plan`.
    """
    scaled = [s.length for s in before if isinstance(s, Formula | Search)]
    if any(isinstance(s, Recover) for s in before) and not isinstance(stage, Recover):
        raise ValueError(
            f"{title(stage)} follows a recovery, which would be out of date: recoveries come last"
        )
    match stage:
        case Formula() | Search():
            _check_scaling(stage, before, scaled)
        case FineTune():
            _check_training(stage, before, scaled)
        case Recover():
            _check_recovery(stage, before, max(scaled, default=0))


def _check_scaling(stage: Formula | Search, before: Sequence[Stage], scaled: list[int]) -> None:
    longest = max(scaled, default=0)
    if stage.length <= longest:
        raise ValueError(
            f"{title(stage)} follows one at {longest:,}: lengths must rise from stage to stage"
        )
    fit = [length for length in scaled if length >= _last_trained(before)]
    if stage.on_top_of is not None and stage.on_top_of not in fit:
        raise ValueError(
            f"{title(stage)}, on top of {stage.on_top_of:,}: name the length of a Search or "
            "Formula before it, no shorter than the last fine-tuning; these are "
            f"{fit or 'none'}"
        )


def _check_training(stage: FineTune, before: Sequence[Stage], scaled: list[int]) -> None:
    """A length has one scaling, but weights may be trained at it twice."""
    last = _last_trained(before)
    if stage.length < last:
        raise ValueError(
            f"{title(stage)} follows one at {last:,}: lengths must not fall from stage to stage"
        )
    if stage.length not in scaled:
        raise ValueError(
            f"{title(stage)}: no Search or Formula for that length comes before it; there are "
            f"scalings for {scaled or 'no length'}"
        )


def _check_recovery(stage: Recover, before: Sequence[Stage], longest: int) -> None:
    if stage.length >= longest:
        raise ValueError(
            f"{title(stage)}: it needs a Search or Formula for longer texts before it, to recover "
            "from"
        )
    if stage.length in [s.length for s in before if isinstance(s, Recover)]:
        raise ValueError(f"{title(stage)} is in the plan twice: leave one out")


def _last_trained(stages: Sequence[Stage]) -> int:
    return max((s.length for s in stages if isinstance(s, FineTune)), default=0)
