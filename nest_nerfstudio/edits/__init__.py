"""g·Z: changes of a scene as actions of groups on its latent."""
