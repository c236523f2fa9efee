"""Training: from collections of slices with masks to networks with their cards."""
