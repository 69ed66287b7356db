"""What the statistics mean: gradient variance and the noise scale."""

from . import reduction
from .batch_size import BatchSizeTest, inner_product_test, norm_test, orthogonality_test
from .curved import CurvatureNoiseScale, curvature_noise_scale
from .estimate import Estimate, jackknife
from .geometry import Confusion, Diversity, Stiffness, confusion, diversity, stiffness
from .moments import Moments, moments
from .preconditioned import preconditioned_loss, preconditioned_noise_scale
from .preconditioner import preconditioner
from .recommend import Recommendation, recommend_batch_size
from .sampling import ShuffledEpochs, WithoutReplacement, WithReplacement
from .scale import noise_scale
from .scale_of_parts import noise_scale_of_batches
from .scale_result import NoiseScale
from .schedules import EarlyStopping, adascale_gain, cabs, early_stopping
from .signal import CoordinateRatio, gsnr, normalised_variance
from .spectrum import CovarianceSpectrum, EffectiveRank, covariance_spectrum, effective_rank
from .spread import Spread
from .status import STATUS
from .tail import TailIndex, tail_index
from .variance import gradient_variance
from .variance_result import GradientVariance, Prediction

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
    "Recommendation",
    "ShuffledEpochs",
    "Spread",
    "Stiffness",
    "TailIndex",
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
]
