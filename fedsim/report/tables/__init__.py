"""Tables of a run's report: formatted text for pages, plain values for `scores.csv`."""
