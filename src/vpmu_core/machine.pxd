# A machine as a Python object, and its beginning and end.
from vpmu_core._types cimport uint64_t
from vpmu_core.perfevents cimport guest_event_t, host_event_t
from vpmu_core.planned cimport Planned
from vpmu_core.state cimport machine_t

cdef enum:
    SLICE = 1 << 16  # guest segments between two returns to Python, a few tens of milliseconds

cdef void prepare(machine_t *m) noexcept nogil
cdef void begin(machine_t *m) noexcept nogil
cdef void finish(machine_t *m) noexcept nogil


cdef class Machine(Planned):
    cdef object _shared(self)
    cdef _restore(self, shared)
    cdef _read(self, out, const machine_t *copy)
    cdef object _hosts(self, const machine_t *m)
    cdef object _totals(self, const machine_t *m)
    cdef object _holders(self, const machine_t *m)
    cdef object _ledger(self, const uint64_t *causes)
    cdef object _counter(self, const guest_event_t *e)
    cdef object _host(self, const host_event_t *e)
