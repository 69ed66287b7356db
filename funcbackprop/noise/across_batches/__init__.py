"""The variance of the gradient across mini-batches."""
