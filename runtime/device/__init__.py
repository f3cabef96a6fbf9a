"""The thin layer between the runtime and a device: memory, order, launches and graphs, and nothing about models."""
