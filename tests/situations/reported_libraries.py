"""Gradients that users of PyTorch, Flax, Equinox, Haiku and Optax asked about."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .situation import Situation


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- Not finite ----------------------------------------------------------------------------------


def _triplet_of_equal_embeddings():
    def loss(p, example):
        anchor, positive, negative = (x @ p["w"] for x in example)
        to_positive = jnp.sqrt(jnp.sum((anchor - positive) ** 2))
        to_negative = jnp.linalg.norm(anchor - negative)
        return jnp.maximum(to_positive - to_negative + 0.01, 0.0)

    x = _normal(0, 3, 4)
    return Situation(
        *(loss, {"w": _normal(1, 4, 2)}, (x, x, x + 1)),
        expected="not finite",
        at="to_positive = jnp.sqrt(",
        says=("sqrt",),
    )


def _std_of_constant_features():
    def loss(p, x):
        return jnp.std(x * p["scale"])

    return Situation(
        *(loss, {"scale": jnp.array(2.0)}, jnp.ones((2, 4))),
        expected="not finite",
        at="jnp.std(x",
        says=("sqrt",),
    )


def _weight_norm_of_a_zero_row():
    def loss(p, x):
        norms = jnp.sqrt(jnp.sum(p["v"] ** 2, axis=1, keepdims=True))
        return jnp.sum((p["g"] * p["v"] / norms @ x) ** 2)

    v = _normal(2, 3, 2)
    v[1] = 0
    return Situation(
        *(loss, {"v": v, "g": jnp.ones((3, 1))}, _normal(3, 4, 2)),
        expected="not finite",
        at='p["v"] / norms',
        says=("div",),
    )


def _cosine_with_one_where():
    def loss(p, x):
        z = x @ p["w"]
        norm = jnp.linalg.norm(z)
        z = z / jnp.where(norm == 0, 1.0, norm)
        return jnp.sum(z * jnp.array([1.0, -2.0, 0.5]))

    x = _normal(4, 3, 2)
    x[0] = 0
    return Situation(
        *(loss, {"w": _normal(5, 2, 3)}, x),
        expected="not finite",
        at="norm = jnp.linalg.norm(z)",
        says=("sqrt",),
    )


def _log_in_the_branch_not_taken():
    def loss(p, x):
        z = p["w"] * x
        return jnp.sum(jnp.where(z > 2, jnp.log(z), 2 * z))

    return Situation(
        *(loss, {"w": jnp.ones(3)}, jnp.array([[0.0, 2.0, 3.0], [1.0, 0.0, 4.0]])),
        expected="not finite",
        at="jnp.where(z > 2, jnp.log(z)",
        says=("log", "double where"),
    )


def _smooth_l1_without_a_smooth_part():
    def loss(p, x):
        distance, beta = jnp.abs(x - p["w"]), 0.0
        quadratic = 0.5 * distance**2 / beta
        return jnp.sum(jnp.where(distance < beta, quadratic, distance - 0.5 * beta))

    return Situation(
        *(loss, {"w": jnp.array([1.0, 2.0])}, jnp.array([[0.5, 2.5], [3.0, 1.0]])),
        expected="not finite",
        at="quadratic = 0.5",
        says=("div",),
    )


def _focal_loss_of_a_certain_prediction():
    def loss(p, x):
        logit = p["w"] * x
        focus = (1 - jax.nn.sigmoid(logit)) ** 0.6
        return focus * jax.nn.softplus(-logit)

    return Situation(
        *(loss, {"w": jnp.array(50.0)}, jnp.array([2.0, 0.01])),
        expected="not finite",
        at="** 0.6",
        says=("pow",),
    )


def _cross_entropy_of_a_saturated_probability():
    def loss(p, example):
        x, y = example
        probability = jax.nn.sigmoid(p["w"] * x)
        return -(y * jnp.log(probability) + (1 - y) * jnp.log(1 - probability))

    return Situation(
        *(loss, {"w": jnp.array(1.0)}, (jnp.array([35.0, -1.0]), jnp.array([1.0, 0.0]))),
        expected="not finite",
        at="jnp.log(1 - probability)",
        says=("log",),
    )


def _scores_times_minus_infinity():
    def loss(p, example):
        x, factor = example
        scores = (2.0 + jnp.tanh(x @ p["w"])) * factor
        return -jax.nn.log_softmax(scores)[0]

    factor = jnp.array([[1.0, 1.0, -jnp.inf], [1.0, 1.0, 1.0]])
    return Situation(
        *(loss, {"w": _normal(6, 2, 3)}, (_normal(7, 2, 2), factor)),
        expected="not finite",
        at="* factor",
        says=("mul",),
    )


def _attention_to_nothing():
    def loss(p, example):
        x, mask = example
        attention = jax.nn.softmax(jnp.where(mask, x @ x.T, -jnp.inf))
        return jnp.sum((attention @ x @ p["values"]) ** 2)

    mask = np.tril(np.ones((2, 3, 3), bool))
    mask[1, 0] = False
    return Situation(
        *(loss, {"values": _normal(8, 2, 2)}, (_normal(9, 2, 3, 2), mask)),
        expected="not finite",
        at="attention = jax.nn.softmax(",
    )


def _negative_variance():
    def loss(p, x):
        centred = x - jnp.mean(x)
        inverse_std = jax.lax.rsqrt(jnp.mean(x * x) - jnp.mean(x) ** 2 + 1e-5)
        return jnp.sum((p["gamma"] * centred * inverse_std - 1.0) ** 2)

    return Situation(
        *(loss, {"gamma": jnp.array(1.5)}, jnp.full((2, 3), 7777.7)),
        expected="not finite",
        at="inverse_std = jax.lax.rsqrt(",
        says=("rsqrt",),
    )


def _dropout_of_everything():
    def loss(p, example):
        x, noise = example
        rate = 1.0
        kept = jnp.where(noise >= rate, x @ p["w"] / (1.0 - rate), 0.0)
        return jnp.sum((kept - 1.0) ** 2)

    noise = np.random.default_rng(0).uniform(size=(3, 2)).astype(np.float32)
    return Situation(
        *(loss, {"w": _normal(10, 4, 2)}, (_normal(11, 3, 4), noise)),
        expected="not finite",
        at="/ (1.0 - rate)",
        says=("div",),
    )


def _dice_in_half_precision():
    def loss(p, example):
        x, target = example
        output = x * p["scale"]
        overlap = jnp.sum(output * target)
        return 1 - 2 * overlap / (jnp.sum(output) + jnp.sum(target))

    ones = jnp.ones((2, 900), jnp.float16)
    return Situation(
        *(loss, {"scale": jnp.array(10, jnp.float16)}, (ones, 10 * ones)),
        expected="not finite",
        at="overlap = jnp.sum(",
        says=("float16",),
    )


def _norm_of_tiny_half_precision_numbers():
    def loss(p, x):
        cubes = jnp.sum(jnp.abs(p["w"] * x) ** 3)
        return cubes ** (1 / 3)

    return Situation(
        *(loss, {"w": jnp.array([1e-4, 2e-4], jnp.float16)}, jnp.ones((2, 2), jnp.float16)),
        expected="not finite",
        at="cubes ** (1 / 3)",
        says=("pow",),
    )


# --- Gradients given from elsewhere ---------------------------------------------------------------

X, W, Y = _normal(12, 7, 3), _normal(13, 3), _normal(14, 7)


def _squared_error(p, example):
    x, y = example
    return 0.5 * (x @ p["w"] - y) ** 2


def _by_hand(weights=None):
    return np.average(X * (X @ W - Y)[:, None], axis=0, weights=weights)


def _summed_over_workers():
    return Situation(
        *(_squared_error, {"w": W}, (X, Y)),
        expected="differs",
        says=("7",),
        options={"grads": {"w": 7 * _by_hand()}},
    )


def _averaged_twice():
    return Situation(
        *(_squared_error, {"w": W}, (X, Y)),
        expected="differs",
        says=("1/B",),
        options={"grads": {"w": _by_hand() / 7}},
    )


TOKENS = np.array([11, 2, 3, 101, 7, 40, 1], np.float32)


def _mean_of_means_over_tokens():
    return Situation(
        *(_squared_error, {"w": W}, (X, Y)),
        expected="differs",
        says=("weights",),
        options={"grads": {"w": _by_hand()}, "weights": TOKENS},
    )


def _mean_over_tokens():
    return Situation(
        *(_squared_error, {"w": W}, (X, Y)),
        expected="agrees",
        options={"grads": {"w": _by_hand(TOKENS)}, "weights": TOKENS},
    )


def _finite_differences_in_single_precision():
    def value(w):
        return np.mean(np.float32(0.5) * (np.sum(X * w, axis=1) - Y) ** 2)

    step = np.float32(1e-6) * np.eye(3, dtype=np.float32)
    differences = [(value(W + e) - value(W - e)) / np.float32(2e-6) for e in step]
    return Situation(
        *(_squared_error, {"w": W}, (X, Y)),
        expected="differs",
        options={"grads": {"w": np.array(differences)}},
    )


def _single_precision_linear_layer():
    return Situation(_squared_error, {"w": W}, (X, Y), expected="agrees")


def _mean_embedding(p, tokens):
    return 0.5 * jnp.sum((jnp.mean(p["table"][tokens], axis=0) - 1.0) ** 2)


TABLE = _normal(15, 4, 2)
SENTENCES = np.array([[1, 2, 0], [3, 0, 0]])


def _padding_row_set_to_zero():
    gradient = np.zeros_like(TABLE)
    for tokens in SENTENCES:
        np.add.at(gradient, tokens, (TABLE[tokens].mean(0) - 1) / 3 / len(SENTENCES))
    gradient[0] = 0
    return Situation(
        *(_mean_embedding, {"table": TABLE}, SENTENCES),
        expected="differs",
        options={"grads": {"table": gradient}},
    )


def _padding_row_held_still():
    def loss(p, tokens):
        table = p["table"].at[0].set(jax.lax.stop_gradient(p["table"][0]))
        return _mean_embedding({"table": table}, tokens)

    return Situation(
        *(loss, {"table": TABLE}, SENTENCES),
        expected="agrees",
        at='stop_gradient(p["table"]',
        says=("stop_gradient",),
    )


def _tied_embedding_with_the_head_alone():
    def loss(p, pair):
        hidden = jnp.tanh(p["table"][pair[0]])
        return -jax.nn.log_softmax(p["table"] @ hidden)[pair[1]]

    pairs = np.array([[0, 1], [3, 2], [2, 0]])
    gradient = np.zeros_like(TABLE)
    for first, second in pairs:
        hidden = np.tanh(TABLE[first])
        error = np.exp(TABLE @ hidden) / np.sum(np.exp(TABLE @ hidden))
        error[second] -= 1
        gradient += np.outer(error, hidden) / len(pairs)
    return Situation(
        *(loss, {"table": TABLE}, pairs),
        expected="differs",
        options={"grads": {"table": gradient}},
    )


def _inverse_without_its_transposes():
    def loss(p, x):
        return x @ jnp.linalg.inv(p["a"]) @ x

    a = _normal(16, 3, 3) + 3 * np.eye(3, dtype=np.float32)
    inverse = np.linalg.inv(a.astype(np.float64))
    return Situation(
        *(loss, {"a": a}, X),
        expected="differs",
        says=("transpose",),
        options={"grads": {"a": -inverse @ (X.T @ X / len(X)) @ inverse}},
    )


def _layer_norm_bias_left_at_zero():
    def normalise(x, xp):
        return (x - xp.mean(x)) / xp.sqrt(xp.var(x) + 1e-5)

    def loss(p, x):
        return p["head"] @ (normalise(x, jnp) + p["bias"])

    head, bias = _normal(17, 3), _normal(18, 3)
    normalised = np.stack([normalise(x.astype(np.float64), np) for x in X])
    return Situation(
        *(loss, {"head": head, "bias": bias}, X),
        expected={"params['head']": "agrees", "params['bias']": "differs"},
        options={"grads": {"head": normalised.mean(0) + bias, "bias": np.zeros(3)}},
    )


def _two_layers(p, example):
    x, y = example
    return jnp.sum((jax.nn.relu(x @ p["w1"]) @ p["w2"] - y) ** 2)


def _two_layers_by_hand(x, y, w1, w2, slope_at_zero):
    h = x @ w1
    error = 2 * (np.maximum(h, 0) @ w2 - y) / len(x)
    slope = np.where(h == 0, slope_at_zero, h > 0)
    return {"w1": x.T @ (error @ w2.T * slope), "w2": np.maximum(h, 0).T @ error}


def _two_layers_in_numpy():
    x, y, w1, w2 = X, _normal(19, 7, 2), _normal(20, 3, 4), _normal(21, 4, 2)
    return Situation(
        *(_two_layers, {"w1": w1, "w2": w2}, (x, y)),
        expected="agrees",
        options={"grads": _two_layers_by_hand(x, y, w1, w2, 0.0)},
    )


def _two_layers_with_a_slope_at_zero():
    x = np.array([[1.0, 1.0], [2.0, 1.0]], np.float32)
    w1 = np.array([[1.0, 0.5], [-1.0, 0.5]], np.float32)
    y, w2 = np.ones((2, 2), np.float32), _normal(22, 2, 2)
    return Situation(
        *(_two_layers, {"w1": w1, "w2": w2}, (x, y)),
        expected={"params['w1']": "kink or tie", "params['w2']": "agrees"},
        options={"grads": _two_layers_by_hand(x, y, w1, w2, 1.0)},
    )


def _clamp_at_its_bounds():
    def loss(p, x):
        return jnp.sum(x * jnp.clip(p["w"], 0.0, 6.0))

    x = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 1.0]], np.float32)
    return Situation(
        *(loss, {"w": jnp.array([0.0, 6.0, 2.0])}, x),
        expected="kink or tie",
        at='jnp.clip(p["w"]',
        options={"grads": {"w": x.mean(0)}},
    )


def _maximum_given_to_the_first():
    def loss(p, x):
        return x * jnp.max(p["w"])

    return Situation(
        *(loss, {"w": jnp.array([0.6, 0.6, 0.3])}, jnp.array([1.0, 3.0])),
        expected="kink or tie",
        at="jnp.max(",
        options={"grads": {"w": np.array([2.0, 0.0, 0.0], np.float32)}},
    )


def _absolute_error_of_an_exact_prediction():
    def loss(p, x):
        return jnp.sum(jnp.abs(p["w"] - x))

    return Situation(
        *(loss, {"w": jnp.array([-1.0, 0.0, 1.0])}, jnp.zeros((2, 3))),
        expected="kink or tie",
        at='jnp.abs(p["w"] - x)',
        options={"grads": {"w": np.array([-1.0, 0.0, 1.0], np.float32)}},
    )


def _a_thousand_terms_in_another_order():
    def loss(p, x):
        return jnp.sum(jnp.sin(p["w"] * x))

    x = _normal(23, 2, 1000)
    terms = np.cos(np.float32(0.7) * x) * x
    return Situation(
        *(loss, {"w": jnp.array(0.7)}, x),
        expected="agrees",
        options={"grads": {"w": np.mean(np.cumsum(terms, axis=1)[:, -1])}},
    )


# --- Custom rules ---------------------------------------------------------------------------------


def _layer_norm_with_constant_statistics():
    def normalise(x):
        return (x - x.mean()) * jax.lax.rsqrt(x.var() + 1e-5)

    @jax.custom_vjp
    def layer_norm(x, gamma):
        return gamma * normalise(x)

    def backward(saved, dy):
        x, gamma = saved
        return dy * gamma * jax.lax.rsqrt(x.var() + 1e-5), dy * normalise(x)

    layer_norm.defvjp(lambda x, gamma: (layer_norm(x, gamma), (x, gamma)), backward)

    def loss(p, x):
        return jnp.sum((layer_norm(x @ p["w"], p["gamma"]) - 1.0) ** 2)

    return Situation(
        *(loss, {"w": _normal(24, 3, 4), "gamma": _normal(25, 4)}, X),
        expected={"params['w']": "wrong rule", "params['gamma']": "agrees"},
        at="layer_norm(x @ p",
        says=("layer_norm",),
    )


def _focal_gradient_of_a_plain_value():
    @jax.custom_vjp
    def focal_loss(q):
        return -jnp.log(q)

    def backward(q, dy):
        return (dy * (2 * (1 - q) * jnp.log(q) - (1 - q) ** 2 / q),)

    focal_loss.defvjp(lambda q: (focal_loss(q), q), backward)

    def loss(p, x):
        return focal_loss(jax.nn.sigmoid(x @ p["w"]))

    return Situation(
        *(loss, {"w": W}, X),
        expected="wrong rule",
        at="focal_loss(jax.nn.sigmoid(",
        says=("focal_loss",),
    )


@jax.custom_vjp
def _round_through(x):
    return jnp.round(x)


_round_through.defvjp(lambda x: (_round_through(x), None), lambda _, dy: (dy,))


def _quantised(p, x):
    return jnp.sum((_round_through(x @ p["w"]) - 1.0) ** 2)


def _straight_through_rule():
    return Situation(
        *(_quantised, {"w": W}, X),
        expected="wrong rule",
        at="_round_through(x @",
        says=("_round_through",),
    )


def _intended_straight_through_rule():
    return Situation(
        *(_quantised, {"w": W}, X),
        expected="agrees",
        says=("_round_through",),
        options={"intended": ("_round_through",)},
    )


@jax.custom_vjp
def _reversed(x):
    return x


_reversed.defvjp(lambda x: (x, None), lambda _, dy: (-dy,))


def _domain_adversary(p, x):
    features = jnp.tanh(x @ p["features"])
    return jax.nn.softplus(_reversed(features) @ p["domain"])


ADVERSARY = {"features": _normal(26, 3, 2), "domain": _normal(27, 2)}


def _gradient_reversal():
    return Situation(
        *(_domain_adversary, ADVERSARY, X),
        expected={"params['features']": "wrong rule", "params['domain']": "agrees"},
        at="_reversed(features)",
        says=("_reversed", "sign"),
    )


def _intended_gradient_reversal():
    return Situation(
        *(_domain_adversary, ADVERSARY, X),
        expected="agrees",
        says=("_reversed",),
        options={"intended": ("_reversed",)},
    )


def _clipped_gradient(bound):
    @jax.custom_vjp
    def clip_gradient(x):
        return x

    clip_gradient.defvjp(lambda x: (x, None), lambda _, dy: (jnp.clip(dy, -bound, bound),))

    def loss(p, x):
        return jnp.sum(jnp.sin(clip_gradient(x @ p["w"])))

    return loss


def _gradient_clipping_out_of_reach():
    return Situation(_clipped_gradient(5.0), {"w": W}, X, expected="agrees")


def _gradient_clipping_at_work():
    return Situation(
        *(_clipped_gradient(0.1), {"w": W}, X),
        expected="wrong rule",
        at="jnp.sin(clip_gradient(",
        says=("clip_gradient",),
    )


# --- Gradients cut, and parameters that take no part ----------------------------------------------


def _quantiser_that_stops_the_encoder():
    def loss(p, x):
        code = jax.lax.stop_gradient(jnp.round(x @ p["encoder"]))
        return jnp.sum((code @ p["decoder"] - x) ** 2)

    return Situation(
        *(loss, {"encoder": 2 * _normal(28, 3, 2), "decoder": _normal(29, 2, 3)}, X),
        expected={"params['encoder']": "zero by structure", "params['decoder']": "agrees"},
        at="code = jax.lax.stop_gradient(",
        says=("round",),
    )


def _straight_through_by_stop_gradient():
    def loss(p, x):
        z = x @ p["w"]
        return (z + jax.lax.stop_gradient(jnp.round(z) - z) - 1.0) ** 2

    return Situation(
        *(loss, {"w": W}, X),
        expected="agrees",
        at="z + jax.lax.stop_gradient(",
        says=("stop_gradient",),
    )


VQ = {"encoder": _normal(30, 3, 2), "codebook": _normal(31, 4, 2)}


def _nearest(codebook, z):
    return codebook[jnp.argmin(jnp.sum((codebook - z) ** 2, axis=1))]


def _codebook_loss_after_straight_through():
    stop = jax.lax.stop_gradient

    def loss(p, x):
        z = x @ p["encoder"]
        code = z + stop(_nearest(p["codebook"], z) - z)
        return jnp.sum((stop(code) - z) ** 2 + (code - stop(z)) ** 2 + jnp.sin(code))

    return Situation(
        *(loss, VQ, X),
        expected={"params['encoder']": "agrees", "params['codebook']": "zero by structure"},
        at='code = z + stop(_nearest(p["codebook"]',
        says=("stop_gradient",),
    )


def _codebook_loss_before_straight_through():
    stop = jax.lax.stop_gradient

    def loss(p, x):
        z = x @ p["encoder"]
        code = _nearest(p["codebook"], z)
        passed = z + stop(code - z)
        return jnp.sum((stop(code) - z) ** 2 + (code - stop(z)) ** 2 + jnp.sin(passed))

    return Situation(loss, VQ, X, expected="agrees", says=("stop_gradient",))


def _hard_gumbel_softmax():
    def loss(p, noise):
        soft = jax.nn.softmax((p["logits"] + noise) / 0.5)
        hard = jax.nn.one_hot(jnp.argmax(soft), 4)
        sample = hard - jax.lax.stop_gradient(soft) + soft
        return sample @ jnp.array([1.0, -2.0, 0.5, 3.0])

    noise = np.random.default_rng(32).gumbel(size=(5, 4)).astype(np.float32)
    return Situation(
        *(loss, {"logits": _normal(33, 4)}, noise),
        expected="agrees",
        at="sample = hard - jax.lax.stop_gradient(",
        says=("stop_gradient",),
    )


def _spectral_norm():
    def loss(p, x):
        u = jnp.ones(3)
        for _ in range(3):
            v = p["w"].T @ u / jnp.linalg.norm(p["w"].T @ u)
            u = p["w"] @ v / jnp.linalg.norm(p["w"] @ v)
        u, v = jax.lax.stop_gradient((u, v))
        return jnp.sum(jnp.tanh(p["w"] / (u @ p["w"] @ v) @ x))

    return Situation(
        *(loss, {"w": _normal(34, 3, 2)}, _normal(35, 4, 2)),
        expected="agrees",
        at="u, v = jax.lax.stop_gradient(",
        says=("stop_gradient",),
    )


def _buffer(p, x):
    return jnp.sum(p["factor"] * jax.lax.stop_gradient(p["buffer"]) * x)


BUFFER = {"factor": _normal(36, 3), "buffer": _normal(37, 3)}


def _stopped_buffer():
    return Situation(
        *(_buffer, BUFFER, X),
        expected={"params['factor']": "agrees", "params['buffer']": "zero by structure"},
        at='stop_gradient(p["buffer"]',
        says=("stop_gradient",),
    )


def _intended_buffer():
    return Situation(
        *(_buffer, BUFFER, X),
        expected="agrees",
        options={"intended": ("params['buffer']",)},
    )


def _two_heads(p, x):
    hidden = jnp.tanh(x @ p["body"])
    outputs = {"main": hidden @ p["main"], "auxiliary": hidden @ p["auxiliary"]}
    return jnp.sum((outputs["main"] - 1.0) ** 2)


HEADS = {"body": _normal(38, 3, 2), "main": _normal(39, 2), "auxiliary": _normal(40, 2)}


def _head_outside_the_loss():
    return Situation(
        *(_two_heads, HEADS, X),
        expected={
            "params['body']": "agrees",
            "params['main']": "agrees",
            "params['auxiliary']": "disconnected",
        },
    )


def _intended_head_outside_the_loss():
    return Situation(
        *(_two_heads, HEADS, X),
        expected="agrees",
        options={"intended": ("params['auxiliary']",)},
    )


def _low_rank_update_of_zeros():
    def loss(p, x):
        return jnp.sum((x @ (jnp.eye(3) + p["a"] @ p["b"]) - 1.0) ** 2)

    return Situation(
        *(loss, {"a": jnp.zeros((3, 2)), "b": jnp.zeros((2, 3))}, X), expected="agrees"
    )


# --- Right although it looks wrong ----------------------------------------------------------------


def _stable_cross_entropy_at_zero():
    def loss(p, example):
        x, y = example
        z = p["w"] * x
        return jnp.maximum(z, 0.0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))

    return Situation(
        *(loss, {"w": jnp.array(0.0)}, (jnp.ones(2), jnp.zeros(2))),
        expected="kink or tie",
        at="jnp.exp(-jnp.abs(z))",
    )


def _stable_cross_entropy_of_huge_logits():
    def loss(p, example):
        x, y = example
        return optax.sigmoid_binary_cross_entropy(p["w"] * x, y)

    return Situation(
        *(loss, {"w": jnp.array(3e5)}, (jnp.array([1.0, -2.0]), jnp.array([0.0, 1.0]))),
        expected="agrees",
    )


def _huber_at_its_threshold():
    def loss(p, x):
        return jnp.sum(optax.huber_loss(p["w"], x, delta=1.0))

    return Situation(
        *(loss, {"w": jnp.array([1.0, -1.0, 0.3])}, jnp.zeros((2, 3))), expected="agrees"
    )


def _clipped_variance_of_constant_features():
    def loss(p, example):
        x, target = example
        x = x + p["shift"]
        mean = jnp.mean(x)
        variance = jnp.maximum(0.0, jnp.mean(x * x) - mean * mean)
        return jnp.sum((x - mean) * jax.lax.rsqrt(variance + 1e-3) * target)

    return Situation(
        *(loss, {"shift": jnp.zeros(4)}, (jnp.full((2, 4), 2.0), _normal(41, 2, 4))),
        expected="agrees",
    )


def _safe_cross_entropy_of_minus_infinity():
    def loss(p, example):
        x, allowed, label = example
        logits = jnp.where(allowed, x @ p["w"], -jnp.inf)
        return optax.safe_softmax_cross_entropy(logits, jax.nn.one_hot(label, 3))

    return Situation(
        loss,
        {"w": _normal(6, 2, 3)},
        (_normal(7, 2, 2), jnp.array([[True, True, False], [True] * 3]), jnp.array([0, 2])),
        expected="agrees",
    )


def _cosine_with_two_wheres():
    def loss(p, x):
        z = x @ p["w"]
        squares = jnp.sum(z**2)
        z = z / jnp.sqrt(jnp.where(squares == 0, 1.0, squares))
        return jnp.sum(z * jnp.array([1.0, -2.0, 0.5]))

    x = _normal(4, 3, 2)
    x[0] = 0
    return Situation(loss, {"w": _normal(5, 2, 3)}, x, expected="agrees")


def _bias_of_attention_keys():
    def loss(p, x):
        keys = x @ p["keys"] + p["bias"]
        return jnp.sum(jnp.tanh(jax.nn.softmax(x @ keys.T) @ x))

    return Situation(
        *(loss, {"keys": _normal(42, 3, 3), "bias": _normal(43, 3)}, _normal(44, 2, 4, 3)),
        expected="agrees",
    )


def _scale_of_normalised_features_that_are_summed():
    def loss(p, x):
        normalised = (x - jnp.mean(x, 0)) / jnp.sqrt(jnp.var(x, 0) + 1e-5)
        return jnp.sum(p["gamma"] * normalised + p["beta"])

    return Situation(
        *(loss, {"gamma": jnp.ones(3), "beta": jnp.zeros(3)}, 5 + _normal(45, 2, 16, 3)),
        expected="agrees",
    )


# --- Rounding -------------------------------------------------------------------------------------


def _variance_by_squares_of_large_numbers():
    def loss(p, x):
        mean = jnp.mean(x)
        variance = jnp.mean(x * x) - mean**2
        normalised = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
        return jnp.sum((p["gamma"] * normalised + 3.0) ** 2)

    return Situation(
        *(loss, {"gamma": jnp.array(1.5)}, 1000 + 0.1 * _normal(46, 2, 8)),
        expected="precision",
        at="variance = jnp.mean(x * x) - mean**2",
        says=("sub", "float32"),
    )


def _sigmoid_squared(p, x):
    return jax.nn.sigmoid(x @ p["w"]) ** 2


def _saturated_sigmoid():
    return Situation(
        *(_sigmoid_squared, {"w": jnp.array([9.0, 9.0])}, jnp.array([[1.0, 1.0], [1.0, 1.1]])),
        expected="precision",
        at='jax.nn.sigmoid(x @ p["w"]) ** 2',
        says=("logistic", "float32"),
    )


def _saturated_and_other_examples():
    return Situation(
        *(_sigmoid_squared, {"w": jnp.array([9.0, 9.0])}, jnp.array([[1.0, 1.0], [0.1, -0.2]])),
        expected="agrees",
    )


def _confident_alignment():
    def loss(p, example):
        logits, label = example[0] * p["scale"], example[1]
        no_padding = jnp.zeros((1, 2)), jnp.zeros((1, 1))
        return optax.ctc_loss(logits[None], no_padding[0], label[None], no_padding[1])[0]

    logits = jnp.array([[[0.0, 10.0], [0.0, 10.0]]])
    return Situation(
        *(loss, {"scale": jnp.array(1.0)}, (logits, jnp.array([[1]]))), expected="precision"
    )


def _underflow_in_half_precision():
    def loss(p, example):
        x, y = example
        error = x @ p["w"] - y
        return jnp.float16(1e-5) * error**2

    x = jnp.array([[1.0, 0.5], [0.25, 1.0]], jnp.float16)
    w = jnp.array([0.5, 0.25], jnp.float16)
    return Situation(
        *(loss, {"w": w}, (x, x @ w - jnp.float16(1e-3))),
        expected="precision",
        says=("float16",),
    )


# name -> (function that builds it, the public report)
SITUATIONS = {
    "triplet of equal embeddings": (
        _triplet_of_equal_embeddings,
        "huggingface/sentence-transformers#4033",
    ),
    "std of constant features": (_std_of_constant_features, "pytorch/pytorch#4320"),
    "weight norm of a zero row": (_weight_norm_of_a_zero_row, "google/flax#1671"),
    "cosine similarity, one where": (_cosine_with_one_where, "google-deepmind/optax#946"),
    "log in the branch not taken": (_log_in_the_branch_not_taken, "pytorch/pytorch#108618"),
    "smooth L1 with beta 0": (_smooth_l1_without_a_smooth_part, "pytorch/pytorch#96813"),
    "focal loss, certain": (_focal_loss_of_a_certain_prediction, "kornia/kornia#918"),
    "cross entropy of a saturated probability": (
        _cross_entropy_of_a_saturated_probability,
        "pytorch/pytorch#39435",
    ),
    "scores times -inf": (_scores_times_minus_infinity, "tensorflow/tensorflow#11756"),
    "attention to nothing": (_attention_to_nothing, "allenai/allennlp#890"),
    "negative variance": (_negative_variance, "google/flax#1491"),
    "dropout of everything": (_dropout_of_everything, "google/flax#2055"),
    "dice in float16": (
        _dice_in_half_precision,
        "qubvel-org/segmentation_models.pytorch#463",
    ),
    "norm of tiny float16 numbers": (
        _norm_of_tiny_half_precision_numbers,
        "pytorch/pytorch#43211",
    ),
    "summed over workers": (_summed_over_workers, "neuralmagic/sparseml#135"),
    "averaged twice": (_averaged_twice, "sanderwood/bgpt#5"),
    "mean of means over tokens": (_mean_of_means_over_tokens, "huggingface/transformers#24725"),
    "mean over tokens": (_mean_over_tokens, "ml-explore/mlx-lm#1413"),
    "finite differences in float32": (
        _finite_differences_in_single_precision,
        "pytorch/pytorch#5351",
    ),
    "linear layer in float32": (_single_precision_linear_layer, "pytorch/pytorch#5351"),
    "padding row set to zero": (_padding_row_set_to_zero, "pytorch/pytorch#99181"),
    "padding row held still": (_padding_row_held_still, "google/torchax#11"),
    "tied embedding, the head alone": (
        _tied_embedding_with_the_head_alone,
        "paiml/entrenar#314",
    ),
    "inverse without its transposes": (
        _inverse_without_its_transposes,
        "pytorch/pytorch.github.io#2135",
    ),
    "layer norm bias left at zero": (_layer_norm_bias_left_at_zero, "pytorch/pytorch#79705"),
    "two layers in NumPy": (_two_layers_in_numpy, "jcjohnson/pytorch-examples#28"),
    "two layers, slope at zero": (_two_layers_with_a_slope_at_zero, "pytorch/tutorials#269"),
    "clamp at its bounds": (_clamp_at_its_bounds, "pytorch/pytorch#184574"),
    "maximum given to the first": (_maximum_given_to_the_first, "pytorch/pytorch#56734"),
    "absolute error of 0": (_absolute_error_of_an_exact_prediction, "pytorch/pytorch#7172"),
    "a thousand terms in another order": (
        _a_thousand_terms_in_another_order,
        "google/flax#1755",
    ),
    "layer norm, constant statistics": (
        _layer_norm_with_constant_statistics,
        "mlpack/mlpack#1923",
    ),
    "focal gradient of a plain value": (_focal_gradient_of_a_plain_value, "davisking/dlib#2552"),
    "straight-through rule": (_straight_through_rule, "apache/mxnet#16373"),
    "straight-through rule, intended": (_intended_straight_through_rule, "apache/mxnet#16373"),
    "gradient reversal": (_gradient_reversal, "pytorch/pytorch#1110"),
    "gradient reversal, intended": (_intended_gradient_reversal, "pytorch/pytorch#1110"),
    "gradient clipping out of reach": (_gradient_clipping_out_of_reach, "jax-ml/jax#2550"),
    "gradient clipping at work": (_gradient_clipping_at_work, "jax-ml/jax#2550"),
    "quantiser that stops the encoder": (
        _quantiser_that_stops_the_encoder,
        "Justin-Tan/generative-compression#27",
    ),
    "straight-through by stop_gradient": (_straight_through_by_stop_gradient, "jax-ml/jax#9032"),
    "codebook loss after straight-through": (
        _codebook_loss_after_straight_through,
        "andylolu2/jax-vqvae-gpt#2",
    ),
    "codebook loss before straight-through": (
        _codebook_loss_before_straight_through,
        "MishaLaskin/vqvae#20",
    ),
    "hard Gumbel softmax": (_hard_gumbel_softmax, "pytorch/pytorch#68941"),
    "spectral norm": (_spectral_norm, "google-deepmind/dm-haiku#71"),
    "stopped buffer": (_stopped_buffer, "patrick-kidger/equinox#31"),
    "stopped buffer, intended": (_intended_buffer, "patrick-kidger/equinox#909"),
    "head outside the loss": (_head_outside_the_loss, "pytorch/pytorch#57776"),
    "head outside the loss, intended": (
        _intended_head_outside_the_loss,
        "pytorch/pytorch#57081",
    ),
    "low-rank update of zeros": (_low_rank_update_of_zeros, "Guitaricet/relora#18"),
    "stable cross entropy at 0": (_stable_cross_entropy_at_zero, "pytorch/pytorch#2298"),
    "stable cross entropy of huge logits": (
        _stable_cross_entropy_of_huge_logits,
        "pytorch/pytorch#4867",
    ),
    "Huber at its threshold": (_huber_at_its_threshold, "pytorch/pytorch#17447"),
    "clipped variance of constant features": (
        _clipped_variance_of_constant_features,
        "patrick-kidger/equinox#314",
    ),
    "safe cross entropy of -inf": (
        _safe_cross_entropy_of_minus_infinity,
        "google-deepmind/optax#898",
    ),
    "cosine similarity, two wheres": (_cosine_with_two_wheres, "google-deepmind/optax#946"),
    "bias of attention keys": (_bias_of_attention_keys, "microsoft/unilm#510"),
    "scale of features that are summed": (
        _scale_of_normalised_features_that_are_summed,
        "pytorch/pytorch#82493",
    ),
    "variance by squares of large numbers": (
        _variance_by_squares_of_large_numbers,
        "tenstorrent/tt-metal#45968",
    ),
    "saturated sigmoid": (_saturated_sigmoid, "microsoft/LoRA#167"),
    "saturated and other examples": (_saturated_and_other_examples, "microsoft/LoRA#167"),
    "confident alignment": (_confident_alignment, "google-deepmind/optax#1771"),
    "underflow in float16": (_underflow_in_half_precision, "engichang1467/Open-Rig3R#35"),
}
