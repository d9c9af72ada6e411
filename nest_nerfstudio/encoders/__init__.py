"""h_φ: from images and points of a scene to its latent."""
