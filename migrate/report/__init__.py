"""The verification report of a run: built from its directory, rendered as JSON, Markdown, HTML and JUnit XML."""

from __future__ import annotations

import json
from pathlib import Path

from migrate.journal import replace
from migrate.report.build import build
from migrate.report.junit import render_junit
from migrate.report.render import render_html, render_markdown, render_plan, seconds

__all__ = ["build", "seconds", "render_html", "render_junit", "render_markdown", "render_plan", "write"]


def write(run_dir: Path) -> dict[str, Path]:
    """Write the report into the run's directory in its four forms, each file whole or not at all.

    Returns the files by form: json, markdown, html, junit. Raises OSError where the directory cannot be written.
    """
    report = build(run_dir)
    texts = {
        "json": ("report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n"),
        "markdown": ("report.md", render_markdown(report)),
        "html": ("report.html", render_html(report)),
        "junit": ("report.junit.xml", render_junit(report)),
    }
    for name, text in texts.values():
        replace(run_dir / name, _writable(text))
    return {form: run_dir / name for form, (name, _) in texts.items()}


def _writable(text: str) -> str:
    """The text with half surrogates, which a server's JSON may hold and UTF-8 cannot, as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
