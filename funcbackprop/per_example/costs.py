"""Constants of the choice between kernels, with the measurement behind each.

Costs are counted in FLOPs of a matrix product that would take as long. The constants were measured
on two x86-64 cores (200 GFLOP/s in float32 products, 20 GB/s) with jax 0.10.2; `funcbackprop bench
--tune` measures them on another machine.
"""

# An entry of a gradient that is written out costs this beside its product, with the sum, the
# squares or the norm that is taken from it. B 16, M 256, N 1024, T 128: 5.2 ms for the product, 6.8
# with mean and variance (79), 7.6 with mean and norms (118). In a program (LSTM of width 256, T 64,
# B 64) mean and norms took 1.19 of the plain gradient by entries and 1.02 by products of positions,
# which are chosen there from 57 on.
ENTRY = 72
# Every further statistic of the entries reads them once more: 0.7 ms.
AGAIN = 8
# An entry of a gradient that is a product of two numbers is never written: B 256, M 784, N 1024
# took 2 ms for the product and 9 ms with centred squares.
FUSED = 6

# Products of positions are small, and take this much longer than large ones: B 16, T 128, M 256,
# N 1024 took 5.8 ms where its FLOPs would take 3.4.
POSITIONS = 1.6

# Bytes of entries that are written at a time: with 8 MB they stay in the last cache. Of 4, 8 and 16
# examples (M 256, N 1024) 8 took the least time.
GROUP_BYTES = 2**23
GROUP_EXAMPLES = 8
# Where entries are products of two numbers and nothing is written: 8 at a time took 40 ms, 16
# took 9.
GROUP_FUSED = 16
# Bytes of the patches of a convolution at a time.
PATCH_BYTES = 2**22
# At most this share of the gradients of all examples, but one example.
SHARE = 0.05

# Places of a window, above which a convolution is not unfolded: it would copy its input as often.
WINDOW = 128
# Positions up to which squares of entries are found from products of positions.
SQUARES = 4
# The smallest part of a difference in what it is the difference of, from which on it is right to
# about ten roundings.
SPREAD = 0.1
