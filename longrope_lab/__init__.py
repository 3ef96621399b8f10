"""longrope_lab: extend a language model's context window by non-uniform positional interpolation, and see why it works.

import longrope_lab as lab
model, tokenizer = lab.load_model("lab")
spec = lab.rope_spec(model)
docs = lab.load_corpus("kjv", tokenizer, min_tokens=4096, limit=4)
table = lab.perplexity(model, docs, [512, 4096], {"yarn": lab.rope_scaling(spec, "yarn", 4096)})
lab.plots.perplexity_curves(table, window=spec.original_length)
lab.save_pretrained(model, tokenizer, lab.rope_scaling(spec, "yarn", 4096), "lab-4k")  # for stock transformers
"""

from . import plots, widgets
from .benchmarks import BenchmarkTask, benchmarks
from .corpora import Document, load_corpus
from .cost import scoring_cost, search_cost, training_cost, worker_cost
from .experiments import paper
from .export import save_pretrained
from .finetune import RECIPES, Recipe, finetune
from .from_scratch import LongRoPEModel
from .generation import generate
from .hf_config import scaling_from_config, spec_from_config
from .losses import token_losses
from .methods import register_method, rope_scaling
from .models import full_attention, load_model
from .passkey import passkey, passkey_prompt
from .perplexity import perplexity
from .plans import PLANS, Plan
from .progressive import Extended, progressive
from .rope import RopeScaling, RopeSpec, compose
from .rotary import apply_scaling, rope_spec
from .runs import record
from .schedule import RopeSchedule
from .search import Budget, Evolution, Gradient, Random, SearchResult, SearchSpace, WorkerProcesses, search
from .stages import FineTune, Recover, Search
from .stats import accuracy_summary, benchmark_summary, paired_comparison, paired_scores, perplexity_summary

__version__ = "0.1.0"

__all__ = [
    "PLANS",
    "RECIPES",
    "BenchmarkTask",
    "Budget",
    "Document",
    "Evolution",
    "Extended",
    "FineTune",
    "Gradient",
    "LongRoPEModel",
    "Plan",
    "Random",
    "Recipe",
    "Recover",
    "RopeScaling",
    "RopeSchedule",
    "RopeSpec",
    "Search",
    "SearchResult",
    "SearchSpace",
    "WorkerProcesses",
    "accuracy_summary",
    "apply_scaling",
    "benchmark_summary",
    "benchmarks",
    "compose",
    "finetune",
    "full_attention",
    "generate",
    "load_corpus",
    "load_model",
    "paired_comparison",
    "paired_scores",
    "paper",
    "passkey",
    "passkey_prompt",
    "perplexity",
    "perplexity_summary",
    "plots",
    "progressive",
    "record",
    "register_method",
    "rope_scaling",
    "rope_spec",
    "save_pretrained",
    "scaling_from_config",
    "scoring_cost",
    "search",
    "search_cost",
    "spec_from_config",
    "token_losses",
    "training_cost",
    "widgets",
    "worker_cost",
]
