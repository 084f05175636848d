"""Attacks of a malicious server: the model is changed so that gradients isolate single inputs."""
