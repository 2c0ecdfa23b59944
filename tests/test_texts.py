"""Every text exists in both languages, with the same parameters, and every code that is used has one."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from rowmill.domain.batch import BatchState, RowState
from rowmill.domain.causes import Cause
from rowmill.domain.events import Fact
from rowmill.domain.form import FieldKind
from rowmill.domain.mapping import Reason
from rowmill.settings import TABLE
from rowmill.texts import LANGUAGES, Speech, catalogue, language

SOURCE = Path(__file__).parent.parent / "src/rowmill"
RAW = ("fill.", "example.")  # these go into templates as they are


def parameters(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_same_codes() -> None:
    assert catalogue("en").keys() == catalogue("zh").keys()


@pytest.mark.parametrize("code", [code for code in catalogue("en") if not code.startswith(RAW)])
def test_same_parameters(code: str) -> None:
    assert parameters(catalogue("en")[code]) == parameters(catalogue("zh")[code])


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_empty_texts(lang: str) -> None:
    assert [code for code, text in catalogue(lang).items() if not text.strip()] == []


def test_chinese_is_chinese() -> None:
    """Texts that are the same in both languages are names, marks or numbers, not sentences."""
    english, chinese = catalogue("en"), catalogue("zh")
    sentence = re.compile(r"[a-z]{4,} [a-z]{2,}")
    assert [code for code, text in english.items() if text == chinese[code] and sentence.search(text)] == []


RAISED = re.compile(r"(?:Sheet|Mapping|App|Usage|Store|Fenced)Error\(\s*\"([a-z_0-9]+)\"")
FOUND = re.compile(r"(?:_wrong|Finding)\(\s*\"([a-z_0-9]+)\"|\(\"(file_[a-z_]+)\"")


def used_codes() -> set[str]:
    """Codes of errors, problems and findings that stand in the source."""
    sources = [path for path in SOURCE.rglob("*.py") if "testing" not in path.parts]
    errors = {f"error.{code}" for path in sources for code in RAISED.findall(path.read_text("utf-8"))}
    judged = [SOURCE / "domain/values.py", SOURCE / "domain/files.py"]
    pairs = {pair for path in judged for pair in FOUND.findall(path.read_text("utf-8"))}
    findings = {one or other for one, other in pairs}
    return errors | {f"{kind}.{code}" for code in findings for kind in ("problem", "repair")}


def test_every_error_and_problem_has_a_text() -> None:
    codes = used_codes()
    assert len(codes) > 80
    assert sorted(code for code in codes if code not in catalogue("en")) == []


def test_every_word_of_the_domain_has_a_text() -> None:
    wanted = [
        *(f"cause.{cause.value}" for cause in Cause),
        *(f"advice.{cause.value}" for cause in Cause),
        *(f"state.{state.value}" for state in RowState),
        *(f"batch_state.{state.value}" for state in BatchState),
        *(f"event.{fact.value}" for fact in Fact),
        *(f"reason.{reason.value}" for reason in Reason),
        *(f"kind.{kind.value}" for kind in FieldKind),
        *(f"setting.{setting.name}" for setting in TABLE),
    ]
    assert [code for code in wanted if code not in catalogue("en")] == []


def test_codes_said_by_the_program_exist() -> None:
    said = re.compile(r"(?:say|tell|warn)\(\s*\"([a-z_]+(?:\.[a-z_]+)*)\"")
    help_codes = re.compile(r"help=\"(help\.[a-z_.]+)\"")
    found: set[str] = set()
    for path in (SOURCE / "cli").rglob("*.py"):
        text = path.read_text("utf-8")
        found |= set(said.findall(text)) | set(help_codes.findall(text))
    assert len(found) > 60
    assert sorted(code for code in found if code not in catalogue("en")) == []


@pytest.mark.parametrize(
    ("environ", "asked", "lang"),
    [
        ({}, None, "en"),
        ({"LANG": "zh_CN.UTF-8"}, None, "zh"),
        ({"LANG": "C.UTF-8"}, None, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, None, "en"),
        ({"LANG": "en_US", "ROWMILL_LANG": "zh"}, None, "zh"),
        ({"LANG": "zh_CN.UTF-8"}, "en", "en"),
        ({"LANG": "de_DE.UTF-8"}, None, "en"),
    ],
)
def test_language(environ: dict[str, str], asked: str | None, lang: str) -> None:
    assert language(environ, asked) == lang


def test_gaps_and_unknown_codes() -> None:
    say = Speech("en")
    assert say("error.app_unreachable", url="u") == "Nothing answers at u: . Is the address right and Dify running?"
    assert say("no.such.code", x=1) == "no.such.code {'x': 1}"
