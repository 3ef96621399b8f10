"""Whole plans on a tiny model: each stage, each kill, each refusal."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import VOCABULARY, WINDOW, tiny_model
from finetuning import TOKENIZER
from planning import (
    DOCS,
    DOWN,
    EVOLUTION,
    FIRST_TWO_LONG,
    GRADIENT,
    LONG,
    PAPERS,
    RECIPE,
    SHORT,
    run,
    same_weights,
    weights,
)

import longrope_lab as lab
from longrope_lab.common.processes import alone
from longrope_lab.extend import extended as extended_module
from longrope_lab.extend import plan_run as module
from longrope_lab.extend.finetune import finetune
from longrope_lab.extend.plan import Plan
from longrope_lab.extend.progressive import progressive
from longrope_lab.extend.stages import FineTune, Formula, Recover, Search
from longrope_lab.models.forward import token_losses
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import METHODS, register_method, rope_scaling
from longrope_lab.rope.scaling import RopeScaling, compose
from longrope_lab.rope.schedule import RopeSchedule
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.searches import (
    Both,
    Gradient,
    Needles,
    Perplexity,
    Random,
    SearchSpace,
    WorkerProcesses,
    search,
)
from longrope_lab.searches.objective import Objective
from longrope_lab.texts.tokens import Document


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """The paper's plan, run once: the model before and after, the folder, and what came back."""
    torch.set_num_threads(1)
    model, folder = tiny_model(), tmp_path_factory.mktemp("papers") / "plan"
    done = run(model, PAPERS, folder)
    return SimpleNamespace(model=model, folder=folder, done=done, weights=weights(model))


def mean_loss(model, scaling, docs, length):
    with apply_scaling(model, scaling, length=length):
        return np.mean(
            [token_losses(model, doc.ids[:length]).double().mean().item() for doc in docs]
        )


# --- running --------------------------------------------------------------------------------------


def test_what_is_explained_is_what_runs(papers):
    table = PAPERS.explain(tiny_model()).set_index("stage")
    names = [folder.name for folder in papers.done.folders]
    assert list(table.index) == names == list(papers.done.histories)
    for name, history in papers.done.histories.items():
        # A fine-tuning's history counts the tokens of its segments.
        ran = (4 if "finetune" in name else 1) * history["tokens"].iloc[-1]
        expected = table["forward_tokens"][name]
        if name == "05_recover_64":
            # The evolution tries nothing twice, and finds one child less that is new.
            assert 0.9 * expected <= ran <= expected
        else:
            assert ran == expected, name
    words = table["does"]
    for name, does in {
        "00_search_128": "evolution search, 8 trials on 2 documents, from the model as it is",
        "03_finetune_192": "3 steps of 2 segments, low-rank updates of rank 2, "
        "at the factors for 192 tokens",
        "04_search_256": "gradient search, 6 trials on 2 documents, "
        "on top of the factors for 192 tokens",
        "06_recover_128": "gradient search, 4 trials on 1 document, below the last factors",
    }.items():
        assert words[name] == does


def test_a_plan_is_the_sequence_that_one_would_write_by_hand(papers, tmp_path):
    model, done = tiny_model(), papers.done
    spec = rope_spec(model)
    first = search(model, [DOCS[0], DOCS[1]], 128, EVOLUTION, seed=5).best
    space = SearchSpace(spec, 192, attention_factors=(1.0, 1.4))
    second = search(model, [DOCS[0], DOCS[1], DOCS[3]], 192, GRADIENT, space=space, seed=6).best
    finetune(model, TOKENIZER, DOCS, first, tmp_path / "1", length=128, recipe=RECIPE, seed=7)
    recipe = dataclasses.replace(RECIPE, lora_rank=2)
    finetune(model, TOKENIZER, DOCS, second, tmp_path / "2", length=64, recipe=recipe, seed=8)
    third = search(
        model, FIRST_TWO_LONG, LONG, GRADIENT, space=SearchSpace.on_top_of(second, LONG), seed=9
    ).best
    assert done.scalings == {128: first, 192: second, 256: third}
    assert done.tuned == second
    assert same_weights(weights(model), papers.weights)
    last = (third.start_tokens,)
    for number, length in enumerate((64, 128)):
        high = tuple(third.factors)
        m = (1.0, third.attention_factor) if length == 128 else third.attention_factor
        space = SearchSpace(
            spec, length, high=high, start_tokens=last, attention_factors=m, monotone=True
        )
        assert space == SearchSpace.below(third, length, free_attention_factor=length == 128)
        method = PAPERS.stages[5 + number].method
        assert (
            done.recovered[length]
            == search(model, DOCS[:1], length, method, space=space, seed=10 + number).best
        )
    assert done.schedule == RopeSchedule.by_length([*done.recovered.values(), third])


def test_the_second_search_multiplies_the_factors_of_the_first(papers):
    done = papers.done
    tuned, last = done.tuned, done.scalings[LONG]
    on_top = last.factors / tuned.factors
    assert (
        (on_top > 1 - 1e-9).all()
        and (on_top < 1.25 * LONG / 192 + 1e-9).all()
        and on_top.max() > 1.01
    )
    assert last.spec == rope_spec(papers.model)  # it applies to the model as it is loaded
    assert last.attention_factor > tuned.attention_factor > 1


def test_each_stage_leaves_what_it_made(papers):
    folder, done = papers.folder, papers.done
    assert RopeSchedule.load(folder / "schedule.json") == done.schedule
    for name, stage in PAPERS.named.items():
        if isinstance(stage, FineTune):
            assert (folder / name / "weights.safetensors").is_file()
            assert done.histories[name]["step"].tolist() == [1, 2, 3]
        else:
            found = done.scalings if isinstance(stage, Search) else done.recovered
            assert RopeScaling.load(folder / name / "scaling.json") == found[stage.length]
            assert {"kind", "best_perplexity", "tokens"} <= set(done.histories[name])
    assert not list(folder.rglob("*.part"))
    assert {path.name for path in folder.rglob("training/*")} == {
        "finetune.json",
        "loss.csv",
        "scaling.json",
    }


def test_short_texts_get_factors_that_are_no_larger_and_no_worse(papers):
    done, last = papers.done, papers.done.scalings[LONG]
    for length in (64, 128):
        recovered = done.schedule.at(length)
        assert recovered == done.recovered[length] and recovered.target_length == length
        assert (recovered.factors <= last.factors + 1e-9).all()
        assert recovered.start_tokens == last.start_tokens
    assert done.recovered[64].attention_factor == last.attention_factor
    assert (
        1 <= done.recovered[128].attention_factor < last.attention_factor
    )  # free, and in the plan
    assert (done.recovered[64].factors < last.factors - 0.01).any()
    losses = [
        mean_loss(papers.model, scaling, DOCS[:1], 64) for scaling in (done.recovered[64], last)
    ]
    assert losses[0] < losses[1]
    assert done.schedule.at(129) == last == done.schedule.at(10_000)


def test_a_finished_plan_is_not_run_again(papers, monkeypatch):
    monkeypatch.setattr(module, "search", None)
    monkeypatch.setattr(module, "finetune", None)
    model = tiny_model()
    again = run(model, PAPERS, papers.folder)
    assert again.schedule == papers.done.schedule and again.scalings == papers.done.scalings
    assert again.recovered == papers.done.recovered and again.tuned == papers.done.tuned
    assert same_weights(weights(model), papers.weights)
    for name, history in papers.done.histories.items():
        pd.testing.assert_frame_equal(again.histories[name], history)


def test_the_first_stages_alone(papers, tmp_path, monkeypatch):
    """The model is as they leave it; nothing counts as done that is not; a later call goes on."""
    model, plain = tiny_model(), tiny_model()
    first = run(model, PAPERS, tmp_path / "plan", until=3)
    assert [folder.name for folder in first.folders] == list(PAPERS.named)[
        :3
    ] and first.recovered == {}
    assert first.scalings == {n: papers.done.scalings[n] for n in (128, 192)}
    assert first.tuned == first.scalings[128] and first.schedule.at(10_000) == first.scalings[192]
    finetune(plain, TOKENIZER, DOCS, first.tuned, tmp_path / "plain", recipe=RECIPE, seed=7)
    assert same_weights(weights(model), weights(plain)) and not same_weights(
        weights(model), papers.weights
    )
    assert not (tmp_path / "plan/schedule.json").exists()
    calls = []
    for name in ("search", "finetune"):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, real=real, **k: calls.append(real.__name__) or real(*a, **k)
        )
    model = tiny_model()
    assert run(model, PAPERS, tmp_path / "plan").schedule == papers.done.schedule
    assert calls == ["finetune", "search", "search", "search"]
    assert same_weights(weights(model), papers.weights)
    model = tiny_model()  # and back: of a finished plan, too
    run(model, PAPERS, tmp_path / "plan", until=3)
    assert same_weights(weights(model), weights(plain))


@pytest.mark.parametrize("until", [0, -1, 8, 2.5])
def test_a_number_of_stages_that_a_plan_does_not_have(tmp_path, until):
    message = f"until is {until}: the plan has 7 stages, and from 1 to all can be run"
    with pytest.raises(ValueError, match=message):
        run(tiny_model(), PAPERS, tmp_path / "plan", until=until)
    assert not (tmp_path / "plan").exists()


def test_until_by_its_old_name(tmp_path):
    with pytest.warns(FutureWarning, match="^stages= of progressive is now until="):
        first = run(tiny_model(), SHORT, tmp_path / "plan", stages=2)
    assert [folder.name for folder in first.folders] == list(SHORT.named)[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = run(tiny_model(), SHORT, tmp_path / "plan", until=2)
    assert again.schedule == first.schedule and again.tuned == first.tuned


def test_a_folder_that_another_process_runs_a_plan_in(tmp_path):
    words = r"another plan is writing to .*plan: wait for it, or name another folder"
    with alone(tmp_path / "plan", "plan"), pytest.raises(ValueError, match=words):
        run(tiny_model(), SHORT, tmp_path / "plan")
    assert list(tmp_path.iterdir()) == []
    run(tiny_model(), SHORT, tmp_path / "plan", until=1)
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


def test_plans_run_by_workers(tmp_path, monkeypatch):
    """They load the model themselves; a later call finds all done, and gets the same weights."""
    torch.set_num_threads(1)  # as in a worker
    single = tiny_model()
    plans = {"yarn": SHORT, "pi": SHORT.by_formula("pi")}
    expected = run(single, SHORT, tmp_path / "alone")
    given = {"train_docs": DOCS, "search_docs": DOCS, "seed": 5}
    with WorkerProcesses(1) as workers:  # more are tested with the search
        tasks = [
            workers.submit(progressive, tiny_model, TOKENIZER, p, tmp_path / n, **given)
            for n, p in plans.items()
        ]
        yarn, pi = (task.result() for task in tasks)
    assert yarn.schedule == expected.schedule != pi.schedule
    monkeypatch.setattr(module, "finetune", None)
    model = tiny_model()
    assert run(model, SHORT, tmp_path / "yarn").schedule == expected.schedule
    assert same_weights(weights(model), weights(single))


class Killed(BaseException):
    """What no code catches, as no code catches a kill."""


def test_a_plan_killed_in_every_stage_ends_as_if_it_had_not_been(papers, tmp_path, monkeypatch):
    disk_full = OSError(28, "No space left on device")
    step = (transformers.Trainer, "training_step")
    measure = (Objective, "measure")
    kills = [  # what dies, after how many calls, of what, what comes out, and in which stage
        (*measure, 3, Killed(), Killed, "00_search_128"),
        # Five were left of the first.
        (*measure, 6, KeyboardInterrupt(), KeyboardInterrupt, "01_search_192"),
        (*step, 3, Killed(), Killed, "02_finetune_128"),
        (module, "save_model", 0, disk_full, RuntimeError, "02_finetune_128"),
        (*step, 4, Killed(), Killed, "03_finetune_192"),
        (*measure, 2, Killed(), Killed, "04_search_256"),
        (module, "search", 2, Killed(), Killed, "06_recover_128"),
    ]
    folder = tmp_path / "plan"
    for owner, name, after, error, comes_out, stage in kills:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying(getattr(owner, name), after, error))
            with pytest.raises(
                comes_out, match="free some space" if comes_out is RuntimeError else None
            ):
                run(tiny_model(), PAPERS, folder)
        finished = [place for place in PAPERS.named if kept(folder / place)]
        assert finished == list(PAPERS.named)[: list(PAPERS.named).index(stage)], (stage, name)
    model = tiny_model()
    done = run(model, PAPERS, folder)
    assert done.schedule == papers.done.schedule and done.scalings == papers.done.scalings
    assert same_weights(weights(model), papers.weights)
    for name, history in papers.done.histories.items():
        pd.testing.assert_frame_equal(done.histories[name], history)


def dying(works, after, error):
    """A function that raises once it has worked so often."""
    calls = []

    def function(*args, **kwargs):
        calls.append(1)
        if len(calls) > after:
            raise error
        return works(*args, **kwargs)

    return function


def kept(place):
    return (place / "scaling.json").is_file() or (place / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("plan", "changes", "message"),
    [
        (SHORT.by_formula("pi"), {}, "stage 0: .*yarn.* there, .*pi.* here"),
        (Plan((*SHORT.stages, Formula(5 * WINDOW, "pi"))), {}, "stage 3: nothing there, Formula"),
        (
            Plan(
                (
                    SHORT.stages[0],
                    FineTune(128, dataclasses.replace(RECIPE, steps=4)),
                    SHORT.stages[2],
                )
            ),
            {},
            "stage 1: .*steps=3.* there, .*steps=4.* here",
        ),
        (SHORT, {"seed": 6}, r"seed: 5 there, 6 here\): name another folder, or remove this one"),
        (
            SHORT,
            {"train_docs": DOCS[:4]},
            r"\(training documents: 5 of 1,166 tokens, \w+ there, 4 of 886 tokens",
        ),
        (
            SHORT,
            {"search_docs": DOCS[::-1]},
            r"\(search documents: 5 of 1,166 tokens, \w+ there, 5 of 1,166 tokens",
        ),
        (SHORT, {"model": 1}, "model .as it is loaded, before any stage.: "),
    ],
)
def test_a_folder_belongs_to_one_plan_model_seed_and_documents(short, plan, changes, message):
    before = {path: path.read_bytes() for path in short.rglob("*") if path.is_file()}
    model = tiny_model(seed=changes.pop("model", 0))
    with pytest.raises(ValueError, match=message):
        run(model, plan, short, **changes)
    assert before == {path: path.read_bytes() for path in short.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short") / "plan"
    run(tiny_model(), SHORT, folder)
    return folder


def test_a_folder_of_the_version_before_is_refused(short, tmp_path):
    """Its plan.json had no "format", and its formulas were searches: so were their folders."""
    folder = tmp_path / "plan"
    folder.mkdir()
    theirs = json.loads((short / "plan.json").read_text())
    del theirs["format"]
    formula = "Search(length=128, method='yarn', documents=5, attention_factors=None, "
    theirs["stage 0"] = formula + "on_top_of=None, keep_rotations=None)"
    (folder / "plan.json").write_text(json.dumps(theirs))
    message = (
        r"plan holds a plan of another version of longrope_lab \(format 1, and this one writes 2"
    )
    with pytest.raises(ValueError, match=message):
        run(tiny_model(), SHORT, folder)
    assert json.loads((folder / "plan.json").read_text()) == theirs
    assert [path.name for path in folder.iterdir()] == ["plan.json"]


def test_a_folder_of_anything_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(ValueError, match="is not empty and holds no plan"):
        run(tiny_model(), SHORT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_checkpoint_of_other_settings_is_refused(papers, tmp_path):
    # As if somebody had copied a search's checkpoint into another plan's folder.
    plan = Plan((Search(2 * WINDOW, dataclasses.replace(EVOLUTION, population=6), documents=2),))
    place = tmp_path / "plan" / "00_search_128"
    with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "search", dying(None, 0, Killed()))
        run(tiny_model(), plan, tmp_path / "plan")
    (place / "checkpoint.jsonl").write_bytes(
        (papers.folder / place.name / "checkpoint.jsonl").read_bytes()
    )
    with pytest.raises(ValueError, match=r"checkpoint of another search .*population"):
        run(tiny_model(), plan, tmp_path / "plan")


# --- what a plan made -----------------------------------------------------------------------------


def test_it_prints_what_it_holds(papers):
    done = papers.done
    first, second, last = done.schedule.scalings
    lines = str(done).splitlines()
    assert lines[0] == "Extended from 64 to 256 tokens; weights at 192 tokens:"
    for line, scaling in zip(lines[1:], (first, second, last), strict=True):
        factors = f"{scaling.factors.min():.4g} to {scaling.factors.max():.4g}"
        m = f"m {scaling.attention_factor:.4g}"
        assert line == f"  up to {scaling.target_length} tokens: factors {factors}, {m}"
    untrained = dataclasses.replace(done, tuned=None)
    assert repr(untrained).startswith("Extended from 64 to 256 tokens; weights not trained:\n")


def test_the_loss_of_all_trainings(papers):
    """As notebook 05 had it: tokens go on where the training before ended."""
    done = papers.done
    starts = [0, 3 * 2 * 128]
    tables = [table for stage, table in done.histories.items() if "finetune" in stage]
    expected = pd.concat(
        [t.assign(tokens=t["tokens"] + start) for t, start in zip(tables, starts, strict=True)]
    )
    pd.testing.assert_frame_equal(done.training_loss, expected)
    assert done.training_loss["tokens"].tolist() == [256, 512, 768, 896, 1024, 1152]
    first = dataclasses.replace(done, folders=done.folders[:3])
    assert first.training_loss["tokens"].tolist() == [256, 512, 768]
    with pytest.raises(ValueError, match="no fine-tuning was run"):
        _ = dataclasses.replace(done, folders=done.folders[:2]).training_loss


def as_in_notebook_06(network, extended, recovery, search_docs, seed):
    """The schedule that the notebook handed over, as it was written there."""
    switch = extended.schedule.scalings[0].target_length
    short, long = extended.schedule.scalings[-2:]
    if short.attention_factor != long.attention_factor:
        same_m = SearchSpace.below(long, switch)
        docs = [doc for doc in search_docs if len(doc) >= switch][: recovery.documents]
        short = search(network, docs, switch, recovery.method, space=same_m, seed=seed).best
    return RopeSchedule.by_length([short, long])


@pytest.mark.parametrize("free", [True, False])
def test_a_schedule_for_a_config_is_that_of_notebook_06(free, tmp_path, monkeypatch):
    from_none = dataclasses.replace(DOWN, initial="none")
    plan = Plan(
        (
            Formula(2 * WINDOW),
            FineTune(2 * WINDOW, RECIPE),
            Search(LONG, GRADIENT, documents=1, attention_factors=(1.0, 1.5)),
            Recover(2 * WINDOW, from_none, documents=2, free_attention_factor=free),
        )
    )
    model = tiny_model()
    extended = run(model, plan, tmp_path / "plan")
    ms = {scaling.attention_factor for scaling in extended.schedule.scalings}
    assert len(ms) == (2 if free else 1)
    expected = as_in_notebook_06(model, extended, plan.stages[-1], DOCS, 5)
    seen = []
    real = extended_module.search
    monkeypatch.setattr(
        extended_module, "search", lambda *a, **k: seen.append((a, k)) or real(*a, **k)
    )
    found = extended.for_config(model, DOCS, seed=5)
    assert found == expected and len(found.scalings) == 2
    assert len({s.attention_factor for s in found.scalings}) == 1
    assert (found != extended.schedule) == free == bool(seen)
    if free:
        (_, docs, length, _), options = seen[0]
        assert [doc.title for doc in docs] == ["book 0", "book 1"] and length == 2 * WINDOW
        assert options["seed"] == 5
        other = extended.for_config(model, DOCS[1:], seed=5)
        assert other != found and other.at(LONG) == found.at(LONG)
        with pytest.raises(ValueError, match="Recover at 128 tokens: it takes 2 documents"):
            extended.for_config(model, DOCS[:1])


def test_a_schedule_for_a_config_keeps_the_longest_two_sets(papers):
    """Of three here; one alone stays as it is."""
    done = papers.done
    same_m = {n: dataclasses.replace(s, attention_factor=1.1) for n, s in done.recovered.items()}
    last = dataclasses.replace(done.scalings[LONG], attention_factor=1.1)
    three = RopeSchedule.by_length([*same_m.values(), last])
    extended = dataclasses.replace(done, schedule=three)
    two = RopeSchedule.by_length([same_m[128], last])
    assert extended.for_config(papers.model, DOCS) == two
    alone = RopeSchedule.by_length([last])
    assert dataclasses.replace(done, schedule=alone).for_config(papers.model, DOCS) is alone


def test_a_stopped_search_for_a_config_says_so(papers, monkeypatch):
    stopped = SimpleNamespace(best=papers.done.recovered[128], finished=False)
    monkeypatch.setattr(extended_module, "search", lambda *args, **kwargs: stopped)
    with pytest.raises(KeyboardInterrupt, match="stopped by hand while it looked"):
        papers.done.for_config(papers.model, DOCS)


# --- formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "pi", "ntk", "yarn", "mine"])
def test_a_formula_is_measured_by_nobody_and_multiplies_what_is_tuned(name, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "mine", None)
    register_method("mine")(
        lambda spec, length: RopeScaling(spec, np.full(spec.rotary_dim // 2, 1.5), length, "mine")
    )
    monkeypatch.setattr(module, "search", None)
    # The weights do not matter here.
    monkeypatch.setattr(module, "finetune", lambda *args, **kwargs: None)
    model = tiny_model()
    done = run(model, PAPERS.by_formula(name), tmp_path / "plan", search_docs=())
    spec = rope_spec(model)
    first, second = (rope_scaling(spec, name, length) for length in (128, 192))
    assert done.scalings == {
        128: first,
        192: second,
        256: compose(second, rope_scaling(second.as_spec(), name, 256)),
    }
    assert done.tuned == second and done.recovered == {}
    assert done.schedule == RopeSchedule.by_length([done.scalings[256]])


def test_a_formula_on_top_of_start_tokens_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "finetune", lambda *args, **kwargs: None)
    spec = RopeSpec(16, WINDOW, base=10_000.0)
    found = RopeScaling(spec, np.linspace(1, 2, 8), 128, start_tokens=4, attention_factor=1.1)
    monkeypatch.setattr(
        module,
        "search",
        lambda *args, **kwargs: SimpleNamespace(best=found, finished=True, history=pd.DataFrame()),
    )
    plan = Plan((Search(128, EVOLUTION, documents=1), FineTune(128, RECIPE), Formula(256, "yarn")))
    last = run(tiny_model(), plan, tmp_path / "plan").scalings[256]
    assert last.start_tokens == 4
    n = np.array([0.0, 3, 4, 255])
    below = dataclasses.replace(found, start_tokens=0).as_spec()
    yarn = rope_scaling(below, "yarn", 256)
    expected = n[:, None] * np.where(n[:, None] < 4, spec.frequencies, yarn.frequencies)
    np.testing.assert_allclose(last.angles(n), expected, rtol=1e-12)
    assert last.attention_factor == pytest.approx(1.1 * (0.1 * np.log(2) + 1))


def test_the_control_is_trained_inside_its_own_window(tmp_path):
    """By the plan's trainings, one after the other; the oracle calls `finetune` alone."""
    control, plain = tiny_model(), tiny_model()
    # All of the control's segments are short.
    mixed = dataclasses.replace(RECIPE, batch=1, short_share=0.5)
    slower = dataclasses.replace(RECIPE, batch=1, learning_rate=1e-4, decay="constant")
    plan = Plan(
        (Formula(128, "pi"), FineTune(128, mixed), Formula(256, "pi"), FineTune(256, slower))
    ).control(WINDOW)
    recipes = [dataclasses.replace(RECIPE, batch=2), dataclasses.replace(slower, batch=4)]
    assert plan == Plan(
        (Formula(WINDOW, "none"), *(FineTune(WINDOW, recipe) for recipe in recipes))
    )
    done = run(control, plan, tmp_path / "plan")
    for seed, recipe in enumerate(recipes, start=6):
        finetune(
            plain,
            TOKENIZER,
            DOCS,
            None,
            tmp_path / f"plain{seed}",
            length=WINDOW,
            recipe=recipe,
            seed=seed,
        )
    for name, p in plain.state_dict().items():
        torch.testing.assert_close(control.state_dict()[name], p, rtol=1e-4, atol=1e-5)
    assert (done.tuned.factors == 1).all() and done.schedule.at(64) == done.tuned
    assert list(done.histories) == ["01_finetune_64", "02_finetune_64"]


def test_a_plan_without_fine_tuning_leaves_the_weights(tmp_path):
    model = tiny_model()
    before = weights(model)
    plan = Plan(
        (
            Search(128, Random(4), documents=2),
            Search(256, GRADIENT, documents=1),
            Recover(64, DOWN, 1),
        )
    )
    done = run(model, plan, tmp_path / "plan", train_docs=())
    assert same_weights(weights(model), before) and done.tuned is None
    # The second search starts from the window again, for nothing was trained at the first one's
    # factors.
    assert done.scalings[256] == search(model, [DOCS[1]], 256, GRADIENT, seed=6).best
    assert list(done.recovered) == [64]


def test_a_search_goes_on_from_an_earlier_one_where_the_plan_says_so(tmp_path):
    plan = Plan(
        (
            Formula(2 * WINDOW, "yarn"),
            FineTune(2 * WINDOW, RECIPE),
            Search(3 * WINDOW, GRADIENT, documents=2, attention_factors=(1.0, 1.5)),
            Search(LONG, GRADIENT, documents=2, attention_factors=(1.0, 1.5), on_top_of=3 * WINDOW),
            Formula(5 * WINDOW, "pi", on_top_of=LONG),
        )
    )
    model = tiny_model()
    words = plan.explain(model)["does"].tolist()
    assert words[2].endswith("on top of the factors for 128 tokens")
    assert words[3].endswith("on top of the factors for 192 tokens")
    assert words[4] == "pi, a formula, on top of the factors for 256 tokens"
    found = run(model, plan, tmp_path / "plan").scalings
    space = SearchSpace.on_top_of(found[3 * WINDOW], LONG, attention_factors=(1.0, 1.5))
    assert found[LONG] == search(model, FIRST_TWO_LONG, LONG, GRADIENT, space=space, seed=8).best
    assert np.allclose(found[5 * WINDOW].factors, found[LONG].factors * 1.25)
    # A baseline applies its formula once, to what was trained.
    formula = plan.by_formula("pi")
    assert [stage.on_top_of for stage in formula.stages if isinstance(stage, Formula)] == [None] * 4


def test_fast_dimensions_keep_what_they_have(tmp_path):
    spec = rope_spec(tiny_model())
    keep = float(np.sqrt(spec.rotations[1] * spec.rotations[2]))  # between two dimensions
    plan = Plan(
        (
            Formula(2 * WINDOW, "ntk"),
            FineTune(2 * WINDOW, RECIPE),
            Search(
                3 * WINDOW,
                dataclasses.replace(GRADIENT, initial="pi"),
                documents=2,
                keep_rotations=keep,
            ),
        )
    )
    found = run(tiny_model(), plan, tmp_path / "plan").scalings
    on_top = found[3 * WINDOW].factors / found[2 * WINDOW].factors
    assert np.allclose(on_top[:2], 1) and (on_top[2:] > 1.01).all()


def test_a_search_may_keep_slow_dimensions_to_the_angles_of_training(tmp_path):
    search = Search(2 * WINDOW, dataclasses.replace(GRADIENT, initial="none"), 2, keep_range=True)
    model = tiny_model()
    slow = rope_spec(model).rotations < 1
    found = run(model, Plan((search,)), tmp_path / "plan").scalings[2 * WINDOW]
    assert slow.any() and (found.factors[slow] >= 2).all() and (found.factors[~slow] < 2).any()


def test_needles_of_a_search_are_measured_beside_its_documents(tmp_path, monkeypatch):
    """They are made of these, with the stage's own seed."""
    answers = np.arange(LONG) == LONG - 3
    needle = dataclasses.replace(DOCS[4], title="needle", ids=DOCS[4].ids[:LONG], answers=answers)
    asked = []
    monkeypatch.setattr(
        "longrope_lab.extend.plan_run.needle_documents",
        lambda *args, **named: asked.append((args, named)) or [needle],
    )
    plan = Plan(Search(LONG, GRADIENT, documents=2, needles=1))
    model = tiny_model()
    assert "on 2 documents and 1 needle" in str(plan)
    assert "on 2 documents and 1 needle" in plan.explain(model)["does"][0]
    extended = run(model, plan, tmp_path / "plan")
    made = ((FIRST_TWO_LONG, LONG, 1, TOKENIZER), {"tasks": None, "seed": 5})
    assert asked == [made, made]  # before anything runs, and when they are measured
    alike = search(model, [*FIRST_TWO_LONG, needle], LONG, GRADIENT, seed=5)
    assert extended.scalings[LONG] == alike.best
    kept = pd.read_csv(extended.folders[0] / "history.csv")
    np.testing.assert_allclose(kept["loss"], alike.history["loss"], rtol=1e-7)  # of 8 digits
    # A gradient step reads one document; what is explained counts all three.
    alone = Plan(Search(LONG, GRADIENT, documents=3)).explain(model)
    assert plan.explain(model)["forward_tokens"][0] == alone["forward_tokens"][0]


def test_a_search_minimises_what_its_stage_says(tmp_path, monkeypatch):
    answers = np.arange(LONG) == LONG - 3
    needle = dataclasses.replace(DOCS[4], title="needle", ids=DOCS[4].ids[:LONG], answers=answers)
    monkeypatch.setattr(
        "longrope_lab.extend.plan_run.needle_documents", lambda *args, **named: [needle]
    )
    stage = Search(LONG, GRADIENT, documents=2, needles=1, objective=Both(0.8))
    model, plan = tiny_model(), Plan(stage)
    assert "on 2 documents and 1 needle, by Both(weight=0.8)" in str(plan)
    found = run(model, plan, tmp_path / "plan").scalings[LONG]
    alike = search(model, [*FIRST_TWO_LONG, needle], LONG, GRADIENT, seed=5, objective=Both(0.8))
    assert found == alike.best and found.objective == "Both(weight=0.8)"
    assert found != search(model, [*FIRST_TWO_LONG, needle], LONG, GRADIENT, seed=5).best
    # Books that do not count are measured once, and not for each candidate.
    alone = Plan(dataclasses.replace(stage, method=Random(3), objective=Needles()))
    one = Plan(Search(LONG, Random(3), documents=1))
    passes = [p.explain(model)["forward_tokens"][0] for p in (alone, one)]
    assert passes[0] == passes[1]


def test_a_plan_of_before_has_the_words_of_before():
    """Its folder goes on: fields that came later show only where they are set."""
    words = (
        "Search(length=256, method=Gradient(steps=3, batch=1, learning_rate=0.1, "
        "validate_every=16, initial='yarn', weighted=False), documents=2, attention_factors=None, "
        "on_top_of=None, keep_rotations=None, needles=1)"
    )
    stage = Search(LONG, Gradient(steps=3), documents=2, needles=1)
    assert repr(stage) == words
    told = dataclasses.replace(stage, objective=Needles())
    assert repr(told) == words.replace("needles=1)", "needles=1, objective=Needles())")


def test_an_objective_of_answers_needs_needles():
    for objective in (Needles(), Both(0.1)):
        with pytest.raises(ValueError, match="counts answers, and needles is 0: say how many"):
            Search(LONG, GRADIENT, objective=objective)
    assert Search(LONG, GRADIENT, objective=Perplexity()).needles == 0
    with pytest.raises(ValueError, match=r"objective is 'needles': it must be"):
        lab.Search(LONG, GRADIENT, objective="needles")


# --- what was kept, and what comes later ----------------------------------------------------------


def replaced_by_another(path):
    RopeScaling(rope_spec(tiny_model()), np.full(8, 3.0), 3 * WINDOW).save(path)


def edited(path):
    path.write_text(path.read_text().replace('"attention_factor": 1.0', '"attention_factor": 1.5'))


def with_a_flipped_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("damage", "stage", "made"),
    [
        (replaced_by_another, "00_formula_128", "scaling.json"),
        (edited, "00_formula_128", "scaling.json"),
        (cut, "02_formula_256", "scaling.json"),
        (with_a_flipped_bit, "01_finetune_128", "weights.safetensors"),
        (cut, "01_finetune_128", "weights.safetensors"),
    ],
)
def test_what_a_stage_made_is_taken_only_as_it_was_written(
    damage, stage, made, signed, short, tmp_path
):
    if not signed and damage in (edited, with_a_flipped_bit):
        pytest.skip("the version before left nothing to tell it by")
    folder, model = shutil.copytree(short, tmp_path / "plan"), tiny_model()
    expected = run(model, SHORT, folder)
    damage(folder / stage / made)
    if not signed:
        (folder / stage / "digest.json").unlink()
    words = rf"{stage}/{made} is not as this plan wrote it: remove .*/{stage}, and the same call"
    with pytest.raises(ValueError, match=words):
        run(tiny_model(), SHORT, folder)
    shutil.rmtree(folder / stage)
    again = tiny_model()
    assert run(again, SHORT, folder).schedule == expected.schedule
    assert same_weights(weights(again), weights(model))


@pytest.fixture
def gives_a_schedule(monkeypatch):
    """A method that has no factors for a search to start from."""
    monkeypatch.setitem(METHODS, "follows", METHODS["dynamic_ntk"])


TUNED = (Formula(2 * WINDOW), FineTune(2 * WINDOW, RECIPE))
FOREIGN = Document("foreign", np.full(3 * WINDOW, VOCABULARY))


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        (
            Search(3 * WINDOW, Gradient(steps=1), documents=1, attention_factors=(2, 1)),
            {},
            "Search at 192 tokens: attention_factors is",
        ),
        ("follows", {}, "Search at 192 tokens: the method 'follows' gives a schedule"),
        (
            FineTune(2 * WINDOW, dataclasses.replace(RECIPE, lora_rank=2, lora_modules=("qkv",))),
            {},
            "FineTune at 128 tokens: the model has no linear layers named qkv",
        ),
        (
            Search(3 * WINDOW, GRADIENT, documents=1),
            {"search_docs": [FOREIGN]},
            "Search at 192 tokens: token id 97 is outside the model's vocabulary of 97",
        ),
        (
            Formula(3 * WINDOW),
            {"train_docs": [FOREIGN]},
            "FineTune at 128 tokens: token id 97 is outside",
        ),
    ],
)
@pytest.mark.usefixtures("gives_a_schedule")
def test_what_a_later_stage_will_do_is_checked_before_the_first(stage, changes, words, tmp_path):
    if stage == "follows":
        stage = Search(3 * WINDOW, Gradient(steps=1, initial=stage), documents=1)
    with pytest.raises(ValueError, match=words):
        run(tiny_model(), Plan((*TUNED, stage)), tmp_path / "plan", **changes)
    assert not (tmp_path / "plan").exists()


def test_documents_for_needles_are_looked_for_before_anything_runs(tmp_path):
    needles = dataclasses.replace(RECIPE, needle_share=0.5)
    plan = Plan((Formula(5 * WINDOW), FineTune(5 * WINDOW, needles)))
    words = "FineTune at 320 tokens: none of the 5 documents has 320 tokens to hide needles in"
    with pytest.raises(ValueError, match=words):
        run(tiny_model(), plan, tmp_path / "plan")
    assert not (tmp_path / "plan").exists()
