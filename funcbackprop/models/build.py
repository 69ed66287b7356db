"""From a spec to a model: the one place where layers become `init` and `apply`."""

import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from .layers import init_layers, run_layers
from .spec import Layer, Model, Spec


def build(kind: str, layers: Sequence[Layer], **options: Any) -> Model:
    """The model with these layers; `options` are the arguments that it was constructed from."""
    spec = Spec(kind, tuple(options.items()), tuple(layers))
    return Model(functools.partial(_init, spec), functools.partial(_apply, spec), spec)


def _init(spec: Spec, key: chex.PRNGKey, example_input: chex.Array) -> chex.ArrayTree:
    """Parameters; only the shape and dtype of the example are used."""
    x = jax.eval_shape(jnp.asarray, example_input)
    params, _ = init_layers(spec.layers, key, x, f"{spec.kind}.init")
    return params


def _apply(
    spec: Spec,
    params: chex.ArrayTree,
    example_input: chex.Array,
    key: chex.PRNGKey | None = None,
) -> chex.Array:
    """The output for one example."""
    return run_layers(spec.layers, params, jnp.asarray(example_input), key, f"{spec.kind}.apply")
