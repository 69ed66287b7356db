"""Training on all devices of all processes: each holds the parameters and some examples of a batch.

XLA divides the work of a compiled step by where its arguments lie, so a training step needs no word
about devices. These functions lay the arguments out. With one device everything stays as it is.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..contract import batch_size, filled

AXIS = "batch"


def device_mesh() -> Mesh:
    """All devices of all processes, along one axis named `"batch"`.

    >>> device_mesh().axis_names
    ('batch',)
    """
    return Mesh(np.array(jax.devices()), (AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """`tree`, such as a training state, with every array whole on every device of `mesh`.

    Args:
      tree: the same in all processes.
      mesh: from `device_mesh`, or any other.

    >>> state = replicate({"w": np.ones(3)}, device_mesh())
    >>> state["w"].is_fully_replicated
    True
    """
    return jax.tree.map(lambda x: _laid_out(x, everywhere(mesh)), tree)


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on every device.

    >>> everywhere(device_mesh()).is_fully_replicated
    True
    """
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: chex.ArrayTree, weights: Any, mesh: Mesh) -> tuple[Any, chex.Array | None]:
    """`(batch, weights)` with the examples split over the devices of `mesh`, in order.

    Examples of weight 0, copies of the first ones, fill the batch up to a multiple of the number of
    devices; weights None then become ones and zeros.

    Args:
      batch: pytree with a leading axis of length B on every leaf, the same in all processes: each
        puts only its own rows on its devices.
      weights: [B] or None.
      mesh: from `device_mesh`, or any other: the examples are split over all of its axes.

    >>> batch, weights = shard_batch(np.arange(8.0), None, device_mesh())
    >>> batch.sharding.num_devices == jax.device_count()
    True
    """
    size = batch_size(batch, "shard_batch")
    extra = -size % mesh.size
    if extra:
        batch, weights = filled(batch, weights, size + extra)
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.tree.map(lambda x: _laid_out(x, sharding), (batch, weights))


def shard_batches(data: Callable[[int], tuple], mesh: Mesh) -> Callable[[int], tuple]:
    """`data`, a function `step -> (batch, weights or None)`, with every batch by `shard_batch`.

    >>> from funcbackprop.training import batches
    >>> feed = shard_batches(batches(np.arange(8.0), 4), device_mesh())
    >>> feed(0)[0].shape
    (4,)
    """

    def feed(step):
        batch, weights = data(step)
        return shard_batch(batch, weights, mesh)

    return feed


def on_this_device(tree: Any) -> Any:
    """A replicated tree's own copy on the first device of this process."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def _laid_out(x: Any, sharding: NamedSharding) -> jax.Array:
    """The array with this sharding; `x` must hold the same numbers in all processes."""
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
        # On one device without a mesh, the array has another type than what a step returns for
        # data on the mesh, and all would be compiled twice.
        return x if isinstance(x.sharding, NamedSharding) else jax.device_put(x, sharding)
    if not hasattr(x, "dtype"):
        x = np.asarray(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _laid_out(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
