"""The compiled core of vpmu; use it through :mod:`vpmu`, or ``cimport`` its ``.pxd`` files."""
