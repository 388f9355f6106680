"""What is seen of long work without a terminal, on one, and with --quiet."""

import re
import sys

import pytest

from hmr_skel import progress
from hmr_skel.progress import progress_bar


@pytest.mark.parametrize(
    ("total", "what", "line"),
    [(200, "labels", r"labels: 100 of 200 rows, .*row/s, .* left"), (None, None, "100 rows, .*row/s")],
)
def test_a_line_when_ten_seconds_are_over_and_no_sooner(total, what, line, monkeypatch, capsys):
    with monkeypatch.context() as patch, progress_bar(False, "row", total, what, mininterval=0) as bar:
        bar.update(50)
        assert capsys.readouterr().err == ""
        patch.setattr(bar, "_said", bar._said - progress.SECONDS_PER_LINE)
        bar.update(50)
        bar.update(50)
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert re.fullmatch(line + "\n", text), text


def test_a_terminal_has_a_bar_and_quiet_has_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 0)
    with progress_bar(True, "row", 9) as bar:
        bar.update(9)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(False, "row", 9) as bar:
        bar.update(9)
    assert "0/9" in capsys.readouterr().err
