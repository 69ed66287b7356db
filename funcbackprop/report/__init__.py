"""The report of a run: figures, a page, the table printed at the end; and runs side by side."""

from .compare import Comparison, compare
from .differences import Difference, difference
from .html import write
from .terminal import table

__all__ = ["Comparison", "Difference", "compare", "difference", "table", "write"]
