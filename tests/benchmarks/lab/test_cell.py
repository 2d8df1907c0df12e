"""What is said of measured cells."""

import argparse
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.benchmarks.lab.__main__ import keep, known
from tests.benchmarks.lab.cell import Cell
from tests.benchmarks.lab.measure import OURS
from tests.benchmarks.lab.profiles import GPU, LAPTOP, SSD
from tests.benchmarks.lab.tables import comparison, tables

CELL = Cell("bundled", OURS, 1.0, 16, [(40, 10), (60, 10)], 320, {1: 20, 4: 40}, False, 1.0)


def test_tokens_a_pass_are_those_of_all_passes() -> None:
    assert CELL.tokens_per_pass == 5.0
    assert CELL.draft_passes == 3.0
    assert CELL.standard_error == pytest.approx(1.0)  # 4 and 6: their standard deviation over the root of 2


def test_a_lead_is_paired_by_story() -> None:
    behind = replace(CELL, rule="chain", written=[(30, 10), (50, 10)])
    assert CELL.lead(behind) == math.inf
    apart = replace(behind, written=[(30, 10), (40, 10)])
    assert CELL.lead(apart) == pytest.approx(1.5 / 0.5)
    assert CELL.lead(CELL) == 0


def test_a_pass_costs_its_stream_or_its_arithmetic_and_its_draft_passes() -> None:
    assert SSD.target.seconds(1) == pytest.approx((36.9e9 - 18 * 2**30) / 4.05e9)
    assert SSD.target.seconds(1024) == pytest.approx(94.9, rel=0.01)  # PROBE 7: 94 s
    for profile in (GPU, SSD, LAPTOP):
        drafted = profile.seconds(16, {1: 2.0, 4: 4.0}, lookup=False)
        expected = 2 * profile.draft.seconds(1) + 4 * profile.draft.seconds(4)
        assert drafted - profile.target.seconds(17) == pytest.approx(expected)
        assert profile.seconds(16, {1: 2.0}, lookup=True) == profile.target.seconds(17)


def test_ours_is_told_where_it_is_behind() -> None:
    ahead = replace(CELL, rule="Sequoia", written=[(80, 10), (130, 10)])
    said = "\n".join(comparison([CELL, ahead, replace(CELL, rule="chain")]))
    assert "geometric mean of 1 cells: 0.476" in said
    assert "Below Sequoia at T = 1, 16 nodes" in said
    assert "Below chain" not in said


def test_a_table_has_a_column_a_rule() -> None:
    lines = list(tables([CELL], [OURS, "chain"]))
    assert "| 16 | 5.00 ± 1.00 (3) |  |" in lines


def test_cells_are_found_again_where_the_setting_is_the_same(tmp_path: Path) -> None:
    chosen = argparse.Namespace(results=tmp_path / "cells.jsonl", stories=2, tokens=50, lessons=1, seed=0)
    assert known(chosen) == []
    keep(CELL, chosen)
    (found,) = known(chosen)
    assert json.dumps(asdict(found)) == json.dumps(asdict(CELL))
    assert known(argparse.Namespace(**vars(chosen) | {"stories": 3})) == []
