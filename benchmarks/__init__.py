"""Stagekit beside its peers on the same work: `python -m benchmarks [name ...]`.

Every library gets one thread: the work is small, and a second thread measures the machine's other
guests. Set before NumPy loads its BLAS; a BLAS tuned by hand for one machine says little.
"""

import os

os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
