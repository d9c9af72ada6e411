"""nerfstudio Models: they compose the stages and hold no maths of their own."""
