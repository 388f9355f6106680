"""`pytest --skips-fail`, as in `make test-all`: a test that skips fails, unless its reason begins with `allowed: `.

All that the tests need is installed there, so a skip is a test that was not run by mistake.
"""

from collections.abc import Generator
from typing import Any

import pytest

ALLOWED = "Skipped: allowed: "


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skips-fail", action="store_true", help="fail where a test skips, see tests/skips.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    return _judged((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """A whole file that skips."""
    return _judged((yield), collector.config)


def _judged(report: Any, config: pytest.Config) -> Any:
    if report.skipped and config.getoption("--skips-fail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not reason.startswith(ALLOWED):
            report.outcome = "failed"
            report.longrepr = f"{reason} (here a skip fails, see tests/skips.py)"
    return report
