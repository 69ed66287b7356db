"""The folder of a run: made, locked, and refused if it holds another run."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import json_safe, write_json
from ..training import read_rows
from ..usage import UsageError


@contextlib.contextmanager
def run_folder(
    folder: Path,
    config: Mapping[str, Any],
    metadata: Callable[[], Mapping[str, Any]],
    data_hash: str | None,
    overwrite: bool,
) -> Iterator[None]:
    """Hold the folder of a run, with config.json and metadata.json in it, until the block ends.

    Raises:
      UsageError: another process is running there, the folder holds another run or something else,
        or it cannot be written. What was in it is untouched.
    """
    with _as_usage_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        try:
            _claim(folder, config, data_hash, overwrite)
            if not (folder / "config.json").exists():
                write_json(folder / "config.json", config)
            if not (folder / "metadata.json").exists():
                write_json(folder / "metadata.json", metadata())
            yield
        finally:
            if lock is not None:
                os.close(lock)


@contextlib.contextmanager
def _as_usage_error(folder: Path):
    try:
        yield
    except OSError as error:
        raise UsageError(f"--out: cannot write to {folder}: {error.strerror or error}") from error


def _lock(folder: Path) -> int | None:
    """An exclusive lock, which ends with the process; None where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UsageError(
            f"another process is running in {folder}; choose another --name"
        ) from error
    return handle


def _claim(folder: Path, config: Mapping, data_hash: str | None, overwrite: bool) -> None:
    is_run = (folder / "config.json").exists()
    if not is_run and any(not _is_temporary(path) for path in folder.iterdir()):
        raise UsageError(f"--out: {folder} is not empty and holds no run; choose another --name")
    if is_run and overwrite:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif is_run:
        _refuse_another_run(folder, config, data_hash)
    for leftover in (*folder.glob(".*"), *folder.glob("plots/.*")):  # of a run that was killed
        leftover.unlink()


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.is_file()


def _refuse_another_run(folder: Path, config: Mapping, data_hash: str | None) -> None:
    found, wanted = read_json(folder / "config.json"), json_safe(config)
    differing = [
        f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} now"
        for key in dict.fromkeys([*found, *wanted])
        if found.get(key) != wanted.get(key)
    ]
    if not differing and (folder / "metadata.json").exists():
        data = read_json(folder / "metadata.json").get("data", {})
        if data.get("hash") != data_hash:
            differing = ["the data: its hash is not that of metadata.json"]
    if differing:
        raise UsageError(
            f"{folder} holds a run of another configuration ({'; '.join(differing)}); choose "
            "another --name, or --overwrite it"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run; UsageError if the file is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); --overwrite the run") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} is damaged (no JSON object); --overwrite the run")
    return value


def check_rows(path: Path, seed: int, step: int) -> None:
    """UsageError unless the rows of every step up to the checkpoint's are there, once."""
    try:
        rows = list(read_rows(path)) if path.exists() else []
        steps = [r["step"] for r in rows if r["kind"] == "step" and r["seed"] == seed]
    except (ValueError, KeyError) as error:
        raise UsageError(f"{path} is damaged ({error}); --overwrite the run") from error
    if [s for s in steps if s <= step] != list(range(1, step + 1)):
        raise UsageError(
            f"{path} does not hold the rows of every step up to the checkpoint of step {step}; "
            "--overwrite the run"
        )


def is_complete(folder: Path) -> bool:
    """Whether the run has ended well and its report is whole."""
    if not all((folder / name).exists() for name in ("summary.json", "report.html", "plots")):
        return False
    return read_json(folder / "summary.json").get("outcome") == "completed"
