# A compiled switch program: a data sheet (switchprogram.pxd compiles it, switching.pxd runs it).
from vpmu_core._types cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    MAX_BLOCKS = 66  # of a switch program: 64 steps, the end, and one that stays open

cdef struct block_t:  # of a compiled switch program: register operations, then a point in time (switching.pxd)
    uint8_t point
    uint8_t registers  # whether it has any
    uint8_t status_flags
    uint8_t fixed_ctr_ctrl  # flag of the operation, 0 if none
    uint16_t flags  # of a loop over GP counters
    uint16_t fixed_flags  # of a loop over fixed counters
    uint16_t rdmsr  # unconditional accesses
    uint16_t rdpmc
    uint16_t wrmsr

cdef enum:  # shape of a straight program
    SHAPE_ANY = 0
    SHAPE_LOAD = 1  # usual_load()
    SHAPE_PUT = 2  # usual_put()

cdef struct straight_t:  # all blocks of a program in one, for when nobody could notice the time between them
    block_t registers
    uint8_t possible  # not if two blocks access the same register, or more than one point is of a kind
    uint8_t global_ctrl_zero
    uint8_t lvtpc  # point of LVTPC, 0 if none
    uint8_t perf  # point of host perf, 0 if none
    uint8_t shape
    uint64_t conditional_before  # all ones if register operations come before that point

cdef struct program_t:  # one load or one put, compiled for the guest's counters
    block_t block[MAX_BLOCKS]  # all 0 at first
    uint32_t blocks
    straight_t straight
    uint32_t rdmsr  # unconditional accesses of a run
    uint32_t rdpmc
    uint32_t counters
    uint32_t selectors
    uint32_t globals_
    uint32_t lvtpc
    uint32_t contexts  # perf_load_guest_context(), perf_put_guest_context()
    uint32_t passed_rdmsr  # while it is compiled: of these, already passed
    uint32_t passed_rdpmc
    uint32_t passed_wrmsr
