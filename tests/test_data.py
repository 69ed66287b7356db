"""Data: what files become, what is refused and how, and the order of the batches."""

import json
import pickle
import re

import numpy as np
import pytest

from funcbackprop.training import data

pytestmark = pytest.mark.core

N = 12
X = np.linspace(0, 1, N * 3).reshape(N, 3)
Y = np.arange(N) % 3
TOKENS = np.arange(N * 5).reshape(N, 5) % 7


def with_value(a, index, value):
    a = np.array(a, dtype=float if isinstance(value, float) else None)
    a[index] = value
    return a


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


# --- what the built-in data are ---


def test_digits():
    d = data.digits()
    assert d.x.shape == (1438, 8, 8, 1)
    assert d.x.dtype == np.float32
    assert d.y.dtype == np.int32
    assert (d.x.min(), d.x.max()) == (0.0, 1.0)
    assert (d.kind, d.num_classes, d.vocabulary) == ("classes", 10, None)
    everything = np.concatenate([d.x, d.x_test]).reshape(1797, -1)
    assert len(np.unique(everything, axis=0)) == 1797, "no image is in both sets"
    share = np.bincount(d.y_test) / np.bincount(np.concatenate([d.y, d.y_test]))
    np.testing.assert_allclose(share, 0.2, atol=0.003)


def test_the_split_is_fixed_by_the_seed():
    assert data.digits().hash == data.digits().hash
    assert data.digits().hash != data.digits(seed=1).hash
    assert len(data.digits(test_fraction=0.5).x_test) == pytest.approx(1797 / 2, abs=5)


def test_the_built_in_text():
    d = data.load_text(length=32)
    assert d.kind == "sequence"
    assert d.provenance["characters"] > 300_000
    windows = len(d.x) + len(d.x_test)
    assert 0 <= d.provenance["characters"] - 33 * windows < 2 * 33, "all but the ends is used"
    assert d.num_classes == len(d.vocabulary)
    assert list(d.vocabulary) == sorted(set(d.vocabulary))
    np.testing.assert_array_equal(d.x[:, 1:], d.y[:, :-1])
    assert max(a.max() for a in (d.x, d.y, d.x_test, d.y_test)) < d.num_classes


def test_text_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "fox.txt"
    text = "".join(f"{i}: the quick brown fox, naïve 😀\n" for i in range(40))
    path.write_text(text, encoding="utf-8")
    d = data.load(path, length=9)
    train, test = (
        np.concatenate([x, y[:, -1:]], axis=1) for x, y in ((d.x, d.y), (d.x_test, d.y_test))
    )
    windows = np.insert(train, np.arange(len(test)) * 9 + 9, test, axis=0)  # every tenth
    written = "".join(d.vocabulary[token] for token in windows.ravel())
    assert text.startswith(written)
    assert len(text) - len(written) < 10


@pytest.mark.parametrize(
    ("name", "kind"), [("digits", "classes"), ("text", "sequence"), ("file.npz", "classes")]
)
def test_load_dispatches(tmp_path, name, kind):
    if name.endswith(".npz"):
        name = str(save(tmp_path / name, x=X, y=Y))
    d = data.load(name)
    assert d.kind == kind
    assert json.loads(json.dumps(d.to_dict()))["hash"] == d.hash
    assert "\n" not in str(d)


# --- what .npz files become ---

# id -> (arrays, kind, x dtype, y dtype and shape of an example, number of classes)
MEANINGS = {
    "float64": (dict(x=X, y=Y), "classes", np.float32, np.int32, (), 3),
    "float16": (dict(x=X.astype(np.float16), y=Y), "classes", np.float32, np.int32, (), 3),
    "bool": (dict(x=X > 0.5, y=Y > 1), "classes", np.float32, np.int32, (), 2),
    "big endian": (dict(x=X.astype(">f8"), y=Y.astype(">i8")), "classes", "f4", "i4", (), 3),
    "uint64 labels": (dict(x=X, y=Y.astype(np.uint64)), "classes", "f4", "i4", (), 3),
    "targets [N]": (dict(x=X, y=X[:, 0]), "regression", "f4", "f4", (1,), None),
    "targets [N, K]": (dict(x=X, y=X[:, :2]), "regression", "f4", "f4", (2,), None),
    "tokens": (dict(x=TOKENS, y=TOKENS), "sequence", "i4", "i4", (5,), 7),
    "byte tokens": (dict(x=TOKENS.astype("u1"), y=TOKENS), "sequence", "i4", "i4", (5,), 7),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_what_npz_arrays_mean(tmp_path, case):
    arrays, kind, x_dtype, y_dtype, y_shape, classes = MEANINGS[case]
    d = data.load_npz(save(tmp_path / "a.npz", **arrays))
    assert (d.kind, d.num_classes) == (kind, classes)
    for x, y in ((d.x, d.y), (d.x_test, d.y_test)):
        assert x.dtype == x_dtype
        assert y.dtype == y_dtype
        assert x.dtype.isnative
        assert y.shape[1:] == y_shape
        assert len(x) == len(y) > 0
    assert len(d.x) + len(d.x_test) == N


def test_pixels_are_scaled_and_other_integers_are_not(tmp_path):
    pixels = np.array([[0, 51, 255]] * N, np.uint8)
    x = data.load_npz(save(tmp_path / "a.npz", x=pixels, y=Y)).x
    np.testing.assert_array_equal(x[0], np.array([0.0, 0.2, 1.0], np.float32))
    x = data.load_npz(save(tmp_path / "b.npz", x=pixels.astype(int), y=Y)).x
    np.testing.assert_array_equal(x[0], [0.0, 51.0, 255.0])


def test_test_arrays_of_the_file_are_used(tmp_path):
    d = data.load_npz(save(tmp_path / "a.npz", x=X, y=Y, x_test=X[:2] + 1, y_test=Y[:2] + 3))
    assert len(d.x) == N
    np.testing.assert_allclose(d.x_test, X[:2] + 1, rtol=1e-6)
    assert d.num_classes == 5, "labels of the test set count"


def test_the_hash_sees_every_value_and_dtype(tmp_path):
    hashes = {
        data.load_npz(save(tmp_path / "a.npz", **arrays)).hash
        for arrays in (
            dict(x=X, y=Y),
            dict(x=with_value(X, (3, 1), 9.0), y=Y),
            dict(x=X, y=Y[::-1].copy()),
            dict(x=X.reshape(N, 3, 1), y=Y),
        )
    }
    assert len(hashes) == 4


# --- what is refused ---

# id -> (arrays of the file, what the error says)
BAD_ARRAYS = {
    "x missing": (dict(images=X, y=Y), "no array named 'x'; the file holds 'images', 'y'"),
    "both missing": (dict(a=X), "no array named 'x' or 'y'; the file holds 'a'"),
    "objects": (dict(x=X, y=Y.astype(object)), "array 'y' holds Python objects"),
    "strings": (dict(x=X.astype(str), y=Y), "'x' must hold real numbers, got dtype <U"),
    "complex": (dict(x=X + 1j, y=Y), "'x' must hold real numbers, got dtype complex128"),
    "dates": (dict(x=X, y=Y.astype("M8[D]")), "'y' must hold real numbers, got dtype datetime64"),
    "rank 0": (dict(x=X, y=1), "array 'y' is a single number"),
    "no examples": (dict(x=X[:0], y=Y[:0]), "array 'x' is empty, shape (0, 3)"),
    "NaN in x": (
        dict(x=with_value(X, (slice(4, 6), 2), np.nan), y=Y),
        "'x' has 2 of 36 values that are not finite (NaN or inf), the first at index [4, 2]",
    ),
    "inf in y": (
        dict(x=X, y=with_value(Y, 7, np.inf)),
        "'y' has 1 of 12 values that are not finite (NaN or inf), the first at index [7]",
    ),
    "overflow": (
        dict(x=with_value(X, (0, 1), 1e300), y=Y),
        "'x' has 1 of 36 values that are too large for float32, the first at index [0, 1]",
    ),
    "lengths": (dict(x=X, y=Y[:-1]), "'x' has 12 examples and 'y' has 11"),
    "test lengths": (
        dict(x=X, y=Y, x_test=X, y_test=Y[:4]),
        "'x_test' has 12 examples and 'y_test' has 4",
    ),
    "half a test set": (dict(x=X, y=Y, x_test=X), "there is 'x_test' but no 'y_test'"),
    "test shape": (
        dict(x=X, y=Y, x_test=X[:, :2], y_test=Y),
        "'x_test' must be like 'x' except in length; 'x' is float64[12, 3], 'x_test' is "
        "float64[12, 2]",
    ),
    "test dtype": (
        dict(x=X, y=Y, x_test=X.astype(np.uint8), y_test=Y),
        "'x_test' must be like 'x' except in length",
    ),
    "negative labels": (
        dict(x=X, y=Y - 1),
        "'y' has 4 negative labels, the first (-1) at index [0]",
    ),
    "negative tokens": (dict(x=TOKENS - 6, y=TOKENS), "'x' has"),
    "one class": (dict(x=X, y=Y * 0), "all labels in 'y' are 0; training needs at least 2 classes"),
    "ids as labels": (
        dict(x=X, y=Y + 1000),
        "the largest label 1002 means 1003 classes, more than there are labels",
    ),
    "beyond int32": (dict(x=X, y=Y + 2**40), "'y' has labels beyond the range of int32"),
    "one-hot": (dict(x=X, y=np.eye(3, dtype=int)[Y]), "with y.argmax(1)"),
    "column": (dict(x=X, y=Y[:, None]), "a column with y[:, 0]"),
    "one example": (dict(x=X[:1], y=X[:1, 0]), "1 example cannot be divided"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_unusable_arrays_are_named(tmp_path, case):
    arrays, message = BAD_ARRAYS[case]
    path = save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        data.load_npz(path)
    assert str(error.value).startswith("`load_npz`: ")
    assert "bad.npz" in str(error.value)
    assert "\n" not in str(error.value)


def whole_npz(tmp_path):
    return save(tmp_path / "whole.npz", x=X, y=Y).read_bytes()


# id -> (file name, its bytes from a folder to write in, what the error says)
BAD_FILES = {
    "empty": ("a.npz", lambda _: b"", "is empty (0 bytes)"),
    "empty text": ("a.txt", lambda _: b"", "is empty (0 bytes)"),
    "truncated": ("a.npz", lambda t: whole_npz(t)[:300], "truncated or damaged"),
    "text": ("a.npz", lambda _: b"x, y\n1, 2\n", "expected an .npz archive, got something else"),
    "pickle": ("a.npz", lambda _: pickle.dumps({"x": X}), "got a pickle, which is never loaded"),
    "npy": ("a.npz", lambda _: b"\x93NUMPY\x01\x00....", "got a single .npy array"),
    "latin-1": ("a.txt", lambda _: "né".encode("latin-1"), "not UTF-8 text: byte 0xe9 at offset 1"),
    "short": ("a.txt", lambda _: b"abc" * 50, "the text has 150 characters"),
    "one character": ("a.txt", lambda _: b"a" * 5000, "the text repeats one character"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_unusable_files_are_named(tmp_path, case):
    name, content, message = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(content(tmp_path))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        data.load(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_archive_is_never_another_error(tmp_path):
    whole = whole_npz(tmp_path)
    path = tmp_path / "a.npz"
    for length in range(4, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated or damaged"):
            data.load(path)
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            data.load(path)
        except ValueError as error:
            assert str(error).startswith("`load_npz`: ")  # noqa: PT017


# id -> (argument, error, what it says)
BAD_NAMES = {
    "no such npz": ("gone.npz", FileNotFoundError, "`load_npz`: there is no file gone.npz"),
    "no such text": ("gone.txt", FileNotFoundError, "`load_text`: there is no file gone.txt"),
    "unknown": ("mnist", ValueError, "unknown data 'mnist'; expected one of digits, text, or"),
    "csv": ("a.csv", ValueError, "that ends in .npz or .txt"),
    "directory": ("dir.npz", ValueError, "dir.npz is a directory"),
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_unknown_names_are_refused(tmp_path, monkeypatch, case):
    name, error, message = BAD_NAMES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.npz").mkdir()
    with pytest.raises(error, match=re.escape(message)):
        data.load(name)


def test_pickles_are_never_executed(tmp_path):
    path = tmp_path / "a.npz"

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    np.savez(path, x=np.array([Bomb()] * N, dtype=object), y=Y)
    with pytest.raises(ValueError, match="Python objects"):
        data.load(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1, float("nan")])
def test_the_test_fraction_is_checked(fraction):
    with pytest.raises(ValueError, match="`test_fraction` must lie between 0 and 1"):
        data.digits(test_fraction=fraction)


def test_the_window_length_is_checked():
    with pytest.raises(ValueError, match="`length` must be at least 1, got 0"):
        data.load_text(length=0)


# --- batches ---


@pytest.mark.parametrize(("size", "batch_size"), [(12, 4), (10, 4), (7, 7), (5, 1), (9, 8)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_visits_every_example_once(size, batch_size, shuffle):
    batches = data.batches({"a": np.arange(size)}, batch_size, seed=3, shuffle=shuffle)
    assert batches.steps_per_epoch == -(-size // batch_size)
    for epoch in range(3):
        visits = np.zeros(size)
        for step in range(batches.steps_per_epoch):
            batch, weights = batches(epoch * batches.steps_per_epoch + step)
            assert batch["a"].shape == (batch_size,)
            assert (weights is None) == (size % batch_size == 0)
            if weights is not None:
                assert weights.dtype == np.float32
                assert weights.shape == (batch_size,)
            np.add.at(visits, batch["a"], 1.0 if weights is None else weights)
        np.testing.assert_array_equal(visits, 1.0)


def test_batches_are_a_pure_function_of_seed_and_step():
    first, second = (data.batches(np.arange(50), 8, seed=5) for _ in range(2))
    forward = [first(step)[0] for step in range(20)]
    for step in reversed(range(20)):
        np.testing.assert_array_equal(second(step)[0], forward[step])
    orders = [
        tuple(np.concatenate([data.batches(np.arange(50), 10, seed=seed)(s)[0] for s in steps]))
        for seed in (5, 6)
        for steps in (range(5), range(5, 10))
    ]
    assert len(set(orders)) == 4, "every seed and every epoch has an order of its own"


def test_padding_repeats_rows_of_the_batch_at_weight_zero():
    batch, weights = data.batches(np.arange(7), 5, shuffle=False)(1)
    np.testing.assert_array_equal(batch, [5, 6, 5, 6, 5])
    np.testing.assert_array_equal(weights, [1, 1, 0, 0, 0])


def test_user_weights_follow_their_examples():
    importance = np.arange(1, 8)
    batches = data.batches(np.arange(7), 7, weights=importance)
    batch, weights = batches(3)
    np.testing.assert_array_equal(weights, importance[batch])
    weights[:] = 0
    np.testing.assert_array_equal(batches(3)[1], importance[batch])
    batches = data.batches(np.arange(7), 4, weights=importance)
    total = sum(batches(step)[1].sum() for step in range(2))
    assert total == importance.sum()


def test_batches_take_any_pytree():
    import jax
    import jax.numpy as jnp

    tree = {"x": (np.arange(6), jnp.arange(12).reshape(6, 2)), "key": jax.random.key(0)}
    tree["key"] = jax.random.split(tree["key"], 6)
    batch, _ = data.batches(tree, 3, shuffle=False)(1)
    np.testing.assert_array_equal(batch["x"][0], [3, 4, 5])
    np.testing.assert_array_equal(batch["x"][1], [[6, 7], [8, 9], [10, 11]])
    assert batch["key"].shape == (3,)


# id -> (positional and named arguments, what the error says)
BAD_BATCHES = {
    "too large": ((X, 13), {}, "`batch_size` is 13 and the data has 12 examples"),
    "zero": ((X, 0), {}, "`batch_size` must be at least 1, got 0"),
    "lengths": (({"x": X, "y": Y[:5]}, 2), {}, "arrays['x'] [12, 3], arrays['y'] [5]"),
    "rank 0": (([X, 1.0], 2), {}, "arrays[0] [12, 3], arrays[1] []"),
    "nothing": (({}, 2), {}, "of no arrays at all"),
    "no examples": ((X[:0], 2), {}, "the arrays hold 0 examples"),
    "seed": ((X, 2), {"seed": -1}, "`seed` must be 0 or more, got -1"),
    "weights shape": ((X, 2), {"weights": [1, 2]}, "of shape (12,), one for each example"),
    "weights text": ((X, 2), {"weights": ["a"] * N}, "must be real numbers"),
    "weights negative": (
        (X, 2),
        {"weights": with_value(np.ones(N), 4, -2.0)},
        "got 1 that are not, the first -2.0 at index 4",
    ),
    "weights NaN": ((X, 2), {"weights": with_value(np.ones(N), 4, np.nan)}, "the first nan at"),
    "weights zero": ((X, 2), {"weights": np.zeros(N)}, "all `weights` are 0"),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_unusable_batches_are_refused(case):
    args, named, message = BAD_BATCHES[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        data.batches(*args, **named)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="`step` must be 0 or more, got -1"):
        data.batches(X, 2)(-1)


def test_batches_from_a_function():
    batches = data.from_function(lambda seed, epoch, step: (seed, epoch, step), seed=4)
    assert batches(9) == ((4, 0, 9), None)
    assert (batches.steps_per_epoch, batches.size, batches.batch_size) == (None, None, None)
    with pytest.raises(TypeError, match=re.escape("(seed, epoch, step) -> batch, got int")):
        data.from_function(3)
