"""One thread for every test, and no silent skip where all tools are installed."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # of the servers and jobs that tests start; before torch is imported here

import pytest
import torch

torch.set_num_threads(1)  # the same bits on every machine, and no oversubscription beside servers under test


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name skips that continuous integration does not allow."""
    for report in forbidden_skips(terminalreporter):
        terminalreporter.write_line(f"skipped, but nothing may be skipped here: {report.nodeid}", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the run on a skip where KOOSH_CI is set: there every tool is installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None and forbidden_skips(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def forbidden_skips(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    """Skipped tests other than those that need a GPU."""
    if not os.environ.get("KOOSH_CI"):
        return []
    return [r for r in reporter.stats.get("skipped", []) if "gpu" not in getattr(r, "keywords", {})]
