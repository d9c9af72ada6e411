"""Pure functions on tensors: quaternions, SE(3), spherical harmonics, cameras, point sets and colours."""
