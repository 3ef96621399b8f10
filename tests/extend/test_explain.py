"""What a plan will cost, said beforehand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers
from conftest import tiny_model
from torch.utils.flop_counter import FlopCounterMode

from longrope_lab.extend import explain as explaining
from longrope_lab.extend.plan import Plan
from longrope_lab.extend.ready import PLANS
from longrope_lab.extend.recipe import Recipe
from longrope_lab.extend.stages import FineTune, Formula, Search
from longrope_lab.models.estimates import forward_flops, peak_bytes
from longrope_lab.searches.random import Random

RESULTS = Path(__file__).parents[2] / "results"


def on_meta(**fields):
    config = transformers.LlamaConfig(**fields)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


LLAMA2_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "vocab_size": 32_000,
}
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {}),  # two heads per key
        ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
        ("qwen3", {}),  # heads that are together wider than the model
        ("gpt_neox", {}),
    ],
)
def test_flops_are_those_that_torch_counts(family, fields):
    # Eager attention, whose products torch counts, computes the future too: half of it is what
    # causal kernels skip.
    model = transformers.AutoModelForCausalLM.from_config(
        tiny_model(family, **fields).config, attn_implementation="eager"
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, 128, dtype=torch.long))
    counts = {
        str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()
    }
    attention = counts.pop("aten.bmm")
    assert forward_flops(model, 128) == pytest.approx(
        sum(counts.values()) + attention / 2, rel=1e-3
    )


def test_peak_memory_is_near_what_smollm2_took_on_a_gpu():
    model, gib = on_meta(**SMOLLM2), 2**30
    weights = sum(p.numel() for p in model.parameters())

    def measured(table, index):
        return pd.read_csv(RESULTS / "gpu/90_cost" / table).set_index(index)["peak_gib"]

    def estimated(length, held, **options):
        """Without the weights and moments, which were there before."""
        return (peak_bytes(model, length, **options) - held) / gib

    scoring = measured("scoring.csv", "length")
    for length in (8192, 32_768, 65_536, 131_072, 262_144):  # longer: before texts went in pieces
        found = estimated(length, 2 * weights, backward=False)
        assert found == pytest.approx(scoring[length], rel=0.1)
    gradient = measured("searching.csv", "search")["gradient"]
    assert estimated(16_384, 2 * weights, backward=True) == pytest.approx(gradient, rel=0.1)
    # In float32, with two moments; what a layer takes on top is estimated generously.
    training = measured("training.csv", "length")[65_536]
    found = estimated(65_536, 12 * weights, backward=True, trained=weights)
    assert found == pytest.approx(training, rel=0.12)


def test_the_papers_plan_is_explained_without_the_weights():
    table = PLANS["paper_llama2"].explain(on_meta(**LLAMA2_7B)).set_index("stage")
    assert list(table.index) == list(PLANS["paper_llama2"].named)
    assert table["seconds"].isna().all()  # nothing can run
    tokens = table["forward_tokens"]
    # 64 individuals, then 40 rounds of 32, on five documents; half of each, on three, from 512k.
    assert tokens["00_search_131072"] == (64 + 40 * 32) * 5 * 131_072
    assert tokens["04_search_2097152"] == (32 + 40 * 16) * 3 * 2_097_152
    # Inside the window the formulas are all the same, and some of their mutations too.
    assert 0.95 < tokens["05_recover_4096"] / ((64 + 40 * 32) * 5 * 4096) <= 1
    assert tokens["02_finetune_131072"] == 4 * 400 * 32 * 131_072
    # One pass over 256k tokens, by hand: 32 layers of 202 million weights and the head, then
    # attention over half.
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11_008) + 4096 * 32_000
    one = 2 * 262_144 * weights + 32 * 2 * 2 * 4096 * 262_144**2 / 2
    assert one == pytest.approx(2.15e16, rel=0.01)
    assert table["exaflops"]["01_search_262144"] == pytest.approx(1344 * 5 * one / 1e18)
    peak = table["peak_gib"]
    assert 12.6 < peak["05_recover_4096"] < 15  # 6.7 billion weights in 16 bits, and little more
    assert peak["00_search_131072"] < 80 < peak["02_finetune_131072"]
    # In float32, with a gradient and two moments.
    assert peak["02_finetune_131072"] > 16 * 6.7e9 / 2**30


def test_low_rank_updates_formulas_and_short_segments_cost_less():
    model = on_meta(**LLAMA2_7B)

    def peak(length=65_536, **recipe):
        plan = Plan((Formula(65_536, "yarn"), FineTune(65_536, Recipe(**recipe), segment=length)))
        table = plan.explain(model)
        assert list(table.loc[0, ["forward_tokens", "exaflops", "peak_gib"]]) == [0, 0, 0]
        assert "yarn, a formula" in table.loc[0, "does"]
        return table.loc[1, "peak_gib"]

    gradient_and_moments = 12 / 2**30  # per trained weight
    # Of four projections; the embedding; the norms.
    low_rank = 32 * 8 * 4 * (4096 + 4096) + 4096 * 32_000 + (2 * 32 + 1) * 4096
    saved = (6_738_415_616 - low_rank) * gradient_and_moments
    assert peak() - peak(lora_rank=8) == pytest.approx(saved, rel=1e-6)
    assert peak(16_384) < peak()


def test_segments_read_short_cost_what_their_pieces_do():
    """Of seven segments two: 262,144 tokens in 64 pieces of 4,096 each."""
    model = on_meta(**LLAMA2_7B)
    plan = Plan(
        (
            Formula(262_144, "yarn"),
            FineTune(262_144, Recipe(steps=7, batch=1, warmup=0, short_share=1 / 3)),
        )
    )
    does, tokens, exaflops = plan.explain(model).loc[1, ["does", "forward_tokens", "exaflops"]]
    assert does.endswith(
        "at the factors for 262,144 tokens; 2 segments of 7 in pieces of the window, unscaled"
    )
    assert tokens == 4 * 7 * 262_144
    expected = 4 * (5 * forward_flops(model, 262_144) + 2 * 64 * forward_flops(model, 4096))
    assert exaflops == pytest.approx(expected / 1e18)


def test_more_heads_of_keys_and_a_larger_vocabulary_take_more():
    few, many = (on_meta(**SMOLLM2 | {"num_key_value_heads": heads}) for heads in (3, 9))
    wide = on_meta(**SMOLLM2 | {"vocab_size": 4 * 49_152})
    assert forward_flops(few, 1024) < forward_flops(many, 1024) < forward_flops(wide, 1024)
    assert peak_bytes(few, 65_536, backward=True) < peak_bytes(many, 65_536, backward=True)
    held = 2 * 3 * 49_152 * 576  # more weights
    logits = 1024 * 3 * 49_152 * (2 + 4)  # more logits in 16 and 32 bits, at the least
    assert (
        peak_bytes(wide, 4096, backward=False) - peak_bytes(few, 4096, backward=False)
        >= held + logits
    )


def test_a_recipe_that_the_model_cannot_take_is_told_beforehand():
    plan = Plan((Formula(512), FineTune(512, Recipe(lora_rank=2))))
    with pytest.raises(ValueError, match="FineTune at 512 tokens: the model has no linear layers"):
        plan.explain(tiny_model("gpt_neox"))


def test_it_prints_itself_in_fitting_units_with_totals():
    recipe = Recipe(steps=100, batch=1, warmup=0)
    plan = Plan((Formula(262_144, "yarn"), FineTune(262_144, recipe)))
    table = plan.explain(on_meta(**LLAMA2_7B))
    header, *rows = str(table).splitlines()
    assert header.split() == ["stage", "tokens", "work", "time", "memory"]
    assert rows[0].split() == ["00_formula_262144", "-", "-", "?", "-"]
    assert rows[1] == "  yarn, a formula, from the model as it is"
    # One pass over 256k tokens takes 21.5 PFLOP, as above; a step of one segment counts as four.
    cost = ["105", "M", "8.59", "EFLOP", "?", "380", "GiB"]
    assert rows[2].split() == ["01_finetune_262144", *cost]
    assert rows[3] == "  100 steps of 1 segment, at the factors for 262,144 tokens"
    assert rows[4].split() == ["total", *cost]
    assert all(words in table._repr_html_() for words in ["8.59 EFLOP", rows[3].strip(), "total"])


@pytest.mark.parametrize("name", PLANS)
def test_it_fits_a_terminal_of_80_columns(name):
    assert (
        max(
            map(
                len,
                str(
                    PLANS[name].explain(on_meta(**SMOLLM2 | {"max_position_embeddings": 512}))
                ).splitlines(),
            )
        )
        <= 80
    )


def test_seconds_are_operations_at_the_pace_of_a_short_pass(monkeypatch):
    model, timed = tiny_model("llama"), []
    pace = lambda model, length: timed.append(length) or 1000.0  # noqa: E731
    monkeypatch.setattr(explaining, "operations_per_second", pace)
    plan = Plan((Search(128, Random(candidates=3), documents=2),))
    (seconds,) = plan.explain(model)["seconds"]
    assert seconds == pytest.approx(3 * 2 * forward_flops(model, 128) / 1000)
    assert timed == [64]  # the window, which is shorter than 512 tokens


def test_a_pass_is_timed_for_real():
    (seconds,) = Plan((Search(128, Random(candidates=3)),)).explain(tiny_model("llama"))["seconds"]
    assert 0 < seconds < 3600
