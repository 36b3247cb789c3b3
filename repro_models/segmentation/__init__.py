"""Networks that give every pixel or voxel a class."""
