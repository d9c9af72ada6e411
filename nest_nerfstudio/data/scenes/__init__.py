"""Many scenes: their index, files, sampling and data manager."""
