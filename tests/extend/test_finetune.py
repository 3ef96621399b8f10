"""Fine-tuning against a plain loop over full logits, and what it must leave alone."""

from __future__ import annotations

import dataclasses
import gc
import math
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import VOCABULARY, WINDOW, tiny_config, tiny_model
from finetuning import (
    DOCS,
    LENGTH,
    RECIPE,
    ROWS,
    TOKENIZER,
    fail_at,
    gradients_to_come,
    names,
    scaling_of,
    tune,
    undisturbed,
    weights,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_lab.extend import trainer as trainer_module
from longrope_lab.extend import training_arguments as arguments_module
from longrope_lab.extend.finetune import finetune
from longrope_lab.extend.recipe import RECIPES, Recipe
from longrope_lab.extend.segments import segments
from longrope_lab.models.forward import in_float32, token_losses
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import RopeSchedule
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.texts.tokens import Document

pytestmark = pytest.mark.usefixtures("light_heap")

PI = {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": LENGTH / WINDOW}}


def full_logits(model, rows):
    """The mean loss of rows (N, T)."""
    logits = model(rows).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def rates(recipe):
    """Learning rates of the steps, in closed form."""
    for step in range(recipe.steps):
        if step < recipe.warmup:
            yield recipe.learning_rate * step / recipe.warmup
            continue
        progress = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
        shape = {
            "linear": 1 - progress,
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "constant": 1,
        }
        yield recipe.learning_rate * shape[recipe.decay]


def plain_loop(model, recipe):
    """Losses of the steps, each of all four segments, and the first one's unclipped gradient."""
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), eps=1e-8, weight_decay=0)
    losses, gradient = [], None
    for rate in rates(recipe):
        optimiser.zero_grad()
        loss = full_logits(model, ROWS)
        loss.backward()
        gradient = gradient or {name: p.grad.clone() for name, p in model.named_parameters()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        losses.append(loss.item())
    return losses, gradient


@pytest.mark.parametrize(
    ("decay", "warmup"), [("linear", 0), ("linear", 3), ("cosine", 2), ("constant", 1)]
)
def test_a_plain_loop_over_full_logits(decay, warmup, tmp_path):
    """Stock transformers carries the scaling in its config there."""
    recipe = dataclasses.replace(RECIPE, decay=decay, warmup=warmup)
    theirs = tiny_model(**PI)
    before = weights(theirs)
    losses, _ = plain_loop(theirs, recipe)
    model = tiny_model()
    table = tune(model, tmp_path / "run", decay=decay, warmup=warmup)
    np.testing.assert_allclose(table["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(table["learning_rate"], list(rates(recipe)), rtol=1e-6, atol=1e-12)
    for name, p in theirs.named_parameters():
        moved = (p - before[name]).norm()
        assert moved > 0
        # Adam divides a gradient by its size: where that is near 0, rounding alone decides the sign
        # of a step.
        assert (model.get_parameter(name) - p).norm() < 0.01 * moved, name


def test_the_gradient_of_the_first_step(tmp_path):
    losses, expected = plain_loop(tiny_model(**PI), dataclasses.replace(RECIPE, steps=1))
    model = tiny_model()
    found = gradients_to_come(model)
    table = tune(model, tmp_path / "run", steps=1)
    assert table["loss"][0] == pytest.approx(losses[0], rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "gpt_oss"])
def test_the_loss_inside_is_that_of_full_logits(family):
    """Of several rows, and of more tokens than one chunk of the head holds."""
    model = tiny_model(family)
    rows = torch.randint(3, VOCABULARY, (2, 1100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = full_logits(model, rows)
        logits = model(rows[:1, :9]).logits
        with trainer_module.loss_inside(model, WINDOW):
            torch.testing.assert_close(
                model(input_ids=rows, labels=rows)["loss"], expected, atol=1e-5, rtol=0
            )
            # Without labels it is the stock model.
            assert torch.equal(model(input_ids=rows[:1, :9]).logits, logits)
    assert "forward" not in vars(model)


@pytest.mark.parametrize("given_", ["scaling", "schedule"])
def test_every_second_segment_in_pieces_of_the_window(given_, tmp_path):
    """Against two stock models of the same weights, one scaled in its config.

    The other one reads the pieces, as rows.
    """
    scaled, plain = tiny_model(**PI), tiny_model()
    # By the seed, a shuffled pass over all segments, and one over all pieces.
    rng = np.random.default_rng(0)
    order = ROWS[rng.permutation(len(ROWS))]
    pieces = ROWS.view(-1, WINDOW)[rng.permutation(2 * len(ROWS))]
    losses = [full_logits(scaled, row[None]) for row in order[:2]]
    losses += [full_logits(plain, two) for two in pieces.split(2)[:2]]
    expected = torch.stack(losses).mean()
    expected.backward()
    model = tiny_model()
    scaling = scaling_of(model)
    if given_ == "schedule":
        scaling = RopeSchedule.by_length([rope_scaling(rope_spec(model), "none", WINDOW), scaling])
    found = gradients_to_come(model)
    recipe = dataclasses.replace(RECIPE, steps=1, short_share=0.5)
    table = finetune(
        model, TOKENIZER, DOCS, scaling, tmp_path / "run", length=LENGTH, recipe=recipe
    )
    assert table["loss"][0] == pytest.approx(expected.item(), rel=1e-6)
    for (name, p), (_, q) in zip(scaled.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(found[name], p.grad + q.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("share", "marks"),
    [(1 / 3, "lls" * 4), (0.5, "ls" * 6), (0.75, "lsss" * 3), (0.9, "l" + "s" * 9)],
)
def test_short_pieces_are_taken_from_everywhere(share, marks, tmp_path, monkeypatch):
    """In shuffled passes over the pieces of all segments, whose shares are spread evenly."""
    seen = fail_at(0, None, monkeypatch)
    tune(tiny_model(), tmp_path / "run", batch=1, steps=len(marks), short_share=share)
    assert "".join("l" if ids.shape == (1, LENGTH) else "s" for ids in seen) == marks
    rows = [ids.flatten() for mark, ids in zip(marks, seen, strict=True) if mark == "l"]
    pieces = [piece for mark, ids in zip(marks, seen, strict=True) if mark == "s" for piece in ids]
    for read, every in ((rows, ROWS), (pieces, ROWS.view(-1, WINDOW))):
        order = [
            next(n for n, whole in enumerate(every) if torch.equal(whole, ids)) for ids in read
        ]
        passes = [order[start : start + len(every)] for start in range(0, len(order), len(every))]
        assert all(len(set(taken)) == len(taken) for taken in passes)


@given(st.floats(0, 0.9999), st.integers(0, 300))
def test_shares_are_spread_evenly_and_begin_long(share, count):
    short = [Recipe(short_share=share).short_of(n) for n in range(count + 2)]
    assert short[1] == 0 and set(np.diff(short)) <= {0, 1}
    assert short[count] == pytest.approx(share * count, abs=1)


@pytest.mark.parametrize(
    "marks", [[True, False, False], [False, True, True], [True, True, True], [False] * 3]
)
@pytest.mark.parametrize("length", [2 * WINDOW, 3 * WINDOW - 1])
def test_long_and_short_rows_in_one_pass(marks, length):
    """As on a GPU, where a pass takes several.

    What is left over after the last whole piece is not read.
    """
    model, plain, scaled = tiny_model(), tiny_model(), tiny_model(**PI)
    rows = torch.randint(3, VOCABULARY, (3, length), generator=torch.Generator().manual_seed(1))
    schedule = RopeSchedule.by_length(
        [rope_scaling(rope_spec(model), "none", WINDOW), scaling_of(model)]
    )
    with torch.no_grad(), apply_scaling(model, schedule), trainer_module.loss_inside(model, WINDOW):
        loss = model(input_ids=rows, labels=rows, short=torch.tensor(marks))["loss"]
        short = [full_logits(plain, row[: 2 * WINDOW].view(2, WINDOW)) for row in rows]
        long = [full_logits(scaled, row[None]) for row in rows]
    each = [s if mark else n for mark, s, n in zip(marks, short, long, strict=True)]
    torch.testing.assert_close(loss, torch.stack(each).mean(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("window", "target"), [(WINDOW // 2, LENGTH), (WINDOW, WINDOW)])
def test_the_window_is_that_of_the_scaling(window, target, tmp_path, monkeypatch):
    """Which may say another one than the config.

    A scaling that aims no further than the window serves the pieces, too.
    """
    model, seen = tiny_model(), fail_at(0, None, monkeypatch)
    spec = dataclasses.replace(rope_spec(model), window=window)
    recipe = dataclasses.replace(RECIPE, steps=1, short_share=0.5)
    finetune(
        model,
        TOKENIZER,
        DOCS,
        rope_scaling(spec, "pi", target),
        tmp_path / "run",
        length=LENGTH,
        recipe=recipe,
    )
    assert [ids.shape for ids in seen] == [(1, LENGTH), (LENGTH // window, window)] * 2


def test_short_reading_of_what_is_hardly_longer_than_the_window(tmp_path):
    with pytest.raises(
        ValueError, match=r"short_share is 0\.5, and segments of 127 tokens do not hold two"
    ):
        tune(tiny_model(), tmp_path / "run", length=LENGTH - 1, short_share=0.5)
    assert not (tmp_path / "run").exists()


def test_training_lowers_the_loss_of_the_model_at_the_scaling(tmp_path):
    pattern = np.random.default_rng(5).integers(3, VOCABULARY, 40)
    docs = [Document("pattern", np.tile(pattern, 30))]
    held_out = np.tile(np.roll(pattern, 7), 4)[:LENGTH]
    model = tiny_model()
    scaling = rope_scaling(rope_spec(model), "yarn", LENGTH)

    def measured():
        with apply_scaling(model, scaling):
            return token_losses(model, held_out).mean().item()

    before = measured()
    recipe = Recipe(steps=40, batch=2, learning_rate=3e-3, warmup=2)
    table = finetune(model, TOKENIZER, docs, scaling, tmp_path / "run", recipe=recipe)
    assert table["loss"].iloc[-5:].mean() < 0.6 * table["loss"].iloc[:5].mean()
    assert measured() < 0.6 * before


def test_the_table_and_its_file(tmp_path):
    table, _ = undisturbed(tmp_path / "run")
    assert table.columns.tolist() == ["step", "loss", "learning_rate", "tokens"]
    assert table["step"].tolist() == [1, 2, 3, 4, 5]
    assert table["tokens"].tolist() == [4 * LENGTH * step for step in range(1, 6)]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run" / "loss.csv"), table, rtol=1e-7)


def test_what_is_in_the_folder(tmp_path):
    """The last two checkpoints, and what was asked for; nothing half-written."""
    undisturbed(tmp_path / "run")
    assert names(tmp_path / "run") == [
        "checkpoint-4",
        "checkpoint-5",
        "finetune.json",
        "loss.csv",
        "scaling.json",
    ]
    assert RopeScaling.load(tmp_path / "run" / "scaling.json") == scaling_of(tiny_model())


def test_the_same_seed_gives_the_same_run(tmp_path):
    first, second, other = (
        undisturbed(tmp_path / name, batch=1, seed=seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first[0].equals(second[0]) and not first[0].equals(other[0])
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


@pytest.mark.parametrize("batch", [3, 5])
def test_each_step_takes_its_segments_from_shuffled_passes_over_all(batch, tmp_path, monkeypatch):
    """Four segments, and a batch that does not divide them, or is larger than all together."""
    seen = fail_at(0, None, monkeypatch)
    tune(tiny_model(), tmp_path / "run", batch=batch, steps=4)
    order = [next(n for n, row in enumerate(ROWS) if torch.equal(row[None], ids)) for ids in seen]
    assert len(order) == 4 * batch
    passes = [order[start : start + 4] for start in range(0, len(order), 4)]
    assert all(len(set(taken)) == len(taken) for taken in passes)
    assert len({tuple(taken) for taken in passes if len(taken) == 4}) > 1


@pytest.mark.parametrize("short_share", [0, 0.25])
def test_short_segments_are_computed_several_at_once(short_share, tmp_path, monkeypatch):
    """As a GPU does: the same steps up to rounding, in equal parts of the batch.

    None of these has too many tokens.
    """
    one = undisturbed(tmp_path / "one", batch=6, short_share=short_share)
    monkeypatch.setitem(arguments_module.AT_ONCE, "cpu", 4 * LENGTH + LENGTH // 2)
    seen = fail_at(0, None, monkeypatch)
    several = undisturbed(tmp_path / "several", batch=6, short_share=short_share)
    shapes = [ids.shape for ids in seen]
    if short_share:  # of twelve segments the fourth, eighth and twelfth, beside long ones
        assert shapes[:4] == [(3, LENGTH), (2, LENGTH), (2, WINDOW), (2, LENGTH)]
    else:
        assert shapes == [(3, LENGTH)] * (2 * RECIPE.steps)
    np.testing.assert_allclose(several[0], one[0], rtol=1e-4)
    for name, p in one[1].items():
        torch.testing.assert_close(several[1][name], p, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_computing_layers_again_changes_nothing(dropout, tmp_path, monkeypatch):
    """Not even where activations are dropped at random.

    Only where memory is short are they computed again.
    """
    runs, passes = [], []
    for again in (True, False):
        free = 10_000 if again else 2**40
        monkeypatch.setattr(
            "psutil.virtual_memory", lambda free=free: SimpleNamespace(available=free)
        )
        model = tiny_model(attention_dropout=dropout)
        count = []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        runs.append((tune(model, tmp_path / str(again), steps=3), weights(model)))
        passes.append(len(count))
    assert passes == [24, 12]
    assert runs[0][0].equals(runs[1][0])
    assert all(torch.equal(p, runs[1][1][name]) for name, p in runs[0][1].items())


# Documents as lists of ids, a length, and whether the tokenizer has each of the two tokens.
@settings(deadline=None, max_examples=60)
@given(
    docs=st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=5),
    length=st.integers(2, 12),
    bos=st.sampled_from([None, 91]),
    eos=st.sampled_from([None, 92]),
)
def test_segments_are_the_text_between_bos_and_eos(docs, length, bos, eos):
    tokenizer = SimpleNamespace(bos_token_id=bos, eos_token_id=eos)
    documents = [Document("", np.array(ids, np.int64)) for ids in docs]
    inside = length - (bos is not None) - (eos is not None)
    text = [token for ids in docs for token in ids]
    if inside < 2 or len(text) < inside:
        with pytest.raises(ValueError, match=r"length is \d+: a segment needs|the documents hold"):
            segments(documents, length, tokenizer)
        return
    expected = []
    while len(text) >= inside:
        expected.append(
            [t for t in (bos,) if t is not None]
            + text[:inside]
            + [t for t in (eos,) if t is not None]
        )
        text = text[inside:]
    rows = segments(documents, length, tokenizer)
    assert rows.dtype == np.int64 and rows.tolist() == expected


def test_the_papers_recipes(tmp_path):
    """LongRoPE, section 4.1, and for AdamW and the warm-up YaRN, section 4.1."""
    llama2, mistral = RECIPES["llama2"], RECIPES["mistral"]
    assert (llama2.learning_rate, llama2.decay) == (2e-5, "linear")
    assert (llama2.batch, llama2.steps) == (32, 400)
    assert (mistral.learning_rate, mistral.decay) == (1e-6, "constant")
    assert (mistral.batch, mistral.steps) == (64, 400)
    for recipe in (llama2, mistral):
        assert recipe.warmup == 20 and recipe.lora_rank == 0
        arguments = arguments_module.training_arguments(
            tiny_model(), tmp_path / "run", recipe, 4096, 0
        )
        assert (arguments.adam_beta1, arguments.adam_beta2) == (0.9, 0.95)
        assert arguments.weight_decay == 0.0
        assert arguments.per_device_train_batch_size == 1
        assert arguments.gradient_accumulation_steps == recipe.batch
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0: it must be a whole number from 1"),
        ({"steps": 2.5}, r"steps is 2\.5: it must be a whole number"),
        ({"batch": 0}, "batch is 0"),
        ({"warmup": -1}, "warmup is -1: it must be a whole number from 0"),
        ({"lora_rank": -4}, "lora_rank is -4"),
        ({"save_every": 0}, "save_every is 0"),
        ({"short_share": -0.1}, "short_share is -0.1: it must be a share of the segments, from 0"),
        ({"short_share": 1}, "short_share is 1: .* less than 1 .none would be long"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0: it must be a finite number above 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"decay": "linaer"}, "unknown decay 'linaer': did you mean 'linear'"),
        (
            {"steps": 20},
            r"warmup is 20 and steps 20: the learning rate would never reach 2e-05; pass a shorter",
        ),
        ({"lora_rank": 4, "lora_modules": ()}, "lora_rank is 4 and lora_modules is empty"),
    ],
)
def test_recipes_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_numbers_of_a_recipe_may_be_numpys(tmp_path):
    numbers = {"steps": np.int64(2), "batch": np.int32(1), "learning_rate": np.float64(1e-3)}
    assert len(tune(tiny_model(), tmp_path / "run", seed=np.int64(1), **numbers)) == 2
    assert Recipe(lora_modules=["q_proj"]) == Recipe(lora_modules=("q_proj",))


LORA = {
    "lora_rank": 3,
    "lora_modules": ("q_proj", "v_proj"),
    "learning_rate": 1e-2,
    "decay": "constant",
}


@pytest.mark.parametrize("tied", [False, True])
def test_low_rank_updates(tied, tmp_path):
    """Named layers change by a matrix of the rank, norms and embedding in full, nothing else.

    No layer of peft stays.
    """
    model = tiny_model(tie_word_embeddings=tied)
    before, classes = weights(model), {name: type(module) for name, module in model.named_modules()}
    tune(model, tmp_path / "run", **LORA)
    assert {name: type(module) for name, module in model.named_modules()} == classes
    assert not hasattr(model, "peft_config")
    assert weights(model).keys() == before.keys() and all(
        p.requires_grad for p in model.parameters()
    )
    for name, p in model.named_parameters():
        change = p.detach() - before[name]
        if "q_proj" in name or "v_proj" in name:
            sizes = torch.linalg.svdvals(change)
            assert sizes[2] > 1e-4 and sizes[3] < 1e-6
        else:
            assert change.any() == ("norm" in name or "embed_tokens" in name), name


@pytest.mark.parametrize("changes", [LORA, {"decay": "constant"}])
def test_what_is_left_is_what_was_trained(changes, tmp_path):
    """The fourth step begins with the loss of the model that three steps leave.

    So updates are merged at their size.
    """
    table = tune(tiny_model(), tmp_path / "four", steps=4, **changes)
    model = tiny_model()
    tune(model, tmp_path / "three", steps=3, **changes)
    with apply_scaling(model, scaling_of(model)):
        loss = full_logits(model, ROWS).item()
    assert loss == pytest.approx(table["loss"][3], rel=1e-5)
    assert loss < table["loss"][0] - 0.01


def test_low_rank_updates_begin_at_nothing_and_follow_the_seed(tmp_path):
    with apply_scaling(model := tiny_model(), scaling_of(model)):
        loss = full_logits(model, ROWS).item()
    runs = [
        undisturbed(tmp_path / str(n), **LORA, steps=2, seed=seed)
        for n, seed in enumerate((0, 0, 1))
    ]
    assert all(table["loss"][0] == pytest.approx(loss, rel=1e-6) for table, _ in runs)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(runs[0][1][name], runs[1][1][name]) and not torch.equal(
        runs[0][1][name], runs[2][1][name]
    )


def state_of(model):
    """All that is not a weight."""
    return (
        {name: (p.dtype, p.requires_grad, p.grad) for name, p in model.named_parameters()},
        {name: (b.dtype, b.tolist()) for name, b in model.named_buffers()},
        [
            (name, type(module), module.training, vars(module).keys())
            for name, module in model.named_modules()
        ],
        model.config.to_dict(),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, LORA])
def test_only_weights_are_other_than_before(dtype, changes, tmp_path):
    """Neither frozen weights nor the mode, hooks or config of a model, nor its frequencies.

    A cast would round these.
    """
    model = transformers.AutoModelForCausalLM.from_config(tiny_config("llama"), dtype=dtype).eval()
    model.model.norm.weight.requires_grad_(False)
    before, values = state_of(model), weights(model)
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32 != dtype or dtype == torch.float32
    tune(model, tmp_path / "run", **changes)
    assert state_of(model) == before
    assert any(not torch.equal(p, values[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("changes", [{}, LORA])
def test_an_error_undoes_everything(changes, tmp_path, monkeypatch):
    model = tiny_model().train()
    own = model.model.rotary_emb.forward
    scaling = apply_scaling(model, scaling_of(model, "yarn"))  # one that was in place already stays
    before, values, theirs = state_of(model), weights(model), model.model.rotary_emb.forward
    fail_at(14, lambda loss: 1 / 0, monkeypatch)  # in the fourth step
    with pytest.raises(ZeroDivisionError):
        tune(model, tmp_path / "run", **changes)
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    assert state_of(model) == before and model.model.rotary_emb.forward is theirs
    assert all(torch.equal(p, values[name]) for name, p in model.named_parameters())
    scaling.restore()
    assert model.model.rotary_emb.forward == own


def test_sixteen_bits_are_trained_in_thirty_two(tmp_path):
    """In 16, a weight of 0.1 takes no update below 0.0002."""
    small = {"learning_rate": 5e-5, "decay": "constant"}
    half = tiny_model().to(torch.bfloat16)
    full = tiny_model().to(torch.bfloat16).float()
    start = weights(half)
    tables = [tune(model, tmp_path / str(n), **small) for n, model in enumerate((half, full))]
    np.testing.assert_allclose(tables[0]["loss"], tables[1]["loss"], rtol=1e-6)
    assert sum(int((p != start[name]).sum()) for name, p in half.named_parameters()) > 1000
    assert all(
        torch.equal(p, full.get_parameter(name).bfloat16()) for name, p in half.named_parameters()
    )


def test_in_float32_gives_back_each_type():
    model = tiny_model()
    model.model.layers[0].to(torch.bfloat16)
    model.lm_head.half()
    before = state_of(model)[0]
    with in_float32(model):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert state_of(model)[0] == before


def test_a_second_training_of_the_same_model_is_like_the_first(tmp_path, monkeypatch):
    """accelerate marks what it has wrapped, and would not wrap it again.

    Here it is a cast to bfloat16, as on a GPU.
    """
    exact, _ = undisturbed(tmp_path / "exact")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    model = tiny_model()
    start = weights(model)
    first = tune(model, tmp_path / "first")
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(start[name])
    second = tune(model, tmp_path / "second")
    assert first.equals(second)
    np.testing.assert_allclose(first["loss"], exact["loss"], rtol=0.01)
    assert (first["loss"] - exact["loss"]).abs().max() > 1e-4  # bfloat16 it was
    assert not torch.is_autocast_enabled("cpu")  # and it ends with the training


def test_the_optimiser_is_gone_at_the_end(tmp_path):
    """Its moments are twice the weights; without a collection of Python's they would stay."""
    gc.collect()
    gc.disable()
    try:
        tune(tiny_model(), tmp_path / "run", steps=1)
        left = [thing for thing in gc.get_objects() if type(thing) is torch.optim.AdamW]
    finally:
        gc.enable()
    assert not left


def test_a_schedule_is_fixed_at_the_length(tmp_path):
    model = tiny_model()
    scalings = [rope_scaling(rope_spec(model), "pi", target) for target in (LENGTH, 8 * WINDOW)]
    schedule = RopeSchedule.by_length(scalings)
    recipe = dataclasses.replace(RECIPE, steps=1)
    found = finetune(model, TOKENIZER, DOCS, schedule, tmp_path / "a", length=LENGTH, recipe=recipe)
    expected = finetune(tiny_model(), TOKENIZER, DOCS, scalings[0], tmp_path / "b", recipe=recipe)
    assert found["loss"].equals(expected["loss"])


def test_no_scaling_is_the_model_as_it_stands(tmp_path):
    model = tiny_model()
    loss = full_logits(model, ROWS).item()
    recipe = dataclasses.replace(RECIPE, steps=1)
    table = finetune(model, TOKENIZER, DOCS, None, tmp_path / "run", length=LENGTH, recipe=recipe)
    assert table["loss"][0] == pytest.approx(loss, rel=1e-6)
    assert not (tmp_path / "run" / "scaling.json").exists()


def frozen():
    return tiny_model().requires_grad_(False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"recipe": "lama2"},
            r"unknown recipe 'lama2': did you mean 'llama2'\? Known: llama2, mistral, small, tiny",
        ),
        ({"recipe": None}, "recipe is None: pass a Recipe, or one of RECIPES"),
        (
            {"scaling": None},
            "a segment's length follows from a RopeScaling alone: pass length= in tokens",
        ),
        (
            {"docs": DOCS[:1], "length": 303},
            "hold 300 tokens and one segment of length 303 takes 301: load more",
        ),
        ({"docs": []}, "the documents hold 0 tokens"),
        (
            {"length": 3},
            "length is 3: a segment needs at least 2 tokens of text between BOS and EOS",
        ),
        (
            {"docs": [Document("other", np.full(200, VOCABULARY))]},
            "token id 97 is outside the model's vocabulary of 97: tokenise with this model's own",
        ),
        (
            {"recipe": Recipe(lora_rank=2)},  # GPT-NeoX has one layer for queries, keys and values
            r"has no linear layers named q_proj, k_proj, v_proj, o_proj: set the recipe's "
            r"lora_modules to some of dense, dense_4h_to_h, dense_h_to_4h, ",
        ),
        (
            {"model": frozen},
            r"none of the model's weights requires a gradient: call model\.requires_grad_\(True\)",
        ),
        (
            {
                "scaling": rope_scaling(
                    RopeSpec(rotary_dim=16, base=5e5, window=WINDOW), "pi", LENGTH
                )
            },
            r"this scaling is for rotary_dim 16, base 500000; the model has rotary_dim 16, "
            r"base 10000: make it from",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(changes, message, tmp_path):
    low_rank = isinstance(changes.get("recipe"), Recipe)
    model = changes.pop("model", lambda: tiny_model("gpt_neox" if low_rank else "llama"))()
    call = {"docs": DOCS, "scaling": scaling_of(model), "recipe": RECIPE} | changes
    with pytest.raises(ValueError, match=message):
        finetune(model, TOKENIZER, call.pop("docs"), call.pop("scaling"), tmp_path / "run", **call)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "processes", "message"),
    [
        ({}, 3, "batch is 4, and 3 processes cannot share it evenly: take a multiple of 3"),
        (
            {"ACCELERATE_USE_FSDP": "true"},
            1,
            "accelerate is configured for FSDP, which spreads the weights",
        ),
    ],
)
def test_processes_that_cannot_work_together(
    environment, processes, message, tmp_path, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transformers.TrainingArguments, "world_size", processes)
    with pytest.raises(ValueError, match=re.escape(message)):
        tune(tiny_model(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
