"""Data sets rendered from glTF models and from procedural figures (extra `synth`)."""
