# Sums over chunks of a trace.
cpdef enum:
    CHUNK = 1024  # exits
    BANKS = 4  # of sums: an exit need not wait for the one that the last exit went into
