"""Many scenes: index, reader, image cache, sampling and data manager."""
