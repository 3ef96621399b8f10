"""Which code a result comes from."""

from __future__ import annotations

import subprocess

from longrope_lab.runs import origin


def test_git_commit_marks_changes(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(origin, "ROOT", tmp_path)
    monkeypatch.delenv("LONGROPE_LAB_COMMIT", raising=False)
    assert origin.git_commit() == "unknown"
    git("init", "-q")
    code = tmp_path / "longrope_lab" / "code.py"
    code.parent.mkdir()
    code.write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD")
    assert origin.git_commit() == head
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "new.csv").write_text("1")
    (tmp_path / "books.txt").write_text("text")
    assert origin.git_commit() == head  # a result or a text does not change the code
    code.write_text("2")
    assert origin.git_commit() == head + "+changes"
