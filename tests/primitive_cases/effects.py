"""Cases for funcbackprop.reference.rules.effects, and for the calls that capture flattens."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import checkify, compute_on, io_callback
from jax.experimental import pallas as pl

from .case import Case, normal

X = normal(3)


@jax.custom_batching.custom_vmap
def batched(x):
    return jnp.sin(x)


@batched.def_vmap
def _of_batch(size, in_batched, x):
    return jnp.sin(x), True


@jax.custom_gradient
def with_gradient(x):
    return jnp.sin(x), lambda dy: dy * jnp.cos(x)


@jax.custom_vjp
def rematerialized(x):
    return jnp.sin(x)


rematerialized.defvjp(
    lambda x: (jnp.sin(x), x), lambda x, dy: (dy * jnp.cos(x),), optimize_remat=True
)


@jax.custom_vjp
def straight_through(x):
    """The rule says 1; the function itself is flat."""
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, dy: (dy,))


def by_linear_call(x):
    """x -> e * x, linear in x, with its transpose; JAX differentiates it in x only."""
    return jax.custom_derivatives.linear_call(
        lambda e, x: e * x, lambda e, dy: e * dy, jnp.arange(3.0).astype(x.dtype), jnp.sin(x)
    )


def pull_of(f):
    return lambda x, dy: jax.vjp(f, x)[1](dy)


def watched(x):
    jax.debug.callback(lambda x: None, x)
    return jnp.sin(x)


def checked(x):
    def f(x):
        checkify.check(jnp.all(x < 9), "too large")
        return jnp.sin(x)

    return checkify.checkify(f)(x)[1]


def on_host(x):
    """A callback through which no gradient flows."""
    return x * jax.pure_callback(np.cos, x, lax.stop_gradient(x))


def with_effect(x):
    return x * io_callback(np.cos, x, lax.stop_gradient(x))


def by_kernel(x):
    def double(x_ref, y_ref):
        y_ref[...] = 2 * x_ref[...]

    run = pl.pallas_call(double, jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)
    return x * run(lax.stop_gradient(x))


def twice(x):
    return jnp.sin(jnp.sin(x))


POLICY = jax.checkpoint_policies.dots_with_no_batch_dims_saveable

CASES = {
    "jit": Case(jax.jit(twice), (X,)),
    "jit in jit, called twice": Case(jax.jit(lambda x: jax.jit(twice)(jax.jit(twice)(x))), (X,)),
    "checkpoint": Case(jax.checkpoint(twice), (X,)),
    "checkpoint with a policy": Case(
        jax.checkpoint(lambda x: twice(jnp.outer(x, x) @ x), policy=POLICY), (X,)
    ),
    "checkpoint in a gradient": Case(
        jax.grad(lambda x: jnp.sum(jax.checkpoint(twice)(x) ** 2)), (X,)
    ),
    "checkpoint in scan": Case(
        lambda x: lax.scan(lambda c, x: (jax.checkpoint(twice)(c * x), c), 1.0 + x[0], x), (X,)
    ),
    "custom_vmap": Case(batched, (X,), jax=False, expect=pull_of(jnp.sin)),
    "custom_vmap, batch": Case(jax.vmap(batched), (normal(2, 3),)),
    "composite": Case(lax.composite(twice, "tests.twice"), (X,), jax=False, expect=pull_of(twice)),
    "linear_call": Case(by_linear_call, (X,)),
    "custom_gradient": Case(with_gradient, (X,)),
    "custom_vjp with rematerialization, in a gradient": Case(
        jax.grad(lambda x: jnp.sum(rematerialized(x) ** 2)),
        (X,),
        jax=False,
        expect=pull_of(lambda x: jnp.sin(2 * x)),
    ),
    # The body is differentiated, not the rule.
    "custom_vjp that differs from its function": Case(
        lambda x: x * straight_through(x),
        (X,),
        jax=False,
        expect=lambda x, dy: (dy * np.round(x),),
    ),
    "named_call": Case(jax.named_call(twice, name="twice"), (X,)),
    "debug": Case(watched, (X,)),
    "checkify": Case(checked, (X,)),
    "pure_callback": Case(on_host, (X,), narrow=False),
    "io_callback": Case(with_effect, (X,), narrow=False),
    "pallas_call": Case(by_kernel, (X,), narrow=False),
}

# Under its own name in 0.10, under that of an older function in 0.12.
COMPUTE_ON = getattr(compute_on, "compute_on2", None) or compute_on.compute_on
if jax.__version_info__ >= (0, 10):
    CASES["compute_on"] = Case(
        COMPUTE_ON(twice, compute_type="device_host", out_memory_spaces=jax.memory.Space.Device),
        (X,),
    )
