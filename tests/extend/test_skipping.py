"""Segments whose positions skip, so that the weights learn distances beyond a segment."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from conftest import VOCABULARY, WINDOW, tiny_model
from finetuning import DOCS, LENGTH, RECIPE, ROWS, TOKENIZER, gradients_to_come, tune
from hypothesis import given
from hypothesis import strategies as st

from longrope_lab.extend.finetune import finetune
from longrope_lab.extend.plan import Plan
from longrope_lab.extend.recipe import Recipe
from longrope_lab.extend.segments import MOST_SKIPS, TrainingOrder, skipping_positions
from longrope_lab.extend.stages import FineTune, Formula
from longrope_lab.models.forward import hidden_states
from longrope_lab.models.positions import given_positions
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.models.stand_in import StandIn
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.schedule import RopeSchedule

TARGET = 16 * WINDOW


def at_once(model, row, positions):
    """The loss by transformers, which is told the positions; with a mask, or it would see jumps as
    where another text begins."""
    told = {"position_ids": positions[None], "attention_mask": torch.ones_like(row)[None]}
    logits = model(row[None], use_cache=False, **told).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, row[1:])


@given(st.integers(2, 300), st.integers(0, 5000), st.integers(0, 2**32))
def test_positions_that_skip(tokens, more, seed):
    """They rise from 0 to the last before the target, in parts that have none missing."""
    positions = skipping_positions(tokens, tokens + more, np.random.default_rng(seed))
    steps = np.diff(positions)
    assert positions.shape == (tokens,) and positions[0] == 0
    assert steps.min() >= 1 and positions[-1] == tokens + more - 1
    assert (steps > 1).sum() <= min(MOST_SKIPS, tokens - 1)


def test_skips_reach_every_distance():
    rng = np.random.default_rng(0)
    seen = {int(skipping_positions(64, 1024, rng)[n]) for n in [*range(1, 64)] * 20}
    assert all(seen & {*range(start, start + 100)} for start in range(0, 1000, 100))
    counts = {(np.diff(skipping_positions(64, 10**6, rng)) > 1).sum() for _ in range(400)}
    assert counts == {*range(1, MOST_SKIPS + 1)}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "phi3"])
def test_positions_are_those_that_transformers_is_told(family):
    model = tiny_model(family)
    rows = torch.randint(3, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))
    positions = torch.stack([torch.arange(40), torch.arange(40)])
    positions[0, 10:] += 300
    positions[1, 25:] += 1000
    short = rows[:, :20]
    with torch.no_grad():
        expected = [
            model.base_model(
                row[None], position_ids=p[None], attention_mask=torch.ones(1, 40), use_cache=False
            ).last_hidden_state
            for row, p in zip(rows, positions, strict=True)
        ]
        plain = hidden_states(model, short)
        with given_positions(model) as places:
            places.give(positions)
            found = hidden_states(model, rows)
            assert torch.equal(hidden_states(model, short), plain)  # of another length
            places.give(None)
            assert torch.equal(hidden_states(model, short), plain)
        assert torch.equal(hidden_states(model, rows[:, :20]), plain)
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("short", [0, 0.5])
def test_a_step_is_that_of_the_positions(short, tmp_path):
    """By transformers alone, the loss and every gradient of a step whose long segments skip."""
    recipe = dataclasses.replace(RECIPE, steps=1, batch=4, short_share=short, skip_share=0.5)
    scaled, plain = tiny_model(), tiny_model()
    scaling = rope_scaling(rope_spec(scaled), "yarn", TARGET)
    items = TrainingOrder(ROWS.numpy(), recipe, 0, WINDOW, None, TARGET)
    losses = []
    for item in (items[n] for n in range(4)):
        if short and item["short"]:
            pieces = item["input_ids"].view(-1, WINDOW)
            losses.append(torch.stack([at_once(plain, p, torch.arange(WINDOW)) for p in pieces]))
            losses[-1] = losses[-1].mean()
        else:
            with apply_scaling(scaled, scaling, length=TARGET):
                losses.append(at_once(scaled, item["input_ids"], item["positions"]))
    skipping = sum(int(items[n]["positions"][-1] >= LENGTH) for n in range(4))
    assert skipping == 2
    expected = torch.stack(losses).mean()
    expected.backward()
    model = tiny_model()
    found = gradients_to_come(model)
    table = finetune(
        model, TOKENIZER, DOCS, scaling, tmp_path / "run", length=LENGTH, recipe=recipe
    )
    assert table["loss"][0] == pytest.approx(expected.item(), rel=1e-5)
    for (name, p), q in zip(scaled.named_parameters(), plain.parameters(), strict=True):
        together = p.grad if q.grad is None else p.grad + q.grad
        torch.testing.assert_close(found[name], together, atol=1e-6, rtol=1e-3)
    assert "forward" not in vars(model.model.rotary_emb)


def test_without_room_to_skip(tmp_path):
    message = (
        r"skip_share is 0\.5, and segments of 128 tokens leave no positions to skip before the "
        "scaling's target, 128: train in shorter segments, or set skip_share=0"
    )
    with pytest.raises(ValueError, match=message):
        tune(tiny_model(), tmp_path / "run", skip_share=0.5)
    assert not (tmp_path / "run").exists()
    plan = Plan((Formula(128, "pi"), FineTune(128, Recipe(skip_share=0.5))))
    with pytest.raises(ValueError, match=f"FineTune at 128 tokens: {message}"):
        plan.check(rope_spec(tiny_model()))


def test_without_a_target(tmp_path):
    """Nothing says how far to skip: no scaling, or one whose ratio follows the length."""
    model = tiny_model()
    recipe = dataclasses.replace(RECIPE, skip_share=0.5)
    message = r"skip_share is 0\.5, and no scaling says up to which position to skip"
    for scaling in (None, rope_scaling(rope_spec(model), "dynamic_ntk", TARGET)):
        with pytest.raises(ValueError, match=message):
            finetune(model, TOKENIZER, DOCS, scaling, tmp_path, length=LENGTH, recipe=recipe)
    assert not any(tmp_path.iterdir())


def test_a_schedule_gives_each_row_the_set_for_its_farthest_position(tmp_path, monkeypatch):
    """And not the one for a segment, whose factors are for nearer positions."""
    model, seen, stock = tiny_model(), [], apply_scaling._cos_sin

    def watched(self, rows, positions, still):
        seen.extend(zip((s.target_length for s in rows), positions.amax(-1).tolist(), strict=True))
        return stock(self, rows, positions, still)

    monkeypatch.setattr(apply_scaling, "_cos_sin", watched)
    spec = rope_spec(model)
    schedule = RopeSchedule.by_length([rope_scaling(spec, "yarn", n) for n in (LENGTH, TARGET)])
    recipe = dataclasses.replace(RECIPE, steps=1, skip_share=0.5)
    finetune(model, TOKENIZER, DOCS, schedule, tmp_path / "run", length=LENGTH, recipe=recipe)
    assert {target for target, _ in seen} == {LENGTH, TARGET}
    assert all(target == (LENGTH if last < LENGTH else TARGET) for target, last in seen)


def test_local_layers_go_on_counting():
    """Those of Gemma 3 have frequencies of their own, and no jump is near."""
    model, gap = tiny_model("gemma3"), 500
    ids = torch.randint(3, VOCABULARY, (1, 40), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(40)[None] + gap * (torch.arange(40) >= 20)
    with given_positions(model) as places, torch.no_grad():
        places.give(positions)
        found = hidden_states(model, ids)
    module, stock = model.model.rotary_emb, model.model.rotary_emb.forward

    def forward(x, position_ids, layer_type):
        counted = position_ids if layer_type == "full_attention" else torch.arange(40)[None]
        return stock(x, counted, layer_type)

    told = {"position_ids": positions, "attention_mask": torch.ones(1, 40), "use_cache": False}
    with torch.no_grad():
        everywhere = model.base_model(ids, **told).last_hidden_state
        with StandIn(module, forward):
            expected = model.base_model(ids, **told).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found - everywhere).abs().max() > 0.1


def test_queries_weighed_by_position_are_refused(tmp_path):
    """Those of Ministral 3 are, and of these positions the rotary embedding alone can be told."""
    rotary = {"rope_type": "default", "rope_theta": 1e4, "llama_4_scaling_beta": 0.1}
    config = transformers.Ministral3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=WINDOW,
        rope_parameters=rotary | {"original_max_position_embeddings": WINDOW},
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    scaling = rope_scaling(rope_spec(model), "yarn", TARGET)
    recipe = dataclasses.replace(RECIPE, steps=1, skip_share=0.5)
    with pytest.raises(ValueError, match=r"Ministral3\w+ weighs queries by .* set skip_share=0"):
        finetune(model, TOKENIZER, DOCS, scaling, tmp_path, length=LENGTH, recipe=recipe)
    assert not any(tmp_path.iterdir())


def test_rounded_frequencies_are_still_warned_of(tmp_path):
    """Where nothing skips, nothing stands in for the rotary embedding."""
    model, recipe = tiny_model().to(torch.bfloat16), dataclasses.replace(RECIPE, steps=1)
    with pytest.warns(UserWarning, match="a cast has rounded this model's rotary frequencies"):
        finetune(model, TOKENIZER, DOCS, None, tmp_path, length=LENGTH, recipe=recipe)


def test_shares_that_are_all():
    """As floats, 1 - 0.8 is a little below 0.2."""
    recipe = Recipe(short_share=0.8, skip_share=0.2, needle_share=0.2)
    assert recipe.skipping_of(1000) == recipe.needles_of(1000) == 200


def test_shares_beyond_all():
    with pytest.raises(ValueError, match=r"skip_share is 0\.6 and short_share 0\.5: both are"):
        Recipe(short_share=0.5, skip_share=0.6)


@given(st.integers(0, 200), st.sampled_from([0, 0.25, 0.5, 2 / 3]), st.floats(0, 1))
def test_skipping_segments_are_spread_evenly_among_the_long(count, short, part):
    recipe = Recipe(short_share=short, skip_share=part * (1 - short))
    skipping = [recipe.skipping_of(n) for n in range(count + 1)]
    shorts = [recipe.short_of(n) for n in range(count + 1)]
    assert all(a + b in (0, 1) for a, b in zip(np.diff(skipping), np.diff(shorts), strict=True))
    assert skipping[-1] == pytest.approx(part * (1 - short) * count, abs=2)


def test_words_of_what_does_not_skip():
    """They are those of the release before, by which folders were taken."""
    assert "skip_share" not in repr(Recipe())
    assert "skip_share=0.5" in repr(Recipe(skip_share=0.5))


def test_a_plan_says_how_many_segments_skip():
    recipe = Recipe(steps=4, batch=2, warmup=0, short_share=0.5, skip_share=0.25)
    plan = Plan((Formula(TARGET, "pi"), FineTune(TARGET, recipe, segment=LENGTH)))
    does = plan.explain(tiny_model())["does"][1]
    assert does.endswith("window, unscaled; 2 segments of 8 with positions that skip")


def test_controls_and_variants_do_not_skip():
    recipe = Recipe(steps=8, batch=2, warmup=0, skip_share=0.5)
    plan = Plan((Formula(256, "pi"), FineTune(256, recipe, segment=128)))
    plans = [plan.control(64), *plan.training_variants(128, 256).values()]
    assert not any(stage.recipe.skip_share for each in plans for stage in each.trainings)
