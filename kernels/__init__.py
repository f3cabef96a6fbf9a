"""The hot loops beside the graphs: what each computes, bit by bit, and later the CUDA sources that do it on a GPU."""
