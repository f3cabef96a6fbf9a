"""Other runtimes that can run a GPT of this shape, measured beside ours: each is optional and said to be left out."""
