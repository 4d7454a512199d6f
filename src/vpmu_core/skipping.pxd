# Which of the exits to come end before every horizon; each returns how many it has skipped.
from vpmu_core._types cimport uint64_t
from vpmu_core.lazy cimport course_t
from vpmu_core.state cimport machine_t

cdef uint64_t skip_drawn(machine_t *m, course_t *course, uint64_t budget) noexcept nogil
cdef uint64_t skip_traced(machine_t *m, course_t *course, uint64_t budget) noexcept nogil
cdef uint64_t skip_regular(machine_t *m, course_t *at, uint64_t budget) noexcept nogil
