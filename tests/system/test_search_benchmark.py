"""The benchmark of search, as small as it can be: every contender answers, and memory is its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "search.py"


@pytest.mark.slow
def test_every_contender_answers(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (pip install 'umbel[search]')")
    sizes = ["--scale", "0.002", "--width", "16", "--queries", "20", "--seconds", "0.1"]
    command = [sys.executable, str(BENCHMARK), *sizes, "--folder", str(tmp_path), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    codes = [f"{name}, {size}" for size in ("1M", "10M") for name in ("numpy", "faiss", "faiss IVF")]
    assert list(told["rows"]) == [*codes[:3], "float numpy, 1M", "float faiss, 1M", *codes[3:]]
    assert all(row["p99_ms"] >= row["p50_ms"] > 0 and row["per_second"] > 0 for row in told["rows"].values())
    assert all(0 < told["idle_mb"] <= row["peak_mb"] + 50 for row in told["rows"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
