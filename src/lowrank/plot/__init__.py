"""One look for all figures and tables.

Each figure has a module with `draw(results)`, which returns the figure and the table of its numbers,
and `publish` writes both. Nothing here computes a result or needs torch: everything is read from the
tables that the study wrote.
"""

from lowrank.plot.output import publish
from lowrank.plot.results import own, read_results

__all__ = ["own", "publish", "read_results"]
