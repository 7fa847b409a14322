"""What exists in the world: drawings with names and kinds, and which combinations are kept for evaluation."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from firstsight.errors import QuantityError
from firstsight.recipe.mix import World

PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")
"""Cells in raster order."""
SIGNS = ("go", "up", "ox", "hi", "me", "we", "by", "do", "us", "if", "am", "so")
"""Words that stand on badges."""
GROUNDS = ("green", "blue", "red", "yellow", "grey", "purple")

# Within a kind, drawings that differ most in outline and colour come first: small worlds take the first ones.
DRAWINGS = {
    "bird": "🐧🦉🦩🦚🐓🦆🦜🦃🦅🦢🕊🦤🐔🐤🐣🪿",
    "mammal": "🐘🦓🐄🐖🐅🐒🦒🐇🦊🐼🦁🐕🐈🐎🐁🐪🦘🦔🐑🐐🦌🦍🦏🦛🦇🐿🐨🐺🐻🦝🦙🦥🦨🦡🐆🦫",
    "swimmer": "🐙🐬🦀🐠🐢🪼🦞🐡🦑🦈🐳🦐🐟🦭🦦🐊🐸🐚🪸🦪🐋",
    "fruit": "🍌🍓🍍🍇🥝🍉🍒🍐🍋🍊🍎🥥🍑🥑🥭🍈🫐🍅🫒🍆🍏🎃🥒🌶",
    "vehicle": "🚲🚂🚀⛵🚜🛸🚁🚌✈🚗🛵🚒🛶🚕🚚🚢🏍🛹🚑🛺🚤🛴🚎🚃🛻🛷🚐",
    "tool": "🔨✂🧲🪣🔑🧹🧭🔧🪚🔦🪓🪛🪜⛏🔍🪒🥄🖌📏🪝🔬🔭💉🧮📎🪠🪥🪡🧯🔪✏",
    "garment": "👗👖🎩🧦🧤👞👕🧣👑👔🧥👠👢👒🧢👘👟🩳🥻👙🥼🦺👡🩱🥾🩰🎓🪖",
    "instrument": "🎸🎺🥁🎹🪇🔔🎷🎻🪗🪕🪘🪈🪉📯🎐🪊",
    "plant": "🌻🌹🌵🌲🌴🍄🌷🌱🍀🍁🌳🌺🌼🪻🪷🌾🌿🎋🪴🎄🥀☘🌽🥦🥕",
    "dish": "🍔🍕🌮🍩🍣🍦🥐🎂🍪🧀🍞🥞🍟🌭🥨🥪🍳🧁🍫🍿🍭🥗🍙🍜",
    "toy": "⚽🎲🪁🧸🎯🧩🏀🎾🪀🎱🏈🏸🏓🥊🪃🎮🎳🏹⛸🛼🎿🎈🪅🪆",
    "building": "🏠🏰🏭🏥⛺🛖⛪🕌🗼🏯🏛🏟🏫🏢🛕⛩🏚🏦🕍🏨🏘",
    "device": "📱📷📺⌚☎💡💻📻🔋🎧🎤📠🖨📡🕹📞🔌🎥⏰💾📟",
    "insect": "🐝🦋🐜🐞🕷🦂🦗🦟🪰🪲🪳🐛🐌🪱",
}

_SHORT = {
    "🕊": "dove", "🐤": "chick", "🐣": "hatchling", "🪿": "goose", "🐪": "camel", "🦛": "hippo", "🐠": "angelfish",
    "🪼": "jellyfish", "🐳": "narwhal", "🐚": "shell", "🍏": "green-apple", "🍎": "apple", "🎃": "pumpkin",
    "🥝": "kiwi", "🌶": "pepper", "🚂": "locomotive", "🛵": "moped", "🚒": "fire-truck", "🚚": "van", "🛸": "saucer",
    "🏍": "motorcycle", "🛺": "rickshaw", "🚃": "wagon", "🛻": "pickup", "🚗": "car", "✂": "scissors", "🪚": "saw",
    "🔦": "torch", "🔍": "magnifier", "🖌": "paintbrush", "📏": "ruler", "🪡": "needle", "🧯": "extinguisher",
    "🔪": "knife", "👠": "high-heel", "👢": "boot", "👟": "sneaker", "👞": "shoe", "👒": "sunhat", "🧢": "cap",
    "🦺": "vest", "👡": "sandal", "🩱": "swimsuit", "🥾": "hiking-boot", "🩰": "slippers", "🎓": "mortarboard",
    "🪖": "helmet", "🥁": "drum", "🎹": "piano", "🪇": "maracas", "🪈": "flute", "🪉": "harp", "📯": "horn",
    "🪊": "trombone", "🌲": "fir", "🌴": "palm", "🍀": "clover", "🍁": "maple", "🌳": "oak", "🌼": "daisy",
    "🪻": "hyacinth", "🌾": "rice", "🎋": "bamboo", "🪴": "pot-plant", "🎄": "christmas-tree", "🥀": "wilted-rose",
    "☘": "shamrock", "🌽": "maize", "🍕": "pizza", "🍦": "ice-cream", "🎂": "cake", "🧀": "cheese", "🍟": "fries",
    "🍫": "chocolate", "🥗": "salad", "🍙": "rice-ball", "🍜": "soup", "🍳": "fried-egg", "⚽": "ball", "🎲": "die",
    "🧸": "teddy", "🎯": "target", "🧩": "puzzle", "🏀": "basketball", "🎾": "tennis-ball", "🏈": "football",
    "🏸": "shuttlecock", "🏓": "paddle", "🥊": "boxing-glove", "🎮": "gamepad", "🎳": "skittles", "🏹": "bow",
    "🛼": "roller-skate", "🎿": "ski", "🪆": "doll", "🏠": "house", "🏰": "castle", "🗼": "tower", "🏯": "pagoda",
    "🏛": "museum", "🏢": "office", "🛕": "temple", "⛩": "shrine", "🏚": "ruin", "🏘": "village", "📱": "phone",
    "☎": "telephone", "💡": "bulb", "💻": "laptop", "📠": "fax", "📡": "antenna", "📞": "receiver", "🔌": "plug",
    "🎥": "film-camera", "⏰": "alarm-clock", "💾": "floppy", "🐞": "ladybird", "🐝": "bee", "🐛": "caterpillar",
    "🎐": "wind-chime",
}  # fmt: skip

_CYCLE = 6
"""Of six objects of a kind, four are unseen at one place each: a sixth of all (object, place) pairs."""


def name_of(drawing: str) -> str:
    """One word for a drawing: its Unicode name in lower case with dashes, or a shorter one where that is ugly."""
    return _SHORT.get(drawing) or unicodedata.name(drawing).lower().removesuffix(" face").replace(" ", "-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """The objects of one world; every mapping is by name."""

    drawings: dict[str, str]
    kinds: dict[str, tuple[str, ...]]
    kind_of: dict[str, str]
    unseen: dict[str, str]
    """Object to the place where no training picture or text ever shows it; objects without such a place are absent."""
    popular: frozenset[str]
    """A third of each kind, drawn twice as often as the others."""
    asked: frozenset[str]
    """Half of each kind: dialogues may ask for the kind of these; the benchmark `kinds` asks for the others."""
    seen_at: dict[str, tuple[str, ...]]
    """Place to what may stand there in training, popular names twice."""
    unseen_at: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Every object, in the order of the drawings."""
        return tuple(self.drawings)


@lru_cache(maxsize=16)
def catalogue(world: World) -> Catalogue:
    """The world's objects, spread over its kinds as evenly as the drawings allow; QuantityError if they do not."""
    _check(world)
    kinds = _members(world)
    unseen, popular, asked = _roles(world, kinds)
    drawings = {name_of(drawing): drawing for kind in kinds for drawing in kinds[kind]}
    named = {kind: tuple(name_of(drawing) for drawing in kinds[kind]) for kind in kinds}
    return Catalogue(
        drawings=drawings,
        kinds=named,
        kind_of={name: kind for kind, names in named.items() for name in names},
        unseen=unseen,
        popular=popular,
        asked=asked,
        seen_at={place: _weighted([n for n in drawings if unseen.get(n) != place], popular) for place in PLACES},
        unseen_at={place: tuple(n for n in drawings if unseen.get(n) == place) for place in PLACES},
    )


def _check(world: World) -> None:
    most = sum(len(drawings) for drawings in list(DRAWINGS.values())[: world.kinds])
    if not 2 <= world.kinds <= len(DRAWINGS):
        raise QuantityError(f"the world has 2 to {len(DRAWINGS)} kinds. Got kinds={world.kinds}.")
    fewest = max(2 * world.kinds, 2 * len(PLACES))
    if not fewest <= world.objects <= most:
        raise QuantityError(
            f"{world.kinds} kinds hold {fewest} to {most} objects. Got objects={world.objects}. Change either."
        )
    if world.picture < 32 or world.picture % 2 or not 1 <= world.crowd <= len(PLACES):
        raise QuantityError(
            f"a scene has an even side of at least 32 pixels and 1 to 4 objects. "
            f"Got picture={world.picture}, crowd={world.crowd}."
        )


def _members(world: World) -> dict[str, list[str]]:
    """First drawing of every kind, second of every kind, ... until there are enough."""
    kinds: dict[str, list[str]] = {kind: [] for kind in list(DRAWINGS)[: world.kinds]}
    ranks = max(len(DRAWINGS[kind]) for kind in kinds)
    order = [(kind, rank) for rank in range(ranks) for kind in kinds if rank < len(DRAWINGS[kind])]
    for kind, rank in order[: world.objects]:
        kinds[kind].append(DRAWINGS[kind][rank])
    return kinds


def _roles(world: World, kinds: dict[str, list[str]]) -> tuple[dict[str, str], frozenset[str], frozenset[str]]:
    """Three independent shuffles of every kind say what is unseen where, what is popular, and whose kind is asked."""
    unseen: dict[str, str] = {}
    popular: set[str] = set()
    asked: set[str] = set()
    rng = stream(world, "roles", 0)
    for number, drawings in enumerate(kinds.values()):
        names = [name_of(drawing) for drawing in drawings]
        for rank, name in enumerate(shuffled(names, rng)):
            turn = (rank + number) % _CYCLE
            if turn < len(PLACES):
                unseen[name] = PLACES[turn]
        popular.update(shuffled(names, rng)[: max(1, len(names) // 3)])
        asked.update(shuffled(names, rng)[: (len(names) + number % 2) // 2])
    return unseen, frozenset(popular), frozenset(asked)


def _weighted(names: Sequence[str], popular: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in names for _ in range(2 if name in popular else 1))


def stream(world: World, part: str, index: int) -> np.random.Generator:
    """Random numbers that depend on the world's seed, the part and the index alone."""
    return np.random.Generator(np.random.PCG64([world.seed, *part.encode(), index]))


T = TypeVar("T")


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of `options`, each as likely; only Generator.random is used, whose stream numpy keeps stable."""
    return options[int(rng.random() * len(options))]


def shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    """`items` in random order."""
    draws = rng.random(len(items)).tolist()
    return [items[i] for i in sorted(range(len(items)), key=draws.__getitem__)]


def choose(options: Sequence[tuple[float, T]], rng: np.random.Generator) -> T:
    """One of `options` by its weight."""
    draw = rng.random() * sum(weight for weight, _ in options)
    for weight, option in options:
        draw -= weight
        if draw < 0:
            return option
    return options[-1][1]
