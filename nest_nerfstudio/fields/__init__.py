"""f_θ: latents to Gaussians."""
