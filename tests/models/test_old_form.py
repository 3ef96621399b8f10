"""The older form of a config's rope parameters: where it stands, and where it is left out."""

import json

import pytest
from transformers import Gemma3Config, LlamaConfig, Qwen2VLTextConfig

from longrope_lab.models.old_form import add_old_form

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LOCAL = {"rope_type": "default", "rope_theta": 2e4}
GLOBAL = YARN | {"rope_theta": 1e6}


def written(config, folder):
    config.save_pretrained(folder)
    return folder / "config.json"


def test_of_a_model_with_several_parts_it_is_in_the_text_part(tmp_path):
    parameters = {"full_attention": dict(GLOBAL), "sliding_attention": dict(LOCAL)}
    config = Gemma3Config(text_config={"rope_parameters": parameters})
    file = written(config, tmp_path)
    assert add_old_form(file, Gemma3Config) == "both"
    values = json.loads(file.read_text())
    text = values["text_config"]
    assert (text["rope_theta"], text["rope_local_base_freq"]) == (1e6, 2e4)
    assert text["rope_scaling"] == YARN | {"beta_fast": 32, "beta_slow": 1, "type": "yarn"}
    assert "rope_scaling" not in values


@pytest.mark.parametrize(
    ("config", "rope"),
    [
        (LlamaConfig(), {"rope_type": "proportional", "rope_theta": 1e4}),
        (Qwen2VLTextConfig(), GLOBAL | {"mrope_section": [4, 4, 8]}),
        (LlamaConfig(), {"full_attention": GLOBAL, "sliding_attention": GLOBAL}),
        (LlamaConfig(), {"full_attention": GLOBAL, "sliding_attention": LOCAL}),
    ],
)
def test_where_it_has_no_names_nothing_is_written(config, rope, tmp_path):
    file = written(config, tmp_path)
    values = json.loads(file.read_text()) | {"rope_parameters": rope}
    file.write_text(json.dumps(values))
    assert add_old_form(file, type(config)) == "alone"
    assert json.loads(file.read_text()) == values
