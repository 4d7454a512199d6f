# What software does to a PMU: register operations in a row, each an instruction that may be counted itself.
from vpmu_core._types cimport uint8_t, uint32_t, uint64_t
from vpmu_core.advance cimport happening_t
from vpmu_core.unit cimport EVENTS, unit_t

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


cdef bint any_thread(const unit_t *unit, int slot) noexcept nogil
cdef int share_out(const unit_t *unit, const uint64_t *amount, bint slots_given, bint user, happening_t *h) noexcept nogil
cdef int execute_one(unit_t *unit, const operation_t *op, result_t *result) noexcept nogil
