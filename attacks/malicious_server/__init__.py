"""The server changes the model so that gradients hold single inputs."""
