"""Statistics against their definitions: one `jax.grad` per example, then two passes in float64."""

import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, build
from routes import ROUTES
from tolerances import assert_agree

import funcbackprop as fb

STATS = {
    "mean": fb.Mean(),
    "second_moment": fb.SecondMoment(),
    "variance": fb.Variance(),
    "per_example": fb.PerExample(),
    "sq_norms": fb.SquaredNorms(),
    "inner": fb.InnerWithMean(),
    "sq_deviations": fb.SquaredDeviations(),
}
WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 1.0, 0.0, 3.0])
OF_EVERY_KIND = ("linear", "remat", "cond on the example", "tied embedding")


def definition(loss, params, batch, weights):
    """The statistics of one leaf at a time, naively; also the sizes m of their terms."""
    n = len(weights)
    kept = weights > 0
    each = [jax.grad(loss)(params, jax.tree.map(lambda x, i=i: x[i], batch)) for i in range(n)]

    def leaf(*g):
        g = np.stack([np.asarray(x) for x in g])
        g = g.astype(np.complex128 if np.iscomplexobj(g) else np.float64)
        w = weights.reshape(n, *[1] * (g.ndim - 1))
        g = np.where(w > 0, g, 0)
        total = weights.sum()
        mean = (w * g).sum(0) / total
        deviations = np.where(w > 0, np.abs(g - mean) ** 2, 0)
        divisor = total - (weights**2).sum() / total
        variance = (w * deviations).sum(0) / divisor if kept.sum() > 1 else mean.real * np.nan
        size = np.abs(g).max(initial=0.0)

        def rows(x):
            return x.reshape(n, -1).sum(1)

        def spread_size(v):
            """A squared deviation carries the rounding eps m of the gradient: twice eps sqrt(v) m,
            and (eps m)^2, for which 1e-6 m^2 is room enough."""
            return (np.sqrt(v) + 1e-6 * size) * size

        values = {
            "mean": (mean, size),
            "second_moment": ((w * np.abs(g) ** 2).sum(0) / total, size**2),
            "variance": (variance, spread_size(np.nan_to_num(variance).max(initial=0.0))),
            "per_example": (g, size),
            "sq_norms": (rows(np.abs(g) ** 2), size**2),
            "inner": (rows((g * mean.conj()).real), rows(np.abs(g * mean)).max(initial=0.0)),
            "sq_deviations": (rows(deviations), spread_size(rows(deviations).max())),
        }
        return values

    leaves = [jax.tree.leaves(x) for x in each]
    return [leaf(*column) for column in zip(*leaves, strict=True)]


def check(name, route, dtype, weighted):
    loss, params, batch = build(name, dtype)
    n = CASES[name].examples
    weights = np.resize(WEIGHTS, n) if weighted else None
    given = batch
    if weighted:
        poison = [np.nan, np.inf]
        given = jax.tree.map(
            lambda x: x if x.dtype.kind == "i" else _poisoned(x, weights, poison), batch
        )
    jnp_weights = None if weights is None else jnp.asarray(weights, jnp.float32)
    losses, results = ROUTES[route](loss, STATS)(params, given, jnp_weights)
    weights = np.ones(n) if weights is None else weights
    expected = definition(loss, params, batch, weights)
    for i, columns in enumerate(expected):
        for stat, (value, size) in columns.items():
            got = jax.tree.leaves(results[stat])[i]
            if np.isnan(value).any():
                assert np.isnan(np.asarray(got)).all(), (name, stat)
            else:
                assert_agree(got.real, value.real, dtype, size, f"{name}/{stat}/{i}")
                assert_agree(got.imag, value.imag, dtype, size, f"{name}/{stat}/{i}")
    each = [loss(params, jax.tree.map(lambda x, i=i: x[i], batch)) for i in range(n)]
    assert_agree(losses, np.where(weights > 0, np.array(each), 0), dtype, name=name)


def _poisoned(x, weights, poison):
    for i in np.flatnonzero(weights == 0):
        x = x.at[i].set(poison[i % 2])
    return x


@pytest.mark.parametrize("name", CASES)
def test_definition_float32(name):
    check(name, "jit", "float32", True)


@pytest.mark.parametrize("name", ["linear", "batch of 1", "tied embedding", "recurrent"])
def test_definition_without_weights(name):
    check(name, "jit", "float32", False)


@pytest.mark.core
@pytest.mark.parametrize("name", ["linear", "tied embedding", "recurrent"])
def test_definition_core(name):
    check(name, "jit, chunks of 2", "float32", True)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["linear", "cond on the example", "mean dominates"])
def test_definition_float64(x64, name, route):
    check(name, route, "float64", True)


@pytest.mark.full
@pytest.mark.parametrize(
    ("route", "dtype"),
    [*((route, "float64") for route in ROUTES), ("jit, chunks of 2", "float32")],
)
@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_definition_all(x64, name, route, dtype):
    check(name, route, dtype, True)


@pytest.mark.core
def test_training_step_reads_as_documented():
    import optax

    loss, params, batch = build("linear", "float32")
    optimizer = optax.adam(1e-2)
    measure = fb.gradient_statistics(loss, {"mean": fb.Mean(), "sq_norms": fb.SquaredNorms()})

    @jax.jit
    def step(params, opt_state, batch):
        losses, g = measure(params, batch)  # noqa: RUF059
        updates, opt_state = optimizer.update(g["mean"], opt_state, params)
        return optax.apply_updates(params, updates), opt_state, fb.noise.moments(**g)

    new, _, moments = step(params, optimizer.init(params), batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, params)
    assert int(moments.status) == 0
    assert float(moments.S) > 0


def test_mean_is_the_gradient_of_the_mean_loss():
    loss, params, batch = build("recurrent", "float32")
    _, mean = fb.gradient_statistics(loss, fb.Mean())(params, batch)
    plain = jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(params)
    chex.assert_trees_all_close(mean, plain, rtol=1e-5)


def test_results_have_the_dtypes_that_an_optimizer_expects():
    params = {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(3, jnp.float16)}
    batch = jnp.ones((2, 3), jnp.float32) * jnp.array([[1.0], [3.0]])
    measure = fb.gradient_statistics(
        lambda p, x: jnp.sum((p["w"] + p["b"].astype(jnp.float32)) * x * 200),
        {"mean": fb.Mean(), "second": fb.SecondMoment(), "norms": fb.SquaredNorms()},
    )
    _, g = measure(params, batch)
    chex.assert_trees_all_equal_dtypes(g["mean"], params)
    # 600^2 is not a float16: squares are taken in float32.
    assert g["second"]["b"].dtype == jnp.float32
    np.testing.assert_allclose(g["second"]["b"], (200**2 + 600**2) / 2)
    np.testing.assert_allclose(g["norms"]["b"], [3 * 200**2, 3 * 600**2])


def test_variance_keeps_its_digits_where_squares_cancel():
    loss = lambda p, x: p * x  # noqa: E731
    x = 1e4 + jnp.arange(8.0)
    _, g = fb.gradient_statistics(loss, {"v": fb.Variance(), "s": fb.SecondMoment()})(
        jnp.float32(1), x
    )
    assert float(g["v"]) == pytest.approx(6.0, rel=1e-6)
    _, same = fb.gradient_statistics(loss, fb.Variance())(jnp.float32(1), jnp.full(8, 1e4))
    assert float(same) == 0.0


def test_aux_and_pytree_of_stats():
    def loss(p, x):
        return jnp.sum(p * x), {"doubled": 2 * x, "large": x[0] > 0}

    stats = [fb.Mean(), (fb.SquaredNorms(), {"v": fb.Variance()})]
    measure = fb.gradient_statistics(loss, stats, has_aux=True)
    x = jnp.array([[1.0, 2.0], [-3.0, 4.0], [jnp.nan, 0.0]])
    (losses, aux), results = measure(jnp.ones(2), x, jnp.array([1.0, 1.0, 0.0]))
    chex.assert_trees_all_equal(losses, jnp.array([3.0, 1.0, 0.0]))
    chex.assert_trees_all_equal(aux["doubled"], jnp.array([[2.0, 4.0], [-6.0, 8.0], [0.0, 0.0]]))
    chex.assert_trees_all_equal(aux["large"], jnp.array([True, False, False]))
    assert jax.tree.structure(results) == jax.tree.structure([0, (0, {"v": 0})])


def test_random_keys_in_the_example():
    def loss(p, example):
        x, key = example
        return jnp.sum(p * x * jax.random.bernoulli(key, 0.5, x.shape))

    batch = fb.attach_keys(jnp.ones((64, 2)), jax.random.key(3))
    _, g = fb.gradient_statistics(loss, fb.PerExample())(jnp.ones(2), batch)
    assert 0.3 < float(g.mean()) < 0.7
    assert len(np.unique(np.asarray(g), axis=0)) == 4  # masks differ between examples


@pytest.mark.parametrize(("weight", "is_nan"), [(1.0, False), (0.0, True)])
def test_all_padding_gives_nan_not_a_silent_number(weight, is_nan):
    stats = {"m": fb.Mean(), "s": fb.SecondMoment(), "v": fb.Variance()}
    measure = fb.gradient_statistics(lambda p, x: p * x, stats)
    _, g = measure(1.0, jnp.arange(3.0), jnp.full(3, weight))
    assert all(bool(jnp.isnan(x)) == is_nan for x in jax.tree.leaves(g))


class TestVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_with_and_without_jit(self):
        loss, params, batch = build("linear", "float32")
        measure = self.variant(fb.gradient_statistics(loss, fb.Variance()))
        _, variance = measure(params, batch)
        chex.assert_tree_all_finite(variance)

    def test_one_trace_per_shape(self):
        loss, params, batch = build("linear", "float32")
        measure = fb.gradient_statistics(loss, fb.Mean())
        chex.clear_trace_counter()
        traced = jax.jit(chex.assert_max_traces(lambda p, b: measure(p, b), n=1))
        for _ in range(3):
            traced(params, batch)


def test_inside_scan_over_micro_batches():
    loss, params, batch = build("linear", "float32")
    parts = jax.tree.map(lambda x: jnp.stack([x[:3], x[3:6]]), batch)
    measure = fb.gradient_statistics(loss, {"mean": fb.Mean(), "n": fb.SquaredNorms()})
    _, (losses, results) = jax.lax.scan(lambda c, b: (c, measure(params, b)), 0, parts)
    expected = measure(params, jax.tree.map(lambda x: x[:6], batch))
    chex.assert_trees_all_close(losses.reshape(-1), expected[0], rtol=1e-6)
    merged = jax.tree.map(lambda x: x.mean(0), results["mean"])
    chex.assert_trees_all_close(merged, expected[1]["mean"], rtol=1e-5)


def test_states_merge_in_any_grouping():
    loss, params, batch = build("linear", "float32")
    stats = {"v": fb.Variance(), "m": fb.SecondMoment(), "n": fb.SquaredNorms()}
    measure = fb.gradient_statistics(loss, stats)
    weights = jnp.array([1.0, 2.0, 0.0, 1.0, 1.0, 3.0, 0.5])

    def states(rows):
        part = jax.tree.map(lambda x: x[rows], batch)
        return measure.states(params, part, weights[rows])[2]

    a, b, c = states(slice(0, 1)), states(slice(1, 3)), states(slice(3, 7))
    left = measure.finalize(measure.merge(measure.merge(a, b), c), params)
    right = measure.finalize(measure.merge(a, measure.merge(b, c)), params)
    whole = measure(params, batch, weights)[1]
    chex.assert_trees_all_close(left, right, rtol=1e-5)
    chex.assert_trees_all_close(left, whole, rtol=1e-5)


ERRORS = {
    "class for a statistic": (
        lambda: fb.gradient_statistics(lambda p, x: p, {"mean": fb.Mean}),
        TypeError,
        r"stats\['mean'\] must be a statistic.*write Mean\(\)",
    ),
    "not a statistic": (
        lambda: fb.gradient_statistics(lambda p, x: p, ["mean"]),
        TypeError,
        r"stats\[0\] must be a statistic.*got 'mean'",
    ),
    "unknown method": (
        lambda: fb.gradient_statistics(lambda p, x: p, fb.Mean(), method="fast"),
        ValueError,
        "`method` must be one of 'factored', 'materialize', got 'fast'",
    ),
    "memory limit": (
        lambda: fb.gradient_statistics(lambda p, x: p, fb.Mean(), memory_limit=0),
        ValueError,
        "`memory_limit` must be a positive number of bytes",
    ),
    "loss is not callable": (
        lambda: fb.gradient_statistics(3, fb.Mean()),
        TypeError,
        "`loss` must be callable, got int",
    ),
    "unequal lengths": (
        lambda: _measure(lambda p, x: p * x[0] * x[1], (jnp.ones(3), jnp.ones(2))),
        ValueError,
        r"equal length(.|\n)*batch\[0\]: shape \(3,\)(.|\n)*batch\[1\]: shape \(2,\)",
    ),
    "no batch axis": (
        lambda: _measure(lambda p, x: p * x, 1.0),
        ValueError,
        r"every leaf of `batch` needs one leading axis(.|\n)*shape \(\)",
    ),
    "no arrays": (lambda: _measure(lambda p, x: p, ()), ValueError, "has no arrays"),
    "no examples": (lambda: _measure(lambda p, x: p * x, jnp.ones(0)), ValueError, "0 examples"),
    "weights of the wrong shape": (
        lambda: _measure(lambda p, x: p * x, jnp.ones(3), jnp.ones(2)),
        ValueError,
        r"`weights` must have shape \(3,\).*got \(2,\)",
    ),
    "loss of a batch": (
        lambda: _measure(lambda p, x: p * x, jnp.ones((3, 2))),
        ValueError,
        r"must be a real floating-point scalar, got shape \(2,\)(.|\n)*one_example",
    ),
    "integer parameters alone": (
        lambda: fb.gradient_statistics(lambda p, x: p["step"] * x, fb.Mean())(
            {"step": 3}, jnp.ones(3)
        ),
        TypeError,
        r"floating-point parameters, got\n  params\['step'\]: int",
    ),
    "aux without has_aux": (
        lambda: _measure(lambda p, x: (p * x, x), jnp.ones(3)),
        TypeError,
        "pass has_aux=True",
    ),
    "has_aux without aux": (
        lambda: fb.gradient_statistics(lambda p, x: p * x, fb.Mean(), has_aux=True)(
            1.0, jnp.ones(3)
        ),
        TypeError,
        r"must return \(scalar, aux\)",
    ),
}


def _measure(loss, batch, weights=None):
    return fb.gradient_statistics(loss, fb.Mean())(jnp.float32(1), batch, weights)


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
import funcbackprop as fb
from jax.sharding import AxisType, PartitionSpec as P
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
stats = {"norms": fb.SquaredNorms(), "mean": fb.Mean(), "v": fb.Variance()}
x = jnp.arange(1.0, 9.0)
w = jnp.array([1.0, 1, 1, 0, 1, 1, 1, 1])
for limit in (None, 24):                              # one chunk, and chunks of 2
    measure = fb.gradient_statistics(lambda p, x: 0.5 * (p - x) ** 2, stats, memory_limit=limit)
    def local(p, x, w):
        g = measure(p, x, w)[1]
        mean = fb.per_example.mean_gradient(lambda p, x: 0.5 * (p - x) ** 2)(p, x, w)[2]
        return g["norms"], g["mean"][None], g["v"][None], mean[None]
    f = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d"), P("d")),
                              out_specs=(P("d"),) * 4))
    norms, mean, variance, plain = f(jnp.float32(0), x, w)
    np.testing.assert_allclose(norms, np.where(w > 0, x**2, 0))
    np.testing.assert_allclose(mean, [-2.0, -6.5])    # of each device's own examples
    np.testing.assert_allclose(plain, mean)
    np.testing.assert_allclose(variance, [1.0, 5 / 3], rtol=1e-6)
"""


BOTH_WAYS = """
import jax, numpy as np, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import funcbackprop as fb

mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
model = fb.models.transformer(9, 5, 8, depth=2, heads=2, remat=True, tied=True)
loss = fb.example_loss(model.apply, fb.losses.next_token)
x, y = np.random.default_rng(0).integers(0, 9, (2, 8, 5)).astype(np.int32)
params = model.init(jax.random.key(0), x[0])
stats = [fb.Mean(), fb.SquaredNorms(), fb.Variance()]
measure = jax.jit(fb.gradient_statistics(loss, stats))

def assert_close(a, b):
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(u, v, rtol=1e-3, atol=1e-5)

assert_close(
    measure(params, jax.device_put((x, y), NamedSharding(mesh, P("d")))), measure(params, (x, y))
)
def local(params, x, y):
    return jax.tree.map(lambda r: r[None], measure(params, (x, y)))
each = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P("d")))
for d, part in enumerate((slice(0, 4), slice(4, 8))):
    own = jax.tree.map(lambda r: r[d], each(params, x, y))
    assert_close(own, measure(params, (x[part], y[part])))
"""


@pytest.mark.parametrize(
    "code",
    [pytest.param(SHARDED, marks=pytest.mark.core), BOTH_WAYS],
    ids=["formulas", "transformer"],
)
def test_on_sharded_batches(code):
    """Inside `shard_map`, JAX would sum the gradients of replicated parameters over the devices."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "NPROC": "32", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("unit", [1e-20, 1e-3, 1.0, 1e20])
def test_weights_have_no_unit(unit):
    measure = fb.gradient_statistics(
        lambda p, x: p * x, {"mean": fb.Mean(), "variance": fb.Variance(), "s": fb.SquaredNorms()}
    )
    w = jnp.array([1.0, 2.0, 0.5, 0.0]) * unit
    x = jnp.array([1.0, 2.0, 4.0, 8.0])
    _, g = measure(jnp.float32(1), x, w)
    _, expected = measure(jnp.float32(1), x, w / unit)
    chex.assert_trees_all_close(g, expected, rtol=1e-5)
    m = fb.noise.moments(g["mean"], g["s"], weights=w)
    assert float(m.S) == pytest.approx(float(g["variance"]), rel=1e-5)
    _, single = measure(jnp.float32(1), x[:1], w[:1])
    assert np.isnan(single["variance"])


@pytest.mark.parametrize(("bad", "text"), [(-1.0, "-1.0"), (np.nan, "nan"), (np.inf, "inf")])
def test_weights_that_are_none(bad, text):
    measure = fb.gradient_statistics(lambda p, x: p * x, fb.Mean())
    weights = jnp.array([1.0, bad, 1.0])
    with pytest.raises(ValueError, match=f"row 1 has {text}"):
        measure(jnp.float32(1), jnp.ones(3), weights)
    _, traced = jax.jit(measure)(jnp.float32(1), jnp.ones(3), weights)
    assert np.isnan(traced)


def test_python_numbers_for_parameters():
    stats = {"i": fb.InnerWithMean(), "d": fb.SquaredDeviations(), "m": fb.Mean()}
    _, g = fb.gradient_statistics(lambda p, x: p * x, stats)(2.0, jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(g["i"], [2, 6])
    np.testing.assert_allclose(g["d"], [1, 1])
