"""What machine code stands on: compiler, threads, BLAS, clock, memory, disk, calls."""
