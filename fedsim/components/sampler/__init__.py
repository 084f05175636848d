"""Hook sampler: samples images with a trained denoiser or patch model."""
