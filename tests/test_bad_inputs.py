"""Bad inputs at public doors, by kind: each is refused in our words, and before any work."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model
from gguf_files import write_gguf
from safetensors.torch import load_file, save_file

import longrope_lab as lab
from longrope_lab import cli

SPEC = lab.RopeSpec(16, 64, base=10_000.0)
OTHER = lab.RopeSpec(32, 64, base=10_000.0)
YARN = lab.rope_scaling(SPEC, "yarn", 256)
SPACE = lab.SearchSpace(SPEC, 256)
LOSSES = pd.DataFrame(
    [("none", 64, "a", 63, 3.0), ("none", 64, "b", 63, 3.5)],
    columns=["scaling", "length", "document", "tokens", "loss"],
)
LOSSES["perplexity"] = np.exp(LOSSES["loss"])


@pytest.fixture(scope="module")
def model():
    """A small model of SPEC."""
    return tiny_model()


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 300])
def test_a_text_that_names_no_place(path, model, tokenizer, tmp_path, monkeypatch):
    """An empty one would be the current folder."""
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: YARN.save(path),
        lambda: lab.RopeScaling.load(path),
        lambda: lab.load_corpus(path, tokenizer),
        lambda: lab.load_model(path),
        lambda: lab.save_pretrained(model, tokenizer, YARN, path),
        lambda: lab.save_gguf(model, tokenizer, YARN, path),
        lambda: lab.record(path, losses=LOSSES),
        lambda: lab.finetune(model, tokenizer, [], YARN, path),
        lambda: lab.progressive(model, tokenizer, "tiny", path),
        lambda: lab.search(model, [], 128, checkpoint=path),
    ):
        with pytest.raises(ValueError, match=r"must be .*a text \(not empty, no null character"):
            call()
    assert {entry.name for entry in tmp_path.iterdir()} <= {"cache"}


def test_a_home_that_is_nobodys(model, tokenizer):
    with pytest.raises(ValueError, match="begins with a home that is not known"):
        lab.save_pretrained(model, tokenizer, YARN, "~nobody-of-this-name/model")


def test_objects_have_their_doors_wherever_they_come_from():
    """No class is taken from the package here, only functions and plans."""
    code = """
import longrope_lab as lab
for call in (lambda: lab.PLANS["lab"].divided(None), lambda: lab.PLANS["lab"].check(None)):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "docs is None: it must be a list of Document",
        "spec is None: it must be a RopeSpec",
    ]


def test_further_values_and_options_handed_on(tokenizer):
    with pytest.raises(ValueError, match=r"lengths is \[1024\]: it must be a whole number"):
        lab.plan_to(512, [1024])
    with pytest.raises(ValueError, match="from_corpus has no option 'nonsense'"):
        lab.BenchmarkTask.from_corpus("kjv", tokenizer, nonsense=1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lab.RopeSpec(10**9, 512, base=1e4), "rotary_dim is 1,000,000,000: no head has"),
        (lambda: lab.RopeScaling(SPEC, ["1"] * 8, 256), "factors must be numbers"),
        (lambda: lab.RopeScaling(SPEC, [True] * 8, 256), "factors must be numbers"),
        (lambda: lab.RopeScaling(SPEC, [1 + 0j] * 8, 256), "factors must be numbers"),
        (lambda: lab.RopeScaling(SPEC, [[1, 2], [3]], 256), "factors must be numbers"),
        (lambda: lab.RopeSpec(4, 64, base_frequencies=("1", "2")), "base_frequencies must be"),
        (lambda: lab.RopeScaling(SPEC, [1.0] * 8, 256, method=" "), "method is ' ': it must be"),
        (lambda: lab.RopeSchedule.by_length([YARN], method=""), "method is '': it must be a text"),
        (lambda: SPACE.candidate([1.0, 2.0], 0), "give a finite number per pair"),
        (lambda: SPACE.candidate([np.nan] * 8, 0), "give a finite number per pair"),
        (lambda: lab.left_padded([[5, -3]]), "a prompt holds -3: token ids are whole numbers"),
        (lambda: lab.Document("x", [1, 2], [5, 6]), "answers of 'x' are int64: mark each token"),
        (lambda: lab.LongRoPEModel(64, 2, 10**7), "num_hidden_layers is 10,000,000, and no model"),
        (lambda: lab.LongRoPEModel(2**20, 2**12, 1), "the model is too large: it takes at least"),
        (lambda: lab.full_attention(torch.nn.Linear(2, 2)), "Linear is no Hugging Face model"),
        (lambda: lab.accuracy_summary(LOSSES, (), judged="loss"), "by is empty: name at least one"),
        (
            lambda: lab.factor_table({"a": YARN, "b": lab.rope_scaling(OTHER, "pi", 128)}),
            "the scalings have different numbers of dimension pairs",
        ),
        (lambda: lab.stack({"a": LOSSES}, "length"), "the tables have a column 'length' already"),
        (lambda: lab.holds_to(LOSSES, 64), "the table has several rows for one scaling and length"),
        (lambda: lab.against_baseline(LOSSES, "none", []), "there is nothing to compare 'none' wi"),
        (
            lambda: lab.with_interval(
                lab.perplexity_summary(LOSSES), "loss", ["length", "length"], "scaling"
            ),
            "name each column once",
        ),
        (
            lambda: lab.perplexity_summary(pd.concat([LOSSES, LOSSES])),
            "the table has the same row twice, which would count a document twice",
        ),
    ],
)  # fmt: skip
def test_values(call, words):
    with pytest.raises(ValueError, match=words):
        call()


TWO = {"a": YARN, "b": lab.rope_scaling(OTHER, "pi", 128)}


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: lab.plots.factor_profile({}), "scalings is empty"),
        (lambda: lab.plots.pair_angles({}), "scalings is empty"),
        (lambda: lab.plots.phase_circles({}), "scalings is empty"),
        (lambda: lab.plots.phase_curves({}), "scalings is empty"),
        (lambda: lab.plots.rescaled_wavelengths([]), "scalings is empty"),
        (lambda: lab.plots.factor_profile(TWO), "'b' has 16 dimension pairs, and the first 8"),
        (lambda: lab.plots.phase_circles({"a": YARN}, pairs=[99]), r"pairs is \[99\]: name"),
        (lambda: lab.plots.phase_circles({"a": YARN}, pairs=[-1]), r"each from 0 to 7"),
        (lambda: lab.plots.phase_curves({"a": YARN}, pairs=[]), r"pairs is \[\]: name at least"),
        (lambda: lab.plots.phase_circles({"a": YARN}, steps=0), "steps is 0: it must be a whole"),
        (lambda: lab.plots.phase_circles({"a": YARN}, near=0), "near is 0: it must be a whole"),
        (lambda: lab.plots.phase_curves({"a": YARN}, points=1), "points is 1: it must be a whole"),
        (lambda: lab.plots.telling_pairs(SPEC, 0), "target_length is 0: it must be a whole"),
        (lambda: lab.plots.wavelengths(SPEC, -1), "target_length is -1: it must be a whole"),
        (lambda: lab.plots.coefficient_profile(SPEC, {}), "coefficients is empty"),
        (lambda: lab.plots.coefficient_profile(SPEC, {"a": [1, 2]}), r"\['a'\] has shape \(2,\)"),
        (lambda: lab.widgets.explore_passkeys(LOSSES, len), "the table has no column 'depth'"),
        (lambda: lab.losses_after(LOSSES, 64), "no row is longer than 64 tokens"),
    ],
)
def test_figures_of_nothing(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_methods_of_ones_own(monkeypatch):
    monkeypatch.setattr("longrope_lab.rope.methods.METHODS", dict(lab.METHODS))
    with pytest.raises(ValueError, match="'mine' cannot be called with a spec and a target length"):
        lab.register_method("mine")(lambda: 1)
    for gives in (5, lab.rope_scaling(OTHER, "pi", 256)):
        lab.register_method("mine")(lambda spec, target_length, gives=gives: gives)
        with pytest.raises(
            ValueError, match=r"the method 'mine' gave .* must return a RopeScaling"
        ):
            lab.rope_scaling(SPEC, "mine", 256)


def test_arguments_of_a_model(model, tokenizer):
    offsets = torch.zeros(8), torch.zeros(())
    for wrong in (torch.zeros(2), offsets[:1], (torch.zeros(3), torch.zeros(())), offsets[::-1]):
        with pytest.raises(ValueError, match=r"log_offsets.* give two tensors, \(8,\)|log_offsets"):
            lab.apply_scaling(model, YARN, log_offsets=wrong)
    lab.apply_scaling(model, YARN, log_offsets=offsets).restore()
    with pytest.raises(ValueError, match="length is True"):
        lab.apply_scaling(model, YARN, length=True)
    with pytest.raises(ValueError, match=r"ids are torch\.complex64"):
        lab.token_losses(model, torch.tensor([1 + 1j, 2]))
    with pytest.raises(ValueError, match="token id 9999 is outside the model's vocabulary"):
        lab.reread(model, [[1, 2]], torch.full((1, 4), 9999), YARN)
    with pytest.raises(ValueError, match=r"(?s)tokenizer is .*: it must be a tokenizer"):
        lab.passkey(model, model, [200])
    with pytest.raises(ValueError, match="model is a tokenizer"):
        lab.search(tokenizer, [lab.Document("x", [1] * 128)], 128)
    with pytest.raises(ValueError, match=r"1,000,000,000,000 tokens take at least .* GiB"):
        lab.passkey(model, tokenizer, [10**12], [0.5], 1)


def test_a_passkey_needs_room_for_its_answer(tokenizer):
    with pytest.raises(ValueError, match=r"answer_tokens is 1: the key \d+ alone takes"):
        lab.passkey_prompt(tokenizer, 200, 0.5, answer_tokens=1)
    with pytest.raises(ValueError, match="filler is an empty list"):
        lab.passkey_prompt(tokenizer, 200, 0.5, filler=[])


def test_depths_that_are_named_twice_count_once(lab_model_table):
    assert len(lab_model_table) == 1


@pytest.fixture
def lab_model_table(model, tokenizer):
    """Passkeys at one depth that was named twice, of a model that knows the tokenizer's ids."""
    large = tiny_model(vocab_size=len(tokenizer))
    return lab.passkey(large, tokenizer, [160], [0.5, 0.5], 1)


def test_a_file_in_the_place_of_a_folder(model, tokenizer, tmp_path):
    (tmp_path / "file").touch()
    docs = [lab.Document("x", [1] * 600)]
    with pytest.raises(ValueError, match=r"file is a file: name a folder for the fine-tuning"):
        lab.finetune(model, tokenizer, docs, YARN, tmp_path / "file", recipe="tiny")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_attention_heads": 4.5}, r"num_attention_heads is 4\.5: it must be a whole number"),
        ({"hidden_size": 65}, "hidden_size 65 is no multiple of num_attention_heads 4"),
        ({"head_dim": 16.5}, r"head_dim is 16\.5: it must be a whole number"),
        ({"head_dim": 10**9}, "rotary_dim is 1,000,000,000: no head has more"),
        ({"partial_rotary_factor": 2}, "partial_rotary_factor is 2: it is a share"),
        ({"rope_parameters": []}, r"rope parameters are \[\]: they must be a dict"),
        ({"rope_scaling": {"factor": 2}}, "have factor 2, and no rope_type"),
        (
            {"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2}},
            "says two things: rope_type is 'linear', and type 'yarn'",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": True}},
            "factor is True: it must be a finite number",
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 0,
                }
            },
            "original_max_position_embeddings is 0: it must be a whole number from 1",
        ),
    ],
)  # fmt: skip
def test_configs(fields, words):
    config = {
        "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
        "max_position_embeddings": 64, "rope_theta": 10_000.0,
    }  # fmt: skip
    lab.scaling_from_config(config)
    with pytest.raises(ValueError, match=words):
        lab.scaling_from_config(config | fields)


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A small model's folder."""
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_whole_numbers_in_place_of_weights(folder):
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] = (100 * weights[name]).to(torch.int8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"of whole numbers in .* are {name} \(I8\)"):
        lab.load_model(folder)


def test_no_number_in_a_config(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"rms_norm_eps": float("nan")}))
    with pytest.raises(ValueError, match="rms_norm_eps NaN, which is no number"):
        lab.load_model(folder)


@pytest.mark.parametrize("key", ["context_length", "block_count", "attention.head_count"])
def test_a_gguf_file_that_lacks_a_key(key, lab_model_file):
    content = lab_model_file.read_bytes()
    lab_model_file.write_bytes(content.replace(f".{key}".encode(), f".x{key[1:]}".encode()))
    with pytest.raises(ValueError, match=rf"does not state llama\.{key}, in whose place"):
        lab.load_model(lab_model_file)


@pytest.fixture
def lab_model_file(tmp_path, tokenizer):
    """A small model as a GGUF file."""
    small = tiny_model(vocab_size=len(tokenizer))
    none = lab.rope_scaling(lab.rope_spec(small), "none", 64)
    return lab.save_gguf(small, tokenizer, none, tmp_path / "small.gguf")


def test_a_window_that_the_scaling_is_not_for(folder, tmp_path, capsys):
    YARN.save(tmp_path / "yarn.json")
    asked = ["gguf", str(folder), "--scaling", str(tmp_path / "yarn.json"), "--window"]
    assert cli.main([*asked, "99", "-o", str(tmp_path / "a.gguf")]) == 2
    assert "--window is 99, and the scaling was made for a window of 64" in capsys.readouterr().err
    assert cli.main([*asked, "64", "-o", str(tmp_path / "a.gguf")]) == 0


@pytest.mark.parametrize("answers", [None, 5, "text", [{"a": -5.0}], [{1: "x"}], [5]])
def test_answers_of_an_engine(answers, model, tokenizer):
    docs = [lab.Document("x", list(range(90)) * 2)]
    with pytest.raises(ValueError, match="the engine answered"):
        lab.check_serving(
            model,
            lambda _, positions: answers and (answers * len(positions) if answers != 5 else 5),
            tokenizer=tokenizer,
            scaling=YARN,
            docs=docs,
            lengths=[32],
        )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: lab.RopeSpec(16, 64, base=10**400),
            r"base is 10{56}\.\.\.: it must be a finite number",
        ),
        (lambda: lab.RopeSpec.from_dict(SPEC.to_dict() | {"original_length": 32}), "keep window"),
        (lambda: lab.rope_scaling(SPEC, "dynamic_ntk", 64, alpha=True), "alpha is True"),
        (
            lambda: lab.rope_scaling(SPEC, "longrope", 256, factors=["2"] * 8),
            "factors must be numbers",
        ),
        (lambda: lab.named_scalings(SPEC, ["pi", "pi"], 256), r"\['pi', 'pi'\]: name each once"),
        (lambda: lab.SearchSpace(SPEC, 256, step=1e-20), "step is 1e-20: from 0 to high are more"),
        (lambda: lab.Recipe(lora_rank=8, lora_modules=("",)), "a name in lora_modules is ''"),
        (lambda: lab.Search(256, objectve=None), "unknown argument of Search 'objectve'"),
        (lambda: lab.Search(256, "yarn", objectve=1), "objectve is for a search"),
        (lambda: lab.load_model("lab", dtype=torch.int8), "dtype is torch.int8: weights take"),
        (lambda: lab.verdict("T5", ".", notebook="nope"), "unknown notebook of T5 'nope'"),
        (
            lambda: lab.paired_comparison(pd.concat([LOSSES, LOSSES]), "none"),
            "the same row twice, which would count a document twice",
        ),
    ],
)
def test_further_values(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_more_start_tokens_than_the_target_has():
    """The factors would act on no token, and the scaling would be none under another name."""
    words = "start_tokens is 257 and the target 256: no token would be left to scale"
    factors = [2.0] * 8
    for call in (
        lambda: lab.RopeScaling(SPEC, factors, 256, start_tokens=257),
        lambda: lab.rope_scaling(SPEC, "longrope", 256, factors=factors, start_tokens=257),
        lambda: lab.RopeScaling.from_dict(YARN.to_dict() | {"start_tokens": 257}),
        lambda: lab.SearchSpace(SPEC, 256, start_tokens=(0, 257)),
        lambda: lab.start_token_variants(YARN, [0, 257]),
        lambda: lab.widgets.explore_scaling(SPEC, ratio=4, start_tokens=257),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert lab.RopeScaling(SPEC, factors, 256, start_tokens=256).start_tokens == 256


def test_table_4s_start_tokens_go_up_to_the_target():
    assert lab.SearchSpace(SPEC, 64).start_tokens == (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64)
    assert SPACE.start_tokens[-1] == 256
    kept = lab.RopeScaling(SPEC, [2.0] * 8, 256, start_tokens=200)
    assert lab.SearchSpace.below(kept, 128).start_tokens == (128,)


def test_a_ratio_that_is_moved_below_the_start_tokens():
    explorer = lab.widgets.explore_scaling(SPEC, ratio=8, start_tokens=256)
    explorer.controls["ratio"].value = 2
    assert (explorer.scaling.target_length, explorer.scaling.start_tokens) == (128, 128)
    assert "128 start tokens" in explorer.caption.value


def test_a_method_for_another_target(monkeypatch):
    monkeypatch.setitem(
        lab.METHODS, "wide", lambda spec, target: lab.rope_scaling(spec, "pi", 2 * target)
    )
    with pytest.raises(ValueError, match="'wide' gave a scaling to 512 tokens, asked for 256"):
        lab.rope_scaling(SPEC, "wide", 256)


REPEATED = "the key 'target_length' is there twice: keep the right one"


def test_a_key_that_is_there_twice(tmp_path):
    """Python would take the last and say nothing."""
    path = YARN.save(tmp_path / "yarn.json")
    once, twice = '"target_length": 256', '"target_length": 128, "target_length": 256'
    path.write_text(path.read_text().replace(once, f"{once}, {once}"))
    assert lab.RopeScaling.load(path).target_length == 256  # the same value says nothing else
    path.write_text(path.read_text().replace(f"{once}, {once}", once))
    path.write_text(path.read_text().replace(once, twice))
    with pytest.raises(ValueError, match=REPEATED):
        lab.RopeScaling.load(path)
    schedule = lab.RopeSchedule.by_length([YARN]).save(tmp_path / "schedule.json")
    schedule.write_text(schedule.read_text().replace(once, twice))
    with pytest.raises(ValueError, match=REPEATED):
        lab.RopeSchedule.load(schedule)
    (tmp_path / "q.jsonl").write_text('{"question": "a", "choices": ["x", "y"], "answer": 0, '
                                      '"answer": 1}\n')  # fmt: skip
    with pytest.raises(ValueError, match=r"q\.jsonl, line 1 .*the key 'answer' is there twice"):
        lab.BenchmarkTask.from_file(tmp_path / "q.jsonl")


def test_a_plan_with_a_key_twice(model, tokenizer, tmp_path):
    plan = lab.Plan((lab.Formula(256),))
    lab.progressive(model, tokenizer, plan, tmp_path / "stages")
    path = tmp_path / "stages" / "plan.json"
    path.write_text(path.read_text().replace("{", '{"seed": 7,', 1))
    with pytest.raises(ValueError, match=r"plan\.json .*the key 'seed' is there twice"):
        lab.progressive(model, tokenizer, plan, tmp_path / "stages")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", '{{"vocab_size": 1, {rest}', "config.json is not readable: the key 'voc"),
        ("generation_config.json", "{{", "generation_config.json is not readable: Expecting"),
        ("config.json", '{{"rope_scaling": {yarn}, {rest}', "factor is -2.0: it must be a finite"),
    ],
)
def test_a_folder_that_transformers_would_load(name, content, words, folder):
    yarn = '{"rope_type": "yarn", "factor": -2.0, "rope_theta": 10000.0}'
    path = folder / name
    values = json.loads(path.read_text())
    values.pop("rope_parameters", None)
    rest = json.dumps(values).removeprefix("{")
    path.write_text(content.format(rest=rest, yarn=yarn))
    with pytest.raises(ValueError, match=words):
        lab.load_model(folder)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rotary_pct": 0.25, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, and "),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": "x"}}, "mscale is 'x'"),
    ],
)
def test_further_configs(fields, words):
    test_configs(fields, words)


def test_rows_of_different_lengths(model):
    for call in (
        lambda: lab.token_losses(model, [[1, 2], [3]]),
        lambda: lab.generate(model, [[1, 2], [3]], None, max_new_tokens=2),
    ):
        with pytest.raises(ValueError, match=r"ids are \[\[1, 2\], \[3\]\]: give numbers, in rows"):
            call()


@pytest.fixture(scope="module")
def own():
    """A model of one's own."""
    return lab.LongRoPEModel(32, 2, 1, 64, vocab_size=64)


def test_a_model_of_ones_own_in_place_of_its_lm(own):
    document = lab.Document("a", range(1, 60))
    for call in (
        lambda: lab.token_losses(own, [1, 2, 3]),
        lambda: lab.perplexity(own, [document], [32]),
        lambda: lab.rope_spec(own),
    ):
        with pytest.raises(ValueError, match=r"no Hugging Face model .*, such as its lm"):
            call()


def test_what_a_model_of_ones_own_takes(own):
    with pytest.raises(ValueError, match="scaling is 5: it must be a RopeScaling or None"):
        own.scaling = 5
    with pytest.raises(ValueError, match=r"inputs are torch\.bool of shape"):
        own(torch.ones(1, 5, dtype=torch.bool))
    wider = lab.LongRoPEModel(32, 2, 1, 128, vocab_size=64)
    with pytest.raises(ValueError, match="of a model with base_length=128, and this has 64"):
        own.load_state_dict(wider.state_dict())
    before = own.state_dict()
    before["_extra_state"].pop("base_length")  # as the release before wrote it
    own.load_state_dict(before)


def test_a_rank_wider_than_its_layers(model, tokenizer, tmp_path):
    docs = [lab.Document("a", [5] * 600)]
    recipe = lab.Recipe(steps=2, batch=1, warmup=0, lora_rank=65)
    with pytest.raises(ValueError, match=r"lora_rank is 65, .* widest of these layers has 64"):
        lab.finetune(model, tokenizer, docs, YARN, tmp_path / "tuned", recipe=recipe)


def test_a_gguf_file_with_a_factor_that_is_no_number(tmp_path):
    write_gguf(
        tmp_path / "nan.gguf",
        tiny_model(vocab_size=261),
        lambda writer: writer.add_rope_scaling_factor(float("nan")),
    )
    with pytest.raises(ValueError, match=r"the file's scaling\.factor is nan: it must be a finite"):
        lab.load_model(tmp_path / "nan.gguf")


def test_a_parameter_that_is_set_twice(capsys):
    assert cli.main(["run", "00", "-p", "seed=5", "-p", "seed=6"]) == 2
    assert "-p sets 'seed' twice: keep the one that is meant" in capsys.readouterr().err
