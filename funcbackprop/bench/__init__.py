"""The benchmark: what statistics of the gradients cost beside the plain gradient.

`job.run` is the whole of it; this module loads no JAX, so that the command line can ask for help.
"""
