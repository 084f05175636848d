"""Hook sampler: draws samples with a trained denoiser, from noise to none."""
