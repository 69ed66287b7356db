"""Reading an `.npz` file: which arrays it holds, what they mean, and whether they can be used.

Every error is one line that names the file, the array, the first bad element and the remedy.
"""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

Kind = Literal["classes", "regression", "sequence"]

# First bytes of a file -> what it is; a zip archive, as `numpy.savez` writes it, starts with PK.
_NOT_NPZ = (
    (b"\x93NUMPY", "a single .npy array"),
    (b"\x80", "a pickle, which is never loaded because it can run code"),
)
# Fewer rows than classes means that the integers are no class labels; small files are let through.
_ALWAYS_PLAUSIBLE_CLASSES = 100
# What zipfile and NumPy raise on an archive that is cut off or overwritten.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
)


def read(path: Path, where: str) -> tuple[dict[str, np.ndarray], Kind]:
    """The arrays `x`, `y` and, if there, `x_test`, `y_test`, in the dtypes of a `Dataset`.

    Args:
      path: a file that exists.
      where: how errors begin: the public function and the file.

    Raises:
      ValueError: the file is not a whole `.npz` archive, or an array cannot be used.
    """
    arrays = _read_arrays(path, where)
    for name, a in arrays.items():
        _check_array(name, a, where)
    _check_pairs(arrays, where)
    kind = _kind(arrays["x"], arrays["y"], where)
    return {name: _converted(name, a, kind, where) for name, a in arrays.items()}, kind


def count_classes(arrays: dict[str, np.ndarray], kind: Kind, where: str) -> int | None:
    """Largest label + 1, over the training and the test set."""
    if kind == "regression":
        return None
    labels = [a for name, a in arrays.items() if kind == "sequence" or name.startswith("y")]
    count = 1 + max(int(a.max()) for a in labels)
    if len(np.unique(arrays["y"])) < 2:
        raise ValueError(
            f"{where}: all labels in 'y' are {arrays['y'].flat[0]}; "
            "training needs at least 2 classes"
        )
    room = max(sum(a.size for a in labels), _ALWAYS_PLAUSIBLE_CLASSES)
    if count > room:
        raise ValueError(
            f"{where}: the largest label {count - 1} means {count} classes, more than there are "
            "labels; number the classes 0 .. K-1, or save 'y' as floating point for a regression"
        )
    return count


def _read_arrays(path: Path, where: str) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        head = file.read(8)
    if not head.startswith(b"PK"):
        what = next((text for magic, text in _NOT_NPZ if head.startswith(magic)), "something else")
        raise ValueError(
            f"{where}: expected an .npz archive, got {what}; "
            "write one with numpy.savez(path, x=x, y=y)"
        )
    try:
        # NumPy leaves a file that it opened itself open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ("x", "y") if name not in archive.files]
            if missing:
                raise ValueError(
                    f"{where}: no array named {' or '.join(map(repr, missing))}; the file holds "
                    f"{', '.join(map(repr, archive.files)) or 'no arrays'}; "
                    "name the inputs x and the labels y"
                )
            names = [n for n in ("x", "y", "x_test", "y_test") if n in archive.files]
            return {name: _member(archive, name, where) for name in names}
    except _DAMAGE as error:
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
