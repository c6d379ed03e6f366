"""JUnit XML: a suite per phase, a case for its gate and for each check.

Only `pass` is a plain case. Fail is a failure; error, unknown and missing are errors; inconclusive is skipped where the
operator accepted it and a failure otherwise; not started is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKS = {"fail": "failure", "inconclusive": "failure", "not started": "skipped"}


def render_junit(report: Mapping[str, Any]) -> str:
    """The report as JUnit XML; characters that XML 1.0 forbids become U+FFFD."""
    root = ElementTree.Element("testsuites", name=_clean(f"migrate {report['host']} {report['run']}"))
    for phase in report["phases"]:
        _suite(root, phase)
    ElementTree.indent(root)
    return "<?xml version='1.0' encoding='utf-8'?>\n" + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(root: ElementTree.Element, phase: Mapping[str, Any]) -> None:
    name = phase["phase"] if phase["direction"] == "forward" else f"{phase['phase']} (back)"
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(name))
    if phase["started"]:
        suite.set("timestamp", _clean(str(phase["started"]).removesuffix("Z")))
    gate = {"check": "gate", "verdict": phase["verdict"], "duration_s": phase["duration_s"] or 0.0}
    cases = [_case(suite, name, check, phase["accepted"]) for check in [gate, *phase["checks"]]]
    suite.set("tests", str(len(cases)))
    for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(total, str(sum(tag == case for case in cases)))


def _case(suite: ElementTree.Element, phase: str, check: Mapping[str, Any], accepted: str | None) -> str:
    seconds = f"{float(check['duration_s']):.3f}"
    case = ElementTree.SubElement(suite, "testcase", classname=_clean(phase), name=_clean(check["check"]), time=seconds)
    verdict = check["verdict"]
    if verdict == "pass":
        return "pass"
    tag = "skipped" if verdict == "inconclusive" and accepted else _MARKS.get(verdict, "error")
    message = f"accepted: {accepted}" if tag == "skipped" and accepted else str(check.get("measured") or verdict)
    mark = ElementTree.SubElement(case, tag, type=_clean(verdict), message=_clean(message))
    lines = [f"{key}: {check[key]}" for key in ("expected", "measured", "detail", "advice") if check.get(key)]
    mark.text = _clean("\n".join(lines))
    return tag


def _clean(value: Any) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", str(value))
