"""Products of matrices and convolutions: calls of BLAS, and kernels of their own."""
