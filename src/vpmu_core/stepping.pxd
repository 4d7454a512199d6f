# Running a switch sequence step by step, and looking at what it leaves.
from vpmu_core.state cimport machine_t

cdef void run_steps(machine_t *m, int half) noexcept nogil
