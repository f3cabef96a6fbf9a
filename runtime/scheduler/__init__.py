"""Continuous batching: pictures join and leave one running batch at any code."""
