"""What computes the dense parts of the transformer."""
