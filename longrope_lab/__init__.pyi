# The public names, from their rooms. Type checkers read this list, and `longrope_lab` itself when a name is asked for.

from . import plots, widgets
from .export.folder import save_pretrained
from .extend.finetune import finetune
from .extend.from_scratch import LongRoPEModel
from .extend.plan import Plan
from .extend.progressive import Extended, progressive
from .extend.ready import PLANS
from .extend.recipe import RECIPES, Recipe
from .extend.stages import FineTune, Formula, Recover, Search
from .measure.benchmarks import benchmarks
from .measure.cost import scoring_cost, search_cost, training_cost, worker_cost
from .measure.needles import passkey, passkey_prompt
from .measure.perplexity import perplexity
from .measure.stats import (
    accuracy_summary,
    benchmark_summary,
    paired_comparison,
    paired_scores,
    perplexity_summary,
)
from .measure.tasks import BenchmarkTask
from .models.config import scaling_from_config, spec_from_config
from .models.forward import token_losses
from .models.generation import generate
from .models.loading import full_attention, load_model
from .models.rotary import apply_scaling, rope_spec
from .report.experiments import paper
from .rope.methods import FORMULAS, METHODS, register_method, rope_scaling
from .rope.scaling import RopeScaling, compose
from .rope.schedule import RopeSchedule, Scaling
from .rope.spec import RopeSpec
from .runs.record import record
from .searches import (
    PRESETS,
    Budget,
    Evolution,
    Gradient,
    Random,
    SearchResult,
    SearchSpace,
    WorkerProcesses,
    search,
)
from .texts.corpora import load_corpus
from .texts.tokens import Document

__all__ = [
    "FORMULAS",
    "METHODS",
    "PLANS",
    "PRESETS",
    "RECIPES",
    "BenchmarkTask",
    "Budget",
    "Document",
    "Evolution",
    "Extended",
    "FineTune",
    "Formula",
    "Gradient",
    "LongRoPEModel",
    "Plan",
    "Random",
    "Recipe",
    "Recover",
    "RopeScaling",
    "RopeSchedule",
    "RopeSpec",
    "Scaling",
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

__version__: str
