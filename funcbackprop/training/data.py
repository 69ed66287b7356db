"""Data: arrays with a held-out test set, and batches as a pure function of (seed, step).

Importing this module loads NumPy and nothing else.
"""

import dataclasses
import functools
import hashlib
import platform
from pathlib import Path
from typing import Any

import numpy as np

from .npz import Kind, count_classes, read
from .order import Batches, FunctionBatches, batches, from_function

__all__ = [
    "Batches",
    "Dataset",
    "FunctionBatches",
    "batches",
    "digits",
    "from_function",
    "load",
    "load_npz",
    "load_text",
]

_NAMES = ("digits", "text")
_SUFFIXES = (".npz", ".txt")
# Every how many windows of a text one is held out.
_TEST_EVERY = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set in memory, as NumPy arrays.

    N examples (N_test in the test set), T positions of a sequence, K outputs.

    Attributes:
      x: [N, ...], float32; for sequences int32 tokens [N, T].
      y: by `kind`: int32 labels [N]; float32 targets [N, K]; int32 next tokens [N, T].
      x_test: [N_test, ...], as `x`.
      y_test: [N_test, ...], as `y`.
      kind: "classes", "regression" or "sequence".
      name: "digits", "text" or the file's name.
      num_classes: the number of classes or the size of the vocabulary; None for regression.
      vocabulary: for text, the characters in the order of their tokens; otherwise None.
      provenance: where the data came from, sizes and the seed of the split, in plain values.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    kind: Kind
    name: str
    num_classes: int | None
    vocabulary: str | None
    provenance: dict[str, Any]

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of dtype, shape and bytes of `x`, `y`, `x_test`, `y_test`."""
        digest = hashlib.sha256()
        for a in (self.x, self.y, self.x_test, self.y_test):
            digest.update(f"{a.dtype.str}{a.shape}".encode())
            digest.update(np.ascontiguousarray(a).tobytes())
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What identifies the data, JSON-safe and without the arrays."""
        return {
            "name": self.name,
            "kind": self.kind,
            "train_examples": len(self.x),
            "test_examples": len(self.x_test),
            "x": f"{self.x.dtype}{list(self.x.shape[1:])}",
            "y": f"{self.y.dtype}{list(self.y.shape[1:])}",
            "num_classes": self.num_classes,
            "hash": self.hash,
            "provenance": self.provenance,
        }

    def __str__(self):
        classes = "" if self.num_classes is None else f", {self.num_classes} classes"
        return (
            f"{self.name}: {self.kind}, {len(self.x)} training and {len(self.x_test)} test "
            f"examples, x {self.x.dtype}{list(self.x.shape[1:])}{classes}"
        )


def load(name_or_path: str | Path, length: int = 64) -> Dataset:
    """The data that a name or a file stands for: "digits", "text", `*.npz` or `*.txt`.

    Args:
      name_or_path: "digits" (see `digits`), "text" (the built-in corpus of `load_text`), or a file.
      length: T, the number of positions of a sequence, for text.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the name is unknown, or the file holds nothing that can be trained on.
      ImportError: "digits" without scikit-learn.

    >>> print(load("digits"))
    digits: classes, 1438 training and 359 test examples, x float32[8, 8, 1], 10 classes
    """
    if name_or_path == "digits":
        return digits()
    if name_or_path == "text":
        return load_text(length=length)
    suffix = Path(name_or_path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(
            f"`load`: unknown data {str(name_or_path)!r}; expected one of {', '.join(_NAMES)}, "
            f"or the path of a file that ends in {' or '.join(_SUFFIXES)}"
        )
    return load_npz(name_or_path) if suffix == ".npz" else load_text(name_or_path, length)


def digits(seed: int = 0, test_fraction: float = 0.2) -> Dataset:
    """scikit-learn's bundled handwritten digits: 1797 images of 8 x 8 pixels, 10 classes.

    The pixels 0 .. 16 are divided by 16: `x` is float32 [N, 8, 8, 1] in [0, 1]. Every class gives
    the same share of its images to the test set.

    Args:
      seed: of the split; the same seed always gives the same test set.
      test_fraction: share of the images in the test set, between 0 and 1.

    Raises:
      ImportError: scikit-learn is not installed.

    >>> digits().y_test.shape
    (359,)
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "`digits` reads the images that scikit-learn brings along, and scikit-learn is not "
            'installed; run: pip install "funcbackprop[study]"'
        ) from error
    bundled: Any = load_digits()
    x = (bundled.images / 16.0).astype(np.float32)[..., None]
    y = bundled.target.astype(np.int32)
    return _with_split(
        x, y, "classes", "digits", {"source": "sklearn.datasets.load_digits"}, seed, test_fraction
    )


def load_npz(path: str | Path, seed: int = 0, test_fraction: float = 0.2) -> Dataset:
    """An `.npz` file with the arrays `x` and `y`, and optionally `x_test` and `y_test`.

    What the file holds decides the task:

    * integer or boolean `y` [N]: classes, numbered from 0;
    * integer `x` and `y` of one shape [N, T]: sequences, tokens and next tokens;
    * floating-point `y` [N] or [N, K]: regression; [N] becomes [N, 1].

    `x` becomes float32 (tokens: int32). uint8 `x` is taken for pixels and divided by 255; other
    integers keep their values. Without test arrays a share is held out, in equal parts from every
    class. The file is read with `allow_pickle=False`.

    Args:
      path: the file.
      seed: of the split, if the file has no test arrays.
      test_fraction: share held out, between 0 and 1, if the file has no test arrays.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a whole `.npz` archive, or an array cannot be used; the message
        names the file, the array and the first bad element.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mine.npz"
    >>> np.savez(path, x=np.zeros((20, 3)), y=np.arange(20) % 2)
    >>> print(load_npz(path))
    mine.npz: classes, 16 training and 4 test examples, x float32[3], 2 classes
    """
    path = _existing_file(path, "load_npz")
    where = f"`load_npz`: {path}"
    arrays, kind = read(path, where)
    source = {"source": "npz", "file": path.name}
    if "x_test" not in arrays:
        count_classes(arrays, kind, where)
        if len(arrays["x"]) < 2:
            raise ValueError(
                f"{where}: 1 example cannot be divided into a training and a test set; "
                "add examples, or the arrays x_test and y_test"
            )
        return _with_split(arrays["x"], arrays["y"], kind, path.name, source, seed, test_fraction)
    return Dataset(
        **arrays,
        kind=kind,
        name=path.name,
        num_classes=count_classes(arrays, kind, where),
        vocabulary=None,
        provenance={**source, "split": "x_test and y_test of the file", **_sizes(arrays)},
    )


def load_text(path: str | Path | None = None, length: int = 64) -> Dataset:
    """Character-level text: windows of `length` characters and the characters that follow them.

    The text is cut into windows of T + 1 characters that do not overlap: `x` is the first T of
    each, `y` the last T. Every tenth window belongs to the test set, so that both sets come from
    all parts of the text. The vocabulary is the sorted set of all characters.

    Args:
      path: a UTF-8 file. None takes the topics of the running Python's `pydoc_data`, sorted by
        name and joined: about 465,000 characters of English on the Python language, which every
        installation has. The text differs a little between Python versions.
      length: T.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the text is not UTF-8, or too short for one window of test text.

    >>> load_text(length=32).x.shape[1]
    32
    """
    if length < 1:
        raise ValueError(f"`load_text`: `length` must be at least 1, got {length}")
    if path is None:
        name, text, where = "text", _topics(), "`load_text`: the built-in text"
        source = {"source": "pydoc_data.topics", "python": platform.python_version()}
    else:
        path = _existing_file(path, "load_text")
        where = f"`load_text`: {path}"
        name, text, source = path.name, _decoded(path, where), {"source": "text", "file": path.name}
    points, tokens = np.unique(
        np.frombuffer(text.encode("utf-32-le"), dtype="<u4"), return_inverse=True
    )
    if len(tokens) < _TEST_EVERY * (length + 1):
        raise ValueError(
            f"{where}: the text has {len(tokens)} characters; windows of length + 1 = {length + 1} "
            f"characters, every {_TEST_EVERY}th of them for the test set, need at least "
            f"{_TEST_EVERY * (length + 1)}; take a longer text or a smaller length"
        )
    if len(points) < 2:
        raise ValueError(f"{where}: the text repeats one character, so there is nothing to learn")
    windows = _windows(tokens, length)
    held_out = np.arange(len(windows)) % _TEST_EVERY == _TEST_EVERY - 1
    x, y = windows[:, :-1], windows[:, 1:]
    arrays = {
        "x": x[~held_out],
        "y": y[~held_out],
        "x_test": x[held_out],
        "y_test": y[held_out],
    }
    return Dataset(
        **arrays,
        kind="sequence",
        name=name,
        num_classes=len(points),
        vocabulary="".join(map(chr, points.tolist())),
        provenance={
            **source,
            "characters": len(tokens),
            "length": length,
            "split": f"every {_TEST_EVERY}th window is a test window",
            **_sizes(arrays),
        },
    )


def _existing_file(path: str | Path, caller: str) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"`{caller}`: {path} is a directory; give the path of a file")
    if not path.exists():
        raise FileNotFoundError(f"`{caller}`: there is no file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"`{caller}`: {path} is empty (0 bytes)")
    return path


def _with_split(
    x: np.ndarray,
    y: np.ndarray,
    kind: Kind,
    name: str,
    source: dict[str, Any],
    seed: int,
    test_fraction: float,
) -> Dataset:
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` must lie between 0 and 1, got {test_fraction}")
    test = _held_out(y if kind == "classes" else np.zeros(len(y)), test_fraction, seed)
    arrays = {"x": x[~test], "y": y[~test], "x_test": x[test], "y_test": y[test]}
    return Dataset(
        **arrays,
        kind=kind,
        name=name,
        num_classes=count_classes({"x": x, "y": y}, kind, name),
        vocabulary=None,
        provenance={
            **source,
            "split": "held out at random" + (", stratified by class" if kind == "classes" else ""),
            "split_seed": seed,
            "test_fraction": test_fraction,
            **_sizes(arrays),
        },
    )


def _held_out(strata: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A mask [N] of the test set: `fraction` of each stratum, rounded; at least one row in all."""
    rng = np.random.default_rng(seed)
    test = np.zeros(len(strata), bool)
    for value in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == value))
        test[rows[: min(round(fraction * len(rows)), len(rows) - 1)]] = True
    if not test.any():
        test[rng.integers(len(strata))] = True
    return test


def _sizes(arrays: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {f"shape_{name}": list(a.shape) for name, a in arrays.items()}


def _topics() -> str:
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _decoded(path: Path, where: str) -> str:
    try:
        # A byte order mark at the start is not part of the text.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: not UTF-8 text: byte {error.object[error.start]:#04x} at offset "
            f"{error.start}; convert the file to UTF-8"
        ) from error
    return text


def _windows(tokens: np.ndarray, length: int) -> np.ndarray:
    count = len(tokens) // (length + 1)
    return tokens[: count * (length + 1)].reshape(count, length + 1).astype(np.int32)
