# Sums over chunks of a trace.
cpdef enum:
    CHUNK = 1024  # exits
