"""Metrics as JSON lines, and optionally for TensorBoard."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import json_safe, write_text


class Records:
    """A file of JSON lines, one row at a time, that survives a kill and resumes without gaps.

    Args:
      path: the `.jsonl` file; its folder must exist.
      tags: fields that every row of this run carries, such as `{"seed": 0}`; rows of the same
        file with other tags are left alone.
      tensorboard: a folder for TensorBoard events (needs tensorboardX), or None.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> with Records(path) as records:
    ...     records.append({"step": 1, "loss": 0.5})
    >>> list(read_rows(path))
    [{'step': 1, 'loss': 0.5}]
    """

    def __init__(self, path, *, tags: Mapping[str, Any] | None = None, tensorboard=None):
        self.path = Path(path)
        self.tags = dict(tags or {})
        self._tensorboard = tensorboard
        self._writer = None
        self._file = None

    def resume(self, step: int | None) -> None:
        """Keep this run's rows up to `step` (None: none of them), and drop a torn last line."""

        def stays(row):
            return not self._mine(row) or (step is not None and row.get("step", 0) <= step)

        self.close()
        if self.path.exists():
            lines = [json.dumps(row) + "\n" for row in read_rows(self.path) if stays(row)]
            write_text(self.path, "".join(lines))
        if self._tensorboard is not None:
            self._writer = _summary_writer(self._tensorboard, (step or 0) + 1)

    def refuse_rows_after(self, step: int) -> None:
        """ValueError if this run already has rows of later steps, which new ones would repeat."""
        rows = read_rows(self.path) if self.path.exists() else ()
        later = [row["step"] for row in rows if self._mine(row) and row.get("step", 0) > step]
        if later:
            raise ValueError(
                f"`Records`: {self.path} already has rows up to step {max(later)}, and training "
                f"starts after step {step}: give another path or other tags, or resume from a "
                "checkpoint"
            )

    def _mine(self, row: Mapping[str, Any]) -> bool:
        return all(row.get(name) == value for name, value in self.tags.items())

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; numbers that are not finite become null, since JSON has none."""
        if self._file is None:
            _cut_torn_line(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        row = {**row, **self.tags}
        self._file.write(json.dumps(json_safe(row), allow_nan=False) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            if self._writer is None:
                self._writer = _summary_writer(self._tensorboard, row.get("step", 0))
            for name, value in _scalars(row):
                self._writer.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Force what was written to the disk, so that a checkpoint is never ahead of its rows."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; it opens again when a row is appended."""
        for handle in (self._file, self._writer):
            if handle is not None:
                handle.close()
        self._file = self._writer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _cut_torn_line(path: Path) -> None:
    """Take off a last line that a kill cut short, so that the next row starts a line of its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def read_rows(path) -> Iterator[dict]:
    """The rows of a JSON lines file, as dicts; a last line that a kill cut off is skipped."""
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n") and line.strip():
                yield json.loads(line)


def _scalars(row: Mapping, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "seed"):
            yield f"{prefix}{name}", value


def _summary_writer(folder, purge_step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoard records need tensorboardX: pip install 'funcbackprop[study]'"
        ) from error
    return SummaryWriter(str(folder), purge_step=purge_step)
