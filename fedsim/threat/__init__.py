"""From the wire to a score: what an attacker observes, and how its guesses compare with the truth."""
