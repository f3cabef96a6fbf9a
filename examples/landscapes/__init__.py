"""Rendered landscapes, and the models that are trained on them."""
