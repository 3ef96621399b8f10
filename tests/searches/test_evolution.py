"""Algorithm 1 without a model: sizes, rules, chance of its own, and what it finds."""

import dataclasses
import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_space import assert_inside, spaces

from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.searches import PRESETS, Evolution, Random, SearchSpace
from longrope_lab.searches.objective import Measured, Race

SPEC = RopeSpec(rotary_dim=8, window=512, base=10000.0)
SPACE = SearchSpace(SPEC, 2048)
SMALL = Evolution(population=12, mutations=6, crossovers=6, top=6, rounds=5)

# Six points: two factors of 1.00 to 1.02 that do not fall.
SIX = SearchSpace(RopeSpec(4, 512, base=10000.0), 1024, high=1.02, start_tokens=(0,))


def key(scaling):
    return scaling.factors.tobytes(), scaling.start_tokens, scaling.attention_factor


def far(factors, start_tokens=0):
    """An objective: the distance, in logarithms, to hidden factors and start tokens."""

    def loss(scaling):
        distance = np.square(np.log(scaling.factors) - np.log(factors)).sum()
        return float(
            distance + 0.01 * np.square(math.log1p(scaling.start_tokens) - math.log1p(start_tokens))
        )

    return loss


LOSS = far([1.1, 1.3, 2.9, 3.7], 16)


def rounds_of(method, space, loss=LOSS, documents=1, seed=0, searches=None):
    """The rounds that a search asks for, told what `loss` says: one number or one per document."""
    search = method.start(space, documents, seed)
    if searches is not None:
        searches.append(search)
    rounds = []
    while trials := search.ask():
        rounds.append(trials)
        search.tell(
            [Measured(tuple(np.broadcast_to(loss(t.scaling), documents).tolist())) for t in trials]
        )
    return rounds


def flat(lists):
    return [item for items in lists for item in items]


def scalings(rounds):
    return [trial.scaling for trial in flat(rounds)]


# --- sizes ----------------------------------------------------------------------------------------


def test_the_papers_sizes():
    rounds = rounds_of(
        Evolution(), SearchSpace(RopeSpec(64, 512, base=10000.0), 8192), far(np.linspace(1, 16, 32))
    )
    assert [len(trials) for trials in rounds] == [64] + 40 * [32]
    assert len(scalings(rounds)) == 64 + 40 * 32 == 1344
    for trials in rounds[1:]:
        assert [trial.kind for trial in trials] == 16 * ["mutation"] + 16 * ["crossover"]
    assert [trial.kind for trial in rounds[0]] == 3 * ["initial"] + 61 * ["mutation"]
    assert len({key(s) for s in scalings(rounds)}) == 1344


def test_presets():
    paper, halved = PRESETS["paper"], PRESETS["paper_512k"]
    assert (
        paper == Evolution() == Evolution(64, 16, 16, 0.3, 32, 40, ("pi", "ntk", "yarn"), False)
    )  # section 4.1
    assert (halved.population, halved.mutations, halved.crossovers) == (32, 8, 8)
    assert (halved.probability, halved.top, halved.rounds) == (0.3, 32, 40)
    for name in ("small", "tiny"):
        assert PRESETS[name].population < 32


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_every_child_is_measured(rounds):
    sizes = [len(trials) for trials in rounds_of(Evolution(10, 3, 4, top=5, rounds=rounds), SPACE)]
    assert sizes == [10] + rounds * [7]


def test_the_first_three_are_the_formulas():
    first = rounds_of(SMALL, SPACE)[0]
    for trial, name in zip(first, ("pi", "ntk", "yarn"), strict=False):
        assert trial.kind == "initial" and trial.scaling.start_tokens == 0
        expected = rope_scaling(SPEC, name, 2048).factors
        np.testing.assert_allclose(trial.scaling.factors, expected, atol=0.00501)
    (only,) = rounds_of(Evolution(population=4, rounds=0, initial=("ntk",)), SPACE)
    assert [trial.kind for trial in only] == ["initial"] + 3 * ["mutation"]
    (none,) = rounds_of(Evolution(population=4, rounds=0, initial=()), SPACE)
    assert [trial.kind for trial in none] == 4 * ["random"]


def test_the_first_children_are_mutations_of_the_formulas():
    """With a small p most of a child is some formula's."""
    settings = Evolution(population=40, probability=0.1, rounds=0)
    (first,) = rounds_of(settings, SPACE)
    formulas = [trial.scaling.factors for trial in first[:3]]
    kept = [max((trial.scaling.factors == f).sum() for f in formulas) for trial in first[3:]]
    assert np.mean(kept) > 2.5 and min(kept) < 4


def test_trials_measure_every_document():
    for trials in rounds_of(SMALL, SPACE, documents=3):
        assert all(
            t.documents == (0, 1, 2) and not t.gradient and t.race is None and t.forwards == 3
            for t in trials
        )


# --- rules ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(space=spaces(), seed=st.integers(0, 2**32), probability=st.floats(0.05, 1))
def test_no_child_breaks_a_rule_or_comes_twice(space, seed, probability):
    noise = np.random.default_rng(seed)
    method = Evolution(8, 4, 6, probability, top=5, rounds=4)
    asked = scalings(rounds_of(method, space, lambda _: noise.random(), seed=seed))
    for scaling in asked:
        assert_inside(space, scaling)
    assert len({key(s) for s in asked}) == len(asked)


def test_without_the_rule_factors_fall_sometimes():
    free = SearchSpace(SPEC, 2048, monotone=False)
    falling = [(np.diff(s.factors) < 0).any() for s in scalings(rounds_of(SMALL, free))]
    assert any(falling)
    hidden = far([2.0, 1.0, 3.0, 1.5])
    best = {
        space: min(map(hidden, scalings(rounds_of(Evolution(), space, hidden))))
        for space in (SPACE, free)
    }
    assert best[free] < 0.1 < best[SPACE]


@pytest.mark.parametrize("rounds", [40, 10**9])
def test_a_space_that_is_exhausted_ends_the_search(rounds):
    asked = scalings(rounds_of(Evolution(rounds=rounds), SIX, far([1.01, 1.02])))
    assert len(asked) == len({key(s) for s in asked}) == 6


def test_random_search_ends_too():
    asked = scalings(rounds_of(Random(64), SIX, far([1.01, 1.02])))
    assert 1 <= len(asked) == len({key(s) for s in asked}) <= 6
    assert len(scalings(rounds_of(Random(50), SPACE))) == 50


def test_random_search_draws_as_many_as_asked_for():
    """A draw that came before is drawn again, and does not count."""
    space = SearchSpace(
        RopeSpec(4, 512, base=10000.0), 1024, high=1.1, start_tokens=(0,)
    )  # 66 points
    asked = scalings(rounds_of(Random(40), space, far([1.01, 1.02])))
    assert len(asked) == len({key(s) for s in asked}) == 40


def test_a_space_of_one_point():
    one = SearchSpace(SPEC, 2048, low=2.0, high=2.0, start_tokens=(4,))
    (trials,) = rounds_of(SMALL, one)
    assert [(t.kind, t.scaling.factors.tolist(), t.scaling.start_tokens) for t in trials] == [
        ("initial", 4 * [2.0], 4)
    ]


def test_crossed_children_are_made_of_their_parents():
    """Without mutations every value of every child was in the first population."""
    method = Evolution(population=10, mutations=0, crossovers=8, top=10, rounds=6)
    first, *later = rounds_of(method, SPACE)
    values = {f for t in first for f in t.scaling.factors.tolist()}
    starts = {t.scaling.start_tokens for t in first}
    assert len(later) > 1
    for trial in flat(later):
        assert trial.kind == "crossover"
        assert (
            set(trial.scaling.factors.tolist()) <= values and trial.scaling.start_tokens in starts
        )


def test_a_crossing_that_would_fall_is_mended_from_either_end():
    """A mending that only ever raised factors would pull the search towards PI."""
    method = Evolution(population=2, mutations=0, crossovers=20, top=2, rounds=1, initial=())
    lowered = raised = 0
    for seed in range(10):
        parents, *children = (
            [t.scaling.factors for t in trials] for trials in rounds_of(method, SPACE, seed=seed)
        )
        lowered += sum(
            child[0] not in [parent[0] for parent in parents] for child in flat(children)
        )
        raised += sum(
            child[-1] not in [parent[-1] for parent in parents] for child in flat(children)
        )
    assert lowered > 0 and raised > 0


# --- chance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [SMALL, Random(40)])
def test_chance_is_the_searchs_own(method):
    runs = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002 - the point is that it does not matter
        torch.manual_seed(seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        runs.append([key(s) for s in scalings(rounds_of(method, SPACE, seed=7))])
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])
    assert runs[0] == runs[1]
    assert [key(s) for s in scalings(rounds_of(method, SPACE, seed=8))] != runs[0]


def test_what_was_told_decides_what_is_asked():
    one, other = (rounds_of(SMALL, SPACE, loss) for loss in (LOSS, lambda s: -LOSS(s)))
    assert list(map(key, scalings(one[:1]))) == list(map(key, scalings(other[:1])))
    assert list(map(key, scalings(one[1:2]))) != list(map(key, scalings(other[1:2])))


# --- it works -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_what_is_hidden(seed):
    loss = far(np.sort(np.random.default_rng(seed).uniform(1, 5, 4)), 16)
    searches, best = [], [math.inf]

    def told(scaling):
        best.append(searches[0].top[0][0] if searches[0].top else math.inf)
        return loss(scaling)

    rounds = rounds_of(Evolution(rounds=20), SPACE, told, seed=seed, searches=searches)
    first, everything = (min(map(loss, scalings(part))) for part in (rounds[:1], rounds))
    assert everything < 0.2 * first
    assert searches[0].top[0][0] == everything
    assert all(
        before >= after for before, after in itertools.pairwise(best)
    )  # the best never gets worse
    at_random = min(map(loss, scalings(rounds_of(Random(64 + 20 * 32), SPACE, seed=seed))))
    assert everything < at_random


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), top=st.integers(1, 12))
def test_the_top_are_the_best_so_far(seed, top):
    noise, losses, searches = np.random.default_rng(seed), [], []

    def loss(_):
        losses.append(noise.integers(0, 20) / 4)  # with ties
        return losses[-1]

    rounds_of(Evolution(10, 4, 4, top=top, rounds=3), SPACE, loss, searches=searches)
    assert [value for value, _ in searches[0].top] == sorted(losses)[:top]


def test_ties_keep_the_earlier():
    searches = []
    asked = rounds_of(SMALL, SPACE, lambda _: 1.0, searches=searches)
    first = [SPACE.scaling(c) for _, c in searches[0].top]
    assert list(map(key, first)) == list(map(key, scalings(asked)[: SMALL.top]))


# --- losses that are no numbers -------------------------------------------------------------------


def test_what_gave_no_number_breeds_nothing():
    """Crossed children hold their ancestors' values: here of the four that gave a number."""
    asked, searches = [], []
    method = Evolution(population=12, mutations=0, crossovers=6, top=8, rounds=6, initial=())

    def loss(scaling):
        asked.append(scaling)
        return math.nan if 4 < len(asked) <= 12 else LOSS(scaling)

    first, *later = rounds_of(method, SPACE, loss, searches=searches)
    values = {f for trial in first[:4] for f in trial.scaling.factors.tolist()}
    bad = {f for trial in first[4:] for f in trial.scaling.factors.tolist()}
    children = {f for trial in flat(later) for f in trial.scaling.factors.tolist()}
    assert len(later) > 1 and len(bad - values) > 10
    assert children <= values
    assert all(math.isfinite(value) for value, _ in searches[0].top)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("racing", [False, True])
def test_a_first_round_without_a_number(bad, racing):
    method = Evolution(6, 3, 3, top=4, rounds=3, racing=racing)
    searches = []
    rounds = rounds_of(method, SPACE, lambda _: bad, documents=2, searches=searches)
    assert len(rounds) == 4 and searches[0].top == []
    asked = scalings(rounds)
    assert len({key(s) for s in asked}) == len(asked)
    assert {trial.kind for trial in flat(rounds[1:])} == {"random"}


def test_a_number_in_the_second_round_is_enough():
    count = [0]

    def loss(scaling):
        count[0] += 1
        return math.nan if count[0] <= SMALL.population else LOSS(scaling)

    rounds = rounds_of(SMALL, SPACE, loss)
    assert [trials[0].kind for trials in rounds] == ["initial", "random", *4 * ["mutation"]]


@pytest.mark.parametrize("losses", [(1.0, math.nan), (math.nan, math.nan), (math.inf, 1.0)])
def test_one_document_without_a_number_is_enough(losses):
    assert Measured(losses).loss == math.inf
    assert Measured((1.0, 2.0), dropped=True).loss == math.inf
    assert Measured((1.0, 2.0)).loss == 1.5


# --- racing ---------------------------------------------------------------------------------------

small_numbers = st.integers(-8, 8).map(lambda n: n / 4)


@given(floors=st.lists(small_numbers, min_size=1, max_size=5), limit=small_numbers, data=st.data())
def test_a_race_is_lost_when_no_luck_can_save_it(floors, limit, data):
    """By definition: the mean misses the limit even with the best that anyone had from here on."""
    losses = data.draw(st.lists(small_numbers, min_size=1, max_size=len(floors)))
    hoped = [Fraction(x) for x in [*losses, *floors[len(losses) :]]]
    assert Race(limit, tuple(floors)).lost(losses) == (sum(hoped) / len(hoped) > Fraction(limit))


def test_a_race_at_the_limit_goes_on():
    race = Race(1.0, (0.5, 0.5))
    assert not race.lost([1.5]) and race.lost([1.5000001]) and not race.lost([1.5, 0.5])


def raced(method, loss, documents, seed=0):
    """A search whose trials give up as `Objective.measure` does.

    Its rounds with what they measured, and the last top."""
    search, rounds = method.start(SPACE, documents, seed), []
    while trials := search.ask():
        results = []
        for trial in trials:
            losses = []
            for value in loss(trial.scaling):
                losses.append(float(value))
                if trial.race and len(losses) < documents and trial.race.lost(losses):
                    break
            results.append(Measured(tuple(losses), dropped=len(losses) < documents))
        rounds.append((trials, results))
        search.tell(results)
        dropped = {key(t.scaling) for t, r in zip(trials, results, strict=True) if r.dropped}
        assert not dropped & {key(SPACE.scaling(c)) for _, c in search.top}
    return rounds, search.top


def test_racing_changes_nothing_where_documents_agree():
    """If every document ranks alike, much is dropped, and nothing that would have survived."""
    levels = np.array([3.0, 2.0, 5.0, 4.0])
    method = Evolution(20, 10, 10, top=5, rounds=8)
    fair, fair_top = raced(method, lambda s: LOSS(s) + levels, 4)
    fast, fast_top = raced(dataclasses.replace(method, racing=True), lambda s: LOSS(s) + levels, 4)
    for (ours, _), (theirs, _) in zip(fair, fast, strict=True):
        assert [key(t.scaling) for t in ours] == [key(t.scaling) for t in theirs]
    assert fair_top == fast_top
    dropped = [r for _, results in fast for r in results if r.dropped]
    assert len(dropped) > 20 and not any(r.dropped for _, results in fair for r in results)
    assert all(1 <= len(r.losses) < 4 for r in dropped)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 9999), documents=st.integers(1, 4), top=st.integers(1, 8))
def test_limits_and_floors_are_those_of_the_rounds_start(seed, documents, top):
    """So the order in which a round's trials end cannot matter."""
    noise = np.random.default_rng(seed)
    method = Evolution(8, 5, 5, top=top, rounds=4, racing=True)
    rounds, _ = raced(method, lambda _: noise.random(documents), documents, seed)
    kept, floors = [], np.full(documents, np.inf)
    for trials, results in rounds:
        (race,) = {trial.race for trial in trials}
        if len(kept) < top:
            assert race is None
        else:
            assert race.limit == pytest.approx(sorted(kept)[top - 1])
            assert race.floors == tuple(floors)
        for result in results:
            floors[: len(result.losses)] = np.minimum(floors[: len(result.losses)], result.losses)
            if not result.dropped:
                kept.append(np.mean(result.losses))


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 0, "initial": ()}, "population is 0: it must be a whole number from 1"),
        ({"mutations": -1}, "mutations is -1: it must be a whole number from 0"),
        ({"crossovers": -1}, "crossovers is -1: it must be a whole number from 0"),
        ({"top": 0}, "top is 0: it must be a whole number from 1"),
        ({"rounds": -1}, "rounds is -1: it must be a whole number from 0"),
        ({"population": 8.5}, "population is 8.5: it must be a whole number from 1"),
        ({"rounds": math.inf}, "rounds is inf: it must be a whole number from 0"),
        ({"mutations": math.nan}, "mutations is nan: it must be a whole number from 0"),
        ({"crossovers": "many"}, "crossovers is many: it must be a whole number from 0"),
        ({"top": None}, "top is None: it must be a whole number from 1"),
        ({"probability": 0}, "probability is 0: it must be a finite number above 0"),
        ({"probability": 1.1}, "probability is 1.1: it must be at most 1"),
        ({"probability": math.nan}, "probability is nan: it must be"),
        ({"probability": "often"}, "probability is often: it must be"),
        ({"initial": ("pi", "yarm")}, "unknown start of a search 'yarm': did you mean 'yarn'"),
        ({"initial": 5}, "initial is 5: it must be a list of texts or a text$"),
        ({"population": 2}, "population is 2: the 3 formulas alone need more"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Evolution(**options)


@pytest.mark.parametrize("candidates", [0, -2, 1.5, math.nan, None])
def test_random_needs_a_candidate(candidates):
    message = f"candidates is {candidates}: it must be a whole number from 1"
    with pytest.raises(ValueError, match=message):
        Random(candidates)


def test_whole_numbers_of_other_types_are_the_same_settings():
    """As they come out of an array, or as 1e3 is written."""
    ours = Evolution(np.int64(12), 6.0, np.float64(6), top=np.int32(6), rounds=5.0)
    assert ours == SMALL and json.dumps(ours.identity()) == json.dumps(SMALL.identity())
    assert Evolution(initial=["pi", "ntk", "yarn"]) == Evolution(
        initial=np.array(["pi", "ntk", "yarn"])
    )
    assert Evolution(initial="ntk").initial == ("ntk",)


def test_rounds_are_no_part_of_a_searchs_identity():
    assert Evolution(rounds=3).identity() == Evolution(rounds=30).identity()
    assert Random(3).identity() == Random(30).identity()
    others = [
        Evolution(top=8),
        Evolution(racing=True),
        Evolution(probability=0.2),
        Evolution(population=65),
    ]
    assert all(other.identity() != Evolution().identity() for other in others)
