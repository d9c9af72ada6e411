"""h_φ: pictures and points to a scene's latent."""
