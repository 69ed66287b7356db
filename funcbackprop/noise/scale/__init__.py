"""The noise scale: how many examples a batch needs before more hardly help."""
