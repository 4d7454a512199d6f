# What software does to a PMU: register operations in a row, and occurrences that it makes.
from vpmu_core._types cimport uint8_t, uint32_t, uint64_t
from vpmu_core.pmu cimport pmu_t
from vpmu_core.registers cimport register_file_t

cdef packed struct operation_t:  # OP_DTYPE
    uint8_t op  # 0 RDMSR, 1 WRMSR, 2 RDPMC
    uint8_t flags  # bit 0: count the instruction itself
    uint8_t cpl  # 0 to 3
    uint8_t cr4_pce  # whether RDPMC is allowed at CPL > 0
    uint32_t address  # MSR, or ECX of RDPMC
    uint64_t value  # what WRMSR writes

cdef struct result_t:  # RESULT_DTYPE
    uint64_t value
    uint8_t fault  # 1: #GP


cdef void add(pmu_t *pmu, int slot, uint64_t occurrences) noexcept nogil
cdef int first_unsummable(const pmu_t *pmu, bint user) noexcept nogil
cdef int execute_one(pmu_t *pmu, const register_file_t *file, const operation_t *op, result_t *result) noexcept nogil
