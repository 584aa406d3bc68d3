"""Kernels as LLVM IR: text with explicit vectors."""
