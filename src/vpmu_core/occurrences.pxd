# From what a caller of Pmu.count says to what each counter gets.
from vpmu_core.advance cimport happening_t
from vpmu_core.unit cimport unit_t


cdef object unsummable(const unit_t *unit, int slot)
cdef object number_of(object name, object value)
cdef int privilege(object cpl, object name=*) except -1
cdef object fill(unit_t *unit, object cpu, object arguments, happening_t *h)
