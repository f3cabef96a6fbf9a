"""Load on a server: how fast it is with many clients, and whether it lasts."""
