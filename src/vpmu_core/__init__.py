"""The compiled core of vpmu; use it through :mod:`vpmu`, or ``cimport`` its ``.pxd`` files."""

# The core raises vpmu's errors, so vpmu must be first on the way in, whoever is imported first.
import vpmu  # noqa: F401
