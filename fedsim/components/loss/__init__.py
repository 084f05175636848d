"""Hook loss: adds a loss term or replaces the objective."""
