"""Tasks: training objectives, one module each, selected by the data set or the scenario."""
