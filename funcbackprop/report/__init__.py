"""The report of a run: figures, a self-contained page and the table printed at the end."""

from .html import table, write

__all__ = ["table", "write"]
