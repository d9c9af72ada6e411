"""Files of other programs: splat PLY and point clouds."""
