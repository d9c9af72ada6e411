"""Φ_t: how a scene's latent moves through time."""
