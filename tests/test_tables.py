"""The documents' tables are what the results files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.tables import DOCUMENTS, TABLES, markdown, with_tables

ROW = {
    "style": {"value": 0.954, "low": 0.9, "high": 1.0, "n": 5},
    "vae_psnr_db": {"value": 27.04, "low": -0.126, "high": 9.996, "n": 5},
}


def test_the_documents_have_every_table_as_its_file_says() -> None:
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    assert [name for name in TABLES if f"<!-- {name} -->" not in "".join(texts)] == []
    assert [with_tables(text) for text in texts] == texts


def test_a_row_is_its_values_with_intervals_in_short() -> None:
    lines = markdown(TABLES["base-icons"], {"rows": {"generated": ROW}}).splitlines()
    assert lines[2:] == ["| generated | .95 [.90, 1.00] | – | – | – | – | – | 27.0 [-.13, 10.0] |"]


def test_what_differs_in_the_third_digit_has_three_and_gains_stand_beside_it() -> None:
    text = {"text": {"value": 0.8906, "low": 0.873, "high": 1.0, "n": 5}}
    gain = {"text": {"value": -0.0114, "low": -0.02, "high": 0.001, "n": 5}}
    results = {"rows": {"palp": text}, "gains_over_subject": {"palp": gain}, "gains_over_unguided": {}}
    (line,) = markdown(TABLES["palp-icons"], results).splitlines()[2:]
    assert line == "| **PALP** | .891 [.873, 1.000] | – | – | – | – | -.011 [-.020, .001] | – |"


def test_what_stood_between_the_markers_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "base-icons.json").write_text(json.dumps({"rows": {"generated": ROW}}))
    table = markdown(TABLES["base-icons"], {"rows": {"generated": ROW}})
    found = with_tables("before\n<!-- base-icons -->\n| old |\n<!-- /base-icons -->\nafter", tmp_path)
    assert found == f"before\n<!-- base-icons -->\n{table}\n<!-- /base-icons -->\nafter"


def test_markers_of_no_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no-such.json").write_text(json.dumps({"rows": {}}))
    with pytest.raises(KeyError):
        with_tables("<!-- no-such -->\n<!-- /no-such -->", tmp_path)
