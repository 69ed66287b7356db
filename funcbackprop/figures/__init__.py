"""How figures look. Plain data in, a matplotlib figure out; no JAX and no pyplot state.

A curve is a dict `seed -> (steps, values)`; None or NaN stands for a value that could not be had.
Several seeds are drawn as their mean with a band from the smallest to the largest, a single seed
with the limits of its values. What a log axis cannot hold is drawn as a hollow marker at the edge
and named in the legend, never left out.
"""

from .bands import Band, Curve, Limits, band, floats
from .check import gradient_check
from .compare import metrics_of_runs, noise_scales_of_runs
from .curvature import sharpness
from .effect import effect_while_training
from .layers import layer_shares, layer_variance
from .learning import learning_curves
from .noise import gradient_noise, noise_scale, tracked_noise_scale
from .sizes import variance_at_sizes
from .spread import variance_by_leaf
from .style import PALETTE, save, write

__all__ = [
    "PALETTE",
    "Band",
    "Curve",
    "Limits",
    "band",
    "effect_while_training",
    "floats",
    "gradient_check",
    "gradient_noise",
    "layer_shares",
    "layer_variance",
    "learning_curves",
    "metrics_of_runs",
    "noise_scale",
    "noise_scales_of_runs",
    "save",
    "sharpness",
    "tracked_noise_scale",
    "variance_at_sizes",
    "variance_by_leaf",
    "write",
]
