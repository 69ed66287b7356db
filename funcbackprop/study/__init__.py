"""The study: train a model and look at its gradients on the way.

`job.run` is the whole of it; this module loads no JAX, so that the command line can ask for help.
"""
