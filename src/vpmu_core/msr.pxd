# RDMSR, WRMSR and RDPMC of one PMU: what each access does, or which fault it raises.
from vpmu_core._types cimport uint32_t, uint64_t
from vpmu_core.registers cimport register_file_t
from vpmu_core.unit cimport pmu_t, unit_t

cdef enum fault:
    FAULT_NONE = 0
    FAULT_ABSENT = 1  # no such MSR on this CPU
    FAULT_RESERVED = 2  # a bit that must not be set
    FAULT_READ_ONLY = 3
    FAULT_DELIVERY_MODE = 4  # LVTPC mode that is not fixed, SMI or NMI
    FAULT_CANONICAL = 5
    FAULT_RDPMC_INDEX = 6
    FAULT_PRIVILEGE = 7  # CPL > 0


cdef void reset(pmu_t *pmu, const register_file_t *file) noexcept nogil
cdef void reset_unit(unit_t *unit, const register_file_t *file) noexcept nogil
cdef void set_mode(unit_t *unit, bint svme, bint guest) noexcept nogil
cdef void write_metrics(unit_t *unit, uint64_t value) noexcept nogil
cdef fault read_msr(const unit_t *unit, uint32_t address, uint64_t *value) noexcept nogil
cdef fault write_msr(unit_t *unit, uint32_t address, uint64_t value) noexcept nogil
cdef fault read_pmc(unit_t *unit, uint32_t ecx, int cpl, bint allowed, uint64_t *value) noexcept nogil
