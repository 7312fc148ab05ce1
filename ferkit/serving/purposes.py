"""What a reading of expressions is for: declared with every request, and refused where the law forbids it."""

from dataclasses import dataclass

from ferkit.serving.errors import Refused

REASON_EN = (
    "Inferring emotions of people at work, of applicants, or in schools is prohibited in the European Union "
    "(AI Act, Regulation (EU) 2024/1689, Article 5(1)(f)), except for medical or safety reasons."
)
REASON_KO = (
    "직장, 채용 또는 교육 기관에서 사람의 감정을 추론하는 것은 의료 또는 안전 목적을 제외하고 유럽연합에서 금지되어 "
    "있습니다(EU AI법, 규정 (EU) 2024/1689, 제5조 제1항 (f))."
)


@dataclass(frozen=True)
class Purpose:
    """What expressions are read for.

    Attributes:
        id: as requests name it.
        en, ko: as people call it.
        prohibited: refused unless whoever runs the server allows it.
    """

    id: str
    en: str
    ko: str
    prohibited: bool = False


PURPOSES = (
    Purpose("research", "Research", "연구"),
    Purpose("personal", "Personal use", "개인적 사용"),
    Purpose("art", "Art and play", "예술과 놀이"),
    Purpose("accessibility", "Accessibility", "접근성 지원"),
    Purpose("medical", "Medical reasons", "의료 목적"),
    Purpose("safety", "Safety reasons", "안전 목적"),
    Purpose("other", "Something else", "기타"),
    Purpose("hiring", "Hiring", "채용", prohibited=True),
    Purpose("workplace", "Workplace", "직장", prohibited=True),
    Purpose("education", "Education", "교육", prohibited=True),
)
BY_ID = {purpose.id: purpose for purpose in PURPOSES}


def check_purpose(given: str | None, default: str | None, allowed: frozenset[str]) -> str:
    """The purpose that a request is made for.

    Args:
        given: what the request declares, None for nothing.
        default: what holds where nothing is declared.
        allowed: prohibited purposes that whoever runs the server allows.

    Raises:
        Refused: nothing is declared (400), it is unknown (400), or prohibited (403).
    """
    name = given or default
    if name is None:
        raise Refused(
            400,
            "no_purpose",
            "Say what the expressions are read for: add ?purpose=… or the header X-Ferkit-Purpose, out of "
            f"{', '.join(BY_ID)}.",
        )
    purpose = BY_ID.get(name)
    if purpose is None:
        raise Refused(400, "unknown_purpose", f"Expected a purpose out of {', '.join(BY_ID)}.")
    if purpose.prohibited and purpose.id not in allowed:
        raise Refused(403, "prohibited_purpose", REASON_EN)
    return purpose.id
