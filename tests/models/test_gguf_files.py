"""Scalings and tokenizers of GGUF files, against models of transformers that have them, too."""

import numpy as np
import pytest
import torch
from conftest import WINDOW, tiny_model
from gguf import GGUFWriter, RopeScalingType
from gguf_files import write_gguf
from tokenizers import Regex, pre_tokenizers

from longrope_lab.models.gguf_files import SAMPLE, SPLITS, GgufFile, with_its_rotary
from longrope_lab.models.loading import load_model, load_tokenizer
from longrope_lab.models.rotary import rope_spec

IDS = torch.arange(5, 5 + 3 * WINDOW)[None]
FACTORS = np.linspace(1, 8, 8)
BASE = {"rope_theta": 10_000.0}


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def yarn(writer):
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(WINDOW // 4)


def yarn_with_a_factor(writer):
    yarn(writer)
    writer.add_rope_scaling_attn_factors(0.9)


def linear(writer):
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(WINDOW // 4)


def one_set(writer):
    """As Llama 3.1's files have it: factors alone, and no word of a type."""
    writer.add_tensor("rope_freqs.weight", FACTORS.astype(np.float32))


def two_sets(writer):
    writer.add_rope_scaling_orig_ctx_len(WINDOW // 4)
    writer.add_rope_scaling_attn_factors(1.25)
    writer.add_tensor("rope_factors_short.weight", np.ones(8, dtype=np.float32))
    writer.add_tensor("rope_factors_long.weight", FACTORS.astype(np.float32))


OF_YARN = BASE | {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW // 4,
}  # fmt: skip
SETS = BASE | {
    "rope_type": "longrope", "short_factor": FACTORS.tolist(), "long_factor": FACTORS.tolist(),
    "original_max_position_embeddings": WINDOW // 4, "attention_factor": 1.0,
}  # fmt: skip
CARRIED = {
    "yarn": (yarn, OF_YARN),
    "yarn and a factor": (
        yarn_with_a_factor,
        OF_YARN | {"attention_factor": 0.9 * (0.1 * np.log(4) + 1)},
    ),
    "linear": (linear, BASE | {"rope_type": "linear", "factor": 4.0}),
    "one set": (one_set, SETS),
    "two sets": (two_sets, SETS | {"short_factor": [1.0] * 8, "attention_factor": 1.25}),
}


@pytest.mark.parametrize("kind", CARRIED)
def test_a_scaling_in_the_file_is_read(kind, tmp_path):
    add, rope = CARRIED[kind]
    write_gguf(tmp_path / "a.gguf", tiny_model(vocab_size=261), add)
    loaded, _ = load_model(tmp_path / "a.gguf", device="cpu")
    theirs = tiny_model(vocab_size=261, rope_parameters=rope)
    inv_freq = theirs.model.rotary_emb.inv_freq.clone()  # of short texts
    torch.testing.assert_close(logits(loaded), logits(theirs), atol=2e-5, rtol=0)
    assert (logits(loaded) - logits(tiny_model(vocab_size=261))).abs().max() > 0.01
    spec = rope_spec(loaded)
    assert spec.window == (WINDOW // 4 if kind == "two sets" else WINDOW)
    assert spec.attention_factor == pytest.approx(theirs.model.rotary_emb.attention_scaling)
    np.testing.assert_allclose(spec.frequencies, inv_freq.numpy(), rtol=1e-6)


def longrope_alone(writer):
    """What llama.cpp's converter writes of most models that have two sets."""
    writer.add_rope_scaling_type(RopeScalingType.LONGROPE)


def both(writer):
    yarn(writer)
    one_set(writer)


def half(writer):
    writer.add_tensor("rope_factors_long.weight", FACTORS.astype(np.float32))


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (longrope_alone, "states the scaling 'longrope', and holds no factors for it"),
        (both, r"states both a scaling \(yarn, 4\) and tensors of factors"),
        (half, "states the tensors rope_factors_long.weight"),
        (lambda w: w.add_float32("llama.rope.scaling.yarn_log_multiplier", 0.1), "yarn_log_mult"),
        (lambda w: w.add_float32("llama.rope.something", 2.0), "states rope.something 2.0, and"),
        (lambda w: w.add_string("llama.rope.scaling.type", "new"), "states the scaling 'new'"),
    ],
)
def test_a_scaling_that_is_not_understood(add, message, tmp_path):
    write_gguf(tmp_path / "a.gguf", tiny_model(vocab_size=261), add)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "a.gguf", device="cpu")


# --- tokenizers ---


def test_digits_are_cut_as_the_file_says(tmp_path, caplog):
    """A vocabulary of single bytes shows nothing, so a merge of two digits is looked for."""
    cut = {}
    for split in ("gpt-2", "smollm", "llama-bpe", None):
        write_gguf(tmp_path / "a.gguf", tiny_model(vocab_size=261), split=split)
        _, tokenizer = load_model(tmp_path / "a.gguf", device="cpu")
        pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("abc  12345")
        cut[split] = [piece.replace("Ġ", " ") for piece, _ in pieces]
        tokenizer.save_pretrained(tmp_path / "saved")
    assert cut["gpt-2"] == cut[None] == ["abc", " ", " 12345"]
    assert cut["smollm"] == ["abc", "  ", "1", "2", "3", "4", "5"]
    assert cut["llama-bpe"] == ["abc", " ", " ", "123", "45"]
    assert "does not say how its tokenizer cuts texts" in caplog.text


def test_rules_are_those_of_released_tokenizers(tokenizer):
    """GPT-2's, as the tokenizers library has it; SmolLM's, as its tokenizer.json says it."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    released = {
        "gpt-2": byte_level,
        "smollm": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), byte_level]
        ),
    }
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for name, theirs in released.items():
        rules = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in SPLITS[name]]
        ours = pre_tokenizers.Sequence([*rules, plain])
        assert ours.pre_tokenize_str(SAMPLE) == theirs.pre_tokenize_str(SAMPLE), name


def test_a_rule_that_is_not_known(tmp_path):
    write_gguf(tmp_path / "a.gguf", tiny_model(vocab_size=261), split="deepseek-coder")
    with pytest.raises(ValueError, match=r"cuts texts by the rule 'deepseek-coder', which is not"):
        load_model(tmp_path / "a.gguf", device="cpu")


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("m-00001-of-00003.gguf", 0, r"part 1 of 3 .*--merge m-00001-of-00003\.gguf WHOLE"),
        ("m-00002-of-00003.gguf", 1, r"part 2 of 3 .*--merge m-00001-of-00003\.gguf WHOLE"),
        ("renamed.gguf", 1, r"part 2 of 3 .*--merge FIRST\.gguf WHOLE"),
    ],
)
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_part_of_a_model_names_the_first(load, name, number, words, tmp_path):
    """As llama-gguf-split writes them: only the first states a model."""
    part = GGUFWriter(tmp_path / name, "llama")
    if number:
        part.kv_data[0].clear()
    part.add_uint16("split.no", number)
    part.add_uint16("split.count", 3)
    part.add_tensor("blk.0.attn_q.weight", np.ones((4, 4), dtype=np.float32))
    part.write_header_to_file()
    part.write_kv_data_to_file()
    part.write_tensors_to_file()
    part.close()
    with pytest.raises(ValueError, match=words):
        load(tmp_path / name)


def test_a_file_that_the_system_does_not_open(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "a.gguf"
    file.touch()
    monkeypatch.setattr(type(file), "open", refuse)
    with pytest.raises(ValueError, match=r"a\.gguf cannot be read \(Permission denied\)"):
        load_model(file)


def test_layers_that_a_file_does_not_state(tmp_path):
    """transformers leaves them out: it would measure another model."""
    model = tiny_model(vocab_size=261)  # of two layers

    def one(writer):
        writer.kv_data[0]["llama.block_count"].value = 1

    write_gguf(tmp_path / "a.gguf", model, one)
    with pytest.raises(ValueError, match="holds 2 layers, and states block_count 1: it was cut"):
        load_model(tmp_path / "a.gguf")


def test_a_norm_that_a_file_does_not_state(tmp_path):
    """transformers would take its own number, and every loss would be a little off."""
    path, model = tmp_path / "a.gguf", tiny_model(vocab_size=261)
    write_gguf(path, model, lambda w: w.kv_data[0].pop("llama.attention.layer_norm_rms_epsilon"))
    with pytest.raises(ValueError, match=r"does not state llama\.attention\.layer_norm_rms"):
        load_model(path)


@pytest.mark.parametrize(("stated", "base"), [({}, 10_000.0), ({"freq_base": 5e5}, 5e5)])
def test_a_base_that_is_not_stated_is_llama_cpps(stated, base):
    """Gemma 3's config would have 1,000,000, and every angle would be another."""
    config = tiny_model("gemma3").config
    file = GgufFile("a.gguf", stated, WINDOW, {}, None, None)
    parameters = with_its_rotary(config, file).rope_parameters
    assert parameters["full_attention"]["rope_theta"] == base
    assert parameters["sliding_attention"]["rope_theta"] == 10_000.0
