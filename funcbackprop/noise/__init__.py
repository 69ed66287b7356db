"""What the statistics mean: gradient variance and the noise scale."""

from . import reduction
from .across_batches.result import GradientVariance, Prediction
from .across_batches.sampling import ShuffledEpochs, WithoutReplacement, WithReplacement
from .across_batches.spread import Spread
from .across_batches.variance import gradient_variance
from .batch_size.criteria import BatchSizeTest, inner_product_test, norm_test, orthogonality_test
from .batch_size.recommend import Recommendation, recommend_batch_size
from .batch_size.schedules import EarlyStopping, adascale_gain, cabs, early_stopping
from .estimate import Estimate, jackknife
from .geometry.directions import Confusion, Diversity, Stiffness, confusion, diversity, stiffness
from .geometry.signal import CoordinateRatio, gsnr, normalised_variance
from .geometry.spectrum import (
    CovarianceSpectrum,
    EffectiveRank,
    covariance_spectrum,
    effective_rank,
)
from .geometry.tail import TailIndex, tail_index
from .moments import Moments, moments
from .scale.batches import noise_scale_of_batches
from .scale.curved import CurvatureNoiseScale, curvature_noise_scale
from .scale.examples import noise_scale
from .scale.preconditioned import preconditioned_loss, preconditioned_noise_scale
from .scale.preconditioner import preconditioner
from .scale.result import NoiseScale
from .status import STATUS
from .tracking.optimizer import TrackedState, track, tracked
from .tracking.result import RecentNoise, TrackedNoise, tracked_noise, tracked_state
from .tracking.slots import TrackerState
from .tracking.tracker import Tracker, tracker

__all__ = [
    "STATUS",
    "BatchSizeTest",
    "Confusion",
    "CoordinateRatio",
    "CovarianceSpectrum",
    "CurvatureNoiseScale",
    "Diversity",
    "EarlyStopping",
    "EffectiveRank",
    "Estimate",
    "GradientVariance",
    "Moments",
    "NoiseScale",
    "Prediction",
    "RecentNoise",
    "Recommendation",
    "ShuffledEpochs",
    "Spread",
    "Stiffness",
    "TailIndex",
    "TrackedNoise",
    "TrackedState",
    "Tracker",
    "TrackerState",
    "WithReplacement",
    "WithoutReplacement",
    "adascale_gain",
    "cabs",
    "confusion",
    "covariance_spectrum",
    "curvature_noise_scale",
    "diversity",
    "early_stopping",
    "effective_rank",
    "gradient_variance",
    "gsnr",
    "inner_product_test",
    "jackknife",
    "moments",
    "noise_scale",
    "noise_scale_of_batches",
    "norm_test",
    "normalised_variance",
    "orthogonality_test",
    "preconditioned_loss",
    "preconditioned_noise_scale",
    "preconditioner",
    "recommend_batch_size",
    "reduction",
    "stiffness",
    "tail_index",
    "track",
    "tracked",
    "tracked_noise",
    "tracked_state",
    "tracker",
]
