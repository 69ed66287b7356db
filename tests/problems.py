"""Problems for the command line, as a user would write them: `funcbackprop study problems:line`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcbackprop as fb

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = (X @ np.array([1.0, 2.0, 3.0], np.float32)).astype(np.float32)


def loss(params, example):
    x, y = example
    return 0.5 * (jnp.dot(params["w"], x) + params["b"] - y) ** 2


def gradient_by_hand(params, batch, weights=None):
    x, y = (np.asarray(a, np.float64) for a in batch)
    error = x @ np.asarray(params["w"], np.float64) + float(params["b"]) - y
    return 0.5 * np.mean(error**2), {"w": x.T @ error / len(x), "b": np.mean(error)}


def init(key):
    return {"w": jax.random.normal(key, (3,)), "b": jnp.float32(0)}


# Everything given.
line = fb.Problem(
    loss,
    init,
    (X, Y),
    "line",
    test_data=(X[:8], Y[:8]),
    weights=np.linspace(0.5, 1.5, 40, dtype=np.float32),
    metrics={"absolute error": lambda p, e: jnp.abs(jnp.dot(p["w"], e[0]) + p["b"] - e[1])},
    optimizer=optax.sgd(0.1),
    reference=gradient_by_hand,
    groups=lambda path: "all",
)

# Only what is required; parameters that do not depend on a seed.
bare = fb.Problem(loss, init(jax.random.key(0)), (X, Y), "bare")


def _stream(seed, epoch, step):
    rng = np.random.default_rng((seed, epoch, step))
    x = rng.normal(size=(8, 3)).astype(np.float32)
    return x, x.sum(1)


def _noisy(params, example):
    (x, y), key = example
    return loss(params, (x * jax.random.bernoulli(key, 0.9, (3,)), y)), {"x": x}


# A stream of data, randomness inside the example, auxiliary output.
stream = fb.Problem(_noisy, init, _stream, "stream", rng=True, has_aux=True)

misfit = fb.Problem(loss, {"w": jnp.ones(5), "b": jnp.float32(0)}, (X, Y), "misfit")
not_a_problem = 3
no_arrays = fb.Problem(loss, init, [1, 2, 3], "no-arrays")
bad_weights = fb.Problem(loss, init, (X, Y), "bad-weights", weights=np.ones(3))
bad_metric = fb.Problem(loss, init, (X, Y), "bad-metric", metrics={"x": lambda p, e: e[0]})


def _padded_by_hand(params, batch, weights=None):
    x, y = (np.asarray(a, np.float64) for a in batch)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    x, y, w = x[w > 0], y[w > 0], w[w > 0] / w.sum()
    error = x @ np.asarray(params["w"], np.float64) + float(params["b"]) - y
    return 0.5 * np.sum(w * error**2), {"w": x.T @ (w * error), "b": np.sum(w * error)}


# Every fifth row is padding, and NaN.
_ROWS = np.arange(40) % 5 > 0
padded = fb.Problem(
    loss,
    init,
    (np.where(_ROWS[:, None], X, np.nan).astype(np.float32), Y),
    "padded",
    weights=_ROWS.astype(np.float32),
    reference=_padded_by_hand,
)


@jax.custom_vjp
def twice(x):
    return 2 * x


twice.defvjp(lambda x: (twice(x), None), lambda _, dy: (dy,))

# A derivative rule that forgets a factor.
doubled = fb.Problem(lambda p, e: loss(p, (twice(e[0] * p["w"]), e[1])), init, (X, Y), "doubled")
