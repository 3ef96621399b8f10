"""One page of results: the paper's figures beside ours, and whether each finding showed."""

from .page import write_report

__all__ = ["write_report"]
