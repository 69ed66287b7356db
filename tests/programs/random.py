"""Random arrays."""


def normal(rng, *shape, scale=1.0):
    return scale * rng.normal(size=shape)


def integers(rng, high, *shape):
    return rng.integers(0, high, size=shape)
