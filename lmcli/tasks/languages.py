"""Languages as people name them, and the codes of a model.

`choose_source` and `choose_targets` find the codes, `splitter_language` and `scripts` what a code says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import langcodes

from lmcli.bundle.manifest import Language
from lmcli.errors import UsageError
from lmcli.spelling import closest

_MOST_SHOWN = 24
_UNKNOWN_REGIONS = ("XX", "ZZ")  # en_XX of mBART: English of anywhere


def choose_source(languages: Mapping[str, Language], wanted: str | None) -> str:
    """The code of the language to translate from; empty where nobody says and the model need not know.

    Raises UsageError.
    """
    if wanted is not None:
        return _find(languages, wanted, "--from")
    if len(languages) == 1:
        return next(iter(languages))
    if len(set(languages.values())) > 1:
        raise _missing(languages, "--from")
    return ""


def choose_targets(languages: Mapping[str, Language], wanted: Sequence[str]) -> tuple[str, ...]:
    """The codes of the languages to translate into, each once; a single empty one where the model has none.

    Raises UsageError.
    """
    if wanted:
        return tuple(dict.fromkeys(_find(languages, name, "--to") for name in wanted))
    if len(languages) > 1:
        raise _missing(languages, "--to")
    return tuple(languages) or ("",)


def parse_language(wanted: str, option: str) -> str:
    """The ISO 639 code of a language by a code or name. Raises UsageError."""
    tag = _tag(wanted) or _named(wanted)
    if tag is None or tag.language is None:
        raise UsageError(f"{option} {wanted!r}: no such language", hint="name it as `en` or `English`")
    return tag.language


def splitter_language(code: str) -> str:
    """The ISO 639 code of a model's code, for a sentence splitter; English where it has none."""
    tag = _tag(code)
    return tag.language or "en" if tag is not None else "en"


def is_same(code: str, other: str) -> bool:
    """Whether two codes name one language, whatever the script or country."""
    one, two = _tag(code), _tag(other)
    return one is not None and two is not None and one.language == two.language


def has_spaces(code: str) -> bool:
    """Whether the language puts spaces between words, as far as its code tells."""
    tag = _tag(code)
    return tag is None or tag.maximize().script not in _UNSPACED


def scripts(code: str) -> frozenset[str]:
    """The scripts of a language, as the names of their letters begin; empty where that is not sure."""
    tag = _tag(code)
    if tag is None or (tag.script is None and tag.language in _TWO_SCRIPTS):
        return frozenset()
    return _LETTERS.get(tag.maximize().script or "", frozenset())


_UNSPACED = frozenset({"Hans", "Hant", "Jpan", "Khmr", "Laoo", "Mymr", "Thai", "Tibt"})
_TWO_SCRIPTS = frozenset({"az", "bs", "kk", "ks", "ku", "pa", "sd", "sr", "tk", "tt", "uz"})
_LETTERS = {
    script: frozenset(names.split())
    for script, names in {
        "Arab": "ARABIC",
        "Armn": "ARMENIAN",
        "Beng": "BENGALI",
        "Cyrl": "CYRILLIC",
        "Deva": "DEVANAGARI",
        "Ethi": "ETHIOPIC",
        "Geor": "GEORGIAN",
        "Grek": "GREEK",
        "Gujr": "GUJARATI",
        "Guru": "GURMUKHI",
        "Hans": "CJK",
        "Hant": "CJK",
        "Hebr": "HEBREW",
        "Hang": "HANGUL",
        "Jpan": "CJK HIRAGANA KATAKANA KATAKANA-HIRAGANA",
        "Khmr": "KHMER",
        "Knda": "KANNADA",
        "Kore": "HANGUL CJK",
        "Laoo": "LAO",
        "Latn": "LATIN",
        "Mlym": "MALAYALAM",
        "Mymr": "MYANMAR",
        "Orya": "ORIYA",
        "Sinh": "SINHALA",
        "Taml": "TAMIL",
        "Telu": "TELUGU",
        "Thai": "THAI",
        "Tibt": "TIBETAN",
    }.items()
}


def _find(languages: Mapping[str, Language], wanted: str, option: str) -> str:
    """The code that `wanted` means: the code itself, a tag such as `pt-BR`, or a name in any language."""
    if not languages:
        raise UsageError(f"{option} {wanted!r}: the model does not name its languages", hint="leave it out")
    plain = {code.casefold().replace("-", "_"): code for code in languages}
    if code := plain.get(wanted.casefold().replace("-", "_")):
        return code
    found = _like(languages, wanted)
    if len(found) > 1:
        raise UsageError(
            f"{option} {wanted!r}: the model has several of them", hint=f"choose one of {', '.join(found)}"
        )
    if not found:
        raise UsageError(
            f"{option} {wanted!r}: the model has no such language{_suggestion(languages, wanted)}",
            hint=f"it has {_listed(languages)}",
        )
    return found[0]


def _like(languages: Iterable[str], wanted: str) -> list[str]:
    """The codes that fit a tag or name: one, if one says just this, else those that say it more exactly."""
    named = [code for code in languages if _name(code).casefold() == wanted.casefold()]
    tag = _tag(wanted) or _named(wanted)
    if named or tag is None:
        return named
    tags = {code: known for code in languages if (known := _tag(code)) is not None}
    fitting = [code for code, known in tags.items() if _fits(known, tag)]
    exact = [code for code in fitting if tags[code].simplify_script() == tag.simplify_script()]
    # Bokmål is what most mean by Norwegian: CLDR gives such pairs the distance 1.
    return (
        exact or fitting or [code for code, known in tags.items() if langcodes.tag_distance(tag, known) <= 1]
    )


def _fits(known: langcodes.Language, wanted: langcodes.Language) -> bool:
    """Whether a language of the model is the wanted one, or a variety of it."""
    script = wanted.maximize().script if wanted.script or wanted.territory else None
    return (
        known.language == wanted.language
        and script in {None, known.maximize().script}
        and (wanted.territory is None or known.territory in {None, wanted.territory})
    )


def _tag(code: str) -> langcodes.Language | None:
    """A code as a tag: `fra_Latn` is `fr-Latn`, `fr_XX` is `fr`, `arb` is `ar`; None if it is none."""
    try:
        tag = langcodes.get(code)
    except ValueError:
        return None
    if tag.territory in _UNKNOWN_REGIONS:
        tag = langcodes.Language.make(language=tag.language, script=tag.script)
    return tag.prefer_macrolanguage() if tag.is_valid() else None


def _named(name: str) -> langcodes.Language | None:
    """The language of a name, in whatever language the name is."""
    try:
        return _tag(str(langcodes.find(name)))
    except (LookupError, ValueError):  # the latter for some control characters
        return None


def _name(code: str) -> str:
    """The English name of a code; the code itself where it has none."""
    tag = _tag(code)
    return tag.display_name() if tag is not None else code


def _missing(languages: Mapping[str, Language], option: str) -> UsageError:
    example = next(iter(languages))
    return UsageError(
        f"{option} is missing: the model has {len(languages)} languages to choose from",
        hint=f"{option} {example}, for example; there are {_listed(languages)}",
    )


def _suggestion(languages: Iterable[str], wanted: str) -> str:
    """What may have been meant by a word that is no language."""
    if _tag(wanted) or _named(wanted):
        return ""
    known = {name.casefold(): code for code in languages for name in (code, _name(code))}
    found = closest(wanted.casefold(), known)
    return "" if found is None else f"; did you mean {known[found]}?"


def _listed(languages: Iterable[str]) -> str:
    codes = sorted(languages)
    more = f" and {len(codes) - _MOST_SHOWN} more" if len(codes) > _MOST_SHOWN else ""
    return ", ".join(codes[:_MOST_SHOWN]) + more
