"""The data files of the package. ``importlib.resources`` would double the time that importing vpmu takes."""

from __future__ import annotations

import os

_FOLDER = os.path.join(os.path.dirname(__file__), "data")


def data_names(kind: str) -> tuple[str, ...]:
    """Names of the TOML files of a folder of data, sorted."""
    return tuple(sorted(name[:-5] for name in os.listdir(os.path.join(_FOLDER, kind)) if name.endswith(".toml")))


def data_text(*path: str) -> str:
    """Text of one data file."""
    with open(os.path.join(_FOLDER, *path), encoding="utf-8") as file:
        return file.read()
