"""Plans as data, what they cost, and whole runs on a tiny model: each stage, each kill, each refusal."""

import dataclasses
import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import VOCABULARY, WINDOW, tiny_model
from torch.utils.flop_counter import FlopCounterMode

import longrope_lab as lab
from longrope_lab.extend.finetune import finetune
from longrope_lab.extend.plan import Plan
from longrope_lab.extend.progressive import progressive
from longrope_lab.extend.ready import PLANS
from longrope_lab.extend.recipe import RECIPES, Recipe
from longrope_lab.extend.stages import FineTune, Recover, Search
from longrope_lab.models.estimates import forward_flops, peak_bytes
from longrope_lab.models.forward import token_losses
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import METHODS, register_method, rope_scaling
from longrope_lab.rope.scaling import RopeScaling, compose
from longrope_lab.rope.schedule import RopeSchedule
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.searches import Evolution, Gradient, Random, SearchSpace, WorkerProcesses, search
from longrope_lab.searches.objective import Objective
from longrope_lab.texts.tokens import Document

module = importlib.import_module(
    "longrope_lab.extend.progressive"
)  # the package's own name `progressive` is the function

ROOT = Path(__file__).parents[2]
TOKENIZER = SimpleNamespace(bos_token_id=1, eos_token_id=2)
DOCS = [
    Document(f"book {i}", np.random.default_rng(i).integers(3, VOCABULARY, length))
    for i, length in enumerate((200, 300, 130, 256, 280))
]
LONG, FIRST_TWO_LONG = 4 * WINDOW, [DOCS[1], DOCS[3]]
RECIPE = Recipe(steps=3, batch=2, learning_rate=2e-3, warmup=1, save_every=1)
EVOLUTION = Evolution(population=5, mutations=2, crossovers=1, top=3, rounds=1)
GRADIENT = Gradient(steps=3, validate_every=2, learning_rate=0.3)
DOWN = Gradient(steps=3, validate_every=3, learning_rate=0.3, initial="high")
# As the paper's: two searches before the fine-tunings, one on top of them, two recoveries.
PAPERS = Plan(
    (
        Search(2 * WINDOW, EVOLUTION, documents=2),
        Search(3 * WINDOW, GRADIENT, documents=3, attention_factors=(1.0, 1.4)),
        FineTune(2 * WINDOW, RECIPE),
        FineTune(3 * WINDOW, dataclasses.replace(RECIPE, lora_rank=2), segment=WINDOW),
        Search(LONG, GRADIENT, documents=2),
        Recover(WINDOW, Evolution(8, 3, 3, top=4, rounds=2, initial=("high",)), documents=1),
        Recover(2 * WINDOW, DOWN, documents=1, free_attention_factor=True),
    )
)


def run(model, plan, folder, **changes):
    settings = {"train_docs": DOCS, "search_docs": DOCS, "seed": 5} | changes
    return progressive(model, TOKENIZER, plan, folder, **settings)


def weights(model):
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def mean_loss(model, scaling, docs, length):
    with apply_scaling(model, scaling, length=length):
        return np.mean(
            [token_losses(model, doc.ids[:length]).double().mean().item() for doc in docs]
        )


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """The paper's plan, run once: the model before and after, the folder, and what came back."""
    torch.set_num_threads(1)
    model, folder = tiny_model(), tmp_path_factory.mktemp("papers") / "plan"
    done = run(model, PAPERS, folder)
    return SimpleNamespace(model=model, folder=folder, done=done, weights=weights(model))


# --- plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plan(()), "needs at least one stage"),
        (
            lambda: Plan((Search(256), Search(128))),
            "Search at 128 tokens follows one at 256: lengths must rise",
        ),
        (lambda: Plan((Search(128), Search(128))), "lengths must rise"),
        (
            lambda: Plan((Search(128), Search(256), FineTune(256), FineTune(128))),
            "FineTune at 128 tokens follows one at 256: lengths must not fall",
        ),
        (
            lambda: Plan((Search(128), FineTune(256))),
            r"no search for that length .* searched are \[128\]",
        ),
        (lambda: Plan((FineTune(128),)), "searched are none"),
        (lambda: Plan((Recover(64),)), "Recover at 64 tokens: it needs a search for a longer text"),
        (lambda: Plan((Search(128), Recover(128))), "needs a search for a longer text"),
        (lambda: Plan((Search(128), Recover(64), Recover(64))), "in the plan twice"),
        (
            lambda: Plan((Search(128), Recover(64), FineTune(128))),
            "FineTune at 128 tokens follows a recovery",
        ),
        (lambda: Plan((Search(128), Recover(64), Search(256))), "recoveries come last"),
        (lambda: Search(128, "yarm"), "did you mean 'yarn'"),
        (lambda: Search(128, "gradent"), "did you mean 'gradient'"),
        (lambda: Search(128, "pi", attention_factors=(1.0, 1.2)), "'pi' is a formula"),
        (
            lambda: Search(128, "pi", keep_rotations=32),
            "keep_rotations is for a search, and 'pi' is a formula",
        ),
        (lambda: Search(128, keep_rotations=0), "keep_rotations is 0: it counts turns"),
        (lambda: Search(128.5), "length of Search is 128.5: it must be a whole number from 2"),
        (lambda: Search(128, documents=0), "documents of Search is 0"),
        (lambda: Search(128, on_top_of=1), "on_top_of of Search is 1"),
        (
            lambda: Plan((Search(128), Search(256, on_top_of=64))),
            r"Search at 256 tokens, on top of 64: name one of the searches before it.*; these are \[128\]",
        ),
        (lambda: Plan((Search(128, on_top_of=128),)), "these are none"),
        (
            # Weights that were trained at the factors for 256 tokens are not those for 128 any
            # more.
            lambda: Plan((Search(128), Search(256), FineTune(256), Search(512, on_top_of=128))),
            r"no shorter than the last fine-tuning; these are \[256\]",
        ),
        (lambda: Recover(1), "length of Recover is 1"),
        (lambda: Recover(64, "pi"), "unknown search method 'pi'"),
        (lambda: FineTune(128, "lama2"), "did you mean 'llama2'"),
        (lambda: FineTune(128, segment=256), "segment of 256 tokens is longer than the 128"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_when_it_is_written(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_names_stand_for_the_settings_of_searches_and_recipes():
    assert Search(128, "gradient") == Search(128, Gradient())
    assert Recover(64, "random") == Recover(64, Random())
    assert FineTune(128, "small") == FineTune(128, RECIPES["small"])
    assert Search(128, "pi").method == "pi"
    # A length out of an array is the same plan, in the folder's words too.
    assert repr(Search(np.int64(128), "pi")) == repr(Search(128, "pi"))


def test_the_papers_plans_are_what_section_4_1_says():
    llama = PLANS["paper_llama2"].stages
    assert [(type(s).__name__, s.length // 1024) for s in llama] == [
        ("Search", 128),
        ("Search", 256),
        ("FineTune", 128),
        ("FineTune", 256),
        ("Search", 2048),
        ("Recover", 4),
        ("Recover", 8),
    ]
    assert [s.recipe.steps for s in llama if isinstance(s, FineTune)] == [400, 600]
    assert all(
        (s.recipe.batch, s.recipe.learning_rate) == (32, 2e-5)
        for s in llama
        if isinstance(s, FineTune)
    )
    assert llama[0].method == Evolution() and (llama[0].documents, llama[4].documents) == (5, 3)
    assert llama[4].method.population == 32
    mistral = [s for s in PLANS["paper_mistral"].stages if isinstance(s, FineTune)]
    assert all(
        (s.recipe.batch, s.recipe.learning_rate, s.recipe.decay) == (64, 1e-6, "constant")
        for s in mistral
    )
    assert all((s.recipe.steps, s.segment) == (400, 16_384) for s in mistral)


def test_every_known_plan_fits_its_model():
    windows = {"paper_llama2": 4096, "paper_mistral": 8192, "smollm2": 8192, "lab": 512}
    assert windows.keys() <= PLANS.keys()
    for name, plan in PLANS.items():
        plan.check(RopeSpec(64, windows.get(name, 512), base=10_000.0))


def test_the_baseline_of_a_plan_is_fine_tuned_the_same_way():
    assert PAPERS.by_formula("pi") == Plan(
        (
            Search(2 * WINDOW, "pi"),
            Search(3 * WINDOW, "pi"),
            FineTune(2 * WINDOW, RECIPE),
            FineTune(3 * WINDOW, dataclasses.replace(RECIPE, lora_rank=2), segment=WINDOW),
            Search(LONG, "pi"),
        )
    )
    with pytest.raises(ValueError, match="did you mean 'yarn'"):
        PAPERS.by_formula("yarm")


def test_the_documents_that_a_plan_searches_on(tmp_path, cache):
    """Of each length as many as the stage takes, in the corpus's order, none twice; none for a formula or training."""
    (tmp_path / "texts").mkdir()
    for name, words in {"a": 100, "b": 300, "c": 150, "d": 500, "e": 120, "f": 90}.items():
        (tmp_path / "texts" / name).mkdir()
        (tmp_path / "texts" / name / "text.txt").write_text("word " * words)
    plan = Plan(
        (
            Search(128, EVOLUTION, documents=2),
            Search(256, "yarn"),
            FineTune(256, RECIPE),
            Search(400, GRADIENT, documents=1),
            Recover(64, DOWN, documents=3),
        )
    )
    source = tmp_path / "texts/*/*.txt"
    found = plan.search_documents(source, Words())
    assert [(doc.title, len(doc)) for doc in found] == [("text", n) for n in (300, 150, 500, 100)]
    assert plan.by_formula("pi").search_documents(source, Words()) == []
    longer = Plan((*plan.stages[:3], Search(500, GRADIENT, documents=2)))
    with pytest.raises(
        ValueError, match=r"^Search at 500 tokens: 1 of the 6 documents of .* 2 were asked for"
    ):
        longer.search_documents(source, Words())


class Words:
    """A tokenizer whose token is a word."""

    name_or_path, vocab_size = "words", 100

    def __call__(self, text, verbose):
        return {"input_ids": [len(word) for word in text.split()]}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            Plan((Search(128, "pi"), Recover(32))),
            "Recover at 32 tokens: target_length 32 is shorter than the window",
        ),
        (Plan((Search(32, "pi"),)), "Search at 32 tokens: .* shorter than the window of 64"),
        (Plan((Search(128, "dynamic_ntk"),)), "'dynamic_ntk' gives a schedule"),
        (Plan((Search(128, "longrope"),)), "'longrope' has no formula"),
        (
            Plan((Search(384, EVOLUTION, documents=1),)),
            r"takes 1 documents of that length, and 0 of the 5 in search_docs have it \(the longest has 300\)",
        ),
        (
            Plan((Search(128, "pi"), Search(1280, "pi"), FineTune(1280))),
            "FineTune at 1,280 .* one segment of length",
        ),
        (
            Plan((Search(128, "pi"), FineTune(128, Recipe(short_share=0.5), segment=127))),
            "FineTune at 128 tokens: short_share is 0.5, and segments of 127 tokens do not hold two",
        ),
    ],
)
def test_a_plan_that_does_not_fit_model_or_documents_is_refused_before_anything_runs(
    tmp_path, plan, message
):
    model = tiny_model()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        run(model, plan, tmp_path / "plan")
    assert not (tmp_path / "plan").exists() and same_weights(weights(model), before)
    if "documents" not in message and "one segment" not in message:
        with pytest.raises(ValueError, match=message):
            plan.explain(model)


def test_an_unknown_plan_offers_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'smollm2'"):
        run(tiny_model(), "smollm", tmp_path)


# --- what it costs --------------------------------------------------------------------------------------------------


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
        ("llama", {}),  # two heads a key
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
    held = 2 * sum(p.numel() for p in model.parameters())
    measured = pd.read_csv(ROOT / "results/gpu/90_cost/scoring.csv").set_index("length")["peak_gib"]
    for length in (8192, 32_768, 65_536, 131_072, 262_144, 524_288):
        assert (peak_bytes(model, length, backward=False) - held) / gib == pytest.approx(
            measured[length], rel=0.1
        )
    gradient = pd.read_csv(ROOT / "results/gpu/90_cost/searching.csv").set_index("search")[
        "peak_gib"
    ]["gradient"]
    assert (peak_bytes(model, 16_384, backward=True) - held) / gib == pytest.approx(
        gradient, rel=0.1
    )
    training = pd.read_csv(ROOT / "results/gpu/90_cost/training.csv").set_index("length")[
        "peak_gib"
    ][65_536]
    weights = sum(
        p.numel() for p in model.parameters()
    )  # in float32, with two moments, both there before
    estimate = peak_bytes(model, 65_536, backward=True, trained=weights) - 12 * weights
    assert estimate / gib == pytest.approx(
        training, rel=0.12
    )  # what a layer takes on top is estimated generously


def test_the_papers_plan_is_explained_without_the_weights():
    table = PLANS["paper_llama2"].explain(on_meta(**LLAMA2_7B)).set_index("stage")
    assert list(table.index) == list(PLANS["paper_llama2"].named)
    tokens = table["forward_tokens"]
    # 64 individuals, then 40 rounds of 32, on five documents; half of each, on three, from 512k.
    assert tokens["00_search_131072"] == (64 + 40 * 32) * 5 * 131_072
    assert tokens["04_search_2097152"] == (32 + 40 * 16) * 3 * 2_097_152
    # Inside the window the formulas are all the same, and some of their mutations too.
    assert 0.95 < tokens["05_recover_4096"] / ((64 + 40 * 32) * 5 * 4096) <= 1
    assert tokens["02_finetune_131072"] == 4 * 400 * 32 * 131_072
    # One pass over 256k tokens by hand: 32 layers of 202 million weights and the head, then
    # attention over half.
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11_008) + 4096 * 32_000
    one = 2 * 262_144 * weights + 32 * 2 * 2 * 4096 * 262_144**2 / 2
    assert one == pytest.approx(2.15e16, rel=0.01)
    assert table["exaflops"]["01_search_262144"] == pytest.approx(1344 * 5 * one / 1e18)
    peak = table["peak_gib"]
    assert 12.6 < peak["05_recover_4096"] < 15  # 6.7 billion weights in 16 bits, and little more
    assert peak["00_search_131072"] < 80 < peak["02_finetune_131072"]
    assert (
        peak["02_finetune_131072"] > 16 * 6.7e9 / 2**30
    )  # in float32 with a gradient and two moments


def test_low_rank_updates_formulas_and_short_segments_cost_less():
    model = on_meta(**LLAMA2_7B)

    def peak(length=65_536, **recipe):
        plan = Plan((Search(65_536, "yarn"), FineTune(65_536, Recipe(**recipe), segment=length)))
        table = plan.explain(model)
        assert list(table.loc[0, ["forward_tokens", "exaflops", "peak_gib"]]) == [0, 0, 0]
        assert "yarn, a formula" in table.loc[0, "does"]
        return table.loc[1, "peak_gib"]

    gradient_and_moments = 12 / 2**30  # bytes a trained weight
    low_rank = (
        32 * 8 * 4 * (4096 + 4096) + 4096 * 32_000 + (2 * 32 + 1) * 4096
    )  # of four projections; norms, embedding
    saved = (6_738_415_616 - low_rank) * gradient_and_moments
    assert peak() - peak(lora_rank=8) == pytest.approx(saved, rel=1e-6)
    assert peak(16_384) < peak()


def test_segments_read_short_cost_what_their_pieces_do():
    """Of seven segments two: 262,144 tokens in 64 pieces of 4,096 each."""
    model = on_meta(**LLAMA2_7B)
    plan = Plan(
        (
            Search(262_144, "yarn"),
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


def test_what_is_explained_is_what_runs(papers):
    table = PAPERS.explain(tiny_model()).set_index("stage")
    assert (
        list(table.index)
        == [folder.name for folder in papers.done.folders]
        == list(papers.done.histories)
    )
    for name, history in papers.done.histories.items():
        forwards = (
            4 if "finetune" in name else 1
        )  # a fine-tuning's history counts the tokens of its segments
        ran = forwards * history["tokens"].iloc[-1]
        if (
            name == "05_recover_64"
        ):  # the evolution tries nothing twice, and finds one child less that is new
            assert 0.9 * table["forward_tokens"][name] <= ran <= table["forward_tokens"][name]
        else:
            assert table["forward_tokens"][name] == ran, name
    words = table["does"]
    assert (
        words["00_search_128"]
        == "evolution search, 8 trials on 2 documents, from the model as it is"
    )
    assert (
        words["03_finetune_192"]
        == "3 steps of 2 segments, low-rank updates of rank 2, at the factors for 192 tokens"
    )
    assert (
        words["04_search_256"]
        == "gradient search, 6 trials on 2 documents, on top of the factors for 192 tokens"
    )
    assert (
        words["06_recover_128"] == "gradient search, 5 trials on 1 document, below the last factors"
    )


# --- running --------------------------------------------------------------------------------------------------------


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
            found = {**done.scalings} if isinstance(stage, Search) else done.recovered
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
    """The model is as they leave it, nothing counts as done that is not, and a later call goes on."""
    model, plain = tiny_model(), tiny_model()
    first = run(model, PAPERS, tmp_path / "plan", stages=3)
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
    run(model, PAPERS, tmp_path / "plan", stages=3)
    assert same_weights(weights(model), weights(plain))


@pytest.mark.parametrize("stages", [0, -1, 8, 2.5])
def test_a_number_of_stages_that_a_plan_does_not_have(tmp_path, stages):
    with pytest.raises(
        ValueError,
        match=rf"stages is {stages}: the plan has 7, and from 1 to all of them can be run",
    ):
        run(tiny_model(), PAPERS, tmp_path / "plan", stages=stages)
    assert not (tmp_path / "plan").exists()


def test_roads_taken_by_workers(tmp_path, monkeypatch):
    """They load the model themselves; a later call finds all done, and gets the same weights."""
    torch.set_num_threads(1)  # as in a worker
    alone = tiny_model()
    plans = {"yarn": SHORT, "pi": SHORT.by_formula("pi")}
    expected = run(alone, SHORT, tmp_path / "alone")
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
    assert same_weights(weights(model), weights(alone))


class Killed(BaseException):
    """What no code catches, as no code catches a kill."""


def test_a_plan_killed_in_every_stage_ends_as_if_it_had_not_been(papers, tmp_path, monkeypatch):
    disk_full = OSError(28, "No space left on device")
    kills = [  # the method that dies, after how many calls, of what, what comes out, and the stage it happens in
        (Objective, "measure", 3, Killed(), Killed, "00_search_128"),
        (
            Objective,
            "measure",
            6,
            KeyboardInterrupt(),
            KeyboardInterrupt,
            "01_search_192",
        ),  # 5 were left of the first
        (transformers.Trainer, "training_step", 3, Killed(), Killed, "02_finetune_128"),
        (module, "save_model", 0, disk_full, RuntimeError, "02_finetune_128"),
        (transformers.Trainer, "training_step", 4, Killed(), Killed, "03_finetune_192"),
        (Objective, "measure", 2, Killed(), Killed, "04_search_256"),
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


SHORT = Plan((Search(2 * WINDOW, "yarn"), FineTune(2 * WINDOW, RECIPE), Search(LONG, "pi")))


@pytest.mark.parametrize(
    ("plan", "changes", "message"),
    [
        (SHORT.by_formula("pi"), {}, "stage 0: .*yarn.* there, .*pi.* here"),
        (Plan((*SHORT.stages, Search(5 * WINDOW, "pi"))), {}, "stage 3: None there, Search"),
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


# --- formulas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "pi", "ntk", "yarn", "mine"])
def test_a_formula_is_measured_by_nobody_and_multiplies_what_is_tuned(name, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "mine", None)
    register_method("mine")(
        lambda spec, length: RopeScaling(spec, np.full(spec.rotary_dim // 2, 1.5), length, "mine")
    )
    monkeypatch.setattr(module, "search", None)
    monkeypatch.setattr(
        module, "finetune", lambda *args, **kwargs: None
    )  # the weights do not matter here
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
    plan = Plan((Search(128, EVOLUTION, documents=1), FineTune(128, RECIPE), Search(256, "yarn")))
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
    mixed = dataclasses.replace(
        RECIPE, batch=1, short_share=0.5
    )  # all of the control's segments are short
    slower = dataclasses.replace(RECIPE, batch=1, learning_rate=1e-4, decay="constant")
    plan = Plan(
        (Search(128, "pi"), FineTune(128, mixed), Search(256, "pi"), FineTune(256, slower))
    ).control(WINDOW)
    recipes = [dataclasses.replace(RECIPE, batch=2), dataclasses.replace(slower, batch=4)]
    assert plan == Plan((Search(WINDOW, "none"), *(FineTune(WINDOW, recipe) for recipe in recipes)))
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


def test_the_control_trains_on_as_many_tokens():
    """In each fine-tuning, and in each of its steps; section 4.1's, from 4k to 128k and 256k."""
    plan = PLANS["paper_llama2"]
    once, again = (stage.recipe for stage in plan.control(4096).stages[1:])
    assert once == dataclasses.replace(plan.stages[2].recipe, steps=400, batch=32 * 131_072 // 4096)
    assert again == dataclasses.replace(
        plan.stages[3].recipe, steps=600, batch=32 * 262_144 // 4096
    )
    mistral = PLANS["paper_mistral"].control(8192).stages[1:]  # whose segments have 16k tokens
    assert [(stage.recipe.batch, stage.recipe.steps) for stage in mistral] == [(128, 400)] * 2
    warmed = FineTune(96, Recipe(steps=3, batch=1, warmup=2))  # 2 steps of 2 windows, all warm-up
    assert Plan((Search(96, "pi"), warmed)).control(64).stages[1].recipe.steps == 3
    with pytest.raises(ValueError, match="no FineTune"):
        Plan((Search(128, "pi"),)).control(64)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_ready_plan_has_a_control_of_its_tokens(plan):
    trained, control = (
        [s.tokens for s in p.stages if isinstance(s, FineTune)] for p in (plan, plan.control(512))
    )
    whole = all(tokens % 512 == 0 for tokens in trained)
    assert control == (
        trained if whole else pytest.approx(trained, rel=0.13)
    )  # 576 tokens are not windows of 512


def test_a_plan_without_fine_tuning_leaves_the_weights(tmp_path):
    model = tiny_model()
    before = weights(model)
    plan = Plan(
        (
            Search(128, "random", documents=2),
            Search(256, GRADIENT, documents=1),
            Recover(64, DOWN, 1),
        )
    )
    plan = Plan((dataclasses.replace(plan.stages[0], method=Random(4)), *plan.stages[1:]))
    done = run(model, plan, tmp_path / "plan", train_docs=())
    assert same_weights(weights(model), before) and done.tuned is None
    # The second search starts from the window again, for nothing was trained at the first one's
    # factors.
    assert done.scalings[256] == search(model, [DOCS[1]], 256, GRADIENT, seed=6).best
    assert list(done.recovered) == [64]


def test_a_search_goes_on_from_an_earlier_one_where_the_plan_says_so(tmp_path):
    plan = Plan(
        (
            Search(2 * WINDOW, "yarn"),
            FineTune(2 * WINDOW, RECIPE),
            Search(3 * WINDOW, GRADIENT, documents=2, attention_factors=(1.0, 1.5)),
            Search(LONG, GRADIENT, documents=2, attention_factors=(1.0, 1.5), on_top_of=3 * WINDOW),
            Search(5 * WINDOW, "pi", on_top_of=LONG),
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
    assert [stage.on_top_of for stage in formula.stages if isinstance(stage, Search)] == [None] * 4


def test_fast_dimensions_keep_what_they_have(tmp_path):
    spec = rope_spec(tiny_model())
    keep = float(np.sqrt(spec.rotations[1] * spec.rotations[2]))  # between two dimensions
    plan = Plan(
        (
            Search(2 * WINDOW, "ntk"),
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


def test_the_public_names_are_exported():
    assert (lab.progressive, lab.Plan, lab.PLANS) == (progressive, Plan, PLANS)
    assert (lab.Search, lab.FineTune, lab.Recover) == (Search, FineTune, Recover)
