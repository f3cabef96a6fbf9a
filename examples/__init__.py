"""Small programs that use the project; each folder has its own README."""
