"""The attention factor in the query weights: stock transformers, at the formula's m, gives ours."""

import copy
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from conftest import FAMILIES, WINDOW, tiny_model
from test_folder import SWITCH, TARGET, logits, rising, stock, two_sets

from longrope_lab.export.folder import save_pretrained
from longrope_lab.models.loading import load_model
from longrope_lab.models.read_config import scaling_from_config
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import DynamicNTK, RopeSchedule

CASES = [(family, {}) for family in FAMILIES]
CASES += [("cohere", {"use_qk_norm": True}), ("stablelm", {"use_qkv_bias": True})]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def own(folder):
    """The rope parameters of full attention in a folder's config.json."""
    parameters = json.loads((folder / "config.json").read_text())["rope_parameters"]
    return parameters.get("full_attention", parameters)


@pytest.mark.parametrize(("family", "fields"), CASES)
def test_stock_transformers_gives_ours(family, fields, out, tokenizer):
    """Biases, norms, fused and partly turned queries among them."""
    model = tiny_model(family, **fields)
    for name, weight in model.named_parameters():  # norms and biases that do something
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(weight, 0.8, 0.2)
    weights = copy.deepcopy(model.state_dict())
    short, long = two_sets(rope_spec(model)).scalings
    scaling = RopeSchedule.by_length([replace(s, attention_factor=1.3) for s in (short, long)])
    save_pretrained(model, tokenizer, scaling, out, fold_attention_factor=True)
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert not {"attention_factor", "short_mscale", "long_mscale"} & set(own(out))
    for length in (WINDOW, SWITCH + 1, TARGET):
        with apply_scaling(model, scaling):
            ours = logits(model, length)
        largest = float(ours.abs().max())
        torch.testing.assert_close(logits(stock(out), length), ours, atol=1e-4 * largest, rtol=0)
    read = scaling_from_config(stock(out).config)
    formula = math.sqrt(1 + math.log(TARGET / SWITCH) / math.log(SWITCH))
    assert read.at(1).attention_factor == pytest.approx(formula, rel=1e-12)
    with apply_scaling(stock(out), RopeSchedule.load(out / "scaling.json")):
        pass  # of these weights


@pytest.mark.parametrize(
    ("method", "rope_type", "formula"),
    [("pi", "linear", 1.0), ("yarn", "yarn", 0.1 * math.log(4) + 1), ("none", "default", 1.0)],
)
def test_plain_rope_types_have_formulas_of_their_own(method, rope_type, formula, out, tokenizer):
    model = tiny_model()
    scaling = replace(rope_scaling(rope_spec(model), method, TARGET), attention_factor=1.25)
    save_pretrained(model, tokenizer, scaling, out, fold_attention_factor=True)
    assert own(out)["rope_type"] == rope_type and "attention_factor" not in own(out)
    assert "attn_factor" not in own(out)
    with apply_scaling(model, scaling):
        torch.testing.assert_close(
            logits(stock(out), TARGET), logits(model, TARGET), atol=1e-4, rtol=0
        )
    by = (1.25 / formula) ** 2
    weights = (m.model.layers[0].self_attn.q_proj.weight for m in (stock(out), model))
    torch.testing.assert_close(*[w / f for w, f in zip(weights, (by, 1), strict=True)])


def test_what_rounding_once_more_does_is_told(out, tokenizer):
    """On the lab model in bfloat16: in the card, and seen on the folder."""
    model, tokenizer = load_model("lab", device="cpu", dtype=torch.bfloat16)
    scaling = RopeScaling(
        rope_spec(model), 1 + torch.linspace(0, 9, 32).numpy(), 2048, attention_factor=1.2
    )
    save_pretrained(model, tokenizer, scaling, out, fold_attention_factor=True)
    card = (out / "README.md").read_text()
    found = re.search(r"rounded to bfloat16 once more, .* by (\S+) nats at most and (\S+) on", card)
    most, mean = map(float, found.groups())
    assert 1e-4 < mean < most < 0.5  # of 4,096 tokens, seen: 0.11 and 0.0035
    exact, _ = load_model("lab", device="cpu", dtype=torch.float32)
    with apply_scaling(exact, scaling):
        ours = logits(exact, 600, vocabulary=4096).log_softmax(-1)
    theirs = logits(stock(out).float(), 600, vocabulary=4096).log_softmax(-1)
    assert mean / 4 < (theirs - ours).abs().mean() < 4 * mean


def test_a_second_extension_and_a_schedule_without_sets(out, tokenizer):
    model = tiny_model()
    first = replace(rope_scaling(rope_spec(model), "yarn", 2 * WINDOW), attention_factor=1.4)
    save_pretrained(model, tokenizer, first, out / "first")
    extended, _ = load_model(out / "first", device="cpu")
    second = rising(rope_spec(extended), 2, target_length=TARGET)
    save_pretrained(extended, tokenizer, second, out / "second", fold_attention_factor=True)
    with apply_scaling(extended, second):
        ours = logits(extended, TARGET)
    torch.testing.assert_close(logits(stock(out / "second"), TARGET), ours, atol=1e-4, rtol=0)
    dynamic = DynamicNTK(rope_spec(model))
    folder = save_pretrained(model, tokenizer, dynamic, out / "ntk", fold_attention_factor=True)
    assert "query weights" not in (folder / "README.md").read_text()


def test_attention_that_is_not_understood(out, tokenizer):
    """Each is refused by name, and nothing is written."""
    model = tiny_model()
    scaling = rising(rope_spec(model), 5)
    for layer in model.model.layers:
        layer.self_attn.q_norm = torch.nn.Identity()  # which is never called
    with pytest.raises(ValueError, match="a Identity of queries is not known here: leave fold_att"):
        save_pretrained(model, tokenizer, scaling, out, fold_attention_factor=True)
    model = tiny_model()
    for layer in model.model.layers:
        layer.self_attn.q_norm = torch.nn.LayerNorm(16)  # nor is this one
    with pytest.raises(ValueError, match="attention of LlamaForCausalLM is not understood: with t"):
        save_pretrained(model, tokenizer, scaling, out, fold_attention_factor=True)
    model = tiny_model()
    model.config.clip_qkv = 8.0
    with pytest.raises(ValueError, match="LlamaForCausalLM makes its queries in a way that is not"):
        save_pretrained(model, tokenizer, scaling, out, fold_attention_factor=True)
    short, long = two_sets(rope_spec(model)).scalings
    unequal = RopeSchedule.by_length([replace(short, attention_factor=1.0), long])
    with pytest.raises(
        ValueError, match=r"the sets have attention factors 1 .* and a config holds"
    ):
        save_pretrained(tiny_model(), tokenizer, unequal, out, fold_attention_factor=True)
    assert not out.exists()
