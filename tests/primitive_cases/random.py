"""Cases for funcbackprop.reference.rules.random.

In float64 JAX draws other numbers than in float32, so these cases run in float64 only;
`test_reference_random` has those in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

from .case import Case, normal, uniform

X = normal(2, 3)
SEED = np.array(7, np.uint32)
ALPHA = np.array([0.05, 0.5, 1.0, 1.5, 4.0, 60.0])


def key(impl=None):
    return random.key(3, impl=impl)


def keys_of_all_kinds(seed, x):
    """Seeded, split, folded, cloned, wrapped and unwrapped keys."""
    first, second = random.split(random.fold_in(random.key(seed), 5))
    data = random.key_data(random.clone(first))
    again = random.wrap_key_data(data)
    return x * random.normal(again, x.shape) + random.uniform(second, x.shape)


def dropout(key, x):
    mask = random.bernoulli(key, 0.7, x.shape)
    return jnp.where(mask, x / 0.7, 0.0)


def old_style(x):
    key = random.PRNGKey(0)
    return x * random.normal(random.split(key)[1], x.shape)


def drawn_by(implementation):
    return lambda x: x * random.normal(key(implementation), x.shape)


DRAWS = {
    "normal": lambda k, m, s: m + jnp.exp(s) * random.normal(k, m.shape),
    "uniform": lambda k, m, s: random.uniform(k, m.shape, m.dtype, m, m + s**2),
    "truncated normal": lambda k, m, s: random.truncated_normal(k, m - s**2, m + 1, m.shape),
    "laplace and gumbel": lambda k, m, s: (
        m * random.laplace(k, m.shape) + s * random.gumbel(k, m.shape)
    ),
    "permutation": lambda k, m, s: random.permutation(k, m, axis=1) * s,
    "choice": lambda k, m, s: random.choice(k, m, (2,), axis=1) * s[:, :2],
    "categorical": lambda k, m, s: m * random.categorical(k, s, axis=-1)[:, None].astype(m.dtype),
    "integers": lambda k, m, s: m * random.randint(k, m.shape, 0, 9).astype(m.dtype),
    "bits": lambda k, m, s: m * (random.bits(k, m.shape, "uint8") > 100).astype(m.dtype),
}
OF_ALPHA = {
    "gamma": lambda k, a: random.gamma(k, a),
    "beta": lambda k, a: random.beta(k, a, 2.0 + a),
    "dirichlet": lambda k, a: random.dirichlet(k, a),
    "student's t": lambda k, a: random.t(k, 1 + a, a.shape),
}


def case(fun, *args, tolerance=1e-10):
    return Case(fun, args, tolerance, narrow=False)


CASES = {
    **{name: case(f, key(), X, normal(2, 3, seed=1)) for name, f in DRAWS.items()},
    "gamma": case(random.gamma, key(), ALPHA),
    "keys of all kinds": case(keys_of_all_kinds, SEED, X),
    "keys in the old style": case(old_style, X),
    "dropout": case(dropout, key(), X),
    "dropout under vmap": case(jax.vmap(dropout, in_axes=(None, 0)), key(), X),
    "a key for each row": case(jax.vmap(dropout), random.split(key(), 2), X),
    "gamma under vmap, a key for each row": case(
        jax.vmap(random.gamma), random.split(key(), 2), uniform(2, 3, low=0.3, high=4.0)
    ),
    "gamma, empty": case(random.gamma, key(), np.zeros((0, 2))),
    "loggamma": case(random.loggamma, key(), np.array([0.02, 0.5, 3.0])),
    "dropout in a scan": case(
        lambda k, x: lax.scan(lambda c, k: (dropout(k, c) + c, c.sum()), x, random.split(k, 3)),
        key(),
        X,
    ),
    "dropout inside grad": case(
        lambda k, x: jax.grad(lambda x: jnp.sum(dropout(k, x) ** 3))(x), key(), X
    ),
    "a generator of XLA": case(drawn_by("rbg"), X),
    "the unsafe generator of XLA": case(drawn_by("unsafe_rbg"), X),
    "threefry2x32 by itself": case(
        lambda x: x * (random.key_data(key())[0] > 0).astype(x.dtype), X
    ),
}
