"""The evolution strategy: its rules, and how far it gets with few candidates."""

import math

import numpy as np
import pytest
from conftest import VOCABULARY, WINDOW, tiny_model

from longrope_lab.models.rotary import rope_spec
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.searches import PRESETS, Budget, Evolution, Random, SearchSpace, Strategy, search
from longrope_lab.searches.objective import Measured
from longrope_lab.texts.tokens import Document

SPEC = RopeSpec(64, 512, base=10_000.0)
TARGET = 4096
BOTTOM = np.log(np.clip(np.linspace(-3, 10, 32), 1, 9))


def lowest(settings, space, candidates, seed=0):
    """The lowest that a search finds of so many, where loss is the distance from a profile."""
    searcher, best, seen = settings.start(space, 1, seed), math.inf, 0
    while seen < candidates and (trials := searcher.ask()):
        told = [
            Measured((float(((np.log(t.scaling.factors) - BOTTOM) ** 2).mean()),)) for t in trials
        ]
        best = min(best, *(m.loss for m in told[: candidates - seen]))
        seen += len(trials)
        searcher.tell(told)
    return best


@pytest.mark.parametrize("candidates", [60, 120])
def test_with_few_candidates_it_is_far_ahead_of_algorithm_1(candidates):
    """From the same starts, on a smooth valley, by the median of several seeds."""
    space = SearchSpace(SPEC, TARGET, start_tokens=(0,))
    starts = ("yarn", "ramp", "geometric", "ntk")
    plain = Evolution(24, 8, 8, 0.3, 12, 12, initial=starts)
    ours = [lowest(Strategy(initial=starts), space, candidates, seed) for seed in range(7)]
    theirs = [lowest(plain, space, candidates, seed) for seed in range(7)]
    assert np.median(ours) < 0.5 * np.median(theirs)


def test_the_step_follows_the_way():
    """It grows while the mean goes straight on, and shrinks around a bottom."""
    space = SearchSpace(SPEC, 64 * 512, start_tokens=(0,), monotone=False, high=1e9)
    far = Strategy(population=12, step=0.01, initial=("none",)).start(space, 1, 0)
    near = Strategy(population=12, step=1.0, initial=("pi",)).start(space, 1, 0)
    at = np.log(space.formula_factors("pi"))
    for _ in range(12):
        logs = [np.log(trial.scaling.factors) for trial in far.ask()]
        far.tell([Measured((float(-each.sum()),)) for each in logs])
        logs = [np.log(trial.scaling.factors) for trial in near.ask()]
        near.tell([Measured((float(((each - at) ** 2).sum()),)) for each in logs])
    assert far.step > 0.02 and near.step < 0.5


def test_candidates_are_smooth():
    """Neighbouring pairs move together, distant ones do not."""
    space = SearchSpace(SPEC, TARGET, start_tokens=(0,), monotone=False, low=1.0, high=1e9)
    searcher = Strategy(population=2000, step=0.1, smooth=3.0, initial=("pi",)).start(space, 1, 0)
    searcher.tell([Measured((0.0,))] * len(searcher.ask()))
    moves = np.array([np.log(t.scaling.factors / 8) for t in searcher.ask()])
    at = np.corrcoef(moves.T)[15]
    assert at[16] > 0.9 and 0.4 < at[18] < 0.8 and abs(at[28]) < 0.1
    assert moves.std(axis=0) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("options", [{}, {"attention_factors": (1.0, 1.3)}])
def test_whole_searches_keep_the_space_and_go_on_from_a_checkpoint(options, tmp_path):
    model, length = tiny_model(), 3 * WINDOW
    ids = np.random.default_rng(0).integers(3, VOCABULARY, length)
    docs = [Document("text", ids)]
    space = SearchSpace(rope_spec(model), length, start_tokens=(0,), **options)
    settings = Strategy(population=4, rounds=3, step=0.5)
    whole = search(model, docs, length, settings, space=space, seed=2)
    assert len(whole.history) == 4 + 3 * 4 and whole.finished
    assert whole.history["kind"].tolist() == ["initial"] * 4 + ["draw"] * 12
    low, high = space.bounds
    for scaling in whole.scalings:
        scaling.check_monotone()
        assert (scaling.factors >= low).all() and (scaling.factors <= high).all()
    m = whole.history["attention_factor"]
    assert (m.nunique() > 1) == bool(options) and m.between(1.0, 1.5).all()
    call = {"space": space, "seed": 2, "checkpoint": tmp_path / "log"}
    search(model, docs, length, settings, **call, budget=Budget(candidates=7))
    again = search(model, docs, length, "strategy", **call | {"checkpoint": None}, budget=Budget(4))
    assert again.history["kind"].tolist() == ["initial"] * 4
    resumed = search(model, docs, length, settings, **call)
    assert resumed.best == whole.best
    assert sum(count for count, _ in settings.ahead(1)) == len(whole.history)


def test_rounds_without_a_finite_loss_move_nothing():
    searcher = Strategy(population=3, initial=("ramp",)).start(SearchSpace(SPEC, TARGET), 1, 0)
    searcher.tell([Measured((1.0,))] * len(searcher.ask()))
    mean, step = searcher.mean, searcher.step
    searcher.tell([Measured((math.nan,))] * len(searcher.ask()))
    assert (searcher.mean == mean).all() and searcher.step == step / 2
    searcher.tell([Measured((loss,)) for loss in (math.nan, 1.0, math.inf)][: len(searcher.ask())])
    assert np.isfinite(searcher.mean).all() and (searcher.mean != mean).any()


def test_it_beats_random_draws():
    space = SearchSpace(SPEC, TARGET, start_tokens=(0,))
    assert lowest(Strategy(), space, 60) < lowest(Random(60), space, 60)
    assert PRESETS["paper"].initial == ("pi", "ntk", "yarn")  # Algorithm 1 stays as it is


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"population": 1}, "population is 1"),
        ({"rounds": -1}, "rounds is -1"),
        ({"step": 0}, "step is 0"),
        ({"smooth": -2}, "smooth is -2"),
        ({"initial": ()}, "initial is empty: name at least one start"),
        ({"initial": ("yarm",)}, "unknown start of a search 'yarm': did you mean 'yarn'"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Strategy(**change)
