import pytest

from migrate.gate import Outcome, Verdict, decide


def verdicts(*outcomes: str) -> list[Verdict]:
    return [Verdict(f"c{number}", Outcome(outcome)) for number, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], "error"),
        (["pass", "error"], "error"),
        (["inconclusive", "fail", "pass"], "fail"),
        (["pass", "inconclusive"], "inconclusive"),
        (["pass", "pass"], "pass"),
    ],
)
def test_the_worst_verdict_decides(outcomes: list[str], expected: str) -> None:
    assert decide(verdicts(*outcomes)) == expected


def test_a_wanted_check_that_did_not_report_is_an_error() -> None:
    assert decide(verdicts("pass"), wanted=["c0", "c1"]) is Outcome.ERROR
    assert decide(verdicts("pass", "pass"), wanted=["c0", "c1"]) is Outcome.PASS


@pytest.mark.parametrize("broken", [{}, {"check": "x"}, {"check": "x", "verdict": "ok"}])
def test_a_verdict_that_breaks_the_contract_is_not_read(broken: dict[str, str]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Verdict.parse(broken)


def test_a_verdict_reads_back() -> None:
    verdict = Verdict(
        "gpu_driver", Outcome.FAIL, "24 GiB", "16 GiB", "too small", "use another host", 0.5, {"driver": "580"}
    )
    assert Verdict.parse(verdict.as_json()) == verdict
