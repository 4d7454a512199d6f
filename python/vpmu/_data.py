"""Data files of the package (``importlib.resources`` would double the time that importing vpmu takes) and of users."""

from __future__ import annotations

import os
import tomllib
from decimal import Decimal
from typing import Any

from ._errors import ScenarioError

_FOLDER = os.path.join(os.path.dirname(__file__), "data")


def data_names(kind: str) -> tuple[str, ...]:
    """Names of the TOML files of a folder of data, sorted."""
    return tuple(sorted(name[:-5] for name in os.listdir(os.path.join(_FOLDER, kind)) if name.endswith(".toml")))


def data_text(*path: str) -> str:
    """Text of one data file."""
    with open(os.path.join(_FOLDER, *path), encoding="utf-8") as file:
        return file.read()


def read_toml(path: str) -> dict[str, Any]:
    """Read a TOML file of a user's, with decimals as they are written.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict

    Raises
    ------
    ScenarioError
        In one line, with the file's name.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file, parse_float=Decimal)
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}") from None
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ScenarioError(f"{path}: this is no TOML: {error}") from None
