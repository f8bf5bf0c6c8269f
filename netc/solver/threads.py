"""How many threads a run computes with: sums split over another number may differ in the last bits."""

from netc.cores import thread_count

__all__ = ["thread_count"]
