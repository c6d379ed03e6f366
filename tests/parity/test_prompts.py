from __future__ import annotations

from migrate.parity.prompts import CODE, ENGLISH, NEARLY_EMPTY, PROMPTS, UNICODE


def test_there_are_sixty_different_prompts_or_more() -> None:
    assert len(PROMPTS) >= 60
    assert len(set(PROMPTS)) == len(PROMPTS)
    assert all(PROMPTS)


def test_every_beginning_holds_every_kind() -> None:
    for kind in (CODE, ENGLISH, NEARLY_EMPTY, UNICODE):
        share = len(kind) / len(PROMPTS)
        assert abs(sum(prompt in kind for prompt in PROMPTS[:20]) - 20 * share) < 2
