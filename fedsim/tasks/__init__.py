"""What models are trained to do: one task a file, found by its folder, named by a data set or a scenario."""
