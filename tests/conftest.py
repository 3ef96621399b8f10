"""Shared by all tests: no network, a cache for each, and small models that need no download."""

import copy
import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is first imported
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # A worker, and what it starts, gets its share of the cores; read once, when torch is first
    # imported.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(workers)))

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
import transformers
from papermill.exceptions import PapermillExecutionError
from tokenizers.processors import TemplateProcessing

import longrope_lab
from longrope_lab.models.loading import LAB_MODEL, load_model
from longrope_lab.runs import notebooks as runs

WINDOW = 64
VOCABULARY = 97

# What the tests know of each family without asking our code: the config's class, its own fields,
# the number of rotary dimensions, and the base.
FAMILIES = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 2}, 16, 10_000.0),
    "mistral": ("MistralConfig", {"num_key_value_heads": 2, "sliding_window": None}, 16, 10_000.0),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 2}, 16, 10_000.0),
    "qwen3": ("Qwen3Config", {"num_key_value_heads": 2, "head_dim": 32}, 32, 10_000.0),
    "phi3": ("Phi3Config", {"num_key_value_heads": 2}, 16, 10_000.0),
    "gemma2": (
        "Gemma2Config",
        {"num_key_value_heads": 2, "head_dim": 32, "sliding_window": 16},
        32,
        10_000.0,
    ),
    "gpt_neox": ("GPTNeoXConfig", {}, 4, 10_000.0),  # a quarter of 16
    "olmo2": ("Olmo2Config", {"num_key_value_heads": 2}, 16, 10_000.0),
    "stablelm": ("StableLmConfig", {"num_key_value_heads": 2}, 4, 10_000.0),  # a quarter, too
    "cohere": ("CohereConfig", {"num_key_value_heads": 2, "logit_scale": 0.5}, 16, 500_000.0),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "num_key_value_heads": 2,
            "head_dim": 32,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        32,
        1_000_000.0,
    ),
    "gpt_oss": (
        "GptOssConfig",
        {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "layer_types": ["full_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 150_000.0},
        },
        16,
        150_000.0,
    ),
    "glm": ("GlmConfig", {"num_key_value_heads": 2, "head_dim": 16}, 8, 10_000.0),  # a half
}


def pytest_collection_finish():
    """Open the doors of all public classes before the first test, so that no order matters.

    A class has its door once it was taken from the package (common/doors.py). Test files have
    imported what they use by now; what none has imported is left, as it would take seconds.
    """
    for name, module in longrope_lab._public().items():
        if "longrope_lab" + module in sys.modules:
            getattr(longrope_lab, name)


def tiny_config(family, **fields):
    name, own, _, _ = FAMILIES[family]
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": WINDOW,
        # Five times the usual, so that attention is not a plain average, and positions matter.
        "initializer_range": 0.1,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return getattr(transformers, name)(**common | own | fields)


def tiny_model(family="llama", *, seed=0, **fields):
    """A random model of a family; a seed gives the same weights with all rope parameters."""
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(tiny_config(family, **fields)).eval()


def ending(tokenizer, template):
    """The same tokenizer with its EOS around a text where the template has {0}, as in "$A {0}"."""
    other, end = copy.deepcopy(tokenizer), tokenizer.eos_token
    post = TemplateProcessing(
        single=template.format(end), special_tokens=[(end, tokenizer.eos_token_id)]
    )
    other.backend_tokenizer.post_processor = post
    return other


@pytest.fixture(params=FAMILIES)
def family(request):
    """The name of each family in turn."""
    return request.param


@pytest.fixture(autouse=True)
def _threads(request):
    """Two for the lab model; tiny ones lose more by waiting for a second thread than they gain."""
    torch.set_num_threads(2 if "lab" in request.fixturenames else 1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """This test's own cache folder, in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LONGROPE_LAB_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _quiet_transformers():
    """Its advice on configs that are small or odd on purpose would fill the screen."""
    logging = transformers.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@pytest.fixture
def light_heap():
    """What the imports left is not looked through when fine-tuning collects garbage.

    That would take most of the time of a short run.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def lab():
    """The lab model and its tokenizer; tests leave both as they are."""
    return load_model("lab", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def tokenizer():
    """The lab model's tokenizer alone."""
    return transformers.AutoTokenizer.from_pretrained(LAB_MODEL)


@pytest.fixture
def own_notebooks(tmp_path, monkeypatch):
    """A folder of two tiny notebooks, and where their results go.

    `00_tiny` fails if its parameters say so; `01_small`, which has no model, sleeps when it is
    done.
    """
    folder = tmp_path / "notebooks"
    write_notebook(
        folder / "00_tiny.ipynb",
        "# A tiny notebook",
        "number: int = 1  # a number\nfail: bool = False  # whether to fail\n"
        "seed: int = 0  # unused\nlengths: list[int] = [64]  # tokens\n"
        'model_name: str = "lab"  # unused\n'
        'out: str = "x"  # folder',
        "import pathlib\n\n"
        'pathlib.Path(out, "table.csv").write_text(f"number\\n{number}\\n")\nprint(out)\n'
        "assert not fail",
    )
    write_notebook(
        folder / "01_small.ipynb",
        "# A small one",
        "number: int = 1  # a number\nsleep: int = 0  # seconds at the end\n"
        'out: str = "x"  # folder',
        "import pathlib\nimport time\n\n"
        'pathlib.Path(out, "table.csv").write_text(f"number\\n{number}\\n")\ntime.sleep(sleep)',
    )
    for profile in ("smoke", "cpu"):
        (folder / "profiles" / profile).mkdir(parents=True)
        for name in ("00_tiny", "01_small"):
            (folder / "profiles" / profile / f"{name}.yaml").write_text("number: 2\n")
    monkeypatch.setattr(runs, "NOTEBOOKS", folder)
    monkeypatch.setenv("LONGROPE_LAB_COMMIT", "f" * 40)
    return tmp_path / "results"


def write_notebook(path, title, parameters, work):
    """A notebook of three cells."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    first = nbformat.v4.new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    notebook.cells = [nbformat.v4.new_markdown_cell(title), first, nbformat.v4.new_code_cell(work)]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def no_kernel(monkeypatch):
    """In papermill's place, the work of the tiny notebooks, done at once.

    Gives the names of those that ran.
    """
    ran = []

    def execute(source, target, parameters, *, on_cell_start, **_):
        ran.append(Path(source).stem)
        for index, kind in enumerate(["markdown", "code", "code"]):
            on_cell_start(cell=SimpleNamespace(cell_type=kind), cell_index=index)
        shutil.copy(source, target)
        Path(parameters["out"], "table.csv").write_text(f"number\n{parameters.get('number')}\n")
        if parameters.get("fail"):
            raise PapermillExecutionError(
                2, 2, "assert not fail", "AssertionError", "not this time", []
            )

    monkeypatch.setattr("papermill.execute_notebook", execute)
    return ran
