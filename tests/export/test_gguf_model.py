"""A model written as a GGUF file: what comes back, by transformers and by the gguf package."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import WINDOW, tiny_model
from gguf import GGUFReader
from gguf_files import write_gguf
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import longrope_lab as lab
from longrope_lab import cli
from longrope_lab.export.gguf_tokenizer import RULES, tokenizer_entries
from longrope_lab.models.gguf_files import SPLITS

TARGET = 4 * WINDOW
TEXT = "In 2024, it's 12345.67 of  CamelCase\n\n naïve 東京 <|endoftext|> ²³"


def scaling_for(model, m=1.23):
    """Factors that no formula gives."""
    spec = lab.rope_spec(model)
    factors = np.linspace(1, 7.3, spec.rotary_dim // 2)
    return lab.RopeScaling(spec, factors, TARGET, attention_factor=m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_tokens_and_factors_come_back_to_the_bit(dtype, tmp_path):

    model, tokenizer = lab.load_model("lab", device="cpu", dtype=dtype)
    scaling = lab.RopeScaling(
        lab.rope_spec(model), np.linspace(1, 10, 32), 4096, attention_factor=1.2
    )
    out = lab.save_gguf(model, tokenizer, scaling, tmp_path / "lab.gguf")
    loaded, words = lab.load_model(out, device="cpu", dtype=torch.float32)
    for name, weight in model.state_dict().items():
        assert (loaded.state_dict()[name] == weight.float()).all(), name
    read = lab.scaling_from_config(loaded.config)
    assert read.spec == scaling.spec and read.target_length == 4096
    assert read.factors.tolist() == scaling.factors.astype(np.float32).tolist()
    assert read.attention_factor == np.float32(1.2)
    assert words(TEXT).input_ids == tokenizer(TEXT).input_ids
    names = {(t.name, t.tensor_type.name) for t in GGUFReader(out).tensors}
    assert ("output_norm.weight", "F32") in names and ("rope_freqs.weight", "F32") in names
    kind = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    assert ("blk.0.attn_q.weight", kind) in names
    assert not any(name.startswith("output.") for name, _ in names)  # it is token_embd's


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_weights_lie_as_those_of_llama_cpp(family, tokenizer, tmp_path):
    """As an independent writer has them; and a patched file is a written one."""
    model = tiny_model(family, vocab_size=len(tokenizer))
    scaling = scaling_for(model)
    ours = GGUFReader(lab.save_gguf(model, tokenizer, scaling, tmp_path / "ours.gguf"))
    theirs = tmp_path / "theirs.gguf"
    tensors = {t.name: t.data for t in ours.tensors}
    write_gguf(theirs, model)
    patched = GGUFReader(lab.add_scaling_to_gguf(theirs, scaling, tmp_path / "patched.gguf"))
    assert {t.name for t in patched.tensors} == set(tensors)
    for tensor in patched.tensors:
        assert (tensors[tensor.name] == tensor.data).all(), tensor.name
    for name, field in patched.fields.items():
        if name.startswith("llama.") and name != "llama.vocab_size":
            assert ours.fields[name].contents() == field.contents(), name


def test_a_qwen2_becomes_a_llama_with_biases(tokenizer, tmp_path):
    model = tiny_model("qwen2", vocab_size=len(tokenizer))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    scaling = scaling_for(model)
    out = lab.save_gguf(model, tokenizer, scaling, tmp_path / "q.gguf")
    reader = GGUFReader(out)
    assert reader.fields["general.architecture"].contents() == "llama"
    tensors = {t.name: t.data for t in reader.tensors}
    bias = model.model.layers[1].self_attn.q_proj.bias.detach().numpy()
    heads = [[b for i in range(8) for b in (h[i], h[i + 8])] for h in bias.reshape(4, 16)]
    assert tensors["blk.1.attn_q.bias"].tolist() == np.ravel(heads).tolist()
    value = model.model.layers[1].self_attn.v_proj.bias.detach().numpy()
    assert (tensors["blk.1.attn_v.bias"] == value).all()
    loaded, _ = lab.load_model(out, device="cpu")  # which transformers' Llama would read without
    ids = torch.arange(5, 5 + 3 * WINDOW)[None]
    with torch.no_grad(), lab.apply_scaling(model, scaling):
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=2e-4, rtol=0)


def test_phi3_gets_both_sets(tokenizer, tmp_path):
    """Its graph in llama.cpp loads no other tensors of factors."""
    model = tiny_model("phi3", vocab_size=len(tokenizer))
    scaling = scaling_for(model)
    out = lab.save_gguf(model, tokenizer, scaling, tmp_path / "phi.gguf")
    loaded, _ = lab.load_model(out, device="cpu")
    read = lab.scaling_from_config(loaded.config)
    assert read.factors.tolist() == scaling.factors.astype(np.float32).tolist()
    ids = torch.arange(5, 5 + 3 * WINDOW)[None]
    with torch.no_grad(), lab.apply_scaling(model, scaling):
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=2e-4, rtol=0)
    names = {t.name for t in GGUFReader(out).tensors}
    assert {"rope_factors_long.weight", "rope_factors_short.weight"} <= names
    assert "blk.0.attn_qkv.weight" in names and "blk.0.ffn_up.weight" in names


def test_the_scaling_of_a_folder_goes_on_into_the_file(tmp_path):
    model, tokenizer = lab.load_model("lab", device="cpu")
    scaling = lab.rope_scaling(lab.rope_spec(model), "ramp", 1024)
    folder = lab.save_pretrained(model, tokenizer, scaling, tmp_path / "folder")
    from_folder = lab.save_gguf(*lab.load_model(folder), None, tmp_path / "folder.gguf")
    given = lab.save_gguf(model, tokenizer, scaling, tmp_path / "given.gguf")
    ours, theirs = (
        next(t.data for t in GGUFReader(path).tensors if t.name == "rope_freqs.weight")
        for path in (from_folder, given)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert (
        lab.scaling_from_config(lab.load_model(from_folder)[0].config).attention_factor
        == lab.scaling_from_config(lab.load_model(given)[0].config).attention_factor
    )
    bare = lab.save_gguf(model, tokenizer, None, tmp_path / "bare.gguf")
    assert not any(t.name == "rope_freqs.weight" for t in GGUFReader(bare).tensors)


def test_without_a_scaling_nothing_is_said_of_one(tokenizer, tmp_path):
    model = tiny_model(vocab_size=len(tokenizer))
    none = lab.rope_scaling(lab.rope_spec(model), "none", WINDOW)
    reader = GGUFReader(lab.save_gguf(model, tokenizer, none, tmp_path / "none.gguf"))
    assert not any(t.name.startswith("rope_") for t in reader.tensors)
    assert not any(".rope.scaling." in name for name in reader.fields)
    (tmp_path / "plain.gguf").write_bytes((tmp_path / "none.gguf").read_bytes())
    scaling = scaling_for(model)
    patched = lab.add_scaling_to_gguf(tmp_path / "plain.gguf", scaling, tmp_path / "p.gguf")
    written = lab.save_gguf(model, tokenizer, scaling, tmp_path / "w.gguf")
    theirs, ours = (
        {t.name: t.data.tobytes() for t in GGUFReader(p).tensors} for p in (patched, written)
    )
    assert theirs == ours


def test_biases_that_no_class_has(tmp_path):
    def add(writer):
        writer.add_tensor("blk.0.attn_output.bias", np.zeros(64, dtype=np.float32))

    write_gguf(tmp_path / "a.gguf", tiny_model(vocab_size=261), add)
    with pytest.raises(ValueError, match=r"has biases \(attn_output\) that transformers does not"):
        lab.load_model(tmp_path / "a.gguf", device="cpu")


def test_the_live_model_and_its_scaling_in_place_stay(tokenizer, tmp_path):
    model = tiny_model(vocab_size=len(tokenizer))
    scaling = scaling_for(model)
    expected = lab.save_gguf(model, tokenizer, scaling, tmp_path / "a.gguf").read_bytes()
    with lab.apply_scaling(model, lab.rope_scaling(scaling.spec, "pi", TARGET)):
        out = lab.save_gguf(model, tokenizer, scaling, tmp_path / "b.gguf")
    assert out.read_bytes() == expected


# --- refusals ---


def other_models(tokenizer):
    """Models that llama.cpp's graph would compute otherwise, by what is said of them."""
    size = {"vocab_size": len(tokenizer)}
    return {
        "models of type 'gemma2' are not written": tiny_model("gemma2", **size),
        "since its activation is gelu": tiny_model(hidden_act="gelu", **size),
        "since its attention slides over 16": tiny_model("mistral", sliding_window=16, **size),
    }


def test_other_models(tokenizer, tmp_path):
    for message, model in other_models(tokenizer).items():
        with pytest.raises(ValueError, match=f"{message}.*convert_hf_to_gguf.py"):
            lab.save_gguf(model, tokenizer, scaling_for(model), tmp_path / "a.gguf")


def test_other_scalings_and_files(tokenizer, tmp_path):
    model = tiny_model(vocab_size=len(tokenizer))
    scaling = scaling_for(model)
    other = replace(scaling, spec=replace(scaling.spec, base=500_000.0))
    for given, message in (
        (other, "base 500000; the model has rotary_dim 16, base 10000"),
        (replace(scaling, start_tokens=4), "keeps 4 start tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            lab.save_gguf(model, tokenizer, given, tmp_path / "a.gguf")
    (tmp_path / "a.gguf").touch()
    with pytest.raises(FileExistsError, match="is there already"):
        lab.save_gguf(model, tokenizer, scaling, tmp_path / "a.gguf")
    assert lab.save_gguf(model, tokenizer, scaling, tmp_path / "a.gguf", overwrite=True)


def tokenizer_with(cut, normalizer=None, **options):
    """A tokenizer of single bytes that cuts texts by a rule."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    rules = Tokenizer(models.BPE(vocabulary, [], **options))
    rules.pre_tokenizer, rules.normalizer = cut, normalizer or rules.normalizer
    return PreTrainedTokenizerFast(tokenizer_object=rules)


def split(rule, behavior="isolated"):
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(rule), behavior), plain])


def test_rules_that_llama_cpp_has_by_name():
    (llama,), (qwen,) = SPLITS["llama-bpe"], SPLITS["qwen2"]
    usual = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    known = {
        "gpt-2": tokenizer_with(usual),
        "smollm": tokenizer_with(pre_tokenizers.Sequence([digits, usual])),
        "llama-bpe": tokenizer_with(split(llama), ignore_merges=True),
        "qwen2": tokenizer_with(split(qwen), normalizers.NFC()),
    }
    assert {n: tokenizer_entries(t, 300, "").split for n, t in known.items()} == {
        name: name for name in RULES.values()
    }


def test_rules_that_it_has_not():
    (llama,), usual = SPLITS["llama-bpe"], pre_tokenizers.ByteLevel(add_prefix_space=False)
    for other in (
        tokenizer_with(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        tokenizer_with(pre_tokenizers.Sequence([pre_tokenizers.Digits(), usual])),
        tokenizer_with(split(llama)),  # merges where llama.cpp takes whole pieces
        tokenizer_with(usual, normalizers.Lowercase()),
        tokenizer_with(split(llama, "removed"), ignore_merges=True),
        tokenizer_with(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), usual])),
    ):
        with pytest.raises(ValueError, match=r"by a rule that llama\.cpp is not known to have"):
            tokenizer_entries(other, 300, "")
    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(ValueError, match="is not one of bytes and merges"):
        tokenizer_entries(PreTrainedTokenizerFast(tokenizer_object=words), 2, "")


def test_a_sentencepiece_tokenizer_is_refused(tmp_path):
    """Llama 2's: merges of characters, bytes where there is none, spaces as low lines."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a"]
    rules = Tokenizer(
        models.BPE({t: i for i, t in enumerate(tokens)}, [], byte_fallback=True, unk_token="<unk>")
    )
    rules.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    words = PreTrainedTokenizerFast(tokenizer_object=rules)
    model, path = tiny_model(vocab_size=len(tokens)), tmp_path / "a.gguf"
    with pytest.raises(ValueError, match=r"not one of bytes and merges.*convert_hf_to_gguf\.py.*a"):
        lab.save_gguf(model, words, scaling_for(model), path)
    assert not path.exists()


def test_rows_without_a_token_get_a_name(tokenizer):
    entries = tokenizer_entries(tokenizer, len(tokenizer) + 2, "")
    assert entries.tokens[-2:] == [f"[PAD{len(tokenizer) + i}]" for i in range(2)]
    assert entries.kinds[0] == 3 and entries.kinds[-1] == 5 and entries.kinds[1] == 1


def test_the_command_takes_folders(tokenizer, tmp_path, capsys):
    model = tiny_model(vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    scaling_for(model).save(tmp_path / "scaling.json")
    out = tmp_path / "out.gguf"
    arguments = ["gguf", str(tmp_path / "plain"), "--scaling", str(tmp_path / "scaling.json")]
    assert cli.main([*arguments, "-o", str(out)]) == 0
    expected = lab.save_gguf(model, tokenizer, scaling_for(model), tmp_path / "too.gguf")
    assert out.read_bytes() == expected.read_bytes()
    assert f"llama-server -m {out} -c 256" in capsys.readouterr().out
    assert cli.main([*arguments, "-o", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
