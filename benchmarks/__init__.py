"""What produces every number in the README."""
