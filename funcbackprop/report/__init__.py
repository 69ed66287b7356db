"""The report of a run: figures, a self-contained page and the table printed at the end."""

from .html import write
from .terminal import table

__all__ = ["table", "write"]
