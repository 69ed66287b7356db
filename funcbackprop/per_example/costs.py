"""Constants of the choice between kernels, with the measurement behind each.

Costs are counted in FLOPs of a matrix product that would take as long. The constants were measured
on two x86-64 cores (200 GFLOP/s in float32 products, 20 GB/s) with jax 0.10.2; `funcbackprop bench
--tune` measures them on another machine.
"""

# An entry of a gradient that is written out costs this beside its product, with the first statistic
# that is taken from it: B 16, M 256, N 1024, T 128 took 4.7 ms for the product, 5.3 with the sum
# (35), 5.8 with mean and variance in one (44).
ENTRY = 40
# Every further statistic reads the entries once more: norms after the sum took 0.7 ms (37), after
# the variance 1.1 (45).
AGAIN = 40
# An entry of a gradient that is a product of two numbers is never written: B 256, M 784, N 1024
# took 1.6 ms for the product and 13 with centred squares (14).
FUSED = 15

# Products of positions are small, and take this much longer than large ones: with M 256 and N 1024
# they took 3.8 ms at B 64, T 64 (1.28) and 3.3 to 3.6 at B 16, T 128 (1.05 to 1.2).
POSITIONS = 1.2

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
