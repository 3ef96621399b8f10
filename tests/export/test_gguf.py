"""A scaling in a GGUF file: what the gguf package and transformers' models make of it."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import WINDOW, tiny_model
from gguf import GGUFReader, GGUFWriter, RopeScalingType
from gguf_files import write_gguf

import longrope_lab as lab
from longrope_lab import cli
from longrope_lab.common.files import UnwritableError
from longrope_lab.models.gguf_header import read_header

IDS = torch.arange(5, 5 + 3 * WINDOW)[None]
SPEC = lab.RopeSpec(rotary_dim=16, window=WINDOW, base=10_000.0)
TARGET = 4 * WINDOW
FACTORS = np.linspace(1, 7.3, 8)
LONG = lab.RopeScaling(SPEC, FACTORS, TARGET, attention_factor=1.23)
SHORT = lab.RopeScaling(SPEC, np.linspace(1, 1.7, 8), WINDOW, attention_factor=1.23)
TWO = lab.RopeSchedule.by_length([SHORT, LONG])


@pytest.fixture
def source(tmp_path):
    """A tiny Llama without a scaling."""
    path = tmp_path / "plain.gguf"
    write_gguf(path, tiny_model(vocab_size=261))
    return path


@torch.no_grad()
def logits(model, ids=IDS):
    return model(ids).logits


# The number of rotary dimensions, which transformers takes to be 128 in any file of a Qwen 3.
QWENS = {"qwen2": 16, "qwen3": 128}


def qwen(tmp_path, name):
    """A tiny Qwen as a file of its own architecture."""
    path = tmp_path / f"{name}.gguf"
    own = {"head_dim": QWENS[name]} if name == "qwen3" else {}
    write_gguf(path, tiny_model(name, vocab_size=261, **own), architecture=name)
    return path


def test_a_header_is_what_the_gguf_package_reads(source):
    header, reader = read_header(source), GGUFReader(source)
    fields = {n: f for n, f in reader.fields.items() if not n.startswith("GGUF.")}
    assert set(header.entries) == set(fields)
    for name, field in fields.items():
        whole = b"".join(part.tobytes() for part in field.parts)
        assert header.entries[name] == whole, name
        if not name.startswith("tokenizer.ggml."):
            assert header.values[name] == field.contents(), name
    assert header.data == reader.data_offset
    for tensor in reader.tensors:
        ours = header.tensors[tensor.name]
        assert (ours.start, ours.size) == (tensor.data_offset, tensor.n_bytes)


def sets_in(path):
    """The scalings that a file's model carries, after `load_model`."""
    read = lab.scaling_from_config(lab.load_model(path, device="cpu")[0].config)
    return getattr(read, "scalings", (read,))


@pytest.mark.parametrize("given", [(LONG,), (SHORT, LONG)], ids=["one set", "two sets"])
def test_what_is_added_is_read_back_to_the_bit(given, source, tmp_path):
    scaling = lab.RopeSchedule.by_length(given) if len(given) > 1 else given[0]
    out = lab.add_scaling_to_gguf(source, scaling, tmp_path / "long.gguf")
    read = sets_in(out)
    assert len(read) == len(given)
    for ours, theirs in zip(read, given, strict=True):
        assert ours.spec == SPEC
        assert ours.factors.tolist() == theirs.factors.astype(np.float32).tolist()
        assert ours.attention_factor == np.float32(theirs.attention_factor)
        assert ours.target_length == theirs.target_length


@pytest.mark.parametrize("length", [WINDOW, 3 * WINDOW])
def test_a_model_from_the_file_computes_as_transformers_does(length, source, tmp_path):
    out = lab.add_scaling_to_gguf(source, TWO, tmp_path / "long.gguf")
    rope = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "attention_factor": 1.23,
        "short_factor": SHORT.factors.tolist(), "long_factor": FACTORS.tolist(),
        "original_max_position_embeddings": WINDOW,
    }  # fmt: skip
    theirs = tiny_model(vocab_size=261, rope_parameters=rope, max_position_embeddings=TARGET)
    ours, _ = lab.load_model(out, device="cpu")
    ids = IDS[:, :length]
    torch.testing.assert_close(logits(ours, ids), logits(theirs, ids), atol=2e-5, rtol=0)
    unscaled, _ = lab.load_model(source, device="cpu")
    assert (logits(unscaled, ids) - logits(theirs, ids)).abs().max() > 0.01


@pytest.mark.parametrize("scaling", [LONG, TWO], ids=["one set", "two sets"])
def test_all_else_stays_as_it_is(scaling, source, tmp_path):
    before = GGUFReader(source)
    after = GGUFReader(lab.add_scaling_to_gguf(source, scaling, tmp_path / "long.gguf"))
    kept = {t.name: t for t in after.tensors}
    for tensor in before.tensors:
        ours = kept.pop(tensor.name)
        assert ours.tensor_type == tensor.tensor_type and (ours.data == tensor.data).all()
    assert all(t.tensor_type.name == "F32" and t.shape.tolist() == [8] for t in kept.values())
    changed = {"llama.context_length", "GGUF.tensor_count", "GGUF.kv_count"}
    for name in set(before.fields) - changed:
        assert after.fields[name].contents() == before.fields[name].contents(), name
    values = {n: f.contents() for n, f in after.fields.items() if n not in before.fields}
    assert values.pop("llama.rope.scaling.attn_factor") == np.float32(1.23)
    assert values.pop("llama.rope.scaling.original_context_length") == WINDOW
    assert values == ({} if scaling is LONG else {"llama.rope.scaling.type": "longrope"})
    assert set(kept) == (
        {"rope_freqs.weight"}
        if scaling is LONG
        else {"rope_factors_long.weight", "rope_factors_short.weight"}
    )
    assert after.fields["llama.context_length"].contents() == TARGET


@pytest.mark.parametrize("method", ["pi", "yarn"])
@pytest.mark.parametrize("name", QWENS)
def test_formulas_go_by_keys_where_a_graph_takes_no_factors(name, method, tmp_path):
    scaling = lab.rope_scaling(replace(SPEC, rotary_dim=QWENS[name]), method, TARGET)
    scaling = replace(scaling, attention_factor=scaling.attention_factor * 1.07)
    source = qwen(tmp_path, name)
    out = lab.add_scaling_to_gguf(source, scaling, tmp_path / "long.gguf")
    header = read_header(out)
    assert header.tensors.keys() == read_header(source).tensors.keys()
    assert header.values[f"{name}.rope.scaling.type"] == {"pi": "linear"}.get(method, method)
    assert header.values[f"{name}.rope.scaling.factor"] == 4
    # llama.cpp multiplies by YaRN's own, 0.1 ln 4 + 1, besides.
    assert header.values[f"{name}.rope.scaling.attn_factor"] == pytest.approx(1.07)
    (read,) = sets_in(out)
    np.testing.assert_allclose(read.factors, scaling.factors, rtol=1e-12)
    assert read.attention_factor == pytest.approx(scaling.attention_factor, rel=1e-7)
    assert (read.spec.window, read.target_length) == (WINDOW, TARGET)


def test_a_file_that_claims_factors_gets_them(tmp_path):
    """As llama.cpp's converter writes it; the window is then the one before the scaling."""

    def claim(writer):
        writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(WINDOW)

    model = tiny_model(vocab_size=261, max_position_embeddings=TARGET)
    write_gguf(tmp_path / "claims.gguf", model, claim)
    out = lab.add_scaling_to_gguf(tmp_path / "claims.gguf", LONG, tmp_path / "long.gguf")
    (read,) = sets_in(out)
    assert read.factors.tolist() == FACTORS.astype(np.float32).tolist()
    assert "llama.rope.scaling.type" not in read_header(out).values


def test_factors_are_relative_to_the_base_of_the_file(source, tmp_path):
    """A second extension starts from an embedding that the first changed; the file has the first's
    base."""
    first = lab.RopeScaling(SPEC, np.linspace(1, 2, 8), WINDOW, attention_factor=1.1)
    second = lab.RopeScaling(first.as_spec(), np.linspace(1, 3, 8), TARGET, attention_factor=1.2)
    (read,) = sets_in(lab.add_scaling_to_gguf(source, second, tmp_path / "long.gguf"))
    expected = np.linspace(1, 2, 8) * np.linspace(1, 3, 8)
    np.testing.assert_allclose(read.factors, expected, rtol=1e-6)
    assert read.attention_factor == pytest.approx(1.1 * 1.2)


def test_without_the_kernels_help_the_bytes_are_the_same(source, tmp_path, monkeypatch):
    fast = lab.add_scaling_to_gguf(source, LONG, tmp_path / "fast.gguf").read_bytes()

    def refuse(*_):
        raise OSError(errno.EINVAL, "not between files")

    monkeypatch.setattr(os, "sendfile", refuse)
    slow = lab.add_scaling_to_gguf(source, LONG, tmp_path / "slow.gguf").read_bytes()
    monkeypatch.delattr(os, "sendfile")
    slowest = lab.add_scaling_to_gguf(source, LONG, tmp_path / "slowest.gguf").read_bytes()
    assert fast == slow == slowest


def test_a_full_disk_leaves_nothing(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "sendfile", refuse)
    with pytest.raises(UnwritableError, match="free some space"):
        lab.add_scaling_to_gguf(source, LONG, tmp_path / "long.gguf")
    assert {path.name for path in tmp_path.iterdir()} <= {"plain.gguf", "cache"}


def test_a_cut_file_is_refused_wherever_it_ends(source, tmp_path):
    whole, header = source.read_bytes(), read_header(source)
    part = tmp_path / "part.gguf"
    ends = [len(whole) - 100, header.data, header.data - 100, 3000, 300, 20, 4]
    assert len({*ends}) == len(ends)
    for end in ends:
        part.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"part\.gguf ends .* download or convert it again"):
            lab.add_scaling_to_gguf(part, LONG, tmp_path / "long.gguf")
    part.write_bytes(b"no GGUF")
    with pytest.raises(ValueError, match="is no GGUF file"):
        lab.add_scaling_to_gguf(part, LONG, tmp_path / "long.gguf")
    assert not (tmp_path / "long.gguf").exists()


def test_no_other_version(source, tmp_path):
    content = bytearray(source.read_bytes())
    content[4:8] = (3).to_bytes(4, "big")
    (tmp_path / "big.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=r"of version 50331648 of GGUF \(or of another byte"):
        lab.add_scaling_to_gguf(tmp_path / "big.gguf", LONG, tmp_path / "long.gguf")


OF_ANOTHER = {
    "rotary_dim 8, and .*states 16": lab.RopeScaling(
        lab.RopeSpec(8, WINDOW, 10_000.0), np.ones(4), TARGET
    ),
    r"base 500000, and .*states 10000": lab.RopeScaling(
        lab.RopeSpec(16, WINDOW, 500_000.0), FACTORS, TARGET
    ),
    r"window 32, and .*states 64: .* or pass window=32": lab.RopeScaling(
        lab.RopeSpec(16, 32, 10_000.0), FACTORS, TARGET
    ),
    "keeps 4 start tokens": replace(LONG, start_tokens=4),
    r"attention factors 1.1 \(up to 64 tokens\) and 1.23": lab.RopeSchedule.by_length(
        [replace(SHORT, attention_factor=1.1), LONG]
    ),
    "has 3 sets of factors": lab.RopeSchedule.by_length(
        [SHORT, replace(LONG, target_length=2 * WINDOW), LONG]
    ),
    "a DynamicNTK cannot be written into a GGUF file": lab.rope_scaling(
        SPEC, "dynamic_ntk", TARGET
    ),
}


@pytest.mark.parametrize("message", OF_ANOTHER)
def test_what_the_file_cannot_hold(message, source, tmp_path):
    with pytest.raises(ValueError, match=message):
        lab.add_scaling_to_gguf(source, OF_ANOTHER[message], tmp_path / "long.gguf")
    assert not (tmp_path / "long.gguf").exists()


def test_a_window_that_the_file_states_otherwise(source, tmp_path):
    half = lab.RopeScaling(replace(SPEC, window=WINDOW // 2), FACTORS, TARGET)
    out = lab.add_scaling_to_gguf(source, half, tmp_path / "a.gguf", window=WINDOW // 2)
    assert sets_in(out)[0].spec.window == WINDOW // 2


def test_graphs_that_take_no_factors(tmp_path):
    for name, more in (("qwen3", r"length\)$"), ("qwen2", "save_gguf writes a file that takes")):
        dim = QWENS[name]
        scaling = lab.RopeScaling(
            replace(SPEC, rotary_dim=dim), np.linspace(1, 7.3, dim // 2), TARGET
        )
        with pytest.raises(ValueError, match=f"graph of '{name}' takes no tensor.*{more}"):
            lab.add_scaling_to_gguf(qwen(tmp_path, name), scaling, tmp_path / "long.gguf")
    writer = GGUFWriter(tmp_path / "other.gguf", "deepseek2")
    writer.add_context_length(WINDOW)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(16)
    writer.add_tensor("token_embd.weight", np.ones((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="architecture 'deepseek2' is not known here"):
        lab.add_scaling_to_gguf(tmp_path / "other.gguf", LONG, tmp_path / "long.gguf")


def test_a_file_that_is_scaled_already(source, tmp_path):
    for number, scaling in enumerate((LONG, TWO)):
        out = lab.add_scaling_to_gguf(source, scaling, tmp_path / f"{number}.gguf")
        with pytest.raises(ValueError, match=r"is scaled already \(longrope, for 256 tokens\)"):
            lab.add_scaling_to_gguf(out, LONG, tmp_path / "twice.gguf")


def test_a_part_of_a_model(tmp_path):
    write_gguf(
        tmp_path / "p.gguf", tiny_model(vocab_size=261), lambda w: w.add_uint16("split.count", 3)
    )
    with pytest.raises(ValueError, match=r"part 1 of 3 of a model: .*llama-gguf-split --merge"):
        lab.add_scaling_to_gguf(tmp_path / "p.gguf", LONG, tmp_path / "long.gguf")


def test_a_later_part_of_a_model_states_none(tmp_path):
    """As llama-gguf-split writes it, without an architecture."""
    second = GGUFWriter(tmp_path / "second.gguf", "llama")
    second.kv_data[0].clear()
    for name, number in (("no", 1), ("count", 3)):
        second.add_uint16(f"split.{name}", number)
    second.add_tensor("blk.0.attn_q.weight", np.ones((4, 4), dtype=np.float32))
    second.write_header_to_file()
    second.write_kv_data_to_file()
    second.write_tensors_to_file()
    second.close()
    with pytest.raises(ValueError, match=r"is part 2 of 3 of a model: "):
        lab.add_scaling_to_gguf(second.path, LONG, tmp_path / "long.gguf")


def test_what_is_no_gguf_file(tmp_path):
    file = tmp_path / "m.gguf"
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"", "does not begin with 'GGUF'; download or convert it again"),
        (b"PK\x03\x04", "does not begin with 'GGUF'; download or convert it again"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            lab.add_scaling_to_gguf(file, LONG, tmp_path / "long.gguf")


def test_an_extended_model_goes_over_with_its_own_scaling(tokenizer, tmp_path):
    """Without a scaling first, then with both sets of its config, as notebook 12 does it."""
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "factor": 4.0}
    rope |= {"original_max_position_embeddings": WINDOW, "attention_factor": 1.23}
    rope |= {"short_factor": SHORT.factors.tolist(), "long_factor": FACTORS.tolist()}
    own = {"max_position_embeddings": TARGET, "rope_parameters": rope}
    model = tiny_model(vocab_size=len(tokenizer), **own)
    scaling = lab.scaling_from_config(model.config)
    none = lab.rope_scaling(scaling.spec, "none", scaling.target_length)
    plain = lab.save_gguf(model, tokenizer, none, tmp_path / "none.gguf")
    assert [read.method for read in sets_in(plain)] == ["none"]
    out = lab.add_scaling_to_gguf(plain, scaling, tmp_path / "own.gguf", window=WINDOW)
    for one, other in zip(sets_in(out), TWO.scalings, strict=True):
        assert np.allclose(one.factors, other.factors, rtol=1e-6)
        assert one.attention_factor == pytest.approx(1.23)


def test_what_is_there_is_not_written_over(source, tmp_path):
    (tmp_path / "link.gguf").symlink_to(source)
    for name, overwrite, error, message in (
        ("plain.gguf", False, FileExistsError, r"is there already, .*\(--overwrite\)"),
        ("plain.gguf", True, ValueError, "is the source itself"),
        ("link.gguf", True, ValueError, "is the source itself"),
        ("long.bin", False, ValueError, "name one that ends in .gguf"),
        ("cache.gguf", True, FileExistsError, "is a folder: name a new file"),
    ):
        (tmp_path / "cache.gguf").mkdir(exist_ok=True)
        with pytest.raises(error, match=message):
            lab.add_scaling_to_gguf(source, LONG, tmp_path / name, overwrite=overwrite)
    with pytest.raises(FileNotFoundError, match="no GGUF file at"):
        lab.add_scaling_to_gguf(tmp_path / "none.gguf", LONG, tmp_path / "long.gguf")
    (tmp_path / "long.gguf").write_bytes(b"old")
    out = lab.add_scaling_to_gguf(source, LONG, tmp_path / "long.gguf", overwrite=True)
    assert len(sets_in(out)) == 1


# --- the command ---


def test_the_command(source, tmp_path, capsys):
    for name, scaling in (("one", LONG), ("two", TWO)):
        scaling.save(tmp_path / f"{name}.json")
        out = tmp_path / f"{name}.gguf"
        arguments = ["--scaling", str(tmp_path / f"{name}.json"), "-o", str(out)]
        assert cli.main(["gguf", str(source), *arguments]) == 0
        assert f"llama-server -m {out} -c 256 --parallel 1" in capsys.readouterr().out
        expected = lab.add_scaling_to_gguf(source, scaling, tmp_path / f"{name}-too.gguf")
        assert out.read_bytes() == expected.read_bytes()
        assert cli.main(["gguf", str(source), *arguments]) == 2
        assert "is there already" in capsys.readouterr().err
        assert cli.main(["gguf", str(source), *arguments, "--overwrite"]) == 0
    assert cli.main(["gguf", str(source), "--scaling", "no.json", "-o", "x.gguf"]) == 2
    assert "no scaling at no.json" in capsys.readouterr().err
