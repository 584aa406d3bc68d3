"""Kernels: what element rules become, and who runs them."""
