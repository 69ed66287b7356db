"""Sizes and weights of the mini-batches, group by group, and the divisors that follow from them.

A block is a run of examples that are distinct under the sampling law: a mini-batch drawn without
replacement, or an epoch. Two examples of one block have E|g_i - g_j|^2 = 2 S_N^2, two of different
blocks 2 S_N^2 (N - 1)/N, for they may be the same. Every divisor here is a count of such pairs.
"""

from typing import Any, NamedTuple

import numpy as np

from .sampling import Sampling, checked_size


class Divisors(NamedTuple):
    """Of all data, and with each group left out: float64 [1 + g]. W = sum w, q = sum w^2.

    Each is the expectation of a mean square in units of S_N^2; `_iid` in units of a variance that
    is new in every example.

    Attributes:
      examples: of sum w_i |g_i - m|^2/W, m the weighted mean.
      batches: of sum W_b |m_b - m|^2/W, m_b the means of the mini-batches.
      mean: of |m - G|^2.
    """

    examples: Any
    examples_iid: Any
    batches: Any
    batches_iid: Any
    mean: Any
    mean_iid: Any


class Tally:
    """What is counted while the mini-batches go by; memory of a few numbers for each group.

    Attributes:
      weight, squares: sum w and sum w^2 of each group [g].
      batch_squares: sum over mini-batches of (sum w^2)/(sum w) [g].
      own_blocks: sum over blocks of (sum w in the block)^2 [g]; `left_out_blocks` that of all other
        groups together, `all_blocks` that of all.
      batches, examples: how many, of positive weight.
      effective: sum over mini-batches of (sum w)^2/sum w^2.
    """

    def __init__(self, groups: int, sampling: Sampling):
        self.sampling = sampling
        zeros = np.zeros((6, groups))
        self.weight, self.squares, self.batch_squares = zeros[:3]
        self.own_blocks, self.left_out_blocks, self._block = zeros[3:]
        self.all_blocks = 0.0
        self.batches = self.examples = self._seen = 0
        self.effective = 0.0

    @property
    def groups(self) -> int:
        """Those with a mini-batch."""
        return min(self.batches, len(self.weight))

    @property
    def next_group(self) -> int:
        return self.batches % len(self.weight)

    def add(self, weights: np.ndarray) -> None:
        """One more mini-batch, with weights [B] of which one at least is above zero."""
        weights = np.asarray(weights, np.float64)
        count, group = int((weights > 0).sum()), self.next_group
        checked_size(count, self.sampling, "gradient_variance")
        if self.sampling.begins_block(self._seen, count):
            self._close_block()
        total, squares = weights.sum(), (weights**2).sum()
        self.weight[group] += total
        self.squares[group] += squares
        self.batch_squares[group] += squares / total
        self._block[group] += total
        self._seen += count
        self.batches += 1
        self.examples += count
        self.effective += total**2 / squares

    def _close_block(self):
        self._add_block(self._block)
        self._block[:] = 0
        self._seen = 0

    def _add_block(self, block):
        self.all_blocks += block.sum() ** 2
        self.own_blocks += block**2
        self.left_out_blocks += (block.sum() - block) ** 2

    def divisors(self) -> Divisors:
        """All data first, then without each group; closes the last block."""
        self._close_block()
        used, inverse = slice(self.groups), 1 / self.sampling.population
        W, q, per_batch = (
            _with_and_without(x[used]) for x in (self.weight, self.squares, self.batch_squares)
        )
        blocks = np.append(self.all_blocks, self.left_out_blocks[used])
        if self.groups < 2:  # nothing is left without the only group
            W, q, per_batch, blocks = (x[:1] for x in (W, q, per_batch, blocks))
        across = inverse * (W**2 - blocks) / W
        examples, batches = ((first - q / W) / W for first in (W, per_batch))
        return Divisors(
            examples=_or_nan(examples - across / W),
            examples_iid=examples,
            batches=_or_nan(batches - across / W),
            batches_iid=batches,
            mean=np.maximum(q - inverse * blocks, 0) / W**2,
            mean_iid=q / W**2,
        )

    def error_factor(self) -> float:
        """The standard error of a mean over examples, in units of what the jackknife takes it for.

        The jackknife sees the spread of groups as if they were independent. Under a law of N
        examples they are not: a whole epoch has no error at all. 1 for independent examples.
        """
        if self.groups < 2 or not np.isfinite(self.sampling.population):
            return 1.0
        used, inverse = slice(self.groups), 1 / self.sampling.population
        W, q = self.weight[used].sum(), self.squares[used].sum()
        own = (self.squares[used] - inverse * self.own_blocks[used]) / self.weight[used]
        rest = max(q - inverse * self.all_blocks, 0.0)
        spread = own.sum() - rest / W
        return float(np.sqrt(rest / W * (self.groups - 1) / spread)) if spread > 0 else 0.0


def _with_and_without(x):
    return np.append(x.sum(), x.sum() - x)


def _or_nan(x):
    """A divisor that is zero up to rounding leaves nothing to estimate from."""
    return np.where(x > _ZERO, x, np.nan)


_ZERO = 1e-12
