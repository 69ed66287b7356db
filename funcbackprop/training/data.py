"""Data: arrays with a held-out test set, and batches as a pure function of (seed, step).

Importing this module loads NumPy and nothing else.
"""

import dataclasses
import functools
import hashlib
import platform
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

Kind = Literal["classes", "regression", "sequence"]

_NAMES = ("digits", "text")
_SUFFIXES = (".npz", ".txt")
# First bytes of a file -> what it is; a zip archive, as `numpy.savez` writes it, starts with PK.
_NOT_NPZ = (
    (b"\x93NUMPY", "a single .npy array"),
    (b"\x80", "a pickle, which is never loaded because it can run code"),
)
# Fewer rows than classes means that the integers are no class labels; small files are let through.
_ALWAYS_PLAUSIBLE_CLASSES = 100


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
    """
    path = _existing_file(path, "load_npz")
    where = f"`load_npz`: {path}"
    arrays = _read_npz(path, where)
    for name, a in arrays.items():
        _check_array(name, a, where)
    _check_pairs(arrays, where)
    kind = _kind(arrays["x"], arrays["y"], where)
    arrays = {name: _converted(name, a, kind, where) for name, a in arrays.items()}
    source = {"source": "npz", "file": path.name}
    if "x_test" not in arrays:
        _count_classes(arrays, kind, where)
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
        num_classes=_count_classes(arrays, kind, where),
        vocabulary=None,
        provenance={**source, "split": "x_test and y_test of the file", **_sizes(arrays)},
    )


def load_text(path: str | Path | None = None, length: int = 64) -> Dataset:
    """Character-level text: windows of `length` characters and the characters that follow them.

    The text is cut into windows of T + 1 characters that do not overlap: `x` is the first T of
    each, `y` the last T. The last 10 % of the characters are the test set. The vocabulary is the
    sorted set of all characters.

    Args:
      path: a UTF-8 file. None takes the topics of the running Python's `pydoc_data`, sorted by
        name and joined: about 465,000 characters of English on the Python language, which every
        installation has. The text differs a little between Python versions.
      length: T.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the text is not UTF-8, or too short for one window of training and of test text.

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
    cut = len(tokens) - len(tokens) // 10
    parts = tokens[:cut], tokens[cut:]
    if min(len(part) for part in parts) < length + 1:
        raise ValueError(
            f"{where}: the text has {len(tokens)} characters and the last 10 % are the test set; "
            f"one window of length + 1 = {length + 1} characters in each part needs at least "
            f"{10 * (length + 1)}; take a longer text or a smaller length"
        )
    if len(points) < 2:
        raise ValueError(f"{where}: the text repeats one character, so there is nothing to learn")
    (x, y), (x_test, y_test) = (_windows(part, length) for part in parts)
    arrays = {"x": x, "y": y, "x_test": x_test, "y_test": y_test}
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
            "split": "the last 10 % of the characters",
            **_sizes(arrays),
        },
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Batches of in-memory arrays as a pure function of the step: `batches(step)`.

    Made by `batches`. Two objects with the same arrays and seed give the same batches, so a
    training run can stop after any step and continue from it.

    Attributes:
      arrays: pytree of arrays with a leading axis of length N on every leaf.
      weights: [N] float32, or None.
      size: N.
      batch_size: B.
      seed: of the order.
      shuffle: whether each epoch has an order of its own.
    """

    arrays: Any
    weights: np.ndarray | None
    size: int
    batch_size: int
    seed: int
    shuffle: bool

    @property
    def steps_per_epoch(self) -> int:
        """N / B, rounded up."""
        return -(-self.size // self.batch_size)

    def rows(self, step: int) -> tuple[np.ndarray, int]:
        """The row numbers [B] of batch `step`, and how many of them, from the front, count."""
        if step < 0:
            raise ValueError(f"`Batches`: `step` must be 0 or more, got {step}")
        epoch, position = divmod(int(step), self.steps_per_epoch)
        order = _order(self.seed, epoch, self.size) if self.shuffle else np.arange(self.size)
        rows = order[position * self.batch_size : (position + 1) * self.batch_size]
        return np.resize(rows, self.batch_size), len(rows)

    def __call__(self, step: int) -> tuple[Any, np.ndarray | None]:
        """Batch `step`, counted from 0 over all epochs.

        Returns:
          The batch, a pytree like `arrays` with leading length B, and its weights: [B] float32,
          or None if every row of every batch counts alike.
        """
        import jax

        rows, count = self.rows(step)
        batch = jax.tree.map(lambda a: a[rows], self.arrays)
        if self.weights is None and self.size % self.batch_size == 0:
            return batch, None
        weights = (
            np.ones(self.batch_size, np.float32) if self.weights is None else self.weights[rows]
        )
        weights[count:] = 0.0
        return batch, weights


def batches(
    arrays: Any,
    batch_size: int,
    *,
    seed: int = 0,
    weights: Any = None,
    shuffle: bool = True,
) -> Batches:
    """Batches of in-memory arrays, in an order that depends on nothing but (seed, step).

    Step s belongs to epoch s // steps_per_epoch, and the order of an epoch is the permutation that
    `numpy.random.default_rng((seed, epoch))` draws. Every epoch visits every example once. If B
    does not divide N, the last batch of an epoch is filled up with rows of its own, at weight 0.

    Weights are None if B divides N and none were given. Otherwise every batch has weights [B], so
    that a compiled step is traced once.

    Args:
      arrays: pytree of arrays with a leading axis of length N on every leaf.
      batch_size: B, at most N.
      seed: 0 or more.
      weights: [N], relative importances of the examples, 0 or more.
      shuffle: False takes the rows in their own order in every epoch.

    Raises:
      ValueError: lengths differ, B is larger than N, or the weights are not usable.

    >>> order = batches(np.arange(5), 2, shuffle=False)
    >>> batch, weights = order(2)
    >>> batch.tolist(), weights.tolist(), order.steps_per_epoch
    ([4, 4], [1.0, 0.0], 3)
    """
    import jax

    arrays = jax.tree.map(lambda a: a if hasattr(a, "shape") else np.asarray(a), arrays)
    size = _common_length(jax.tree_util.tree_leaves_with_path(arrays), jax.tree_util.keystr)
    if batch_size < 1:
        raise ValueError(f"`batches`: `batch_size` must be at least 1, got {batch_size}")
    if batch_size > size:
        raise ValueError(
            f"`batches`: `batch_size` is {batch_size} and the data has {size} examples; "
            f"take a batch size of at most {size}"
        )
    if seed < 0:
        raise ValueError(f"`batches`: `seed` must be 0 or more, got {seed}")
    if weights is not None:
        weights = _checked_weights(weights, size)
    return Batches(arrays, weights, size, int(batch_size), int(seed), shuffle)


@dataclasses.dataclass(frozen=True, eq=False)
class FunctionBatches:
    """Batches from a function: `batches(step)` is `(fn(seed, 0, step), None)`.

    Attributes:
      fn: pure function `(seed, epoch, step) -> batch`; epoch is always 0.
      seed: handed to `fn`.
    """

    fn: Callable[[int, int, int], Any]
    seed: int
    steps_per_epoch: None = None
    size: None = None
    batch_size: None = None

    def __call__(self, step: int) -> tuple[Any, None]:
        return self.fn(self.seed, 0, int(step)), None


def from_function(fn: Callable[[int, int, int], Any], seed: int = 0) -> FunctionBatches:
    """Batches that a pure function of (seed, epoch, step) makes, for data without a fixed size.

    There are no epochs: epoch is always 0, and `steps_per_epoch`, `size` and `batch_size` are None.

    >>> from_function(lambda seed, epoch, step: np.full(2, step), seed=1)(7)[0].tolist()
    [7, 7]
    """
    if not callable(fn):
        raise TypeError(
            "`from_function`: `fn` must be a function (seed, epoch, step) -> batch, "
            f"got {type(fn).__name__}"
        )
    return FunctionBatches(fn, seed)


# Four orders: several seeds or data sets at a time, without keeping every epoch.
@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(size)
    order.flags.writeable = False
    return order


def _common_length(leaves: list, keystr: Callable) -> int:
    lengths = {a.shape[0] for _, a in leaves if a.shape}
    if len(lengths) != 1 or any(not a.shape for _, a in leaves):
        listing = ", ".join(f"arrays{keystr(path)} {list(a.shape)}" for path, a in leaves)
        raise ValueError(
            "`batches`: every array needs one leading axis of equal length (the examples), "
            f"got shapes {listing or 'of no arrays at all'}"
        )
    (size,) = lengths
    if size == 0:
        raise ValueError("`batches`: the arrays hold 0 examples; pass at least one")
    return size


def _checked_weights(weights: Any, size: int) -> np.ndarray:
    weights = np.asarray(weights)
    if weights.shape != (size,) or weights.dtype.kind not in "fiub":
        raise ValueError(
            f"`batches`: `weights` must be real numbers of shape ({size},), one for each example, "
            f"got {weights.dtype}{list(weights.shape)}"
        )
    weights = weights.astype(np.float32)
    bad = ~np.isfinite(weights) | (weights < 0)
    if bad.any():
        raise ValueError(
            f"`batches`: `weights` must be finite and 0 or more, got {bad.sum()} that are not, the "
            f"first {weights[bad][0]} at index {int(bad.argmax())}"
        )
    if not weights.any():
        raise ValueError("`batches`: all `weights` are 0; give at least one example some weight")
    return weights


def _existing_file(path: str | Path, caller: str) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"`{caller}`: {path} is a directory; give the path of a file")
    if not path.exists():
        raise FileNotFoundError(f"`{caller}`: there is no file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"`{caller}`: {path} is empty (0 bytes)")
    return path


def _read_npz(path: Path, where: str) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        head = file.read(8)
    if not head.startswith(b"PK"):
        what = next((text for magic, text in _NOT_NPZ if head.startswith(magic)), "something else")
        raise ValueError(
            f"{where}: expected an .npz archive, got {what}; write one with numpy.savez(path, x=x, y=y)"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ("x", "y") if name not in archive.files]
            if missing:
                raise ValueError(
                    f"{where}: no array named {' or '.join(map(repr, missing))}; the file holds "
                    f"{', '.join(map(repr, archive.files)) or 'no arrays'}; "
                    "name the inputs x and the labels y"
                )
            names = [n for n in ("x", "y", "x_test", "y_test") if n in archive.files]
            return {name: _member(archive, name, where) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError) as error:
        raise ValueError(
            f"{where}: the archive is truncated or damaged ({error}); write or copy it again"
        ) from error


def _member(archive: Any, name: str, where: str) -> np.ndarray:
    try:
        a = archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise ValueError(
                f"{where}: array {name!r} holds Python objects, which are stored as a pickle and "
                "never loaded because a pickle can run code; save an array of numbers"
            ) from error
        raise ValueError(f"{where}: array {name!r} is damaged ({error})") from error
    if not isinstance(a, np.ndarray):
        raise ValueError(f"{where}: {name!r} is not an array; save it with numpy.savez")
    return a


def _check_array(name: str, a: np.ndarray, where: str) -> None:
    if a.dtype.kind not in "fiub":
        raise ValueError(
            f"{where}: array {name!r} must hold real numbers, got dtype {a.dtype}; "
            "convert it before saving"
        )
    if a.ndim == 0:
        raise ValueError(
            f"{where}: array {name!r} is a single number; expected a leading axis of examples"
        )
    if a.size == 0:
        raise ValueError(f"{where}: array {name!r} is empty, shape {a.shape}")
    _check_finite(name, a, where, "not finite (NaN or inf)")


def _check_finite(name: str, a: np.ndarray, where: str, what: str) -> None:
    if a.dtype.kind != "f":
        return
    bad = ~np.isfinite(a)
    if bad.any():
        index = tuple(int(i) for i in np.unravel_index(bad.argmax(), a.shape))
        raise ValueError(
            f"{where}: array {name!r} has {int(bad.sum())} of {a.size} values that are {what}, "
            f"the first at index {list(index)}; clean or remove them"
        )


def _check_pairs(arrays: dict[str, np.ndarray], where: str) -> None:
    for x, y in (("x", "y"), ("x_test", "y_test")):
        if (x in arrays) != (y in arrays):
            here, gone = (x, y) if x in arrays else (y, x)
            raise ValueError(f"{where}: there is {here!r} but no {gone!r}; give both or neither")
        if x in arrays and len(arrays[x]) != len(arrays[y]):
            raise ValueError(
                f"{where}: {x!r} has {len(arrays[x])} examples and {y!r} has {len(arrays[y])}; "
                "the first axes must have equal length"
            )
    if "x_test" not in arrays:
        return
    for train, test in (("x", "x_test"), ("y", "y_test")):
        a, b = arrays[train], arrays[test]
        if a.shape[1:] != b.shape[1:] or _meaning(a) != _meaning(b):
            raise ValueError(
                f"{where}: {test!r} must be like {train!r} except in length; {train!r} is "
                f"{a.dtype}{list(a.shape)}, {test!r} is {b.dtype}{list(b.shape)}"
            )


def _meaning(a: np.ndarray) -> str:
    """uint8 is scaled, other integers are not: the two must not be mixed."""
    if a.dtype == np.uint8:
        return "pixels"
    return "real" if a.dtype.kind == "f" else "integer"


def _kind(x: np.ndarray, y: np.ndarray, where: str) -> Kind:
    if y.dtype.kind == "f":
        return "regression"
    if y.ndim == 1:
        return "classes"
    if y.ndim == 2 and y.shape == x.shape and x.dtype.kind in "iu":
        return "sequence"
    raise ValueError(
        f"{where}: integer 'y' must be labels [N], or next tokens [N, T] like 'x'; got x "
        f"{x.dtype}{list(x.shape)} and y {y.dtype}{list(y.shape)}; turn one-hot rows into labels "
        "with y.argmax(1), a column with y[:, 0], targets of a regression into floats"
    )


def _converted(name: str, a: np.ndarray, kind: Kind, where: str) -> np.ndarray:
    if kind == "sequence" or (kind == "classes" and name.startswith("y")):
        return _labels(name, a, kind, where)
    if name.startswith("x") and a.dtype == np.uint8:
        return a.astype(np.float32) / np.float32(255)
    with np.errstate(over="ignore"):
        converted = a.astype(np.float32)
    _check_finite(name, converted, where, "too large for float32")
    return converted[:, None] if name.startswith("y") and a.ndim == 1 else converted


def _labels(name: str, a: np.ndarray, kind: Kind, where: str) -> np.ndarray:
    what = "tokens" if kind == "sequence" else "labels"
    bad = (a < 0) if a.dtype.kind == "i" else np.zeros(a.shape, bool)
    if bad.any():
        index = tuple(int(i) for i in np.unravel_index(bad.argmax(), a.shape))
        raise ValueError(
            f"{where}: array {name!r} has {int(bad.sum())} negative {what}, the first ({a[index]}) "
            f"at index {list(index)}; number them from 0 (and give padding a weight of 0)"
        )
    if int(a.max()) > np.iinfo(np.int32).max:
        raise ValueError(f"{where}: array {name!r} has {what} beyond the range of int32")
    return a.astype(np.int32)


def _count_classes(arrays: dict[str, np.ndarray], kind: Kind, where: str) -> int | None:
    """Largest label + 1, over the training and the test set."""
    if kind == "regression":
        return None
    labels = [a for name, a in arrays.items() if kind == "sequence" or name.startswith("y")]
    count = 1 + max(int(a.max()) for a in labels)
    if len(np.unique(arrays["y"])) < 2:
        raise ValueError(
            f"{where}: all labels in 'y' are {arrays['y'].flat[0]}; training needs at least 2 classes"
        )
    room = max(sum(a.size for a in labels), _ALWAYS_PLAUSIBLE_CLASSES)
    if count > room:
        raise ValueError(
            f"{where}: the largest label {count - 1} means {count} classes, more than there are "
            "labels; number the classes 0 .. K-1, or save 'y' as floating point for a regression"
        )
    return count


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
        num_classes=_count_classes({"x": x, "y": y}, kind, name),
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


def _windows(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    count = len(tokens) // (length + 1)
    windows = tokens[: count * (length + 1)].reshape(count, length + 1).astype(np.int32)
    return windows[:, :-1].copy(), windows[:, 1:].copy()
