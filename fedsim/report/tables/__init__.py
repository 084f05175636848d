"""The report's tables, and the rows of `scores.csv`: formatted text for people, plain values for programs."""
