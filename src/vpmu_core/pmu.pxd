# The Python face of one PMU.
from vpmu_core.registers cimport RegisterFile
from vpmu_core.unit cimport unit_t


cdef class Pmu:
    cdef unit_t unit
    cdef RegisterFile file  # keeps the table alive
    cdef object model  # the CpuModel that was given
