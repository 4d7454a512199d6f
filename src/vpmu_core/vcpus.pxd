# A logical CPU with several vCPUs as a Python object.
from vpmu_core.logicalcpu cimport logical_cpu_t
from vpmu_core.state cimport machine_t


cdef class LogicalCpu:
    cdef logical_cpu_t cpu
    cdef list machines

    cdef _settle(self)
    cdef object _at_end(self, int i, machine_t *copies)
