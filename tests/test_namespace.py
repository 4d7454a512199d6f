"""The namespace ``vpmu`` is filled on first use; what type checkers see and what is there must be the same."""

import ast
from pathlib import Path

import pytest

import vpmu


def test_every_public_name_is_there_and_typed():
    tree = ast.parse(Path(vpmu.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.asname: node.module for node in block.body for alias in node.names}
    assert set(typed) == set(vpmu.__all__) == set(vpmu._HOME)
    for name, module in typed.items():
        home = module if module.startswith("vpmu_core") else f"vpmu.{module}"
        assert vpmu._HOME[name] == home
        assert getattr(vpmu, name) is not None
    assert set(vpmu.__all__) <= set(dir(vpmu))


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'Frobnicator'"):
        _ = vpmu.Frobnicator
