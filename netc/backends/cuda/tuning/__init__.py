"""Which of several ways to do the same work is fastest: timed on first use, kept on disk."""

from netc.backends.cuda.tuning.tuner import choose

__all__ = ["choose"]
