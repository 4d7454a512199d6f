# Counters advance: overflow, freeze and the PMI on its way to the local APIC.
from vpmu_core._types cimport uint32_t, uint64_t
from vpmu_core.unit cimport METRICS, SLOTS, unit_t

cdef struct happening_t:  # what one call of count() brings
    uint64_t got[SLOTS]  # occurrences for each counter
    uint64_t metrics[METRICS]  # slots by class, for PERF_METRICS
    uint64_t instructions  # for IRPerfCount
    uint64_t cycles  # core cycles that pass
    uint32_t on  # slots that count
    uint32_t spurious  # slots whose occurrences are rolled back, but raise a PMI if they would have wrapped
    bint metrics_on  # PERF_METRICS counts


cdef bint is_pair(const unit_t *unit, int slot) noexcept nogil
cdef bint metrics_count(const unit_t *unit, bint user) noexcept nogil
cdef uint32_t counting(const unit_t *unit, bint user) noexcept nogil
cdef void advance(unit_t *unit, happening_t *h) noexcept nogil
