# The public names, from their rooms. Type checkers read this list, and so does `longrope_lab`
# itself when a name is asked for.

from . import plots, widgets
from .common.identity import source_names
from .export.engines import installed_engines
from .export.folder import save_pretrained
from .export.gguf import add_scaling_to_gguf
from .export.gguf_model import save_gguf
from .export.served_keys import served_passkey
from .export.serving import check_serving, serving_table
from .extend.extended import Extended
from .extend.finetune import finetune
from .extend.from_scratch import LongRoPEModel
from .extend.plan import Plan
from .extend.progressive import progressive
from .extend.ready import PLANS, plan_to
from .extend.recipe import RECIPES, Recipe
from .extend.several_plans import run_plans
from .extend.stages import FineTune, Formula, Recover, Search
from .measure.benchmarks import benchmarks
from .measure.book_questions import book_questions
from .measure.book_summaries import book_summaries
from .measure.choices import choice_summary
from .measure.cost import scoring_cost, search_cost, training_cost, worker_cost
from .measure.generation_check import reread
from .measure.many_examples import EXAMPLES, ExampleTask, examples_prompt, many_examples
from .measure.needle_prompts import needle_prompt, passkey_prompt
from .measure.needles import passkey
from .measure.objectives import objective_summary
from .measure.perplexity import perplexity, perplexity_by
from .measure.retrieval import needle_summary, needles, trade_off
from .measure.scaling_tables import factor_table, scaling_summary
from .measure.start_tokens import (
    best_by_start_tokens,
    losses_after,
    start_token_ratios,
    start_token_sweep,
    start_token_variants,
)
from .measure.stats import (
    accuracy_summary,
    benchmark_summary,
    paired_comparison,
    paired_scores,
    perplexity_summary,
)
from .measure.tables import (
    against_baseline,
    against_window,
    effective_window,
    holds_to,
    questions_for_one_point,
    search_summary,
    stack,
    with_interval,
)
from .measure.tasks import BenchmarkTask
from .models.compiling import compiled
from .models.forward import token_losses
from .models.generation import generate, left_padded
from .models.loading import load_model
from .models.read_config import scaling_from_config, spec_from_config
from .models.repairs import full_attention
from .models.rotary import apply_scaling, rope_spec
from .report.experiments import paper
from .report.notebook_verdict import verdict
from .report.other_searches import other_searches
from .rope.methods import FORMULAS, METHODS, named_scalings, register_method, rope_scaling
from .rope.scaling import RopeScaling, compose
from .rope.schedule import RopeSchedule, Scaling
from .rope.spec import RopeSpec
from .runs.record import record
from .searches import (
    PRESETS,
    Both,
    Budget,
    Evolution,
    Gradient,
    Needles,
    Perplexity,
    Random,
    SearchResult,
    SearchSpace,
    SequenceParallel,
    Strategy,
    WorkerProcesses,
    search,
)
from .texts.books import check_books
from .texts.corpora import load_corpus
from .texts.needle_documents import needle_documents
from .texts.needle_tasks import NEEDLES, NeedleTask
from .texts.tokens import Document, check_unseen

__all__ = [
    "EXAMPLES",
    "FORMULAS",
    "METHODS",
    "NEEDLES",
    "PLANS",
    "PRESETS",
    "RECIPES",
    "BenchmarkTask",
    "Both",
    "Budget",
    "Document",
    "Evolution",
    "ExampleTask",
    "Extended",
    "FineTune",
    "Formula",
    "Gradient",
    "LongRoPEModel",
    "NeedleTask",
    "Needles",
    "Perplexity",
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
    "SequenceParallel",
    "Strategy",
    "WorkerProcesses",
    "accuracy_summary",
    "add_scaling_to_gguf",
    "against_baseline",
    "against_window",
    "apply_scaling",
    "benchmark_summary",
    "benchmarks",
    "best_by_start_tokens",
    "book_questions",
    "book_summaries",
    "check_books",
    "check_serving",
    "check_unseen",
    "choice_summary",
    "compiled",
    "compose",
    "effective_window",
    "examples_prompt",
    "factor_table",
    "finetune",
    "full_attention",
    "generate",
    "holds_to",
    "installed_engines",
    "left_padded",
    "load_corpus",
    "load_model",
    "losses_after",
    "many_examples",
    "named_scalings",
    "needle_documents",
    "needle_prompt",
    "needle_summary",
    "needles",
    "objective_summary",
    "other_searches",
    "paired_comparison",
    "paired_scores",
    "paper",
    "passkey",
    "passkey_prompt",
    "perplexity",
    "perplexity_by",
    "perplexity_summary",
    "plan_to",
    "plots",
    "progressive",
    "questions_for_one_point",
    "record",
    "register_method",
    "reread",
    "rope_scaling",
    "rope_spec",
    "run_plans",
    "save_gguf",
    "save_pretrained",
    "scaling_from_config",
    "scaling_summary",
    "scoring_cost",
    "search",
    "search_cost",
    "search_summary",
    "served_passkey",
    "serving_table",
    "source_names",
    "spec_from_config",
    "stack",
    "start_token_ratios",
    "start_token_sweep",
    "start_token_variants",
    "token_losses",
    "trade_off",
    "training_cost",
    "verdict",
    "widgets",
    "with_interval",
    "worker_cost",
]

__version__: str
