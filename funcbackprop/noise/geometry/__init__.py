"""How the gradients of single examples lie to each other: directions, spectrum, tails."""
