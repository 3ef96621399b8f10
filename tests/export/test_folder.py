"""Checkpoints for stock transformers: what they hold, what they give, and what is refused."""

import contextlib
import copy
import json
import math
import re
import resource
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import peft
import pytest
import torch
from conftest import FAMILIES, VOCABULARY, WINDOW, tiny_model
from gguf_files import write_gguf
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from longrope_lab.common.processes import alone
from longrope_lab.export import check
from longrope_lab.export import folder as export
from longrope_lab.export.folder import save_pretrained
from longrope_lab.measure.perplexity import perplexity
from longrope_lab.models.generation import generate
from longrope_lab.models.loading import load_model
from longrope_lab.models.read_config import scaling_from_config, spec_from_config
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling, compose
from longrope_lab.rope.schedule import DynamicNTK, RopeSchedule
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.texts.tokens import Document

TARGET = 4 * WINDOW
SWITCH = WINDOW + 32  # where the two sets below meet
OLD_NAMES = (
    "rope_theta",
    "rotary_emb_base",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "rotary_pct",
)
KINDS = {  # what is saved, and the rope type that says it
    "none": "default",
    "pi": "linear",
    "dynamic_ntk": "dynamic",
    "yarn": "yarn",
    "longrope": "longrope",
    "two sets": "longrope",
}


def rising(spec, highest, **fields):
    """Factors that rise from 1 in a curve that no formula has."""
    factors = 1 + (highest - 1) * np.linspace(0, 1, spec.rotary_dim // 2) ** 1.7
    return RopeScaling(
        spec, factors, **{"target_length": TARGET, "attention_factor": 1.07} | fields
    )


def two_sets(spec):
    return RopeSchedule.by_length([rising(spec, 1.4, target_length=SWITCH), rising(spec, 5)])


def scaling_of(kind, spec):
    if kind == "longrope":
        return rising(spec, 5)
    return two_sets(spec) if kind == "two sets" else rope_scaling(spec, kind, TARGET)


@torch.no_grad()
def logits(model, length, vocabulary=VOCABULARY):
    ids = torch.randint(vocabulary, (1, length), generator=torch.Generator().manual_seed(3))
    return model(ids).logits


def stock(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def assert_stock_gives_ours(
    folder, model, scaling, lengths=(WINDOW, WINDOW + 1, SWITCH, SWITCH + 1, TARGET)
):
    """Each length in a model of its own: nothing of an earlier input is left in it."""
    reloaded = stock(folder)
    for length in lengths:
        with apply_scaling(model, scaling):
            ours = logits(model, length)
        torch.testing.assert_close(logits(reloaded, length), ours, atol=1e-4, rtol=0)
    return reloaded


def in_new_form_alone(folder, other):
    """The folder with nothing but transformers 5's `rope_parameters`, as they were made."""
    shutil.copytree(folder, other)
    values = json.loads((other / "config.json").read_text())
    for name in ("rope_scaling", *OLD_NAMES):
        values.pop(name, None)
    rope = values["rope_parameters"].get("full_attention", values["rope_parameters"])
    for name in ("short_mscale", "long_mscale", "attn_factor", "beta_fast", "beta_slow"):
        rope.pop(name, None)
    two = rope.get("short_factor") != rope.get("long_factor")
    if two and values["model_type"] != "phi3":  # whose class has the field
        assert values.pop("original_max_position_embeddings") == SWITCH
    (other / "config.json").write_text(json.dumps(values))
    return other


def full_attention(config):
    return config.rope_parameters.get("full_attention", config.rope_parameters)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "made" / "out"


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def spec(model):
    return rope_spec(model)


# --- what stock transformers makes of it ----------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_stock_transformers_loads_it(family, kind, out, tokenizer):
    model = tiny_model(family)
    spec = rope_spec(model)
    scaling = scaling_of(kind, spec)
    if (family, kind) == ("phi3", "dynamic_ntk"):
        with pytest.raises(ValueError, match="a phi3 config does not take rope type 'dynamic': "):
            save_pretrained(model, tokenizer, scaling, out)
        return
    assert save_pretrained(model, tokenizer, scaling, out) == out
    reloaded = assert_stock_gives_ours(out, model, scaling)
    alone = stock(in_new_form_alone(out, out.with_name("alone")))  # to the bit
    for length in (WINDOW, SWITCH + 1):
        assert torch.equal(logits(alone, length), logits(stock(out), length))

    config = AutoConfig.from_pretrained(out)
    rope_type = "longrope" if family == "phi3" and kind != "none" else KINDS[kind]
    assert full_attention(config)["rope_type"] == rope_type
    assert config.max_position_embeddings == (WINDOW if kind == "dynamic_ntk" else TARGET)
    read = scaling_from_config(config)
    for length in (1, WINDOW, WINDOW + 1, SWITCH, SWITCH + 1, TARGET, 2 * TARGET):
        np.testing.assert_allclose(
            read.at(length).frequencies, scaling.at(length).frequencies, rtol=1e-12
        )
        assert read.at(length).attention_factor == scaling.at(length).attention_factor
    if kind in ("pi", "yarn", "dynamic_ntk", "longrope") and family != "phi3":
        assert read == scaling

    again = rope_spec(reloaded)
    if kind == "two sets":
        assert (
            again.window == SWITCH
        )  # up to there the short factors, which are those of a short input
        np.testing.assert_allclose(again.frequencies, scaling.at(1).frequencies, rtol=1e-6)
    elif kind == "dynamic_ntk":
        assert again == spec
    else:
        extended = scaling.as_spec()  # what a second extension starts from
        assert again.window == extended.window == TARGET
        assert again.attention_factor == pytest.approx(extended.attention_factor, rel=1e-6)
        np.testing.assert_allclose(again.frequencies, extended.frequencies, rtol=1e-6)


def test_the_lab_model_short_and_long(tmp_path):
    """A whole forward pass of 512 and of 4,096 tokens, as a user makes it of a schedule that
    recovers short inputs.

    transformers' angles are float32, ours float64. That is all that differs: with stock's rotary
    module in the place of ours the logits are the same, and without, no further than 1e-4 of the
    largest."""
    model, tokenizer = load_model("lab", device="cpu")
    spec = rope_spec(model)
    first = rising(spec, 5, target_length=2048)
    long = compose(
        first, rising(first.as_spec(), 1.8, target_length=4096)
    )  # a second extension, on top of the first
    short = rising(spec, 1.2, target_length=512, attention_factor=long.attention_factor)
    schedule = RopeSchedule.by_length([short, long])
    folder = save_pretrained(model, tokenizer, schedule, tmp_path / "my extended model")
    reloaded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    assert reloaded.dtype == torch.float32
    turned_by_stock = copy.deepcopy(model)
    turned_by_stock.model.rotary_emb = reloaded.model.rotary_emb
    for length in (512, 4096):
        theirs = logits(reloaded, length, vocabulary=4096)
        with apply_scaling(model, schedule):
            ours = logits(model, length, vocabulary=4096)
        off, largest = (theirs - ours).abs().max(), ours.abs().max()
        assert off <= 1e-4 * largest, (length, off, largest)
        torch.testing.assert_close(
            theirs, logits(turned_by_stock, length, vocabulary=4096), atol=1e-4, rtol=0
        )
    card = (folder / "README.md").read_text()
    assert "lab_model, its context window extended from 512 to 4,096 tokens" in card
    assert 'from_pretrained("my extended model")' in card
    assert re.search(
        r"logits to \S+ at 512 tokens, \S+ at 513 tokens, \S+ at 4,096 tokens \(the largest", card
    )


def test_a_tokenizer_and_bfloat16_weights(out):
    """Loaded and saved in bfloat16; compared in float64, where only float32 angles differ."""
    model, tokenizer = load_model("lab", device="cpu", dtype=torch.bfloat16)
    scaling = rising(rope_spec(model), 5, target_length=2048)
    save_pretrained(model, tokenizer, scaling, out)
    reloaded = stock(out)
    assert reloaded.dtype == torch.bfloat16
    assert reloaded.config.tie_word_embeddings
    exact, _ = load_model("lab", device="cpu", dtype=torch.float32)  # its file holds bfloat16, too
    with apply_scaling(exact, scaling):
        ours = logits(exact.double(), 300, vocabulary=4096)
    torch.testing.assert_close(
        logits(reloaded.double(), 300, vocabulary=4096), ours, atol=1e-4, rtol=0
    )
    again = AutoTokenizer.from_pretrained(out)
    assert (again.model_max_length, tokenizer.model_max_length) == (2048, 512)
    text = "In the beginning 7"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"], skip_special_tokens=True) == text
    ours, _ = load_model(out, device="cpu")
    assert rope_spec(ours).window == 2048


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gemma2"])
@pytest.mark.parametrize("tied", [True, False])
def test_stock_transformers_generates_with_it(family, tied, out, tokenizer):
    """On either side of the switch: the same tokens as the model with the schedule in place."""
    model = tiny_model(family, tie_word_embeddings=tied)
    schedule = two_sets(rope_spec(model))
    reloaded = stock(save_pretrained(model, tokenizer, schedule, out))
    assert reloaded.config.tie_word_embeddings == tied
    for length in (SWITCH - 20, SWITCH + 20):
        prompt = torch.randint(
            3, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(5)
        )
        asked = {
            "max_new_tokens": 12,
            "do_sample": False,
            "attention_mask": torch.ones_like(prompt),
        }
        with apply_scaling(model, schedule, length=length + 12):
            ours = model.generate(prompt, **asked)
        assert torch.equal(reloaded.generate(prompt, **asked), ours)


def test_generation_across_the_switch_is_ours_to_make_right(model, spec, out, tokenizer):
    """What the card says of it: `generate` takes one set for all.

    Stock transformers goes on with keys of the short set.
    """
    reloaded = stock(save_pretrained(model, tokenizer, two_sets(spec), out))
    prompt = torch.randint(
        3, VOCABULARY, (1, SWITCH - 5), generator=torch.Generator().manual_seed(5)
    )
    schedule = scaling_from_config(reloaded.config)
    made = generate(reloaded, prompt, schedule, max_new_tokens=40, do_sample=False)
    with apply_scaling(model, schedule, length=SWITCH + 35), torch.no_grad():
        from_scratch = model(made).logits
    assert torch.equal(from_scratch[0, SWITCH - 6 : -1].argmax(dim=-1), made[0, SWITCH - 5 :])


def test_a_length_that_generation_is_stopped_at_grows_with_the_window(
    model, spec, tmp_path, tokenizer
):
    """LLaMA-2's generation config has one; stock transformers refuses a longer prompt."""
    for before, after in ((WINDOW, TARGET), (32, 32)):
        model.generation_config.max_length = before
        reloaded = stock(save_pretrained(model, tokenizer, rising(spec, 5), tmp_path / str(before)))
        assert reloaded.generation_config.max_length == after
        assert model.generation_config.max_length == before


def test_factors_decide_and_not_the_name_of_the_method(model, spec, out, tokenizer):
    uniform = np.full(8, 4.0)
    cases = [
        (RopeScaling(spec, uniform, TARGET, "longrope"), "linear"),
        (RopeScaling(spec, uniform, TARGET, "pi", attention_factor=1.1), "longrope"),
        (
            RopeScaling(spec, uniform, 2 * TARGET, "pi"),
            "longrope",
        ),  # linear's factor is the ratio of the windows
        (RopeScaling(spec, np.where(np.arange(8) == 3, 4.00001, 4.0), TARGET, "pi"), "longrope"),
        (
            replace(rope_scaling(spec, "yarn", TARGET), method="longrope", attention_factor=1.0),
            "yarn",
        ),
        (rope_scaling(spec, "yarn", TARGET, truncate=False), "longrope"),
        (rope_scaling(spec, "ntk", TARGET), "longrope"),
        (RopeScaling(spec, np.ones(8), TARGET, "yarn"), "default"),
        (RopeScaling(spec, np.ones(8), TARGET, "none", attention_factor=1.1), "longrope"),
        (
            RopeSchedule.by_length([RopeScaling(spec, uniform, TARGET)]),
            "linear",
        ),  # one stage is one scaling
    ]
    for i, (scaling, rope_type) in enumerate(cases):
        folder = save_pretrained(model, tokenizer, scaling, out / str(i))
        assert AutoConfig.from_pretrained(folder).rope_parameters["rope_type"] == rope_type, i
        assert_stock_gives_ours(folder, model, scaling, lengths=(WINDOW, TARGET))


def test_dynamic_ntk_keeps_its_alpha_and_the_tokenizer_its_length(model, spec, out, tokenizer):
    save_pretrained(model, tokenizer, DynamicNTK(spec, 2.5), out)
    assert scaling_from_config(AutoConfig.from_pretrained(out)) == DynamicNTK(spec, 2.5)
    assert AutoTokenizer.from_pretrained(out).model_max_length == tokenizer.model_max_length
    assert "1 + 2.5 (l / L - 1)" in (out / "README.md").read_text()


# --- models that were extended before -------------------------------------------------------------


CARRIED = {
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": WINDOW},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": WINDOW,
    },
    "dynamic": {"factor": 2.0},
    "longrope": {
        "short_factor": [1.0, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5],
        "long_factor": [1.0, 1.1, 1.5, 2.0, 3.0, 4.0, 4.5, 5.0],
        "original_max_position_embeddings": WINDOW,
    },
}


@pytest.mark.parametrize("kind", CARRIED)
def test_a_config_that_carries_a_scaling_already(kind, out, tokenizer):
    """Factors are written over the config's base; nothing of its old parameters stays."""
    longest = WINDOW if kind == "dynamic" else TARGET
    rope = {"rope_type": kind, "rope_theta": 10_000.0} | CARRIED[kind]
    model = tiny_model(rope_parameters=rope, max_position_embeddings=longest)
    spec = rope_spec(model)
    scaling = rising(spec, 3, target_length=8 * WINDOW)
    save_pretrained(model, tokenizer, scaling, out)
    assert_stock_gives_ours(out, model, scaling)
    written = json.loads((out / "config.json").read_text())["rope_parameters"]
    assert written["rope_type"] == "longrope"
    assert not {"low_freq_factor", "mscale"} & set(written)
    base = spec_from_config(model.config).frequencies
    np.testing.assert_allclose(written["long_factor"], base / scaling.frequencies, rtol=1e-6)
    assert written["attention_factor"] == pytest.approx(spec.attention_factor * 1.07)
    # The scaling of the config's own base is as good; and the model as it stands is one, too.
    over_base = rising(spec_from_config(model.config), 5)
    assert_stock_gives_ours(
        save_pretrained(model, tokenizer, over_base, out.with_name("base")), model, over_base
    )
    as_it_is = rope_scaling(spec, "none", spec.window)
    folder = save_pretrained(model, tokenizer, as_it_is, out.with_name("as it is"))
    assert_stock_gives_ours(folder, model, as_it_is)
    expected = {"dynamic": "default", "longrope": "longrope"}.get(kind, kind)
    assert AutoConfig.from_pretrained(folder).rope_parameters["rope_type"] == expected


def test_a_window_that_the_config_does_not_state(model, out, tokenizer, caplog):
    """Half of it, or the config's own four times; the card says which it was."""
    for window, names in ((32, True), (WINDOW, False)):
        scaling = rope_scaling(rope_spec(model, window=window), "yarn", 4 * window)
        folder = save_pretrained(model, tokenizer, scaling, out / str(window))
        words = f"taken to be {window} tokens; the model's own config states 64."
        assert (words in caplog.text) == (words in (folder / "README.md").read_text()) == names
        assert scaling_from_config(AutoConfig.from_pretrained(folder)) == scaling
        assert_stock_gives_ours(folder, model, scaling, lengths=(WINDOW, 4 * window))


def test_a_second_extension(model, spec, out, tokenizer):
    """Composed, over the first's base; and again on what the first extension left behind."""
    first = rope_scaling(spec, "yarn", 2 * WINDOW)
    second = rising(first.as_spec(), 2)
    both = compose(first, second)
    folder = save_pretrained(model, tokenizer, both, out / "both")
    assert_stock_gives_ours(folder, model, both)
    extended = stock(save_pretrained(model, tokenizer, first, out / "first"))
    on_top = replace(second, spec=rope_spec(extended))
    assert on_top.spec.base is None
    again = save_pretrained(extended, tokenizer, on_top, out / "second")
    assert_stock_gives_ours(again, model, both)
    read = scaling_from_config(AutoConfig.from_pretrained(again))
    np.testing.assert_allclose(read.factors, both.factors, rtol=1e-6)


def test_frequencies_set_by_hand(model, out, tokenizer):
    """The config's base is not the model's: the factors make up for it."""
    model.model.rotary_emb.inv_freq.copy_(torch.tensor(RopeSpec(16, WINDOW, 50_000.0).frequencies))
    spec = rope_spec(model)
    assert spec.base is None
    scaling = rising(spec, 3)
    save_pretrained(model, tokenizer, scaling, out)
    assert_stock_gives_ours(out, model, scaling)


def test_gemma3_keeps_what_its_other_layers_have(out, tokenizer):
    model = tiny_model("gemma3")
    save_pretrained(model, tokenizer, rising(rope_spec(model), 5), out)
    config = AutoConfig.from_pretrained(out)
    assert (
        config.rope_parameters["sliding_attention"]
        == model.config.rope_parameters["sliding_attention"]
    )
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1_000_000.0


# --- the live model -------------------------------------------------------------------------------


def test_the_live_model_stays_as_it_is(family, out, tokenizer):
    model = tiny_model(family).train()
    model.requires_grad_(True)
    spec = rope_spec(model)
    config, weights = copy.deepcopy(model.config.to_dict()), copy.deepcopy(model.state_dict())
    generation, length = model.generation_config.to_dict(), tokenizer.model_max_length
    before = logits(model.eval(), 100)
    model.train()
    with apply_scaling(model, rope_scaling(spec, "pi", 2 * WINDOW)):
        scaled_before = logits(model, 100)
        save_pretrained(model, tokenizer, rising(spec, 5), out)
        assert torch.equal(logits(model, 100), scaled_before)  # the scaling in place is there still
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert model.config.to_dict() == config and model.generation_config.to_dict() == generation
    assert tokenizer.model_max_length == length
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert torch.equal(logits(model.eval(), 100), before)
    assert_stock_gives_ours(
        out, model, rising(spec, 5), lengths=(TARGET,)
    )  # and it was no part of what was written


def test_a_peft_model_is_merged_in_a_copy(model, out, tokenizer):
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, settings).eval()
    scaling = rising(rope_spec(wrapped), 5)
    weights = copy.deepcopy(wrapped.state_dict())
    with apply_scaling(wrapped, scaling):
        ours = logits(wrapped, TARGET)
        save_pretrained(wrapped, tokenizer, scaling, out)
    torch.testing.assert_close(logits(stock(out), TARGET), ours, atol=1e-4, rtol=0)
    assert all(torch.equal(weights[name], weight) for name, weight in wrapped.state_dict().items())


def unfit(name):
    if name == "low-rank updates":
        return peft.inject_adapter_in_model(
            peft.LoraConfig(r=4, target_modules=["q_proj"]), tiny_model()
        )
    if name == "other adapters":
        settings = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
        return peft.inject_adapter_in_model(settings, tiny_model())
    if name == "prompt tuning":
        settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        return peft.get_peft_model(tiny_model(), settings)
    return {
        "compiled": torch.compile,
        "headless": lambda m: m.model,
        "offloaded": lambda m: m.to("meta"),
    }[name](tiny_model())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "low-rank updates",
            "adapters that are not merged into its weights: pass peft's PeftModel, which is merged",
        ),
        (
            "other adapters",
            "adapters that are not merged into its weights: pass peft's PeftModel, which is merged",
        ),
        (
            "prompt tuning",
            "model is a PeftModelForCausalLM: pass transformers' own .* adapters can be merged",
        ),
        (
            "compiled",
            r"model is a OptimizedModule: pass transformers' own model \(model\._orig_mod, if",
        ),
        (
            "headless",
            "a LlamaModel has no language-modelling head: load it with AutoModelForCausalLM",
        ),
        (
            "offloaded",
            "some of the model's weights are offloaded: load it on one device, or on the CPU",
        ),
    ],
)
def test_models_that_cannot_be_written(name, message, spec, out, tokenizer):
    with pytest.raises(ValueError, match=message):
        save_pretrained(unfit(name), tokenizer, rising(spec, 5), out)
    assert not out.parent.exists()


def test_a_gguf_file_loaded_is_an_ordinary_model(tmp_path, out):
    write_gguf(tmp_path / "tiny.gguf", tiny_model(vocab_size=261))
    model, tokenizer = (
        kind.from_pretrained(
            tmp_path, gguf_file="tiny.gguf"
        )  # as `load_model` does it, but with its marks left
        for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    scaling = rising(rope_spec(model), 5)
    save_pretrained(model, tokenizer, scaling, out)
    assert_stock_gives_ours(out, model, scaling, lengths=(WINDOW, TARGET))
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert model.hf_quantizer is not None


def test_a_quantised_model(model, spec, out, tokenizer):
    method = SimpleNamespace(value="bitsandbytes")
    model.hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(quant_method=method))
    with pytest.raises(
        ValueError,
        match=r"quantised \(bitsandbytes\), and its weights cannot be compared .*: load it unq",
    ):
        save_pretrained(model, tokenizer, rising(spec, 5), out)


# --- what is refused ------------------------------------------------------------------------------


def wrong_for(spec):
    """(scaling, message) of all that cannot be saved for a plain model of this spec."""
    other_base = replace(spec, base=20_000.0)
    three = RopeSchedule.by_length(
        [rising(spec, 2, target_length=n) for n in (WINDOW, 100, TARGET)]
    )
    unequal = RopeSchedule.by_length(
        [rising(spec, 2, target_length=WINDOW, attention_factor=1.0), rising(spec, 5)]
    )
    extended = RopeSpec(16, WINDOW, base_frequencies=tuple((spec.frequencies / 2).tolist()))

    class OwnSchedule(RopeSchedule):
        def __init__(self):
            self.spec, self.method = spec, "own"

        def at(self, length):
            return rising(spec, 2)

        def to_dict(self):
            return {}

    return [
        (
            rising(RopeSpec(8, WINDOW, 1e4), 2),
            "this scaling is for rotary_dim 8; the config has 16: make it from rope_s",
        ),
        (
            rising(other_base, 2),
            "this scaling is for rotary_dim 16, base 20000; the model has rotary_dim 16, base 1",
        ),
        (
            DynamicNTK(other_base),
            "Dynamic NTK over a model that was already extended cannot be written",
        ),
        (DynamicNTK(extended), "starts from its base; make it from spec_from_config(model.config)"),
        (
            three,
            "3 sets of factors (up to 64, 100, 256 tokens), and a config holds two, one for short",
        ),
        (
            three,
            "keep two, for example RopeSchedule.by_length([schedule.at(100), schedule.at(256)])",
        ),
        (
            unequal,
            "attention factors 1 (up to 64 tokens) and 1.07, and a config holds one, for short",
        ),
        (unequal, "as extended.for_config(model, search_docs) does after a plan, or give it the"),
        (unequal, "give it the long one's, dataclasses.replace(short, attention_factor=1.07)"),
        (rising(spec, 2, start_tokens=4), "keeps 4 start tokens, for which a config has no place"),
        (
            RopeSchedule.by_length([rising(spec, 2, start_tokens=2)]),
            "save_pretrained(..., drop_start_tokens=True) leaves",
        ),
        (
            OwnSchedule(),
            "a OwnSchedule cannot be written into a config: it takes a RopeScaling, or a schedule",
        ),
        (None, "scaling is a NoneType: pass a RopeScaling or a RopeSchedule"),
        ("yarn", "scaling is a str: pass a RopeScaling or a RopeSchedule"),
    ]


@pytest.mark.parametrize("i", range(14))
def test_scalings_that_cannot_be_written(i, model, spec, out, tokenizer):
    scaling, message = wrong_for(spec)[i]
    with pytest.raises(ValueError, match=re.escape(message)):
        save_pretrained(model, tokenizer, scaling, out)
    assert not out.parent.exists()


def test_folders_that_are_taken(model, spec, tmp_path, tokenizer):
    scaling = rising(spec, 5)
    note = tmp_path / "full" / "note.txt"
    note.parent.mkdir()
    note.write_text("mine")
    with pytest.raises(
        FileExistsError,
        match=r"full is not empty, and nothing is written over: name a new folder, or e",
    ):
        save_pretrained(model, tokenizer, scaling, note.parent)
    with pytest.raises(FileExistsError, match=r"note\.txt is a file: name a folder"):
        save_pretrained(model, tokenizer, scaling, note)
    assert note.read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    save_pretrained(model, tokenizer, scaling, empty)
    names = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "README.md",
        "scaling.json",
    }
    assert names < {path.name for path in empty.iterdir()}
    assert empty.stat().st_mode & 0o777 == note.parent.stat().st_mode & 0o777
    assert RopeScaling.load(empty / "scaling.json") == scaling


def test_of_two_at_once_one_writes_and_the_other_is_told(model, spec, out, tokenizer, monkeypatch):
    """Also where the other finds the folder free, and full once its turn has come."""
    scaling = rising(spec, 5)
    with (
        alone(out, "export"),
        pytest.raises(ValueError, match=r"another export is writing to .*out"),
    ):
        save_pretrained(model, tokenizer, scaling, out)
    assert list(out.parent.iterdir()) == []
    check = export._check_same_model

    def late(*arguments):
        check(*arguments)
        monkeypatch.undo()
        save_pretrained(model, tokenizer, scaling, out)

    monkeypatch.setattr(export, "_check_same_model", late)
    with pytest.raises(FileExistsError, match="out is not empty, and nothing is written over"):
        save_pretrained(model, tokenizer, scaling, out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_of_several_processes_the_first_writes(model, spec, out, tokenizer, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert save_pretrained(model, tokenizer, rising(spec, 5), out) == out
    assert not out.parent.exists()
    monkeypatch.setenv("RANK", "0")
    save_pretrained(model, tokenizer, rising(spec, 5), out)
    monkeypatch.setenv("RANK", "1")
    assert (
        save_pretrained(model, tokenizer, rising(spec, 5), out) == out
    )  # what the first has written is no offence


@pytest.mark.parametrize("where", ["_write", "check_export", "model_card"])
def test_an_interrupted_save_leaves_nothing(where, model, spec, out, tokenizer, monkeypatch):
    work = getattr(export, where)

    def stops(*arguments):
        work(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(export, where, stops)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(model, tokenizer, rising(spec, 5), out)
    assert list(out.parent.iterdir()) == []
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(model, tokenizer, rising(spec, 5), out)
    assert list(out.parent.iterdir()) == [out] and not any(out.iterdir())


@contextlib.contextmanager
def no_file_above(limit):
    """A limit in bytes on the size of a file: writing stops in the middle of it, as on a full disk.

    It holds for the process, so also for a file that the tests' own output goes to: no longer than
    need be."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    on_signal = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, on_signal)


@pytest.mark.parametrize(
    ("limit", "whole"),
    [(100, set()), (20_000, {"config.json"}), (240_000, {"config.json", "model.safetensors"})],
    ids=["config", "weights", "tokenizer"],
)
def test_a_full_disk(limit, whole, model, spec, out, tokenizer, monkeypatch):
    """Python, safetensors and tokenizers each find it in their own way."""
    left = {}
    clear = export.shutil.rmtree

    def look(part, **options):
        left.update({path.name: path.stat().st_size for path in part.iterdir()})
        clear(part, **options)

    monkeypatch.setattr(export.shutil, "rmtree", look)
    message = (
        r"out cannot be written \(.*File too large.*\), and nothing was kept: free some space, or "
        "name another"
    )
    with pytest.raises(RuntimeError, match=message), no_file_above(limit):
        save_pretrained(model, tokenizer, rising(spec, 5), out)
    assert whole <= {name for name, size in left.items() if size < limit}
    assert list(out.parent.iterdir()) == []


def spoil_config(monkeypatch, **rope):
    right = export.config_with_scaling

    def wrong(config, scaling):
        config = right(config, scaling)
        config.rope_parameters |= rope
        return config

    monkeypatch.setattr(export, "config_with_scaling", wrong)


def test_a_config_that_says_something_else(model, spec, out, tokenizer, monkeypatch):
    """A slow dimension's factor, wrong by a hundred-thousandth: it does not show in the logits."""
    scaling = rising(spec, 5)
    spoil_config(monkeypatch, long_factor=[*scaling.factors[:-1].tolist(), 5.00005])
    message = (
        "turns dimension 7 otherwise than apply_scaling does for an input of 65 tokens, m sin θ/λ "
        ".*: use apply_sc"
    )
    with pytest.raises(RuntimeError, match=message):
        save_pretrained(model, tokenizer, scaling, out)
    spoil_config(monkeypatch, attention_factor=1.0)
    with pytest.raises(RuntimeError, match="for an input of 64 tokens"):
        save_pretrained(model, tokenizer, scaling, out)
    assert list(out.parent.iterdir()) == []


def test_weights_that_are_not_ours(model, spec, out, tokenizer, monkeypatch):
    right = export._write

    def wrong(part, shell, *arguments):
        other = tiny_model(seed=1)
        right(part, other, *arguments)

    monkeypatch.setattr(export, "_write", wrong)
    message = (
        "other logits than apply_scaling for an input of 64 tokens: off by .* at position 0 "
        r"\(.* is allowed\), by "
    )
    with pytest.raises(RuntimeError, match=message):
        save_pretrained(model, tokenizer, rising(spec, 5), out)
    assert list(out.parent.iterdir()) == []


def test_far_positions_are_told_but_not_judged(model, spec, out, tokenizer, monkeypatch):
    """At half a million tokens float32 angles are off by a third of a radian.

    The logits are off by as much as they may be.
    """
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= (
            150  # attention that sees one token, and so every angle
        )
    scaling = rising(spec, 5, target_length=524_288)
    save_pretrained(model, tokenizer, scaling, out)
    off = float(re.search(r"([\d.e-]+) at 524,288 tokens", (out / "README.md").read_text())[1])
    assert off > 0.01
    monkeypatch.setattr(check, "JUDGED_UNTIL", 2**30)
    with pytest.raises(RuntimeError, match="for an input of 524288 tokens: off by"):
        save_pretrained(model, tokenizer, scaling, out.parent / "other")


def test_what_stock_transformers_cannot_load(model, spec, out, tokenizer, monkeypatch):
    spoil_config(monkeypatch, long_factor=[1.0] * 3)
    with pytest.raises(
        RuntimeError,
        match=r"stock transformers 5\S+ cannot run what was written \(.*\); nothing was kept",
    ):
        save_pretrained(model, tokenizer, rising(spec, 5), out)
    assert list(out.parent.iterdir()) == []


# --- start tokens ---------------------------------------------------------------------------------


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [Document(str(n), rng.integers(0, VOCABULARY, n)) for n in (200, 230)]


def test_dropping_start_tokens_is_measured(model, spec, out, tokenizer, documents, caplog):
    given = rising(spec, 5, start_tokens=16)
    save_pretrained(model, tokenizer, given, out, drop_start_tokens=True, docs=documents)
    kept = replace(given, start_tokens=0)
    assert_stock_gives_ours(out, model, kept)
    assert (
        RopeScaling.load(out / "scaling.json") == given
    )  # exact: apply_scaling takes it on the reloaded model
    with apply_scaling(stock(out), given):
        pass
    table = perplexity(
        model, documents, [200], {"with": given, "without": kept}
    )  # the shorter document's length
    before, after = table.groupby("scaling").loss.mean()[["with", "without"]]
    assert abs(after - before) > 1e-3
    words = (
        "The scaling's 16 start tokens, which transformers has no place for, were left out. Change "
        f"of the mean loss over 2 documents, nats per token: {after - before:+.4f} at 200 tokens "
        f"(from {before:.4f} to {after:.4f})."
    )
    assert words in (out / "README.md").read_text()
    assert caplog.messages == [words]
    assert "| start tokens | 16 (left out) |" in (out / "README.md").read_text()


def test_dropping_start_tokens_of_stages_is_measured_at_both_lengths(
    model, spec, out, tokenizer, documents, caplog
):
    given = RopeSchedule.by_length([replace(s, start_tokens=8) for s in two_sets(spec).scalings])
    save_pretrained(model, tokenizer, given, out, drop_start_tokens=True, docs=documents)
    assert_stock_gives_ours(out, model, two_sets(spec))
    assert RopeSchedule.load(out / "scaling.json") == given
    table = perplexity(model, documents, [SWITCH, 200], {"with": given, "without": two_sets(spec)})
    means = table.groupby(["length", "scaling"]).loss.mean()
    for length in (SWITCH, 200):
        before, after = means[length, "with"], means[length, "without"]
        assert (
            f"{after - before:+.4f} at {length} tokens (from {before:.4f} to {after:.4f})"
            in caplog.messages[0]
        )


def test_dropping_start_tokens_unmeasured_is_refused(model, spec, out, tokenizer):
    message = (
        "leaves out 4 start tokens, and what that costs is measured on documents: pass docs=, from "
        "load_corpus"
    )
    with pytest.raises(ValueError, match=message):
        save_pretrained(
            model, tokenizer, rising(spec, 5, start_tokens=4), out, drop_start_tokens=True
        )
    assert not out.parent.exists()


def test_documents_by_their_old_name(model, spec, out, tokenizer, documents, caplog):
    given = rising(spec, 5, start_tokens=16)
    with pytest.warns(FutureWarning, match="^documents= of save_pretrained is now docs="):
        save_pretrained(model, tokenizer, given, out, drop_start_tokens=True, documents=documents)
    assert "16 start tokens" in caplog.messages[0]


def test_nothing_to_drop(model, spec, out, tokenizer, documents, caplog):
    save_pretrained(
        model,
        tokenizer,
        DynamicNTK(spec),
        out / "dynamic",
        drop_start_tokens=True,
        docs=documents,
    )
    save_pretrained(
        model, tokenizer, rising(spec, 5), out / "one", drop_start_tokens=True, docs=documents
    )
    assert "left out" not in (out / "one" / "README.md").read_text()
    assert not caplog.messages


# --- the card -------------------------------------------------------------------------------------


def test_the_card(model, spec, out, tokenizer):
    model.config._name_or_path = "owner/base-1b"
    figures = pd.DataFrame({"length": [512], "perplexity": [12.3456789]})
    save_pretrained(model, tokenizer, two_sets(spec), out, figures=figures)
    card = (out / "README.md").read_text()
    for line in (
        "base_model: owner/base-1b",
        "owner/base-1b, its context window extended from 64 to 256 tokens",
        "with longrope_lab (`longrope`).",
        'model = AutoModelForCausalLM.from_pretrained("out")',
        "| rope type | `longrope` |",
        "| target length (for 96), tokens | 96 |",
        "| 512 | 12.35 |",
    ):
        assert line in card.splitlines()
    assert re.search(
        r"gives longrope_lab's logits to \S+ at 96 tokens, \S+ at 97 tokens, \S+ at 256 tokens \(",
        card,
    )


def test_the_card_names_no_local_path(model, spec, out, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "my model")
    save_pretrained(stock(tmp_path / "my model"), tokenizer, rising(spec, 5), out)
    card = (out / "README.md").read_text()
    assert (
        "base_model" not in card
        and str(tmp_path) not in card
        and "\nmy model, its context window" in card
    )


def test_figures_of_another_kind(model, spec, out, tokenizer):
    with pytest.raises(
        ValueError, match="figures is a list: pass a DataFrame, or a dict of names and numbers"
    ):
        save_pretrained(model, tokenizer, rising(spec, 5), out, figures=[1, 2])
    assert not out.parent.exists()


# --- both forms -----------------------------------------------------------------------------------


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_the_older_form_beside(model, spec, out, tokenizer):
    """Its fields, as engines other than transformers 5 look for them."""
    yarn = replace(rope_scaling(spec, "yarn", TARGET), attention_factor=1.5)
    values = config_of(save_pretrained(model, tokenizer, yarn, out / "yarn"))
    new = values["rope_parameters"]
    assert values["rope_theta"] == new.pop("rope_theta") == 10_000
    assert values["rope_scaling"] == new | {"type": "yarn"}
    assert (new["beta_fast"], new["beta_slow"]) == (32, 1)
    assert new["attn_factor"] * (0.1 * math.log(4) + 1) == pytest.approx(1.5, rel=1e-12)
    for scaling, original in ((rising(spec, 5), None), (two_sets(spec), SWITCH)):
        values = config_of(save_pretrained(model, tokenizer, scaling, out / str(original)))
        assert values.get("original_max_position_embeddings") == original
        old = values["rope_scaling"]
        mscales = old["short_mscale"], old["long_mscale"], old["attention_factor"]
        assert mscales == (1.07, 1.07, 1.07) and old["type"] == old["rope_type"] == "longrope"
    # A single set over it leaves nothing of the two.
    reloaded, _ = load_model(out / str(SWITCH), device="cpu")
    again = rising(rope_spec(reloaded), 2, target_length=2 * TARGET)
    values = config_of(save_pretrained(reloaded, tokenizer, again, out / "again"))
    assert "original_max_position_embeddings" not in values


def test_transformers_5_drops_the_older_form(model, spec, out, tokenizer):
    """As the card says."""
    folder = save_pretrained(model, tokenizer, rising(spec, 5), out)
    stock(folder).save_pretrained(out / "again")
    assert "rope_scaling" in config_of(folder) and "rope_scaling" not in config_of(out / "again")
    assert "drops the older form when it loads" in (folder / "README.md").read_text()


def test_forms_that_contradict_each_other(model, spec, out, tokenizer):
    """Whoever edits one of them has to edit both."""
    folder = save_pretrained(model, tokenizer, two_sets(spec), out)
    right = config_of(folder)
    for wrong, message in (
        (
            {"rope_theta": 5e5},
            "rope_theta is 10000.0 in its .*, and 500000.0 by its r",
        ),
        (changed(right, attention_factor=1.0), "attention_factor is 1.07 in its .* and 1.0 by its"),
        (changed(right, factor=None), "factor is .* in its rope_parameters, and nothing by its r"),
        (changed(right, rope_type="yarn"), "rope_type is longrope in its rope_parameters, and ya"),
    ):
        (folder / "config.json").write_text(json.dumps(right | wrong))
        for read in (load_model, lambda path: scaling_from_config(config_of(path))):
            with pytest.raises(ValueError, match=message):
                read(folder)
    (folder / "config.json").write_text(json.dumps(right))
    assert scaling_from_config(right) == scaling_from_config(load_model(folder)[0].config)


def changed(values, **fields):
    """A config's older form with other fields; None takes one away."""
    old = {k: v for k, v in (values["rope_scaling"] | fields).items() if v is not None}
    return {"rope_scaling": old}


def test_special_tokens_and_class_by_names_that_both_versions_know(model, spec, out, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    folder = save_pretrained(model, tokenizer, rising(spec, 5), out)
    values = json.loads((folder / "tokenizer_config.json").read_text())
    assert values["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert values["additional_special_tokens"] == ["<|im_start|>"]
    again = AutoTokenizer.from_pretrained(folder)
    assert type(again) is type(tokenizer)
    text = "<|im_start|>In the beginning 7"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.decode(again(text).input_ids, skip_special_tokens=True) == text[12:]


# --- what is compared -----------------------------------------------------------------------------


def test_a_long_input_is_checked_at_few_positions():
    assert check._positions(200).tolist() == list(range(200))
    for length in (257, 8192, 2_097_152):
        positions = check._positions(length)
        assert 100 <= len(positions) <= check.POSITIONS
        assert (positions[0], positions[-1]) == (0, length - 1)
        assert (positions.diff() > 0).all()


def test_every_family_is_here():
    assert {
        "llama",
        "mistral",
        "qwen2",
        "phi3",
        "gemma2",
        "gpt_neox",
        "olmo2",
        "stablelm",
        "cohere",
    } <= set(FAMILIES)


# --- an earlier export ----------------------------------------------------------------------------


def test_an_earlier_export_is_replaced_where_that_is_asked_for(model, spec, out, tokenizer):
    """By the new one whole; without the word, or if it is something else, it stays."""
    yarn, pi = (rope_scaling(spec, name, 2 * WINDOW) for name in ("yarn", "pi"))
    save_pretrained(model, tokenizer, yarn, out)
    with pytest.raises(FileExistsError, match="nothing is written over"):
        save_pretrained(model, tokenizer, pi, out)
    assert RopeScaling.load(out / "scaling.json") == yarn
    (out / "of the first").touch()
    save_pretrained(model, tokenizer, pi, out, overwrite=True)
    assert RopeScaling.load(out / "scaling.json") == pi and not (out / "of the first").exists()
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    (out / "scaling.json").unlink()  # now it may be anybody's
    with pytest.raises(FileExistsError, match="nothing is written over"):
        save_pretrained(model, tokenizer, yarn, out, overwrite=True)
    assert (out / "config.json").exists()


def test_how_a_tokenizer_was_called_is_not_handed_over(model, spec, out, tokenizer):
    """The tokenizers library would cut or pad every text of whoever loads the folder."""
    used = copy.deepcopy(tokenizer)
    used.pad_token = used.pad_token or used.eos_token
    used(["In the beginning", "God"], padding=True, truncation=True, max_length=4)
    assert used.backend_tokenizer.truncation and used.backend_tokenizer.padding
    save_pretrained(model, used, rope_scaling(spec, "yarn", 2 * WINDOW), out)
    handed = json.loads((out / "tokenizer.json").read_text())
    assert handed["truncation"] is None and handed["padding"] is None
    assert used.backend_tokenizer.truncation  # the live one is as it was
