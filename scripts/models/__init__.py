"""Models: the catalogue, the hub they come from, and the demo model."""
