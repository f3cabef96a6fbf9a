"""``make gpu-check``: everything about the GPU path that only a GPU can show, in less than ten minutes.

Each stage is a process of its own with a time limit, so a kernel that hangs or kills its process costs one stage. What
it finds is in the JSON when the next one begins.
"""
