from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from migrate import report
from tests.report import sample

HOSTILE = "</td><script>alert('x')</script>|`rm -rf`\x00\x1b[31m\n# head & \"q\" {{ 7*7 }} [a](javascript:b) \ud7ff"


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, Any]:
    """A report in which every free text is hostile."""
    run = sample.migrated(tmp_path)
    fields = dict.fromkeys(("expected", "measured", "detail", "advice"), HOSTILE)
    run.phase(
        "soak", "inconclusive", sample.verdict(HOSTILE, "fail", versions={HOSTILE: HOSTILE}, **fields), accepted=HOSTILE
    )
    run.record("rollback", "cutover", step="intent", reason=HOSTILE)
    built = report.build(tmp_path)
    built["host"] = built["outcome"]["state"] = built["plan"]["strategy_reason"] = HOSTILE
    built["missing"] = built["expectations"] = [HOSTILE]
    built["witness"][HOSTILE] = HOSTILE
    return built


def test_html_escapes_hostile_text(hostile: dict[str, Any]) -> None:
    page = Page(report.render_html(hostile))
    assert "script" not in page.tags
    assert page.handlers == []
    assert "alert('x')" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "\x00" not in page.text
    assert "\x1b" not in page.text


def test_html_has_no_external_resource_and_no_script(tmp_path: Path) -> None:
    sample.migrated(tmp_path)
    text = report.render_html(report.build(tmp_path))
    page = Page(text)
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert not {"script", "iframe", "object", "img", "link"} & set(page.tags) - {"link"}
    assert "@import" not in text
    assert "url(" not in text


def test_markdown_escapes_hostile_text(hostile: dict[str, Any]) -> None:
    text = report.render_markdown(hostile)
    assert "<script" not in text.replace("\\<script", "")
    assert "\x00" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") - line.count("\\|") in (4, 6, 7) for line in rows)
    assert not [line for line in text.splitlines() if line.startswith("# head")]


def test_junit_is_valid_xml_with_hostile_text(hostile: dict[str, Any]) -> None:
    root = ElementTree.fromstring(report.render_junit(hostile))
    assert root.findall(".//failure")


@pytest.mark.parametrize("directory", ["empty", "begun"])
def test_an_incomplete_run_renders_without_a_pass_that_is_not_there(tmp_path: Path, directory: str) -> None:
    if directory == "begun":
        sample.Run(tmp_path).record("intent", "preflight")
    built = report.build(tmp_path)
    html, markdown = report.render_html(built), report.render_markdown(built)
    assert 'class="chip pass"' not in html
    assert "| pass |" not in markdown
    assert "no witness" in html
    assert "no witness" in markdown
    assert "missing" in html


def test_the_status_line_comes_first(tmp_path: Path) -> None:
    sample.migrated(tmp_path)
    built = report.build(tmp_path)
    assert report.render_markdown(built).splitlines()[2].startswith("SERVING vllm 100 %")
    body = report.render_html(built).split("<body>")[1]
    assert Page(body).text.strip().startswith("SERVING vllm 100 %")


def test_every_check_is_shown_with_what_to_do(tmp_path: Path) -> None:
    run = sample.Run(tmp_path)
    told = {
        "expected": "port 80 free",
        "measured": "port 80 taken",
        "detail": "by httpd",
        "advice": "systemctl stop httpd",
    }
    run.phase("preflight", "fail", sample.verdict("ports_free", "fail", **told))
    built = report.build(tmp_path)
    for text in (report.render_html(built), report.render_markdown(built)):
        assert all(value in text for value in told.values())


class TestJunit:
    def suites(self, tmp_path: Path) -> dict[str | None, ElementTree.Element]:
        root = ElementTree.fromstring(report.render_junit(report.build(tmp_path)))
        return {suite.get("name"): suite for suite in root}

    @pytest.mark.parametrize(
        ("verdict", "accepted", "tag"),
        [
            ("fail", None, "failure"),
            ("error", None, "error"),
            ("inconclusive", None, "failure"),
            ("inconclusive", "no GPU in the lab", "skipped"),
            ("fail", "never covers a fail", "failure"),
            ("nonsense", None, "error"),
        ],
    )
    def test_only_pass_is_green(self, tmp_path: Path, verdict: str, accepted: str | None, tag: str) -> None:
        sample.Run(tmp_path).phase("preflight", verdict, sample.verdict("gpu_driver", "pass"), accepted=accepted)
        suite = self.suites(tmp_path)["preflight"]
        assert [child.tag for child in suite[0]] == [tag]
        assert (suite.get("tests"), len(suite[1])) == ("2", 0)

    def test_what_did_not_run_is_not_green(self, tmp_path: Path) -> None:
        sample.Run(tmp_path).record("intent", "preflight")
        suites = self.suites(tmp_path)
        assert suites["preflight"].get("errors") == "1"
        assert suites["soak"].get("skipped") == "1"
