"""The transformer on a device: one driver, and behind it whatever computes the dense parts."""
