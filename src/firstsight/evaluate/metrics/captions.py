"""CIDEr-D: TF-IDF weighted n-gram similarity of a caption with several references (Vedantam et al. 2015).

Its tokens are Penn Treebank tokens as in the official scorer: lower case, without most punctuation. Stanford's lexer
(CoreNLP 3.4.1, as coco-caption calls it) takes the longest match of many patterns at each position. The patterns that
occur in captions are implemented; tags with spaces, telephone numbers and sequences of emoji are not.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

from firstsight.errors import DataError
from firstsight.evaluate.metrics.metric import Metric, Truth, is_nonempty

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


NGram = tuple[str, ...]
"""One to four consecutive words."""

_MAX_NGRAM = 4
_SIGMA = 6.0
"""Standard deviation of the Gaussian length penalty, in bigrams."""
_SCALE = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _TfidfVector:
    """A caption's TF-IDF weights by n-gram length, their norms, and its number of bigrams."""

    weights: tuple[Mapping[NGram, float], ...]
    norms: tuple[float, ...]
    num_bigrams: int


def cider(answers: Sequence[str], truths: Sequence[Truth]) -> list[float]:
    """The CIDEr-D of each caption, 0 to 10; the corpus score is their mean.

    The document frequency of an n-gram is the number of images with it in a reference, over all of `truths`; so a
    single image scores 0, and a subset's scores differ from the whole's. DataError for an image without references.
    """
    references = [_reference_ngrams(truth, index) for index, truth in enumerate(truths)]
    document_frequency = Counter(ngram for texts in references for ngram in {ngram for text in texts for ngram in text})
    idf = {ngram: math.log(len(references)) - math.log(frequency) for ngram, frequency in document_frequency.items()}
    default_idf = math.log(max(len(references), 1))
    vector = partial(_tfidf_vector, idf=idf, default_idf=default_idf)
    pairs = zip(map(_count_ngrams, answers), references, strict=True)
    return [_cider_score(vector(answer), [vector(text) for text in texts]) for answer, texts in pairs]


def _reference_ngrams(truth: Truth, index: int) -> list[Counter[NGram]]:
    texts = truth if isinstance(truth, tuple) else (truth,)
    if not texts:
        raise DataError(f"caption {index + 1}: wanted a reference to compare it with. Got none. Leave the image out.")
    return [_count_ngrams(str(text)) for text in texts]


def _count_ngrams(text: str) -> Counter[NGram]:
    words = ptb_tokenize(text)
    lengths = range(1, _MAX_NGRAM + 1)
    return Counter(tuple(words[i : i + length]) for length in lengths for i in range(len(words) - length + 1))


def _tfidf_vector(counts: Mapping[NGram, int], idf: Mapping[NGram, float], default_idf: float) -> _TfidfVector:
    weights_by_length: tuple[dict[NGram, float], ...] = tuple({} for _ in range(_MAX_NGRAM))
    for ngram, count in counts.items():
        weights_by_length[len(ngram) - 1][ngram] = count * idf.get(ngram, default_idf)
    norms = tuple(math.sqrt(sum(weight * weight for weight in weights.values())) for weights in weights_by_length)
    num_bigrams = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return _TfidfVector(weights=weights_by_length, norms=norms, num_bigrams=num_bigrams)


def _cider_score(candidate: _TfidfVector, references: Sequence[_TfidfVector]) -> float:
    """The mean over references and n-gram lengths of the clipped cosine, with the length penalty."""
    total = 0.0
    for reference in references:
        length_difference = candidate.num_bigrams - reference.num_bigrams
        similarity = sum(map(_cosine, candidate.weights, candidate.norms, reference.weights, reference.norms))
        total += math.exp(-(length_difference**2) / (2 * _SIGMA**2)) * similarity
    return _SCALE * total / (_MAX_NGRAM * len(references))


def _cosine(candidate: Mapping[NGram, float], norm: float, reference: Mapping[NGram, float], ref_norm: float) -> float:
    if not (norm and ref_norm):
        return 0.0
    pairs = ((weight, reference[ngram]) for ngram, weight in candidate.items() if reference.get(ngram))
    return sum(min(weight, ref_weight) * ref_weight for weight, ref_weight in pairs) / (norm * ref_norm)


CIDER = Metric(name="cider", compute=cider, is_readable=is_nonempty)
"""COCO and NoCaps captions, in the official scorer's scale: 120 in papers is 1.2 here."""
