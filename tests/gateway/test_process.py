"""Runtime processes: what one that was killed leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sessionfs_s3.gateway.process import remove_abandoned


def test_homes_of_gateways_that_are_gone_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    kept = [f"copilot-runtime-{os.getpid()}-a", "copilot-runtime-old", f"copilot-runtime-{gone.pid}", "other"]
    for name in (*kept, f"copilot-runtime-{gone.pid}-b"):
        (tmp_path / name / "copilot" / "logs").mkdir(parents=True)
    (tmp_path / f"copilot-runtime-{gone.pid}-c").symlink_to(tmp_path / "other")
    remove_abandoned()
    assert sorted(each.name for each in tmp_path.iterdir() if not each.is_symlink()) == sorted(kept)
    assert (tmp_path / "other" / "copilot").is_dir(), "nothing is followed"
