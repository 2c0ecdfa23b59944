"""Every text that a person sees, in English and Chinese, by code. The only place with sentences in it."""

from __future__ import annotations

import json
import string
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LANGUAGES = ("en", "zh")


@lru_cache(maxsize=len(LANGUAGES))
def catalogue(lang: str) -> dict[str, str]:
    """code -> text of one language."""
    return json.loads((files(__name__) / f"{lang}.json").read_text("utf-8"))  # type: ignore[no-any-return]


class Speech:
    """Says things in one language."""

    def __init__(self, lang: str) -> None:
        self.lang = lang
        self._texts = catalogue(lang)

    def __call__(self, code: str, /, **params: object) -> str:
        """The text of a code with its parameters put in; the code itself and the parameters where there is none."""
        text = self._texts.get(code)
        if text is None:
            return f"{code} {params}" if params else code
        return _FILLER.vformat(text, (), {name: self._shown(value) for name, value in params.items()})

    def listed(self, names: Iterable[object]) -> str:
        """A list inside a sentence: `a, b` or `a、b`."""
        return self._texts["list.comma"].join(map(str, names))

    def _shown(self, value: object) -> object:
        if value is None:
            return ""
        return self.listed(value) if isinstance(value, tuple | list) else value

    def raw(self, code: str) -> str:
        """The text with its parameters still in it, for whoever fills them in."""
        return self._texts.get(code, code)

    def knows(self, code: str) -> bool:
        return code in self._texts

    def part(self, prefix: str) -> dict[str, str]:
        """All texts whose code begins with `prefix`."""
        return {code: text for code, text in self._texts.items() if code.startswith(prefix)}


class _Filler(string.Formatter):
    """A parameter that is not given leaves a gap. `{count:row|rows}` is the word that fits the number `count`."""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        del args
        return kwargs.get(str(key), "")

    def format_field(self, value: Any, format_spec: str) -> Any:
        one, bar, many = format_spec.partition("|")
        if bar:
            return one if str(value) == "1" else many
        return super().format_field(value, format_spec)


_FILLER = _Filler()


def language(environ: Mapping[str, str], asked: str | None = None) -> str:
    """`zh` or `en`, from what was asked for, else from ROWMILL_LANG, LC_ALL, LC_MESSAGES, LANG."""
    for value in (asked, *(environ.get(name) for name in ("ROWMILL_LANG", "LC_ALL", "LC_MESSAGES", "LANG"))):
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"
