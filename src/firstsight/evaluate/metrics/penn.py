"""Words of captions as the official CIDEr scorer sees them: Penn Treebank tokens, lower case, most marks dropped.

Stanford's tokenizer (CoreNLP 3.4.1, as coco-caption calls it) takes the longest of many forms at each place. The forms
that meet captions are written here; tags with spaces, telephone numbers, smileys and emoji in a row are not.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

_DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
"""The scorer's list. Its brackets are written in capitals there, so that a lower-cased -lrb- stays a word."""

_NOT = r"\W_\u00b2\u00b3\u00b9\u00bc-\u00be"
"""No letter and no digit; raised numbers and fractions stand alone."""
_L = rf"[^{_NOT}\d]"
_A = rf"[^{_NOT}]"
_APOS = r"['\u2019]"
_TICK = r"['\u2019\u2018`]"
_NUM = r"(?:\d*(?:[.,]\d+)+|\d+(?:[.:,]\d+)*)"
_WORD = rf"{_L}{_A}*(?:[.!?]{_L}{_A}*)*"
_FRENCH = rf"(?:[dol]{_TICK}{_A})?"
_STATES = (
    "ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo|"
    "(?-i:Az|Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash|Pl)"
)
_TITLES = (
    "mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|st[ae]?|ave|pres|"
    "lieut|hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc"
)
_SHORTENED = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|inc|cos?|corp|pp?t[ye]s?|ltd|plc|rt|"
    r"bancorp|bhd|assn|univ|intl|sys|tel|est|ext|sq|jr|sr|bros|(?:ed|ph)\.d|esq|etc|al|seq|bldg|invt|elec|natl|mft|dept|"
    "blvd|rd|viz|vs|wm|jos|cie|cf|treas|ph"
)
_NUMBERED = "(?:ca|figs?|prop|nos?|art|pp|op)"
_INITIALS = rf"{_L}(?:\.{_L})+"
_FORMS = (
    r"(can)not",
    rf"('t)(?:is(?!{_L})|is(?=n)|was)",
    rf"((?:gon|wan)(?=na)|got(?=ta)|(?:lem|gim)(?=me))\w\w(?!{_L})",
    rf"({_WORD}){_TICK}(?:m|s|d|re|ve|ll|em)",
    rf"({_L}*[^\W\d_n])n{_TICK}t",
    _WORD,
    rf"{_TICK}(?:m|s|d|re|ve|ll|em)(?!{_L})",
    rf"n{_TICK}t(?!{_L})",
    rf"{_APOS}n(?:{_APOS}|(?!{_L}))|(?:[ldj]|dunkin|somethin|ol){_APOS}|{_APOS}(?:em|till?|cause|[2-9]0s)",
    rf"[a-hj-xzn]{_TICK}{_L}{{2,}}|{_L}+[aeiouy]{_TICK}[aeiou]{_L}*",
    rf"(y{_APOS}){_L}",
    r"(?:https?|ftp)://[^\s<>|`(){}\[\]]+[^\s<>|.!?,;:&`\"'(){}\[\]-]",
    r"(?:www\.(?:[^\s`<>|.!?,(){}\[\]]+\.)+[a-z]{2,4}|(?:[^\s`<>|.!?,:/$(){}\[\]]+\.)+(?:com|net|org|edu))"
    r"(?:/[^\s<>|`]+[^\s<>|.!?,;:&`\"'(){}\[\]-])?(?![a-z])",
    r"[a-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}\[\].,;:]+",
    r"[@#][a-z_]\w*",
    r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",
    rf"[-+]?{_NUM}",
    r"\d{1,4}/\d{1,4}",
    rf"{_FRENCH}(?:{_A}+|[-+]?{_NUM})(?:-{_FRENCH}(?:{_A}+|{_NUM}))*",
    rf"{_A}+(?:-{_L}+){{0,2}}(?:/{_A}+(?:-{_L}+){{0,2}}){{1,2}}",
    rf"{_A}(?:{_A}|[.,])*(?:[-_](?:{_A}+|{_INITIALS}\.))+",
    rf"(?:{_STATES}|{_TITLES}|{_SHORTENED})\.|{_INITIALS}\.|{_L}\.",
    rf"({_NUMBERED}\.)\d",
    r"(?-i:[A-Z]+(?:[+&][A-Z]+)+)",
    r"[<>]?[:;=][-o*']?[()dpo\\{@|\[\]]",
    r"</?[a-z][^\s<>]*/?>|&(?:amp|lt|gt);",
    r"\.{3,}|-{2,}|[?!]+|``|''|\*+|_+|@+|#+|<<|>>",
    r"[a-z]*\$|\S",
)
_LEXER = tuple(re.compile(form, re.IGNORECASE) for form in _FORMS)
_NAMES = {
    '"': "''",
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "\u2013": "--",
    "\u2014": "--",
    "\u2026": "...",
    "\u201c": "``",
    "\u201d": "''",
    "\u00ab": "``",
    "\u00bb": "''",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "\u00a3": "#",
    "\u20ac": "$",
    "\u00a2": "cents",
    "\u00bd": "1/2",
    "\u00bc": "1/4",
    "\u00be": "3/4",
}
_SPLIT = frozenset(("cannot", "gonna", "wanna", "gotta", "lemme", "gimme"))
_DASHES = re.compile("-{2,}")
_BRACKET = re.compile(r"[()\[\]{}]")
_CLITIC = re.compile(rf"{_TICK}(?:m|s|d|re|ve|ll|em)?|n{_TICK}t")
_OPENING = (
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mr. Ms. Now "
    "Once One Other Our She Since So Some Such That The Their Then There These They This We When While What Yet You"
)
_STARTS = frozenset(_OPENING.split())
"""Words that begin a sentence, so that a single letter's full stop before them ends one."""
_LONE = re.compile(rf"(?:^|[^\w.]){_L}\.$")
_COUNTED = re.compile(rf"(?:^|\W){_NUMBERED}\.$", re.IGNORECASE)


def tokens(caption: str) -> list[str]:
    """The words of one caption, marks aside, in order."""
    chunks = caption.replace("\u00ad", "").split()
    found: list[str] = []
    for chunk, after in pairwise([*chunks, ""]):
        ends = after in _STARTS and _LONE.search(chunk)
        found.extend(_words(chunk[:-1] if ends else chunk))
        if after[:1].isdecimal() and _COUNTED.search(chunk):
            found[-1] += "."
    return found


@lru_cache(maxsize=1 << 16)
def _words(chunk: str) -> tuple[str, ...]:
    """The words between two white spaces."""
    if chunk.isalpha() and chunk.isascii() and chunk.lower() not in _SPLIT:
        return (chunk.lower(),)
    found: list[str] = []
    start = 0
    while start < len(chunk):
        word = _longest(chunk, start)
        found.append(_named(word.lower()))
        start += len(word)
    return tuple(word for word in found if word not in _DROPPED)


def _longest(chunk: str, start: int) -> str:
    """The word at `start`: of all forms the one that reads farthest, the earlier of equals; its first group, if any."""
    matches = (form.match(chunk, start) for form in _LEXER)
    best = max((match for match in matches if match), key=lambda match: match.end())
    return best[best.lastindex or 0]


def _named(word: str) -> str:
    if len(word) == 1 and (word > "\uffff" or unicodedata.category(word) in ("Mn", "Cf", "Cn")):
        return "."
    if _DASHES.fullmatch(word):
        return "--"
    if _CLITIC.fullmatch(word):
        word = word.replace("\u2019", "'").replace("\u2018", "`")
    if word.startswith("..."):
        return "..."
    return _NAMES.get(word) or _BRACKET.sub(lambda bracket: _NAMES[bracket[0]], word)
