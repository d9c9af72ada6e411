"""Reading and writing files of other programs: splat PLY files and point clouds."""
