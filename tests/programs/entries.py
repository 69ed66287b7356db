"""Parameters that are used entry by entry, or reshaped, masked and normalised before their use."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case
from jax.ad_checkpoint import checkpoint_name

from .random import normal


def _dense(weight, shape=(3, 2)):
    """sum sin(x @ weight(p)) for a parameter [*shape]."""

    def make(rng):
        def loss(p, x):
            return jnp.sum(jnp.sin(x @ weight(p)))

        return loss, normal(rng, *shape), lambda n: normal(rng, n, 4, 3)

    return make


def _normalised(normalise, width=6):
    """sum sin(gain normalise(x w) + bias)."""

    def make(rng):
        params = {
            "w": normal(rng, 3, width),
            "gain": normal(rng, width),
            "bias": normal(rng, width),
        }

        def loss(p, x):
            y = normalise(x @ p["w"])
            return jnp.sum(jnp.sin(y * p["gain"][None] + p["bias"][None]))

        return loss, params, lambda n: normal(rng, n, 4, 3)

    return make


def _layer_norm(x):
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-3)


def _rms_norm(x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-3)


def _group_norm(x):
    groups = x.reshape(len(x), 3, -1)
    groups = groups - jnp.mean(groups, (0, 2), keepdims=True)
    variance = jnp.mean(groups**2, (0, 2), keepdims=True)
    return (groups * jax.lax.rsqrt(variance + 1e-3)).reshape(x.shape)


def _weight_norm(p):
    return p / jnp.sqrt(jnp.sum(p**2, 0, keepdims=True))


def _padded(p):
    return jnp.pad(p, ((0, 1), (1, 0)))


def _halves(p):
    """The same parameter in two layouts, put side by side."""
    return jnp.concatenate([p[:, :1], p[:, 1:].reshape(3, -1)[:, ::-1]], axis=1)


def _placed_and_named(p):
    """As in code for many devices: where the weight lies, and a name for what remat keeps."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("devices",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return checkpoint_name(jax.lax.with_sharding_constraint(p, whole), "weight")


def _straight_through(p):
    """Rounded weights whose gradient is that of the weights."""
    return p + jax.lax.stop_gradient(jnp.round(p) - p)


def _elementwise(rng):
    params = {"scale": normal(rng, 4), "shift": normal(rng, 4), "power": 2 + normal(rng) ** 2}

    def loss(p, x):
        y = jnp.abs(p["scale"] * x + p["shift"])
        return jnp.mean(y ** p["power"])

    return loss, params, lambda n: normal(rng, n, 4)


def _prelu(rng):
    params = {"w": normal(rng, 3, 3), "slope": normal(rng, 3), "temperature": normal(rng)}

    def loss(p, x):
        y = x @ p["w"]
        y = jnp.where(y > 0, y, p["slope"][None] * y)
        return -jnp.sum(jax.nn.log_softmax(y / jnp.exp(p["temperature"]))[:, 0])

    return loss, params, lambda n: normal(rng, n, 2, 3)


def _mixture_weights(rng):
    """A Gaussian mixture; the gradients of its parts are sums over positions."""
    params = {"logits": normal(rng, 3), "mean": normal(rng, 3, 2), "log_scale": normal(rng, 3)}

    def loss(p, x):
        z = (x[:, None] - p["mean"][None]) * jnp.exp(-p["log_scale"])[None, :, None]
        log_density = -jnp.sum(z**2, -1) / 2 - 2 * p["log_scale"][None]
        return -jnp.mean(jax.nn.logsumexp(jax.nn.log_softmax(p["logits"])[None] + log_density, 1))

    return loss, params, lambda n: normal(rng, n, 4, 2)


def _reductions(rng):
    """A cumulative sum, a sort, a maximum and a product of a parameter."""

    def loss(p, x):
        first = jnp.sum(jnp.sin(jnp.cumsum(p) * x))
        return first + jnp.max(p) * x[0] + jnp.dot(jnp.sort(p), x) + jnp.prod(p) * x[1]

    return loss, normal(rng, 4), lambda n: normal(rng, n, 4)


def _broadcast(rng):
    params = {"scalar": normal(rng), "row": normal(rng, 1, 3), "column": normal(rng, 4, 1)}

    def loss(p, x):
        y = jnp.broadcast_to(p["row"], (4, 3)) * x + jnp.broadcast_to(p["column"], (4, 3))
        return jnp.sum(jnp.sin(p["scalar"] * y))

    return loss, params, lambda n: normal(rng, n, 4, 3)


def _regulariser(rng):
    """A part of the gradient is the same for all examples."""
    params = {"w": normal(rng, 3, 2), "b": normal(rng, 2)}

    def loss(p, x):
        penalty = sum(jnp.sum(q**2) for q in p.values())
        return jnp.sum(jnp.sin(x @ p["w"] + p["b"][None])) + 0.1 * penalty

    return loss, params, lambda n: normal(rng, n, 4, 3)


def _only_regularised(rng):
    params = {"w": normal(rng, 3, 2), "alone": normal(rng, 3)}

    def loss(p, x):
        return jnp.sum(jnp.sin(x @ p["w"])) + jnp.sum(p["alone"] ** 2)

    return loss, params, lambda n: normal(rng, n, 3)


def _unused_under_zero(rng):
    """Parameters whose gradients are zero: multiplied by 0, and behind `stop_gradient`."""
    params = {"w": normal(rng, 3), "zero": normal(rng, 3), "stopped": normal(rng, 3)}

    def loss(p, x):
        y = p["w"] + 0 * p["zero"] + jax.lax.stop_gradient(p["stopped"])
        return jnp.sin(jnp.dot(y, x))

    return loss, params, lambda n: normal(rng, n, 3)


CASES = {
    "layer norm": Case(_normalised(_layer_norm)),
    "group norm": Case(_normalised(_group_norm)),
    "RMS norm": Case(_normalised(_rms_norm)),
    "weight norm": Case(_dense(_weight_norm)),
    "tanh of a weight": Case(_dense(jnp.tanh)),
    "transposed and reshaped weight": Case(_dense(lambda p: p.T.reshape(3, 4), (2, 6))),
    "reversed weight": Case(_dense(lambda p: p[::-1, ::-1])),
    "slice of a weight": Case(_dense(lambda p: p[1:4, ::2], (5, 4))),
    "padded weight": Case(_dense(_padded, (2, 3))),
    "concatenated pieces of a weight": Case(_dense(_halves, (3, 4))),
    "masked weight": Case(_dense(jnp.tril, (3, 3))),
    "weight selected by where": Case(_dense(lambda p: jnp.where(p > 0, p, 0.1 * p))),
    "symmetric weight": Case(_dense(lambda p: p + p.T, (3, 3))),
    "placed and named": Case(_dense(_placed_and_named)),
    "straight-through rounding": Case(_dense(_straight_through)),
    "softmax of a weight": Case(_dense(lambda p: jax.nn.softmax(p, 0))),
    "elementwise parameters": Case(_elementwise),
    "slopes and a temperature": Case(_prelu),
    "mixture density": Case(_mixture_weights),
    "reductions of a parameter": Case(_reductions),
    "broadcast parameters": Case(_broadcast),
    "L2 regulariser": Case(_regulariser),
    "leaf that no example reaches": Case(_only_regularised),
    "zero gradients": Case(_unused_under_zero),
}
