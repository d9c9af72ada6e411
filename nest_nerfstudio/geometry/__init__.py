"""Pure functions on tensors: quaternions, SE(3), spherical harmonics and camera conventions."""
