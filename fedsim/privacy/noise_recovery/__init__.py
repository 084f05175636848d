"""Recovery of Gaussian noise from a generator that is linear over GF(2), or whose seed can be guessed."""
