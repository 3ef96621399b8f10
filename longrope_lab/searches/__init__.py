"""Search of rescale factors, start tokens and attention factor (LongRoPE, arXiv 2402.13753, section 3.2)."""

from .evolution import PRESETS, Evolution
from .gradient import Gradient
from .random import Random
from .run import Budget, SearchResult, search
from .space import SearchSpace
from .workers import WorkerProcesses

__all__ = [
    "PRESETS",
    "Budget",
    "Evolution",
    "Gradient",
    "Random",
    "SearchResult",
    "SearchSpace",
    "WorkerProcesses",
    "search",
]
