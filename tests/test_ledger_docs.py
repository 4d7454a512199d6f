"""docs/ledger.md: each cause has a section with an example that shows it, and the examples' numbers are true."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from vpmu._result import CAUSES
from vpmu_core.machine import CAUSE_NAMES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ledger.md"
SECTIONS = dict(re.findall(r"^### ([^\n]+)\n(.*?)(?=^#|\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE))


def test_the_causes_of_machine_results_and_page_are_the_same() -> None:
    assert set(CAUSES) == {name for name in CAUSE_NAMES if name is not None}
    assert {title for title in SECTIONS if re.fullmatch(r"[a-z_]+", title)} == set(CAUSES)


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_has_a_meaning_a_source_and_an_example_that_shows_it(cause: str) -> None:
    text = SECTIONS[cause]
    examples = doctest.DocTestParser().get_examples(text)
    assert any(re.search(rf"'{cause}': [1-9]\d*", example.want) for example in examples)
    words = text.split("```")[0]
    assert len(words.split()) > 15
    assert re.search(r"`\w+\(\)`|`KVM_\w+`|\(design |Intel Virtual PMU|built-in switch sequence", words)


def test_the_examples_are_true() -> None:
    failed, attempted = doctest.testfile(str(PAGE), module_relative=False)
    assert failed == 0
    assert attempted > 30


def test_the_table_leads_to_sections() -> None:
    anchors = {re.sub(r"[^a-z_ -]", "", title.lower()).replace(" ", "-") for title in SECTIONS}
    links = re.findall(r"\]\(#([^)]+)\)", PAGE.read_text())
    assert len(links) > 10
    assert set(links) <= anchors
