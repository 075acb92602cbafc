"""A pytest plug-in that writes one line per test, `OUTCOME NAME`, into the file $OUTCOMES.

A test passed when its three phases did; a failure of any phase is its failure. $NAME_PREFIX
stands before the names, for a suite that runs tests more than once.
"""

import os

_worst = {}
_RANK = {"passed": 1, "skipped": 2, "failed": 3}


def pytest_collectreport(report):
    if report.failed:
        _note(report.nodeid, "failed")


def pytest_runtest_logreport(report):
    # A try that will be repeated counts only when the last one fails too.
    if report.outcome == "rerun":
        _worst.pop(report.nodeid, None)
        return
    if report.when == "call" or report.outcome != "passed":
        _note(report.nodeid, report.outcome)
    if report.when == "teardown" and report.nodeid in _worst:
        with open(os.environ["OUTCOMES"], "a", encoding="utf-8") as out:
            print(_worst.pop(report.nodeid), _plain(report.nodeid), file=out)


def pytest_sessionfinish():
    with open(os.environ["OUTCOMES"], "a", encoding="utf-8") as out:
        for name, outcome in _worst.items():
            print(outcome, _plain(name), file=out)


def _note(name, outcome):
    if _RANK[outcome] > _RANK.get(_worst.get(name), 0):
        _worst[name] = outcome


def _plain(name):
    name = os.environ.get("NAME_PREFIX", "") + name
    return name.encode("unicode_escape").decode("ascii")
