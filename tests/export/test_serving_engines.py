"""Real engines on small models: a llama-server over HTTP, and what runs in this process.

Each is skipped where it is not installed: pip install -e '.[serving]'.
"""

from __future__ import annotations

import gc

import numpy as np
import pytest
from conftest import tiny_model
from gguf_files import write_gguf

import longrope_lab as lab
from longrope_lab import cli
from longrope_lab.export.serving import check_serving
from longrope_lab.texts.tokens import Document

WINDOW, TARGET, M = 64, 256, 1.2
LONG, SHORT = np.linspace(1, 10, 8), np.linspace(1, 2, 8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny Llama without a scaling, with one set of factors, and with two; and texts for it."""
    folder = tmp_path_factory.mktemp("gguf")
    model = tiny_model(vocab_size=261, max_position_embeddings=WINDOW)
    spec = lab.rope_spec(model)
    one = lab.RopeScaling(spec, LONG, TARGET, attention_factor=M)
    short = lab.RopeScaling(spec, SHORT, WINDOW, attention_factor=M)
    plain = folder / "plain.gguf"
    write_gguf(plain, model, split="gpt-2")
    scalings = {"one": one, "two": lab.RopeSchedule.by_length([short, one])}
    for name, scaling in scalings.items():
        lab.add_scaling_to_gguf(plain, scaling, folder / f"{name}.gguf")
    ids = np.random.default_rng(0).integers(3, 259, TARGET, dtype=np.int64)
    return folder, scalings, [Document("random", ids)]


@pytest.fixture
def llama_server():
    """Starts a stock llama-server, and stops it at the end."""
    xllamacpp = pytest.importorskip("xllamacpp")
    started = []

    def start(path, context):
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel, parameters.warmup = context, 1, False
        parameters.port = 0
        started.append(xllamacpp.Server(parameters))
        return started[-1].listening_address

    yield start
    started.clear()
    gc.collect()


def test_a_llama_server_computes_what_was_added_to_a_file(files, llama_server, capsys):
    folder, _, docs = files
    url = llama_server(folder / "one.gguf", TARGET)
    served = check_serving(folder / "one.gguf", url, docs=docs)
    assert served.right and all(row.off < 5e-3 for row in served.lengths), str(served)
    assert cli.main(["serve-check", str(folder / "one.gguf"), url, "--lengths", "40"]) == 0
    assert "llama-server at http://127.0.0.1" in capsys.readouterr().out


def test_a_llama_server_without_the_factors_is_found(files, llama_server):
    """A file that claims the target; of one that does not, a longer prompt is refused."""
    folder, scalings, docs = files
    claims = folder / "claims.gguf"
    write_gguf(claims, tiny_model(vocab_size=261, max_position_embeddings=TARGET), split="gpt-2")
    served = check_serving(folder / "one.gguf", llama_server(claims, TARGET), docs=docs)
    assert [row.computes for row in served.lengths] == ["no scaling"] * 3
    short = llama_server(folder / "plain.gguf", TARGET)
    with pytest.raises(ValueError, match="exceeds the available context size"):
        check_serving(folder / "plain.gguf", short, scaling=scalings["one"], docs=docs)


def test_llama_cpp_chooses_the_set_by_its_context_and_not_by_the_input(files):
    """So that a short text gets the long set."""
    pytest.importorskip("xllamacpp")
    folder, _, docs = files
    served = check_serving(folder / "two.gguf", "llama.cpp", docs=docs)
    assert [row.right for row in served.lengths] == [False, True, True], str(served)
    assert served.lengths[0].computes == "the long set"


def test_llama_cpp_finds_a_passkey_past_the_window_by_the_factors_in_the_file(tmp_path):
    """The keys that the model here finds; without factors the same file finds none."""
    pytest.importorskip("xllamacpp")
    model, tokenizer = lab.load_model("lab", device="cpu")
    spec = lab.rope_spec(model)
    none, yarn = (lab.rope_scaling(spec, method, 1024) for method in ("none", "yarn"))
    plain = lab.save_gguf(model, tokenizer, none, tmp_path / "none.gguf")
    lab.add_scaling_to_gguf(plain, yarn, tmp_path / "yarn.gguf", window=spec.window)
    asked = {"lengths": [1024], "depths": [0.25, 1.0], "trials": 2}
    ours = lab.passkey(model, tokenizer, scalings={"none": none, "yarn": yarn}, **asked)
    files = {name: f"llama.cpp:{tmp_path / name}.gguf" for name in ("none", "yarn")}
    theirs = lab.served_passkey(files, tokenizer, **asked)
    assert theirs.equals(ours)
    assert theirs.groupby("scaling")["correct"].sum().to_dict() == {"none": 0, "yarn": 4}


@pytest.mark.parametrize("engine", ["mlx-lm", "ctranslate2"])
def test_engines_of_folders_say_what_they_compute(engine, tokenizer, tmp_path):
    """Position Interpolation, in the older form of the config that both read."""
    pytest.importorskip(engine.replace("-", "_"))
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=WINDOW)
    scaling = lab.rope_scaling(lab.rope_spec(model), "pi", TARGET)
    folder = lab.save_pretrained(model, tokenizer, scaling, tmp_path / "pi")
    ids = np.random.default_rng(0).integers(3, 259, TARGET, dtype=np.int64)
    served = check_serving(folder, engine, docs=[Document("random", ids)])
    assert served.right and str(served).startswith(f"{engine} computes this scaling"), str(served)


def test_mlx_lm_computes_an_attention_factor_that_is_folded(tokenizer, tmp_path):
    """It knows LongRoPE's formula alone; what that does not give is in the query weights."""
    pytest.importorskip("mlx_lm")
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=WINDOW)
    scaling = lab.RopeScaling(lab.rope_spec(model), LONG, TARGET, attention_factor=1.5)
    docs = [Document("random", np.random.default_rng(0).integers(3, 259, TARGET, dtype=np.int64))]
    options = {"tokenizer": tokenizer, "scaling": scaling, "docs": docs}
    stated = lab.save_pretrained(model, tokenizer, scaling, tmp_path / "stated")
    served = check_serving(model, f"mlx-lm:{stated}", **options, tolerance=5e-4)
    assert str(served).startswith("mlx-lm, given stated, does NOT compute this scaling")
    assert not served.right and "with LongRoPE's formula for m" in served.lengths[-1].computes
    folded = tmp_path / "folded"
    lab.save_pretrained(model, tokenizer, scaling, folded, fold_attention_factor=True)
    served = check_serving(model, f"mlx-lm:{folded}", **options, tolerance=5e-4)
    assert served.right, str(served)
