"""Penn Treebank tokens of captions as in the official CIDEr scorer: lower case, without most punctuation.

Stanford's lexer (CoreNLP 3.4.1, as coco-caption calls it) takes the longest match of many patterns at each position.
The patterns that occur in captions are implemented; tags with spaces, telephone numbers and sequences of emoji are not.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

_DROPPED_TOKENS = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
"""The scorer's list. Its brackets are in capitals there, so that a lower-cased -lrb- remains a token."""

_NON_WORD = r"\W_\u00b2\u00b3\u00b9\u00bc-\u00be"
"""Neither letter nor digit; superscript digits and fractions are tokens of their own."""
_LETTER = rf"[^{_NON_WORD}\d]"
_ALNUM = rf"[^{_NON_WORD}]"
_APOSTROPHE = r"['\u2019]"
_QUOTE = r"['\u2019\u2018`]"
_NUMBER = r"(?:\d*(?:[.,]\d+)+|\d+(?:[.:,]\d+)*)"
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"
_FRENCH = rf"(?:[dol]{_QUOTE}{_ALNUM})?"
_STATES = (
    "ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo|"
    "(?-i:Az|Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash|Pl)"
)
_TITLES = (
    "mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|st[ae]?|ave|pres|"
    "lieut|hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc"
)
_ABBREVIATIONS = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|inc|cos?|corp|pp?t[ye]s?|ltd|plc|rt|"
    r"bancorp|bhd|assn|univ|intl|sys|tel|est|ext|sq|jr|sr|bros|(?:ed|ph)\.d|esq|etc|al|seq|bldg|invt|elec|natl|mft|dept|"
    "blvd|rd|viz|vs|wm|jos|cie|cf|treas|ph"
)
_NUMBER_PREFIXES = "(?:ca|figs?|prop|nos?|art|pp|op)"
_INITIALS = rf"{_LETTER}(?:\.{_LETTER})+"
_PATTERNS = (
    r"(can)not",
    rf"('t)(?:is(?!{_LETTER})|is(?=n)|was)",
    rf"((?:gon|wan)(?=na)|got(?=ta)|(?:lem|gim)(?=me))\w\w(?!{_LETTER})",
    rf"({_WORD}){_QUOTE}(?:m|s|d|re|ve|ll|em)",
    rf"({_LETTER}*[^\W\d_n])n{_QUOTE}t",
    _WORD,
    rf"{_QUOTE}(?:m|s|d|re|ve|ll|em)(?!{_LETTER})",
    rf"n{_QUOTE}t(?!{_LETTER})",
    rf"{_APOSTROPHE}n(?:{_APOSTROPHE}|(?!{_LETTER}))|(?:[ldj]|dunkin|somethin|ol){_APOSTROPHE}|{_APOSTROPHE}(?:em|till?|cause|[2-9]0s)",
    rf"[a-hj-xzn]{_QUOTE}{_LETTER}{{2,}}|{_LETTER}+[aeiouy]{_QUOTE}[aeiou]{_LETTER}*",
    rf"(y{_APOSTROPHE}){_LETTER}",
    r"(?:https?|ftp)://[^\s<>|`(){}\[\]]+[^\s<>|.!?,;:&`\"'(){}\[\]-]",
    r"(?:www\.(?:[^\s`<>|.!?,(){}\[\]]+\.)+[a-z]{2,4}|(?:[^\s`<>|.!?,:/$(){}\[\]]+\.)+(?:com|net|org|edu))"
    r"(?:/[^\s<>|`]+[^\s<>|.!?,;:&`\"'(){}\[\]-])?(?![a-z])",
    r"[a-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}\[\].,;:]+",
    r"[@#][a-z_]\w*",
    r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",
    rf"[-+]?{_NUMBER}",
    r"\d{1,4}/\d{1,4}",
    rf"{_FRENCH}(?:{_ALNUM}+|[-+]?{_NUMBER})(?:-{_FRENCH}(?:{_ALNUM}+|{_NUMBER}))*",
    rf"{_ALNUM}+(?:-{_LETTER}+){{0,2}}(?:/{_ALNUM}+(?:-{_LETTER}+){{0,2}}){{1,2}}",
    rf"{_ALNUM}(?:{_ALNUM}|[.,])*(?:[-_](?:{_ALNUM}+|{_INITIALS}\.))+",
    rf"(?:{_STATES}|{_TITLES}|{_ABBREVIATIONS})\.|{_INITIALS}\.|{_LETTER}\.",
    rf"({_NUMBER_PREFIXES}\.)\d",
    r"(?-i:[A-Z]+(?:[+&][A-Z]+)+)",
    r"[<>]?[:;=][-o*']?[()dpo\\{@|\[\]]",
    r"</?[a-z][^\s<>]*/?>|&(?:amp|lt|gt);",
    r"\.{3,}|-{2,}|[?!]+|``|''|\*+|_+|@+|#+|<<|>>",
    r"[a-z]*\$|\S",
)
_LEXER = tuple(re.compile(pattern, re.IGNORECASE) for pattern in _PATTERNS)
_REPLACEMENT_TABLE = (
    "\" '' ( -lrb- ) -rrb- [ -lsb- ] -rsb- { -lcb- } -rcb- \u2013 -- \u2014 -- \u2026 ... \u201c `` \u201d '' \u00ab "
    "`` \u00bb '' &amp; & &lt; < &gt; > \u00a3 # \u20ac $ \u00a2 cents \u00bd 1/2 \u00bc 1/4 \u00be 3/4"
)
"""Tokens, each followed by its replacement."""
_REPLACEMENTS = dict(re.findall(r"(\S+) (\S+)", _REPLACEMENT_TABLE))
_SPLIT_WORDS = frozenset(("cannot", "gonna", "wanna", "gotta", "lemme", "gimme"))
_DASHES = re.compile("-{2,}")
_BRACKET = re.compile(r"[()\[\]{}]")
_CLITIC = re.compile(rf"{_QUOTE}(?:m|s|d|re|ve|ll|em)?|n{_QUOTE}t")
_OPENING_WORDS = (
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mr. Ms. Now "
    "Once One Other Our She Since So Some Such That The Their Then There These They This We When While What Yet You"
)
_SENTENCE_STARTS = frozenset(_OPENING_WORDS.split())
"""Words that begin a sentence: before them the full stop after a single letter ends one."""
_LONE_LETTER = re.compile(rf"(?:^|[^\w.]){_LETTER}\.$")
_NUMBER_PREFIX_END = re.compile(rf"(?:^|\W){_NUMBER_PREFIXES}\.$", re.IGNORECASE)


def ptb_tokenize(caption: str) -> list[str]:
    """The tokens of one caption, in order, without the dropped ones."""
    chunks = caption.replace("\u00ad", "").split()
    words: list[str] = []
    for chunk, next_chunk in pairwise([*chunks, ""]):
        is_sentence_end = next_chunk in _SENTENCE_STARTS and _LONE_LETTER.search(chunk)
        words.extend(_tokenize_chunk(chunk[:-1] if is_sentence_end else chunk))
        if next_chunk[:1].isdecimal() and _NUMBER_PREFIX_END.search(chunk):
            words[-1] += "."
    return words


@lru_cache(maxsize=1 << 16)
def _tokenize_chunk(chunk: str) -> tuple[str, ...]:
    if chunk.isalpha() and chunk.isascii() and chunk.lower() not in _SPLIT_WORDS:
        return (chunk.lower(),)
    words: list[str] = []
    start = 0
    while start < len(chunk):
        word = _longest_match(chunk, start)
        words.append(_replace_token(word.lower()))
        start += len(word)
    return tuple(word for word in words if word not in _DROPPED_TOKENS)


def _longest_match(chunk: str, start: int) -> str:
    """The token at `start`: the longest match of all patterns, the first one on a tie; its first group, if any."""
    matches = (regex.match(chunk, start) for regex in _LEXER)
    best = max((match for match in matches if match), key=lambda match: match.end())
    return best[best.lastindex or 0]


def _replace_token(word: str) -> str:
    if len(word) == 1 and (word > "\uffff" or unicodedata.category(word) in ("Mn", "Cf", "Cn")):
        return "."
    if _DASHES.fullmatch(word):
        return "--"
    if _CLITIC.fullmatch(word):
        word = word.replace("\u2019", "'").replace("\u2018", "`")
    if word.startswith("..."):
        return "..."
    return _REPLACEMENTS.get(word) or _BRACKET.sub(lambda bracket: _REPLACEMENTS[bracket[0]], word)
