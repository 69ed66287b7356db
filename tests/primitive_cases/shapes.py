"""Cases for funcbackprop.reference.rules.shapes."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src.lax.lax import tie_p
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import layout, xla_metadata
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .case import Case, cplx, normal

SHAPES = {"scalar": (), "vector": (4,), "empty": (0, 3), "rank 4": (2, 1, 3, 2)}
EXPLICIT = jax.make_mesh((1,), ("i",), (jax.sharding.AxisType.Explicit,))
REPLICATED = NamedSharding(Mesh(np.array(jax.devices()[:1]), "i"), PartitionSpec())

# Case -> (shape of the operand, padding configuration).
PADDINGS = {
    "of a scalar": ((), ()),
    "before and after": ((3,), ((1, 2, 0),)),
    "between": ((3,), ((0, 0, 2),)),
    "everywhere": ((2, 3), ((1, 0, 1), (2, 1, 2))),
    "none": ((2, 3), ((0, 0, 0), (0, 0, 0))),
    "negative, before": ((4,), ((-1, 0, 0),)),
    "negative, after": ((4,), ((0, -3, 0),)),
    "negative, both": ((5, 2), ((-2, -1, 0), (1, -1, 0))),
    "negative, cuts between elements": ((4,), ((-2, -1, 2),)),
    "negative, cuts into the padding": ((4,), ((-4, 5, 1),)),
    "negative, leaves padding only": ((3,), ((-4, 6, 0),)),
    "negative, cuts all from the front": ((3,), ((6, -4, 0),)),
    "negative, leaves nothing": ((3,), ((-1, -2, 0),)),
    "of an empty axis": ((0, 2), ((2, 1, 3), (0, 1, 0))),
    "rank 4": ((2, 1, 3, 2), ((0, 1, 0), (1, 1, 2), (-1, 0, 1), (0, -1, 0))),
}


def _weighted(ys):
    """Different weights, so that results that are swapped are noticed."""
    return sum(jnp.sum(jnp.sin((k + 1) * y)) for k, y in enumerate(ys))


def _in_one_slice(x):
    """Only one of the parts is used: the cotangents of the others are zero."""
    return jnp.split(x, 3)[1] ** 2


def _on_mesh(x):
    return lax.with_sharding_constraint(x * x, REPLICATED) * x


def _with_layout(x):
    return layout.with_layout_constraint(x * x, layout.Layout((1, 0))) * x


def _device_put(x, n, y):
    x, n, y = jax.device_put((x * x, n, jnp.sin(y)), jax.devices()[0])
    return x * n, y


def _resharded(x):
    return 2 * jax.sharding.reshard(x * x, NamedSharding(EXPLICIT, PartitionSpec()))


CASES = {
    "tie": Case(lambda x, y: tie_p.bind(x, y) * x, (normal(3), normal(3, seed=1))),
    # Broadcasting.
    **{
        f"broadcast_in_dim, {kind}": Case(lambda x: lax.broadcast(x, (2, 3)) * 2, (normal(*s),))
        for kind, s in SHAPES.items()
    },
    "broadcast_in_dim of axes of size 1": Case(
        lambda x: jnp.broadcast_to(x, (4, 3, 5)), (normal(3, 1),)
    ),
    "broadcast_in_dim, axes apart": Case(
        lambda x: lax.broadcast_in_dim(x, (2, 4, 3), (0, 2)), (normal(2, 3),)
    ),
    "broadcast_in_dim to an empty array": Case(
        lambda x: jnp.broadcast_to(x, (0, 3)), (normal(1, 3),)
    ),
    "broadcast_in_dim, complex": Case(lambda x: jnp.broadcast_to(x, (2, 3)), (cplx(3),)),
    "broadcast_in_dim under vmap": Case(
        jax.vmap(lambda x: jnp.broadcast_to(x[:, None], (3, 2)), 1), (normal(3, 4),)
    ),
    "expand_dims": Case(lambda x: jnp.expand_dims(x, (0, 2)) ** 2, (normal(2, 3),)),
    "tile": Case(lambda x: jnp.tile(x, (2, 1, 3)) ** 2, (normal(1, 2, 2),)),
    "tile, more copies than axes": Case(lambda x: jnp.tile(x, (2, 3)), (normal(3),)),
    "tile, no copies": Case(lambda x: jnp.tile(x, (0, 2)), (normal(2, 3),)),
    "tile, complex, under vmap": Case(jax.vmap(lambda x: jnp.tile(x, 2)), (cplx(3, 2),)),
    "repeat": Case(lambda x: jnp.repeat(x, 3, axis=1), (normal(2, 2),)),
    # One array to another.
    "reshape": Case(lambda x: jnp.reshape(x, (3, 4)) ** 2, (normal(2, 1, 6),)),
    "reshape to a scalar": Case(lambda x: jnp.reshape(x, ()), (normal(1, 1),)),
    "reshape of an empty array": Case(lambda x: jnp.reshape(x, (3, 0, 2)), (normal(0, 3),)),
    "reshape with an order of axes": Case(
        lambda x: lax.reshape(x, (4, 6), (2, 0, 1)), (normal(2, 3, 4),)
    ),
    "reshape with an order of axes, under vmap": Case(
        jax.vmap(lambda x: lax.reshape(x, (6,), (1, 0)), 2), (normal(2, 3, 4),)
    ),
    "reshape in Fortran order": Case(lambda x: jnp.ravel(x, order="F"), (cplx(2, 3),)),
    "squeeze": Case(lambda x: jnp.squeeze(x) ** 2, (normal(1, 2, 1),)),
    "squeeze of one axis": Case(lambda x: lax.squeeze(x, (-1,)), (cplx(1, 2, 1),)),
    "transpose": Case(lambda x: jnp.transpose(x, (2, 0, 3, 1)) ** 2, (normal(2, 1, 3, 2),)),
    "transpose of a scalar": Case(lambda x: lax.transpose(x, ()), (normal(),)),
    "transpose, complex": Case(lambda x: x.T, (cplx(2, 3),)),
    **{
        f"rev, {kind}": Case(lambda x: jnp.flip(x) ** 2, (normal(*s),))
        for kind, s in SHAPES.items()
    },
    "rev of one axis": Case(lambda x: x[:, ::-1], (cplx(2, 3),)),
    "rev of two axes": Case(lambda x: lax.rev(x, (2, 0)), (normal(2, 3, 4),)),
    "slice": Case(lambda x: x[1:3, :2] ** 2, (normal(4, 3),)),
    "slice of a scalar": Case(lambda x: lax.slice(x, (), ()), (normal(),)),
    "slice with strides": Case(lambda x: lax.slice(x, (1, 0), (6, 3), (3, 2)), (normal(7, 4),)),
    "slice backwards": Case(lambda x: x[5:1:-2], (cplx(7),)),
    "slice that is empty": Case(lambda x: x[2:2], (normal(4, 2),)),
    "slice under vmap": Case(jax.vmap(lambda x: x[1::2], 1), (normal(5, 2),)),
    **{
        f"pad, {kind}": Case(
            lambda x, v, c=config: lax.pad(x, v, c), (normal(*shape), np.array(0.7))
        )
        for kind, (shape, config) in PADDINGS.items()
    },
    "pad with a literal": Case(lambda x: jnp.pad(x, 2) ** 2, (normal(2, 3),)),
    "pad, complex": Case(lambda x, v: lax.pad(x, v, ((1, -1, 1),)), (cplx(3), cplx())),
    "pad, values under vmap": Case(
        jax.vmap(lambda x, v: lax.pad(x, v, ((1, -1, 1),))), (normal(2, 3), normal(2))
    ),
    "pad, one operand and many values": Case(
        jax.vmap(lambda x, v: lax.pad(x, v, ((1, 0, 1),)), (None, 0)), (normal(3), normal(2))
    ),
    "pad of integers": Case(lambda n, x: x * jnp.pad(n, (1, 0))[:3], (np.arange(3), normal())),
    # Several arrays.
    "concatenate": Case(
        lambda x, y: jnp.concatenate([x, y, x * x], 1), (normal(2, 3), normal(2, 1))
    ),
    "concatenate with an empty array": Case(
        lambda x, y: jnp.concatenate([x, y]), (normal(0, 2), cplx(2, 2))
    ),
    "concatenate of one": Case(lambda x: lax.concatenate([x], 0), (normal(2, 3),)),
    "concatenate with constants": Case(lambda x: jnp.concatenate([x, jnp.ones(2)]), (normal(3),)),
    "concatenate under vmap": Case(
        jax.vmap(lambda x, y: jnp.concatenate([x, y]), (1, None)), (normal(3, 2), normal(2))
    ),
    "split": Case(lambda x: _weighted(jnp.split(x, (1, 1, 3), axis=1)), (normal(2, 4),)),
    "split, one part used": Case(_in_one_slice, (cplx(6),)),
    "split under vmap": Case(jax.vmap(lambda x: _weighted(jnp.split(x, 2)), 1), (normal(4, 3),)),
    "stack": Case(lambda x, y: jnp.stack([x, y, x * y], 1), (normal(2, 3), normal(2, 3, seed=1))),
    "stack of scalars": Case(lambda x, y: jnp.stack([x, y]) ** 2, (normal(), normal(seed=1))),
    "stack, last axis, complex": Case(
        lambda x, y: jnp.stack([x, y], -1), (cplx(2, 2), cplx(2, 2, seed=1))
    ),
    "stack under vmap": Case(
        jax.vmap(lambda x, y: jnp.stack([x, y]), (0, None)), (normal(3, 2), normal(2))
    ),
    "unstack": Case(lambda x: _weighted(jnp.unstack(x, axis=1)), (normal(2, 3),)),
    "unstack of a vector": Case(lambda x: _weighted(tuple(x)), (normal(3),)),
    "unstack, one part used": Case(lambda x: jnp.unstack(x)[2] ** 2, (cplx(3, 2),)),
    "unstack under vmap": Case(
        jax.vmap(lambda x: _weighted(jnp.unstack(x, axis=1)), 1), (normal(2, 4, 3),)
    ),
    "meshgrid": Case(jnp.meshgrid, (normal(2), normal(3))),
    "roll": Case(lambda x: jnp.roll(x, 2, 0) * x, (normal(5, 2),)),
    "block": Case(lambda x: jnp.block([[x, 2 * x], [x.T, x * x]]), (normal(2, 2),)),
    "gradient of shapes": Case(
        jax.grad(lambda x: _weighted(jnp.split(jnp.pad(x, 1)[::3].reshape(-1), 2))), (normal(4, 3),)
    ),
    # No inputs.
    "iota": Case(lambda x: x * lax.iota(x.dtype, 3) + jnp.arange(3), (normal(3),)),
    "iota along an axis": Case(
        lambda x: x * lax.broadcasted_iota(x.dtype, (2, 3), 0), (normal(2, 3),)
    ),
    # What passes unchanged.
    "optimization_barrier": Case(
        lambda x, n, y: lax.optimization_barrier((x * x, n, jnp.sin(y))),
        (normal(3), np.arange(2), cplx(2)),
    ),
    "optimization_barrier, one part used": Case(
        lambda x, y: lax.optimization_barrier((x * x, y))[0], (normal(3), normal(2))
    ),
    "name": Case(lambda x: checkpoint_name(x * x, "square") * x, (normal(3),)),
    "name in a checkpoint": Case(
        jax.grad(jax.checkpoint(lambda x: jnp.sum(checkpoint_name(jnp.sin(x), "sine") ** 2))),
        (normal(3),),
    ),
    "device_put": Case(_device_put, (normal(3), np.arange(3), cplx(2))),
    "sharding_constraint": Case(_on_mesh, (normal(2, 3),)),
    "layout_constraint": Case(_with_layout, (normal(2, 3),)),
    "xla_metadata_value": Case(
        lambda x: xla_metadata.set_xla_metadata(x * x, note="square") * x,
        (normal(3),),
        jax=False,  # JAX 0.7 fails in its rule.
        expect=lambda x, dy: (3 * x * x * dy,),
    ),
    "reshard": Case(_resharded, (normal(3),)),
}
if hasattr(lax, "empty"):
    CASES["empty"] = Case(lambda x: x * 0 + 0 * lax.empty((3,), x.dtype), (normal(3),))
if hasattr(lax, "tile"):
    CASES["tile of lax"] = Case(lambda x: lax.tile(x, (2, 3)) ** 2, (normal(2, 2),))
if importlib.util.find_spec("jax.experimental.shard_alike"):  # removed in JAX 0.12
    from jax.experimental.shard_alike import shard_alike

    CASES["shard_alike"] = Case(
        lambda x, y: shard_alike(x * x, jnp.sin(y)), (normal(3), normal(3, seed=1))
    )
