"""From a graph to loops: where kernels begin and end, and what each computes."""
