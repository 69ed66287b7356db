"""Situations that users of JAX have reported: wrong gradients, and right ones that look wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .situation import Situation

# --- not finite: square roots and norms ----------------------------------------------------------


def _norm_of_scaled_zeros():
    def loss(p, x):
        return jnp.linalg.norm(p["scale"] * x)

    return Situation(
        *(loss, {"scale": jnp.float32(1.3)}, jnp.zeros((2, 3))),
        expected="not finite",
        at="jnp.linalg.norm",
        says=("sqrt",),
    )


def _squared_norm_at_the_target():
    def loss(p, x):
        return jnp.linalg.norm(p["w"] - x) ** 2

    return Situation(
        *(loss, {"w": jnp.ones(3)}, jnp.ones((2, 3))),
        expected="not finite",
        at="jnp.linalg.norm",
        says=("sqrt",),
    )


def _square_root_in_the_branch_not_taken():
    def loss(p, x):
        z = p["w"] * x
        root = jnp.sqrt(z)
        return jnp.sum(jnp.where(z < 1, z, root))

    return Situation(
        *(loss, {"w": jnp.array([0.0, 2.0])}, jnp.ones((2, 2))),
        expected="not finite",
        at="jnp.sqrt(z)",
        says=("sqrt", "double where"),
    )


def _double_where():
    def loss(p, x):
        z = p["w"] * x
        inside = jnp.where(z < 1, 1.0, z)
        return jnp.sum(jnp.where(z < 1, z, jnp.sqrt(inside)))

    return Situation(
        *(loss, {"w": jnp.array([0.0, 2.0])}, jnp.ones((2, 2))),
        expected="agrees",
    )


def _norm_guarded_by_one_where():
    def loss(p, x):
        squared = jnp.sum((p["w"] - x) ** 2)
        root = jnp.sqrt(squared)
        return jnp.where(squared < 1e-9, 0.0, root)

    return Situation(
        *(loss, {"w": jnp.ones(3)}, jnp.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])),
        expected="not finite",
        at="jnp.sqrt(squared)",
        says=("sqrt", "double where"),
    )


def _pairwise_energy_with_its_diagonal_masked():
    def loss(p, charges):
        apart = p["x"][:, None] - p["x"][None]
        distance = jnp.linalg.norm(apart, axis=-1)
        energy = jnp.outer(charges, charges) / distance
        return jnp.sum(jnp.where(jnp.eye(3) > 0, 0.0, energy))

    positions = jnp.array([[0.1, -0.2], [1.3, 2.2], [0.4, -0.9]])
    return Situation(
        *(loss, {"x": positions}, jnp.array([[1.0, 0.3, 0.3], [0.5, 1.0, 2.0]])),
        expected="not finite",
        at="jnp.outer(charges, charges) / distance",
        says=("div",),
    )


def _standard_deviation_of_equal_values():
    def loss(p, x):
        return jnp.std(p["w"] + x)

    return Situation(
        *(loss, {"w": jnp.ones(3)}, jnp.ones((2, 3))),
        expected="not finite",
        at="jnp.std",
        says=("sqrt",),
    )


# --- not finite: other edges of a domain ---------------------------------------------------------


def _infinity_in_the_branch_not_taken():
    def loss(p, x):
        steep = p["w"] * jnp.inf
        return jnp.sum(jnp.where(p["w"] > 0, p["w"] * x, steep))

    return Situation(
        *(loss, {"w": jnp.array([1.0, 2.0])}, jnp.ones((2, 2))),
        expected="not finite",
        at='p["w"] * jnp.inf',
        says=("mul",),
    )


def _overflow_of_exp_in_the_branch_not_taken():
    def loss(p, x):
        z = p["w"] * x
        below = jnp.exp(z) - 1
        return jnp.sum(jnp.where(z > 0, z, below))

    return Situation(
        *(loss, {"w": jnp.array([1.0, 100.0])}, jnp.ones((2, 2))),
        expected="not finite",
        at="jnp.exp(z)",
        says=("exp", "double where"),
    )


def _elu_of_large_inputs():
    def loss(p, x):
        return jnp.sum(jax.nn.elu(p["w"] * x))

    return Situation(
        *(loss, {"w": jnp.array([-1.0, 100.0])}, jnp.ones((2, 2))),
        expected="agrees",
    )


def _masked_sum_of_overflowing_exponentials():
    def loss(p, mask):
        terms = jnp.exp(p["logits"])
        return jnp.log(jnp.sum(terms, where=mask))

    return Situation(
        *(loss, {"logits": jnp.array([0.0, 100.0])}, jnp.array([[True, False]] * 2)),
        expected="not finite",
        at='jnp.exp(p["logits"])',
        says=("exp",),
    )


def _logsumexp_with_a_large_logit_masked():
    def loss(p, mask):
        return jax.nn.logsumexp(p["logits"], where=mask)

    return Situation(
        *(loss, {"logits": jnp.array([0.0, 1.0, 100.0])}, jnp.array([[True, True, False]] * 2)),
        expected="agrees",
    )


def _softmax_with_a_large_logit_masked():
    def loss(p, mask):
        return jnp.sum(jax.nn.softmax(p["logits"], where=mask) ** 2)

    return Situation(
        *(loss, {"logits": jnp.array([1.0, 2.0, 100.0])}, jnp.array([[True, True, False]] * 2)),
        expected="agrees",
    )


def _logsumexp_of_nothing_but_minus_infinity():
    def loss(p, x):
        return jax.nn.logsumexp(p["w"] + x)

    return Situation(
        *(loss, {"w": jnp.ones(2)}, jnp.array([[0.0, 1.0], [-jnp.inf, -jnp.inf]])),
        expected="not finite",
        at="jax.nn.logsumexp",
    )


def _entropy_with_masked_probabilities():
    def loss(p, mask):
        share = jax.nn.softmax(p["logits"], where=mask)
        share = share / jnp.sum(share)
        bits = share * jnp.log2(share)
        return -jnp.sum(bits, where=mask)

    mask = jnp.array([[True, True, False], [True, True, True]])
    return Situation(
        *(loss, {"logits": jnp.array([0.0, 1.0, 2.0])}, mask),
        expected="not finite",
        at="jnp.log2(share)",
    )


def _slope_of_entropy_at_zero():
    def loss(p, x):
        return jnp.sum(jax.scipy.special.entr(p["share"]) * x)

    return Situation(
        *(loss, {"share": jnp.array([0.0, 0.5])}, jnp.ones((2, 2))),
        expected="not finite",
        at="jax.scipy.special.entr",
    )


def _angle_of_a_clipped_cosine():
    def loss(p, x):
        cosine = jnp.clip(p["w"] * x, -1, 1)
        return jnp.sum(jnp.arccos(cosine))

    return Situation(
        *(loss, {"w": jnp.array([0.5, 2.0])}, jnp.ones((2, 2))),
        expected="not finite",
        at="jnp.arccos",
        says=("acos",),
    )


def _angle_between_equal_distributions():
    def loss(p, logits):
        overlap = jnp.sqrt(jax.nn.softmax(p["logits"])) @ jnp.sqrt(jax.nn.softmax(logits))
        return jnp.arccos(overlap)

    return Situation(
        *(loss, {"logits": jnp.zeros(4)}, jnp.zeros((2, 4))),
        expected="not finite",
        at="jnp.arccos",
        says=("acos",),
    )


def _direction_of_a_masked_origin():
    def loss(p, x):
        angle = jnp.arctan2(p["w"] * x, x)
        return jnp.sum(jnp.where(x > 0, angle, 0.0))

    return Situation(
        *(loss, {"w": jnp.float32(1.5)}, jnp.array([[0.0, 1.0], [2.0, 3.0]])),
        expected="not finite",
        at="jnp.arctan2",
        says=("atan2",),
    )


def _direction_close_to_the_origin():
    def loss(p, x):
        return jnp.arctan2(p["y"] * x, p["x"] * x)

    return Situation(
        *(loss, {"x": jnp.float32(1e-10), "y": jnp.float32(1e-10)}, jnp.array([1.0, 2.0])),
        expected="agrees",
    )


def _ratio_repaired_by_nan_to_num():
    def loss(p, x):
        ratio = p["w"] / x
        return jnp.sum(jnp.nan_to_num(ratio, posinf=0.0))

    return Situation(
        *(loss, {"w": jnp.float32(2.0)}, jnp.array([[1.0, 0.0], [2.0, 4.0]])),
        expected="not finite",
        at='p["w"] / x',
        says=("div",),
    )


def _nan_in_the_data_and_nanmean():
    def loss(p, x):
        squares = (p["w"] * x) ** 2
        return jnp.nanmean(squares)

    return Situation(
        *(loss, {"w": jnp.float32(2.0)}, jnp.array([[1.0, jnp.nan], [2.0, 4.0]])),
        expected="not finite",
        at="squares = ",
    )


def _polynomial_at_zero_with_float_exponents():
    def loss(p, coefficients):
        powers = p["x"] ** jnp.arange(3.0)
        return powers @ coefficients

    return Situation(
        *(loss, {"x": jnp.float32(0.0)}, jnp.array([[1.0, 1.0, 1.0], [2.0, 3.0, 1.0]])),
        expected="not finite",
        at="powers = ",
        says=("pow",),
    )


def _polynomial_at_zero_with_integer_exponents():
    def loss(p, coefficients):
        return (p["x"] ** jnp.arange(3)) @ coefficients

    return Situation(
        *(loss, {"x": jnp.float32(0.0)}, jnp.array([[1.0, 1.0, 1.0], [2.0, 3.0, 1.0]])),
        expected="agrees",
    )


def _cumulative_product_by_logarithms():
    def loss(p, x):
        logs = jnp.log(p["w"] * x)
        return jnp.sum(jnp.exp(jnp.cumsum(logs)))

    return Situation(
        *(loss, {"w": jnp.array([2.0, 0.0, 3.0])}, jnp.ones((2, 3))),
        expected="not finite",
        at="jnp.log(",
        says=("log",),
    )


def _cumulative_product_with_a_zero():
    def loss(p, x):
        return jnp.sum(jnp.cumprod(p["w"] * x))

    return Situation(
        *(loss, {"w": jnp.array([2.0, 0.0, 3.0])}, jnp.ones((2, 3))),
        expected="agrees",
    )


def _repeated_singular_values():
    def loss(p, x):
        u, s, v = jnp.linalg.svd(p["w"], full_matrices=False)
        return jnp.sum(((u * s) @ v - x) ** 2)

    return Situation(
        *(loss, {"w": jnp.diag(jnp.array([1.0, 1.0, 2.0]))}, jnp.ones((2, 3, 3))),
        expected="not finite",
        at="jnp.linalg.svd",
        says=("svd",),
    )


def _top_eigenvector_beside_repeated_eigenvalues():
    def loss(p, x):
        vectors = jnp.linalg.eigh(p["w"])[1]
        return vectors[:, 2] @ x

    return Situation(
        *(loss, {"w": jnp.diag(jnp.array([4.0, 1.0, 1.0]))}, jnp.ones((2, 3))),
        expected="not finite",
        at="jnp.linalg.eigh",
        says=("eigh",),
    )


def _overflow_of_a_float16_norm():
    def loss(p, x):
        return jnp.linalg.norm(p["w"] * x)

    ones = jnp.ones((2, 3, 3), jnp.float16)
    return Situation(
        *(loss, {"w": 100 * ones[0]}, ones),
        expected="not finite",
        at="jnp.linalg.norm",
        says=("float16",),
    )


def _scatter_max_at_a_clipped_index():
    def loss(p, index):
        highest = jnp.zeros(3).at[index].max(p["w"], mode="clip")
        return jnp.sum(highest)

    return Situation(
        *(loss, {"w": jnp.array([1.0, 2.0])}, jnp.array([[0, 7], [1, 2]])),
        expected="not finite",
        at="highest = ",
        says=("scatter",),
    )


# --- right, though it was thought wrong or once was ----------------------------------------------


def _determinant_of_a_singular_matrix():
    def loss(p, x):
        return jnp.linalg.det(p["w"] + x)

    return Situation(
        *(loss, {"w": jnp.array([[1.0, 2.0], [2.0, 4.0]])}, jnp.zeros((2, 2, 2))),
        expected="agrees",
    )


def _determinant_at_the_zero_matrix():
    def loss(p, x):
        return jnp.linalg.det(p["w"] + x)

    return Situation(
        *(loss, {"w": jnp.zeros((4, 4))}, jnp.zeros((2, 4, 4))),
        expected="agrees",
    )


def _quadratic_form_by_cholesky():
    def loss(p, x):
        factor = jnp.linalg.cholesky(p["w"])
        return jnp.sum(jax.scipy.linalg.solve_triangular(factor, x, lower=True) ** 2)

    return Situation(
        *(loss, {"w": jnp.array([[2.0, 0.5], [0.5, 1.0]])}, jnp.array([[1.0, 2.0], [3.0, 1.0]])),
        expected="agrees",
    )


def _sinc_at_zero():
    def loss(p, x):
        return jnp.sum(jnp.sinc(p["w"] * x))

    return Situation(
        *(loss, {"w": jnp.array([0.0, 0.5])}, jnp.ones((2, 2))),
        expected="agrees",
    )


def _bessel_i0_at_zero():
    def loss(p, x):
        return jnp.sum(jnp.i0(p["w"] * x))

    return Situation(
        *(loss, {"w": jnp.array([0.0, 1.0])}, jnp.ones((2, 2))),
        expected="agrees",
    )


def _power_of_two_by_ldexp():
    def loss(p, x):
        return jnp.sum(jnp.ldexp(p["w"] * x, jnp.array([1, 2])))

    return Situation(
        *(loss, {"w": jnp.array([1.0, -0.7])}, jnp.ones((2, 2))),
        expected="agrees",
    )


def _saturated_tanh():
    def loss(p, x):
        return jnp.sum(jnp.tanh(p["w"] * x))

    return Situation(
        *(loss, {"w": jnp.array([200.0, 0.5])}, jnp.ones((2, 2))),
        expected="agrees",
    )


def _index_clipped_to_the_last_element():
    def loss(p, index):
        return jnp.sum(p["w"].at[index].get(mode="clip") ** 2)

    return Situation(
        *(loss, {"w": jnp.array([1.0, 2.0])}, jnp.array([5, 0])),
        expected="agrees",
    )


def _index_past_the_end():
    def loss(p, index):
        return p["w"][index] ** 2

    return Situation(
        *(loss, {"w": jnp.array([1.0, 2.0])}, jnp.array([5, 0])),
        expected="agrees",
    )


def _segment_sum_drops_numbers_past_the_end():
    def loss(p, segments):
        return jnp.sum(jax.ops.segment_sum(p["w"], segments, 2) ** 2)

    return Situation(
        *(loss, {"w": jnp.array([1.0, 2.0, 3.0])}, jnp.array([[0, 2, 3], [1, 0, 3]])),
        expected="agrees",
    )


def _segment_sum_drops_negative_numbers():
    def loss(p, segments):
        return jnp.sum(jax.ops.segment_sum(p["w"], segments, 2) ** 2)

    return Situation(
        *(loss, {"w": jnp.array([1.0, 2.0, 3.0])}, jnp.array([[0, -1, 1], [1, 0, -1]])),
        expected="agrees",
    )


def _nearest_neighbours():
    def loss(p, points):
        squares = jnp.sum((p["points"][:, None] - points[None]) ** 2, axis=-1)
        return jnp.mean(jnp.min(squares, axis=0)) + jnp.mean(jnp.min(squares, axis=1))

    points = np.random.default_rng(0).normal(size=(3, 3, 2)).astype(np.float32)
    return Situation(
        *(loss, {"points": points[0, :2]}, points[1:]),
        expected="agrees",
    )


def _branch_inside_a_scan():
    def loss(p, x):
        def step(carry, _):
            value, going = carry
            grow, keep = (lambda v: (v * p["base"], True)), (lambda v: (v, False))
            return lax.cond(going, grow, keep, value), None

        (power, _), _ = lax.scan(step, (jnp.float32(1), True), None, length=4)
        return x * power

    return Situation(
        *(loss, {"base": jnp.float32(3.0)}, jnp.ones(2)),
        expected="agrees",
    )


def _linear_dynamics_by_fori_loop():
    def loss(p, controls):
        def step(t, carry):
            states, state = carry
            state = p["a"] @ state + p["b"] * controls[t]
            return states.at[t].set(state), state

        states, _ = lax.fori_loop(0, 4, step, (jnp.zeros((4, 2)), jnp.ones(2)))
        return jnp.sum(states**2)

    params = {"a": jnp.array([[0.7, 0.5], [0.5, 0.8]]), "b": jnp.array([0.4, 1.2])}
    return Situation(loss, params, jnp.ones((2, 4)), expected="agrees")


def _fourier_transform_under_checkpoint():
    @jax.checkpoint
    def filtered(p, x):
        return jnp.fft.ifft(p["filter"] * jnp.fft.fft(jnp.tanh(p["shift"] + x)))

    def loss(p, x):
        return jnp.sum(jnp.abs(filtered(p, x)) ** 2)

    params = {"filter": jnp.array([0.5, 0.3, 0.7, 1.0]), "shift": jnp.float32(0.2)}
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    return Situation(loss, params, x, expected="agrees")


def _debug_callback_beside_the_path():
    def loss(p, x):
        hidden = jnp.sin(p["w"] * x)
        jax.debug.callback(lambda value: None, hidden)
        return jnp.sum(hidden)

    return Situation(
        *(loss, {"w": jnp.array([1.0, 2.0])}, jnp.ones((2, 2))),
        expected="agrees",
    )


def _callback_with_a_rule():
    def on_the_host(x):
        return -(x + np.sin(x)) * np.exp(-(x**2))

    @jax.custom_jvp
    def potential(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(on_the_host, shape, x, vmap_method="expand_dims")

    @potential.defjvp
    def rule(primals, tangents):
        (x,), (t,) = primals, tangents
        slope = jnp.exp(-(x**2)) * (2 * x**2 + 2 * x * jnp.sin(x) - jnp.cos(x) - 1)
        return potential(x), slope * t

    def loss(p, x):
        return jnp.sum(potential(p["w"] * x)) + jnp.sum(p["b"] ** 2 * x)

    return Situation(
        *(loss, {"w": jnp.ones(2), "b": jnp.ones(2)}, jnp.ones((2, 2))),
        expected={"params['w']": "not audited", "params['b']": "agrees"},
        at="jax.pure_callback(",
        says=("pure_callback",),
    )


# --- kinks and ties ------------------------------------------------------------------------------


def _maximum_at_zero():
    def loss(p, x):
        return jnp.sum(jnp.maximum(p["w"], 0) * x)

    return Situation(
        *(loss, {"w": jnp.zeros(2)}, jnp.ones((2, 2))),
        expected="kink or tie",
        at="jnp.maximum",
        says=("max",),
    )


def _maximum_at_zero_by_another_framework():
    grads = {"w": np.zeros(2, np.float32)}
    return _maximum_at_zero()._replace(at="", options={"grads": grads})


def _maximum_at_zero_that_hardly_matters():
    def loss(p, x):
        return jnp.sum(jnp.maximum(p["w"], 0) * x)

    return Situation(
        *(loss, {"w": jnp.array([0.0, 3.0])}, jnp.array([[1e-4, 1.0], [2e-4, 2.0]])),
        expected="agrees",
    )


def _slope_of_abs_at_zero():
    def loss(p, x):
        return jnp.sum(jnp.abs(p["w"]) * x)

    return Situation(
        *(loss, {"w": jnp.zeros(2)}, jnp.ones((2, 2))),
        expected="kink or tie",
        at="jnp.abs",
        says=("abs",),
    )


def _slope_of_abs_at_zero_as_its_sign():
    grads = {"w": np.zeros(2, np.float32)}
    return _slope_of_abs_at_zero()._replace(at="", options={"grads": grads})


def _modulus_of_a_complex_zero():
    def loss(p, x):
        return jnp.sum(jnp.abs(lax.complex(p["re"], p["im"])) * x)

    return Situation(
        *(loss, {"re": jnp.zeros(2), "im": jnp.zeros(2)}, jnp.ones((2, 2))),
        expected="agrees",
        says=("exactly zero",),
    )


def _tied_maximum():
    def loss(p, x):
        return jnp.max(p["w"] * x)

    return Situation(
        *(loss, {"w": jnp.ones(2)}, jnp.ones((2, 2))),
        expected="kink or tie",
        at="jnp.max",
        says=("reduce_max",),
    )


def _first_of_tied_maxima():
    grads = {"w": np.array([1, 0], np.float32)}
    return _tied_maximum()._replace(at="", options={"grads": grads})


def _relu_at_zero():
    def loss(p, x):
        return jnp.sum(jax.nn.relu(p["w"]) * x)

    return Situation(
        *(loss, {"w": jnp.array([0.0, 1.0])}, jnp.ones((2, 2))),
        expected="kink or tie",
        at="jax.nn.relu",
        says=("relu",),
    )


def _relu6_at_both_bounds():
    def loss(p, x):
        return jnp.sum(jax.nn.relu6(p["w"]) * x)

    return Situation(
        *(loss, {"w": jnp.array([0.0, 6.0, 3.0])}, jnp.ones((2, 3))),
        expected="kink or tie",
        at="jax.nn.relu6",
        says=("relu6",),
    )


def _softplus_from_max_and_abs():
    def loss(p, x):
        w = p["w"]
        return jnp.sum((jnp.maximum(w, 0) + jnp.log1p(jnp.exp(-jnp.abs(w)))) * x)

    return Situation(
        *(loss, {"w": jnp.zeros(2)}, jnp.ones((2, 2))),
        expected="kink or tie",
        at="jnp.maximum(w, 0)",
    )


def _softplus_at_zero():
    def loss(p, x):
        return jnp.sum(jax.nn.softplus(p["w"]) + jax.nn.log_sigmoid(p["w"]) * x)

    return Situation(
        *(loss, {"w": jnp.zeros(2)}, jnp.full((2, 2), 2.0)),
        expected="agrees",
    )


def _softmax_of_tied_logits():
    def loss(p, x):
        return jnp.sum(jax.nn.softmax(p["logits"]) * x)

    return Situation(
        *(loss, {"logits": jnp.zeros(3)}, jnp.array([[1.0, 2.0, 4.0], [0.0, 1.0, 0.0]])),
        expected="agrees",
    )


def _tied_maximum_that_cancels():
    def loss(p, x):
        z = p["logits"] * x
        largest = jnp.max(z)
        return largest + jnp.log(jnp.sum(jnp.exp(z - largest))) - z[0]

    return Situation(
        *(loss, {"logits": jnp.array([1.0, 1.0, 0.5])}, jnp.ones((2, 3))),
        expected="agrees",
    )


def _maximum_subtracted_without_its_gradient():
    def loss(p, x):
        z = p["logits"] * x
        z = z - lax.stop_gradient(jnp.max(z))
        return jnp.log(jnp.sum(jnp.exp(z))) - z[0]

    return Situation(
        *(loss, {"logits": jnp.array([1.0, 2.0, 0.5])}, jnp.ones((2, 3))),
        expected="agrees",
    )


# --- zero by structure ---------------------------------------------------------------------------


def _sample_of_a_categorical():
    def loss(p, example):
        key, target = example
        sample = jax.random.categorical(key, p["logits"])
        return (sample - target) ** 2

    keys = jax.random.split(jax.random.key(0), 4)
    return Situation(
        *(loss, {"logits": jnp.array([0.1, 0.2, 0.3])}, (keys, jnp.ones(4))),
        expected="zero by structure",
        at="jax.random.categorical",
        says=("argmax",),
    )


def _sample_of_a_bernoulli():
    def loss(p, key):
        infected = jax.random.bernoulli(key, p["rate"], (8,))
        return (jnp.sum(1.0 * infected) - 4) ** 2

    return Situation(
        *(loss, {"rate": jnp.float32(0.3)}, jax.random.split(jax.random.key(0), 4)),
        expected="zero by structure",
        at="jax.random.bernoulli",
        says=("lt",),
    )


def _parameter_as_an_index():
    def loss(p, x):
        index = p["index"].astype(jnp.int32)
        return jnp.sum((jnp.zeros(5).at[index].set(p["value"]) - x) ** 2)

    return Situation(
        *(loss, {"index": jnp.float32(2.2), "value": jnp.float32(0.5)}, jnp.ones((2, 5))),
        expected={"params['index']": "zero by structure", "params['value']": "agrees"},
        at="astype(jnp.int32)",
        says=("int32",),
    )


def _parameter_chooses_the_branch():
    def loss(p, x):
        branch = jnp.floor(p["choice"]).astype(jnp.int32)
        summed, complement = (lambda a: jnp.sum(a * x)), (lambda a: 1 - jnp.sum(a * x))
        return lax.switch(branch, [summed, complement], p["w"])

    return Situation(
        *(loss, {"choice": jnp.float32(0.3), "w": jnp.arange(3.0)}, jnp.ones((2, 3))),
        expected={"params['choice']": "zero by structure", "params['w']": "agrees"},
        at="branch = ",
    )


def _rounded_weights():
    def loss(p, x):
        levels = jnp.round(p["w"])
        return jnp.sum((levels - x) ** 2)

    return Situation(
        *(loss, {"w": jnp.array([0.4, 1.7])}, jnp.ones((2, 2))),
        expected="zero by structure",
        at="jnp.round",
        says=("round",),
    )


def _frozen_part_of_the_parameters():
    def loss(p, x):
        frozen = lax.stop_gradient({"target": p["target"]})
        return jnp.sum((p["w"] * x - frozen["target"]) ** 2)

    return Situation(
        *(loss, {"w": jnp.ones(2), "target": jnp.zeros(2)}, jnp.ones((2, 2))),
        expected={"params['target']": "zero by structure", "params['w']": "agrees"},
        at="lax.stop_gradient(",
        says=("stop_gradient",),
    )


def _frozen_part_by_intention():
    intended = ("stop_gradient",)
    return _frozen_part_of_the_parameters()._replace(
        expected="agrees", at="", says=(), options={"intended": intended}
    )


def _frozen_leaf_by_intention():
    intended = ("params['target']",)
    return _frozen_part_of_the_parameters()._replace(
        expected="agrees", at="", says=(), options={"intended": intended}
    )


def _straight_through_by_stop_gradient():
    def loss(p, x):
        w = p["w"]
        levels = w + lax.stop_gradient(jnp.round(w) - w)
        return jnp.sum((levels - x) ** 2)

    return Situation(
        *(loss, {"w": jnp.array([0.4, 1.7])}, jnp.ones((2, 2))),
        expected="agrees",
        at="lax.stop_gradient(",
        says=("stop_gradient",),
    )


# --- custom rules --------------------------------------------------------------------------------


def _wrong_sign_for_one_argument():
    @jax.custom_vjp
    def sine_times(x, y):
        return jnp.sin(x) * y

    def forward(x, y):
        return sine_times(x, y), (x, y)

    def backward(saved, g):
        x, y = saved
        return jnp.cos(x) * y * g, -jnp.sin(x) * g

    sine_times.defvjp(forward, backward)

    def loss(p, x):
        return sine_times(p["x"] * x, p["y"])

    return Situation(
        *(loss, {"x": jnp.float32(0.5), "y": jnp.float32(2.0)}, jnp.array([1.0, 2.0])),
        expected={"params['x']": "agrees", "params['y']": "wrong rule"},
        at='sine_times(p["x"] * x, p["y"])',
        says=("sine_times", "sign"),
    )


def _square_without_its_factor():
    @jax.custom_gradient
    def square(x):
        return x**2, lambda g: (g * x,)

    return square


def _missing_factor_of_two():
    square = _square_without_its_factor()

    def loss(p, x):
        return jnp.sum(square(p["w"] * x)) + p["b"] * x[0]

    return Situation(
        *(loss, {"w": jnp.array([0.5, 3.0]), "b": jnp.float32(1)}, jnp.array([[1, 2], [3, 4.0]])),
        expected={"params['w']": "wrong rule", "params['b']": "agrees"},
        at='square(p["w"] * x)',
    )


def _missing_factor_inside_a_scan():
    square = _square_without_its_factor()

    def loss(p, xs):
        def step(h, x):
            h = square(p["w"] * h + x)
            return h, None

        return lax.scan(step, jnp.float32(0.5), xs)[0]

    return Situation(
        *(loss, {"w": jnp.float32(0.5)}, jnp.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])),
        expected="wrong rule",
        at='square(p["w"] * h + x)',
    )


def _gradient_doubled():
    @jax.custom_gradient
    def product(x, y):
        value, pull = jax.vjp(jnp.multiply, x, y)
        return value, lambda g: tuple(2 * d for d in pull(g))

    def loss(p, x):
        return product(p["a"] * x, p["b"])

    return Situation(
        *(loss, {"a": jnp.float32(2.0), "b": jnp.float32(3.0)}, jnp.array([1.0, 2.0])),
        expected="wrong rule",
        at='product(p["a"] * x, p["b"])',
    )


def _no_cotangent_for_an_argument():
    @jax.custom_vjp
    def tempered(logits, temperature):
        return logits / temperature

    def forward(logits, temperature):
        return tempered(logits, temperature), temperature

    def backward(temperature, g):
        return g / temperature, None

    tempered.defvjp(forward, backward)

    def loss(p, x):
        return jnp.sum(tempered(p["w"] * x, p["temperature"]) ** 2)

    return Situation(
        *(loss, {"w": jnp.ones(2), "temperature": jnp.float32(2.0)}, jnp.ones((2, 2))),
        expected={"params['w']": "agrees", "params['temperature']": "wrong rule"},
        at='tempered(p["w"] * x, p["temperature"])',
        says=("tempered",),
    )


def _rule_of_a_rule_forgets_an_argument():
    @jax.custom_vjp
    def cube(x):
        return x**3

    @jax.custom_vjp
    def cube_backward(x, g):
        return 3 * x**2 * g

    def backward_forward(x, g):
        return cube_backward(x, g), x

    def backward_backward(x, d):
        return jnp.zeros_like(x), 3 * x**2 * d

    cube_backward.defvjp(backward_forward, backward_backward)
    cube.defvjp(lambda x: (cube(x), x), lambda x, g: (cube_backward(x, g),))

    def loss(p, x):
        return jax.grad(cube)(p["w"] * x)

    return Situation(
        *(loss, {"w": jnp.float32(2.0)}, jnp.array([1.0, 2.0])),
        expected="wrong rule",
        says=("cube_backward",),
    )


def _clipped_gradient():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
    def clip_gradient(low, high, x):
        return x

    def forward(low, high, x):
        return x, None

    def backward(low, high, _, g):
        return (jnp.clip(g, low, high),)

    clip_gradient.defvjp(forward, backward)

    def loss(p, x):
        return jnp.sum(clip_gradient(-0.1, 0.1, p["w"]) * x)

    return Situation(
        *(loss, {"w": jnp.array([1.0, 2.0])}, jnp.array([[1.0, 0.05], [-2.0, 3.0]])),
        expected="wrong rule",
        at='clip_gradient(-0.1, 0.1, p["w"])',
        says=("clip_gradient",),
    )


def _clipped_gradient_by_intention():
    return _clipped_gradient()._replace(
        expected="agrees", at="", options={"intended": ("clip_gradient",)}
    )


def _straight_through_by_a_rule():
    @jax.custom_jvp
    def round_through(x):
        return jnp.round(x)

    @round_through.defjvp
    def rule(primals, tangents):
        return round_through(*primals), tangents[0]

    def loss(p, x):
        return jnp.sum((round_through(p["w"]) - x) ** 2)

    return Situation(
        *(loss, {"w": jnp.array([0.4, 1.7])}, jnp.ones((2, 2))),
        expected="wrong rule",
        at='round_through(p["w"])',
        says=("round_through",),
    )


def _straight_through_by_intention():
    return _straight_through_by_a_rule()._replace(
        expected="agrees", at="", options={"intended": ("round_through",)}
    )


def _right_rule_for_a_switch():
    @jax.custom_jvp
    def summed(values, choice):
        branches = [lambda a: jnp.sum(a), lambda a: 1 - jnp.sum(a)]
        return lax.switch(jnp.floor(choice).astype(jnp.int32), branches, values)

    @summed.defjvp
    def rule(primals, tangents):
        slope = jnp.where(primals[1] < 1, 1.0, -1.0)
        return summed(*primals), slope * jnp.sum(tangents[0])

    def loss(p, x):
        return summed(p["w"] * x, x[0])

    return Situation(
        *(loss, {"w": jnp.arange(3.0)}, jnp.array([[0.0, 1.0, 2.0], [1.0, 2.0, 4.0]])),
        expected="agrees",
    )


# --- gradients from elsewhere --------------------------------------------------------------------


def _power_of_a_negative_number():
    def loss(p, exponent):
        return jnp.sum(jnp.abs(p["w"]) ** exponent)

    return Situation(
        *(loss, {"w": jnp.array([-1.0, -2.0])}, jnp.full((2, 2), 3.0)),
        expected="agrees",
    )


def _power_of_a_negative_number_by_hand():
    right = _power_of_a_negative_number()
    by_hand = {"w": 3 * np.abs(right.params["w"]) ** 2}
    return right._replace(expected="differs", says=("sign",), options={"grads": by_hand})


def _complex_gradient_in_this_convention():
    def loss(p, x):
        return jnp.sum(jnp.abs(p["z"] - x))

    return Situation(
        *(loss, {"z": jnp.array([1j, 1 + 1j])}, jnp.zeros((2, 2))),
        expected="agrees",
    )


def _complex_gradient_in_the_conjugate_convention():
    right = _complex_gradient_in_this_convention()
    z = np.asarray(right.params["z"])
    return right._replace(expected="differs", options={"grads": {"z": z / np.abs(z)}})


def _gradient_of_an_entry_that_cholesky_ignores():
    def loss(p, x):
        return jnp.sum(x * jax.scipy.linalg.cholesky(p["w"], lower=False))

    x = jnp.array([[[1.0, 2.0], [0.0, 1.0]]] * 2)
    reported = np.array([[0.14384446, 0.92462216], [-0.07537784, 0.30151134]], np.float32)
    return Situation(
        *(loss, {"w": jnp.array([[4.0, 1.0], [1.0, 3.0]])}, x),
        expected="differs",
        options={"grads": {"w": reported}},
    )


# --- rounding ------------------------------------------------------------------------------------


def _identity_scaled_by_a_million():
    def loss(p, x):
        w = p["w"] * x
        return jnp.sum(1e6 * (jnp.sin(w) ** 2 - (1 - jnp.cos(w) ** 2)) + 0.01 * w)

    return Situation(
        *(loss, {"w": jnp.array([0.3, 0.7, 1.1, 1.9])}, jnp.ones((2, 4))),
        expected="precision",
        at="1e6 * (jnp.sin(w)",
        says=("float32",),
    )


def _small_term_lost_in_bfloat16():
    def loss(p, x):
        large = jnp.bfloat16(1.04858e6)
        raised = p["w"] + large
        return jnp.sum((raised - large - x) ** 2).astype(jnp.float32)

    ones = jnp.ones((2, 2), jnp.bfloat16)
    return Situation(
        *(loss, {"w": jnp.array([2032, 7], jnp.bfloat16)}, ones),
        expected="precision",
        at="raised - large - x",
        says=("bfloat16",),
    )


def _lost_term_with_a_right_gradient():
    def loss(p, x):
        large = jnp.bfloat16(1.04858e6)
        return jnp.sum((p["w"] + large - large) * x).astype(jnp.float32)

    ones = jnp.ones((2, 2), jnp.bfloat16)
    return Situation(
        *(loss, {"w": jnp.array([2032, 7], jnp.bfloat16)}, ones),
        expected="agrees",
    )


def _cancelling_sum_rounded_to_bfloat16():
    def loss(p, x):
        terms = p["scale"].astype(jnp.bfloat16) * x.astype(jnp.bfloat16)
        return jnp.sum(terms.astype(jnp.float32))

    half = np.random.default_rng(2).normal(size=(2, 8))
    return Situation(
        *(loss, {"scale": jnp.float32(1.5)}),
        np.concatenate([half, -(1 + 1e-4) * half], 1).astype(np.float32),
        expected="precision",
        at="jnp.sum(terms",
        says=("bfloat16",),
    )


def _matrix_product_in_float16():
    def loss(p, x):
        hidden = x.astype(jnp.float16) @ p["w"].astype(jnp.float16)
        return jnp.sum(hidden.astype(jnp.float32) ** 2)

    rng = np.random.default_rng(3)
    w, x = rng.normal(size=(8, 3)), rng.normal(size=(4, 8))
    return Situation(
        *(loss, {"w": w.astype(np.float32)}, x.astype(np.float32)),
        expected="agrees",
    )


def _bfloat16_weights_of_a_float32_loss():
    def loss(p, x):
        return jnp.sum(jnp.tanh(p["w"].astype(jnp.float32) * x) ** 2)

    return Situation(
        *(loss, {"w": jnp.array([0.3, -0.7], jnp.bfloat16)}, jnp.array([[1.0, 2.0], [0.5, 0.4]])),
        expected="agrees",
    )


def _slope_of_a_nearly_saturated_tanh():
    def loss(p, x):
        return jnp.sum(jnp.tanh(p["w"] * x))

    return Situation(
        *(loss, {"w": jnp.array([-9.010913848876953])}, jnp.ones((2, 1))),
        expected="precision",
        at="jnp.tanh",
        says=("tanh",),
    )


def _slope_of_expm1_far_below_zero():
    def loss(p, x):
        return jnp.sum(jnp.expm1(p["w"] * x))

    return Situation(
        *(loss, {"w": np.array([-40.0])}, np.ones((2, 1))),
        expected="agrees",
        says=("exactly zero",),
        x64=True,
    )


def _variance_as_a_difference_of_squares():
    def loss(p, x):
        z = p["w"]
        mean = jnp.mean(z)
        variance = jnp.mean(z**2) - mean**2
        return jnp.sum(x * (z - mean) * lax.rsqrt(variance + 1e-5))

    return Situation(
        *(loss, {"w": jnp.array([3000.0, 3000.9, 3002.1, 3002.8])}),
        jnp.array([[1.0, -2.0, 0.5, 3.0], [2.0, 0.3, -1.0, 0.5]]),
        expected="precision",
        at="variance = ",
        says=("float32",),
    )


def _recursion_that_amplifies_rounding():
    theta = 2.0
    noise = np.random.default_rng(4).normal(size=64)
    noise[0] = 0

    def loss(p, ys):
        def step(e, y):
            e = y - p["theta"] * e
            return e, e

        return jnp.mean(lax.scan(step, jnp.float32(0), ys)[1] ** 2)

    return Situation(
        *(loss, {"theta": jnp.float32(theta)}),
        (noise[1:] + theta * noise[:-1])[None].astype(np.float32),
        expected="precision",
        at='y - p["theta"] * e',
        says=("float32",),
    )


def _last_digits_in_float64():
    def loss(p, x):
        z = jnp.sin(lax.complex(p["re"], p["im"]) * x)
        return jnp.real(z) + jnp.imag(z)

    return Situation(
        *(loss, {"re": np.array(0.3), "im": np.array(1.1)}, np.array([1.0, 2.0])),
        expected="agrees",
        x64=True,
    )


def _root_of_a_square_that_underflows():
    def loss(p, x):
        return jnp.sum(jnp.sqrt(jnp.abs(jnp.square(p["w"]))) * x)

    return Situation(
        *(loss, {"w": jnp.array([1e-30])}, jnp.ones((2, 1))),
        expected="precision",
        at="jnp.square",
    )


# name -> (function that builds it, the public report)
SITUATIONS = {
    "norm of a scale times zeros": (_norm_of_scaled_zeros, "jax-ml/jax#26248"),
    "squared norm at its target": (_squared_norm_at_the_target, "jax-ml/jax#21723"),
    "sqrt behind where": (_square_root_in_the_branch_not_taken, "jax-ml/jax#5798"),
    "sqrt behind a double where": (_double_where, "jax-ml/jax#5798"),
    "norm guarded by one where": (_norm_guarded_by_one_where, "jax-ml/jax#6484"),
    "pairwise energy, diagonal masked": (
        _pairwise_energy_with_its_diagonal_masked,
        "jax-ml/jax#654",
    ),
    "std of equal values": (_standard_deviation_of_equal_values, "jax-ml/jax#11716"),
    "infinity behind where": (_infinity_in_the_branch_not_taken, "jax-ml/jax#2630"),
    "exp overflows behind where": (_overflow_of_exp_in_the_branch_not_taken, "jax-ml/jax#1538"),
    "elu of large inputs": (_elu_of_large_inputs, "jax-ml/jax#1538"),
    "masked sum of overflowing exp": (
        _masked_sum_of_overflowing_exponentials,
        "jax-ml/jax#23842",
    ),
    "logsumexp with a large logit masked": (
        _logsumexp_with_a_large_logit_masked,
        "jax-ml/jax#23842",
    ),
    "softmax with a large logit masked": (_softmax_with_a_large_logit_masked, "jax-ml/jax#17117"),
    "logsumexp of -inf alone": (_logsumexp_of_nothing_but_minus_infinity, "jax-ml/jax#6811"),
    "masked entropy": (_entropy_with_masked_probabilities, "jax-ml/jax#17070"),
    "entr at zero": (_slope_of_entropy_at_zero, "jax-ml/jax#15737"),
    "arccos of a clipped cosine": (_angle_of_a_clipped_cosine, "jax-ml/jax#23649"),
    "arccos at the optimum": (_angle_between_equal_distributions, "jax-ml/jax#15798"),
    "arctan2 at a masked origin": (_direction_of_a_masked_origin, "jax-ml/jax#1052"),
    "arctan2 close to the origin": (_direction_close_to_the_origin, "jax-ml/jax#18605"),
    "nan_to_num after a division": (_ratio_repaired_by_nan_to_num, "jax-ml/jax#8247"),
    "nanmean of squares": (_nan_in_the_data_and_nanmean, "jax-ml/jax#9040"),
    "polynomial at zero, float exponents": (
        _polynomial_at_zero_with_float_exponents,
        "jax-ml/jax#14397",
    ),
    "polynomial at zero, integer exponents": (
        _polynomial_at_zero_with_integer_exponents,
        "jax-ml/jax#14397",
    ),
    "cumprod by logarithms": (_cumulative_product_by_logarithms, "jax-ml/jax#2542"),
    "cumprod with a zero": (_cumulative_product_with_a_zero, "jax-ml/jax#2542"),
    "svd, repeated singular values": (_repeated_singular_values, "jax-ml/jax#8732"),
    "eigh, repeated eigenvalues": (
        _top_eigenvector_beside_repeated_eigenvalues,
        "jax-ml/jax#4646",
    ),
    "norm overflows in float16": (_overflow_of_a_float16_norm, "jax-ml/jax#39899"),
    "scatter max at a clipped index": (_scatter_max_at_a_clipped_index, "jax-ml/jax#40648"),
    "det of a singular matrix": (_determinant_of_a_singular_matrix, "jax-ml/jax#2380"),
    "det at the zero matrix": (_determinant_at_the_zero_matrix, "jax-ml/jax#2852"),
    "cholesky against inverse": (_quadratic_form_by_cholesky, "jax-ml/jax#10815"),
    "sinc at zero": (_sinc_at_zero, "jax-ml/jax#1722"),
    "i0 at zero": (_bessel_i0_at_zero, "jax-ml/jax#18706"),
    "ldexp": (_power_of_two_by_ldexp, "jax-ml/jax#11467"),
    "tanh of 200": (_saturated_tanh, "jax-ml/jax#764"),
    "index clipped under vmap": (_index_clipped_to_the_last_element, "jax-ml/jax#25878"),
    "index past the end": (_index_past_the_end, "jax-ml/jax#5760"),
    "segment_sum, numbers past the end": (
        _segment_sum_drops_numbers_past_the_end,
        "jax-ml/jax#8634",
    ),
    "segment_sum, negative numbers": (_segment_sum_drops_negative_numbers, "jax-ml/jax#7538"),
    "nearest neighbours": (_nearest_neighbours, "jax-ml/jax#1181"),
    "cond inside scan": (_branch_inside_a_scan, "jax-ml/jax#5900"),
    "dynamics by fori_loop": (_linear_dynamics_by_fori_loop, "jax-ml/jax#1954"),
    "fft under checkpoint": (_fourier_transform_under_checkpoint, "jax-ml/jax#14302"),
    "debug callback beside the path": (_debug_callback_beside_the_path, "jax-ml/jax#16637"),
    "callback with a rule": (_callback_with_a_rule, "jax-ml/jax#16650"),
    "maximum at zero": (_maximum_at_zero, "jax-ml/jax#37821"),
    "maximum at zero elsewhere": (_maximum_at_zero_by_another_framework, "jax-ml/jax#37821"),
    "maximum at zero, negligible": (_maximum_at_zero_that_hardly_matters, "jax-ml/jax#37821"),
    "abs at zero": (_slope_of_abs_at_zero, "jax-ml/jax#37820"),
    "abs at zero elsewhere": (_slope_of_abs_at_zero_as_its_sign, "jax-ml/jax#37820"),
    "modulus of a complex zero": (_modulus_of_a_complex_zero, "jax-ml/jax#10515"),
    "tied maximum": (_tied_maximum, "jax-ml/jax#13600"),
    "first of tied maxima": (_first_of_tied_maxima, "jax-ml/jax#13600"),
    "relu at zero": (_relu_at_zero, "jax-ml/jax#2342"),
    "relu6 at both bounds": (_relu6_at_both_bounds, "jax-ml/jax#14682"),
    "softplus from max and abs": (_softplus_from_max_and_abs, "jax-ml/jax#2107"),
    "softplus at zero": (_softplus_at_zero, "jax-ml/jax#2140"),
    "softmax of tied logits": (_softmax_of_tied_logits, "jax-ml/jax#16093"),
    "tied maximum that cancels": (_tied_maximum_that_cancels, "jax-ml/jax#2260"),
    "maximum subtracted without gradient": (
        _maximum_subtracted_without_its_gradient,
        "jax-ml/jax#2260",
    ),
    "categorical sample": (_sample_of_a_categorical, "jax-ml/jax#17556"),
    "bernoulli sample": (_sample_of_a_bernoulli, "jax-ml/jax#11606"),
    "parameter as an index": (_parameter_as_an_index, "jax-ml/jax#5245"),
    "parameter chooses the branch": (_parameter_chooses_the_branch, "jax-ml/jax#14026"),
    "rounded weights": (_rounded_weights, "jax-ml/jax#9032"),
    "frozen part": (_frozen_part_of_the_parameters, "jax-ml/jax#892"),
    "frozen part, stop_gradient intended": (_frozen_part_by_intention, "jax-ml/jax#892"),
    "frozen part, leaf intended": (_frozen_leaf_by_intention, "jax-ml/jax#892"),
    "straight through by stop_gradient": (_straight_through_by_stop_gradient, "jax-ml/jax#9032"),
    "sign of one argument": (_wrong_sign_for_one_argument, "jax-ml/jax#13048"),
    "missing factor of two": (_missing_factor_of_two, "jax-ml/jax#29485"),
    "missing factor inside scan": (_missing_factor_inside_a_scan, "jax-ml/jax#29485"),
    "gradient doubled": (_gradient_doubled, "jax-ml/jax#1366"),
    "None for an argument": (_no_cotangent_for_an_argument, "jax-ml/jax#12982"),
    "rule of a rule": (_rule_of_a_rule_forgets_an_argument, "jax-ml/jax#21220"),
    "clipped gradient": (_clipped_gradient, "jax-ml/jax#2784"),
    "clipped gradient, intended": (_clipped_gradient_by_intention, "jax-ml/jax#2784"),
    "straight through by a rule": (
        _straight_through_by_a_rule,
        "jax-ml/jax#9032",
    ),
    "straight through by a rule, intended": (
        _straight_through_by_intention,
        "jax-ml/jax#9032",
    ),
    "right rule for a switch": (_right_rule_for_a_switch, "jax-ml/jax#14026"),
    "power by hand, sign": (_power_of_a_negative_number_by_hand, "jax-ml/jax#6024"),
    "power of a negative number": (_power_of_a_negative_number, "jax-ml/jax#6024"),
    "complex gradient": (_complex_gradient_in_this_convention, "jax-ml/jax#1853"),
    "complex gradient, conjugate": (
        _complex_gradient_in_the_conjugate_convention,
        "jax-ml/jax#1853",
    ),
    "entry that cholesky ignores": (
        _gradient_of_an_entry_that_cholesky_ignores,
        "jax-ml/jax#40421",
    ),
    "identity scaled by a million": (_identity_scaled_by_a_million, "jax-ml/jax#12328"),
    "bfloat16 loses a term": (_small_term_lost_in_bfloat16, "jax-ml/jax#29323"),
    "bfloat16 loses a term, linear": (_lost_term_with_a_right_gradient, "jax-ml/jax#29323"),
    "cancelling sum in bfloat16": (_cancelling_sum_rounded_to_bfloat16, "jax-ml/jax#40128"),
    "matrix product in float16": (_matrix_product_in_float16, "jax-ml/jax#18123"),
    "bfloat16 weights": (_bfloat16_weights_of_a_float32_loss, "jax-ml/jax#30337"),
    "tanh nearly saturated": (_slope_of_a_nearly_saturated_tanh, "jax-ml/jax#40388"),
    "expm1 at -40": (_slope_of_expm1_far_below_zero, "jax-ml/jax#39794"),
    "variance as a difference": (_variance_as_a_difference_of_squares, "jax-ml/jax#37281"),
    "recursion amplifies rounding": (_recursion_that_amplifies_rounding, "jax-ml/jax#11586"),
    "last digits in float64": (_last_digits_in_float64, "jax-ml/jax#3423"),
    "root of a square that underflows": (_root_of_a_square_that_underflows, "jax-ml/jax#38096"),
}
