"""Scalar functions in instructions of the machine, once for every code generator."""
