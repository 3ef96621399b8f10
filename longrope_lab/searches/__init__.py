"""Search of rescale factors, start tokens and attention factor (LongRoPE, section 3.2)."""

from .budget import Budget
from .evolution import PRESETS, Evolution
from .gradient import Gradient
from .random import Random
from .rounds import SearchResult
from .run import search
from .sequence_parallel import SequenceParallel
from .space import SearchSpace
from .strategy import Strategy
from .weighing import Both, Needles, Perplexity
from .workers import WorkerProcesses

__all__ = [
    "PRESETS",
    "Both",
    "Budget",
    "Evolution",
    "Gradient",
    "Needles",
    "Perplexity",
    "Random",
    "SearchResult",
    "SearchSpace",
    "SequenceParallel",
    "Strategy",
    "WorkerProcesses",
    "search",
]
