# A PMU as plain Python values, and back.
from vpmu_core.unit cimport unit_t


cdef object take(const unit_t *unit, object cpu)
cdef object restore(unit_t *unit, object cpu, object state)
