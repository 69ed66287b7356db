"""What leaves the program: callbacks, foreign calls and kernels are opaque."""

RULES = {}
