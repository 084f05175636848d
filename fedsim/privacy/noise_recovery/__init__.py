"""Recovery of Gaussian noise from generators that are linear over GF(2) or have a guessable seed."""
