"""Experiments: from a scenario to the record of a run or a sweep."""
