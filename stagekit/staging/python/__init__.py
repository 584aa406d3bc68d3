"""What a trace sees of Python: the reads that become guards, the paths of captures, the effects.

It knows nothing of tensors beyond what it is told, and imports the standard library alone.
"""
