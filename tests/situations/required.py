"""Situations that every checker of gradients must pass, each written for this table."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .situation import Situation

X = jax.random.normal(jax.random.key(0), (8, 6))
Y = jax.random.normal(jax.random.key(1), (8, 3))


def _three_layers(activation=jnp.tanh, dtype=jnp.float32):
    sizes = ((6, 16), (16, 16), (16, 3))
    keys = jax.random.split(jax.random.key(2), 3)
    params = {
        f"layer{k}": {
            "w": (jax.random.normal(key, shape) / jnp.sqrt(shape[0])).astype(dtype),
            "b": jnp.full(shape[1], 0.1, dtype),
        }
        for k, (key, shape) in enumerate(zip(keys, sizes, strict=True))
    }

    def loss(p, example):
        x, y = (v.astype(dtype) for v in example)
        for k in range(3):
            x = x @ p[f"layer{k}"]["w"] + p[f"layer{k}"]["b"]
            x = activation(x) if k < 2 else x
        return jnp.sum((x - y) ** 2)

    return loss, params, (X, Y)


def _gradient(loss, params, batch):
    mean = lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch))  # noqa: E731
    return jax.tree.map(np.asarray, jax.jit(jax.grad(mean))(params))


def _changed(change, layer, leaf):
    """The right gradient of three layers with one leaf changed."""
    loss, params, batch = _three_layers()
    grads = _gradient(loss, params, batch)
    grads[layer] = {**grads[layer], leaf: change(grads[layer][leaf])}
    names = [f"params['layer{k}']['{n}']" for k in range(3) for n in ("b", "w")]
    expected = dict.fromkeys(names, "agrees") | {f"params['{layer}']['{leaf}']": "differs"}
    return loss, params, batch, expected, {"grads": grads}


def _bias_one_percent_off():
    *problem, expected, options = _changed(lambda g: 1.01 * g, "layer1", "b")
    return Situation(*problem, expected, says=("1.01 times",), options=options)


def _one_over_batch_in_one_leaf():
    *problem, expected, options = _changed(lambda g: g / 8, "layer0", "w")
    return Situation(*problem, expected, says=("1/B",), options=options)


def _sign_of_one_leaf():
    *problem, expected, options = _changed(lambda g: -g, "layer2", "w")
    return Situation(*problem, expected, says=("sign",), options=options)


def _one_element_of_one_leaf():
    *problem, expected, options = _changed(lambda g: g + 0.01 * np.eye(16)[3], "layer1", "w")
    return Situation(*problem, expected, options=options)


def _right_gradient(dtype, activation=jnp.tanh):
    return Situation(*_three_layers(activation, dtype), "agrees")


def _deep(dtype, depth=12):
    keys = jax.random.split(jax.random.key(3), depth)
    params = [jax.random.normal(k, (16, 16)).astype(dtype) / 4 for k in keys]

    def loss(p, x):
        x = x.astype(dtype)
        for w in p:
            x = x + jnp.tanh(x @ w) / 4
        return jnp.mean(x**2)

    return Situation(loss, params, jax.random.normal(jax.random.key(4), (4, 16)), "agrees")


def _norm_without_its_weight():
    """A layer norm whose backward pass forgets the gain."""

    @jax.custom_vjp
    def layer_norm(x, gain):
        centred = x - jnp.mean(x)
        return centred * lax.rsqrt(jnp.mean(centred**2) + 1e-5) * gain

    def forward(x, gain):
        return layer_norm(x, gain), (x, gain)

    def backward(saved, dy):
        x, gain = saved
        _, pull = jax.vjp(layer_norm.__wrapped__, x, jnp.ones_like(gain))
        dx, _ = pull(dy)
        _, pull = jax.vjp(layer_norm.__wrapped__, x, gain)
        return dx, pull(dy)[1]

    layer_norm.defvjp(forward, backward)

    def loss(p, x):
        return jnp.sum(jnp.sin(layer_norm(x @ p["w"], p["gain"])))

    params = {"w": jax.random.normal(jax.random.key(5), (6, 5)), "gain": jnp.arange(1.0, 6.0)}
    expected = {"params['w']": "wrong rule", "params['gain']": "agrees"}
    return Situation(*(loss, params, X), expected, at="jnp.sin(layer_norm(", says=("layer_norm",))


def _stop_gradient_on_a_layer():
    def loss(p, x):
        hidden = jnp.tanh(x @ p["first"])
        hidden = lax.stop_gradient(hidden)
        return jnp.sum((hidden @ p["second"]) ** 2)

    return Situation(
        *(loss, {"first": jnp.ones((6, 4)) / 6, "second": jnp.ones((4, 2))}, X),
        {"params['first']": "zero by structure", "params['second']": "agrees"},
        at="lax.stop_gradient(hidden)",
        says=("stop_gradient",),
    )


def _unused_parameter():
    def loss(p, x):
        return jnp.sum((x @ p["used"]) ** 2)

    params = {"used": jnp.ones((6, 2)), "unused": jnp.ones(3)}
    expected = {"params['used']": "agrees", "params['unused']": "disconnected"}
    return Situation(loss, params, X, expected, says=("never reads",))


def _nan_behind_where():
    def loss(p, x):
        z = x @ p["w"]
        return jnp.sum(jnp.where(z > 0, jnp.log(z), 0.0))

    batch = jnp.concatenate([X, jnp.zeros((1, 6))])
    return Situation(
        *(loss, {"w": jnp.ones((6, 2))}, batch),
        "not finite",
        at="jnp.where(z > 0, jnp.log(z)",
        says=("log", "0 x inf", "double where", "meant gradient is finite"),
    )


def _wrong_rule_inside_scan():
    @jax.custom_vjp
    def step(c, w):
        return jnp.tanh(c * w)

    def backward(saved, dy):
        c, w, y = saved
        dz = dy * (1 - y**2)
        return dz * w, 2 * dz * c

    step.defvjp(lambda c, w: (step(c, w), (c, w, step(c, w))), backward)

    def loss(p, x):
        def body(c, _):
            return step(c, p["w"]), None

        c, _ = lax.scan(body, x, None, length=5)
        return jnp.sum(c)

    return Situation(
        *(loss, {"w": jnp.linspace(0.5, 1.5, 6)}, X),
        "wrong rule",
        at='return step(c, p["w"])',
        says=("step", "iteration 4 of the scan", "2 times"),
    )


def _compiled_otherwise():
    """Python state that jit sees once and eager evaluation again: the function is not pure."""
    calls = []

    def loss(p, x):
        calls.append(None)
        scale = 2.0 if len(calls) == 1 else 1.0
        return scale * jnp.sum((x @ p["w"]) ** 2)

    return Situation(loss, {"w": jnp.ones((6, 2))}, X, "jit differs from eager")


def _large_magnitudes():
    def loss(p, x):
        return jnp.mean(jnp.tanh(3e5 * x @ p["w"] / 3e5) ** 2)

    return Situation(loss, {"w": jnp.ones((6, 2)) / 3}, X, "agrees")


def _large_inputs_to_sine():
    def loss(p, x):
        return jnp.sum(jnp.sin(p["w"] * x))

    return Situation(
        *(loss, {"w": jnp.linspace(0.9, 1.1, 6)}, 3e5 + X),
        "agrees",
    )


def _sum_of_a_thousand_terms(sign):
    def loss(p, x):
        return jnp.sum(p["w"] * x) ** 2

    batch = jax.random.uniform(jax.random.key(6), (4, 1000), minval=sign)
    return Situation(loss, {"w": jnp.full(1000, 0.1)}, batch, "agrees")


def _saturated_units():
    def loss(p, x):
        return jnp.sum(jnp.tanh(8 * x @ p["w"]) * p["v"])

    params = {"w": jnp.ones((6, 3)), "v": jnp.arange(1.0, 4.0)}
    return Situation(loss, params, X, "agrees")


def _clipped_gradient(intended):
    @jax.custom_vjp
    def clip_gradient(x):
        return x

    clip_gradient.defvjp(lambda x: (x, None), lambda _, dy: (jnp.clip(dy, -0.01, 0.01),))

    def loss(p, x):
        return jnp.sum((clip_gradient(x @ p["w"]) - 1.0) ** 2)

    return Situation(
        *(loss, {"w": jnp.ones((6, 2))}, X),
        "agrees" if intended else "wrong rule",
        at="clip_gradient(x @",
        says=("clip_gradient",),
        options={"intended": ("clip_gradient",)} if intended else {},
    )


def _straight_through():
    def loss(p, x):
        z = x @ p["w"]
        hard = z + lax.stop_gradient(jnp.sign(z) - z)
        return jnp.sum((hard - 0.3) ** 2)

    return Situation(loss, {"w": jnp.ones((6, 2)) / 5}, X, "agrees")


def _key_bias():
    def loss(p, x):
        x = jnp.reshape(x, (3, 2))
        q, k = x @ p["q"], x @ p["k"] + p["bias"][None]
        return jnp.sum(jax.nn.softmax(q @ k.T) @ x)

    params = {"q": jnp.eye(2), "k": jnp.eye(2) + 0.3, "bias": jnp.array([0.1, -0.4])}
    return Situation(loss, params, X, "agrees")


def _matmul_at(precision, bits):
    """A product whose operands are rounded, as TF32 and bfloat16 units do, judged as such."""

    def product(a, b):
        a, b = (lax.reduce_precision(v, 8, bits - 1) for v in (a, b))
        return jnp.matmul(a, b)

    def rounded(p, x):
        return jnp.sum(jnp.tanh(product(x, p["w"])) ** 2)

    def exact(p, x):
        return jnp.sum(jnp.tanh(x @ p["w"]) ** 2)

    params = {"w": jax.random.normal(jax.random.key(7), (6, 4)) / 2}
    return Situation(
        *(exact, params, X),
        "agrees",
        options={"grads": _gradient(rounded, params, X)},
        matmul=precision,
    )


def _same_without_saying_so():
    situation = _matmul_at(None, 8)
    return situation._replace(expected="differs")


def _forgotten_weights():
    loss, params, batch = _three_layers()
    weights = jnp.arange(8.0)
    return Situation(
        *(loss, params, batch),
        "differs",
        says=("without the weights",),
        options={"weights": weights, "grads": _gradient(loss, params, batch)},
    )


def _tied_embedding_one_use_dropped():
    def loss(p, x, tied=True):
        hidden = jnp.tanh(x @ p["w"])
        out = p["w"] if tied else lax.stop_gradient(p["w"])
        return jnp.sum((hidden @ out.T - x) ** 2)

    params = {"w": jax.random.normal(jax.random.key(8), (6, 4)) / 3}
    grads = _gradient(lambda p, x: loss(p, x, tied=False), params, X)
    return Situation(
        *(loss, params, X),
        "differs",
        at="hidden @ out.T",
        says=("missing",),
        options={"grads": grads},
    )


# name -> (function that builds it, no public report)
SITUATIONS = {
    name: (build, "")
    for name, build in {
        "a bias gradient 1 % off": _bias_one_percent_off,
        "1/B in one leaf": _one_over_batch_in_one_leaf,
        "a sign in one leaf": _sign_of_one_leaf,
        "one row of one leaf": _one_element_of_one_leaf,
        "a right float32 gradient": lambda: _right_gradient(jnp.float32),
        "a right float16 gradient": lambda: _right_gradient(jnp.float16),
        "a right bfloat16 gradient": lambda: _right_gradient(jnp.bfloat16),
        "a right relu gradient": lambda: _right_gradient(jnp.float32, jax.nn.relu),
        "a right leaky gradient": lambda: _right_gradient(
            jnp.float32, lambda z: jnp.where(z > 0, z, 0.1 * z)
        ),
        "a deep float32 net": lambda: _deep(jnp.float32),
        "a deep float16 net": lambda: _deep(jnp.float16),
        "a deep bfloat16 net": lambda: _deep(jnp.bfloat16),
        "a norm that forgets its weight": _norm_without_its_weight,
        "a wrong stop_gradient": _stop_gradient_on_a_layer,
        "an unused parameter": _unused_parameter,
        "NaN behind where": _nan_behind_where,
        "a wrong rule inside scan": _wrong_rule_inside_scan,
        "jit and eager": _compiled_otherwise,
        "large magnitudes that cancel out": _large_magnitudes,
        "inputs near 3e5 to a sine": _large_inputs_to_sine,
        "a sum of 1000 terms of one sign": lambda: _sum_of_a_thousand_terms(0.0),
        "a sum of 1000 terms that cancel": lambda: _sum_of_a_thousand_terms(-1.0),
        "saturated units": _saturated_units,
        "clipped gradient": lambda: _clipped_gradient(intended=False),
        "clipped gradient, declared": lambda: _clipped_gradient(intended=True),
        "straight-through": _straight_through,
        "a bias on attention keys": _key_bias,
        "TF32 products": lambda: _matmul_at("tensorfloat32", 11),
        "bfloat16 products": lambda: _matmul_at("bfloat16", 8),
        "bfloat16 products, not said": _same_without_saying_so,
        "forgotten example weights": _forgotten_weights,
        "a tied weight, one use dropped": _tied_embedding_one_use_dropped,
    }.items()
}
