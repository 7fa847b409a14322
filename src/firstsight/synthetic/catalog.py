"""The catalog of the synthetic world: drawings, their names and kinds, and the combinations held out for evaluation."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from firstsight.recipe.mixture import SyntheticWorld

PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")
"""Cells in raster order."""
SIGNS = ("go", "up", "ox", "hi", "me", "we", "by", "do", "us", "if", "am", "so")
"""Words on the signs of objects."""
GROUND_COLORS = ("green", "blue", "red", "yellow", "grey", "purple")

# Within a kind, the drawings that differ most in outline and colour come first: a small world takes the first ones.
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

_SHORT_NAMES = {
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

_HOLDOUT_CYCLE = 6
"""Of six objects of a kind, four have one held-out place each: a sixth of all (object, place) pairs."""


def drawing_name(drawing: str) -> str:
    """The one-word name of a drawing: its Unicode name in lower case with dashes, or an entry of _SHORT_NAMES."""
    return _SHORT_NAMES.get(drawing) or unicodedata.name(drawing).lower().removesuffix(" face").replace(" ", "-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """The objects of one world. Mappings have object names as keys unless stated otherwise."""

    drawings: dict[str, str]
    kinds: dict[str, tuple[str, ...]]
    kind_of: dict[str, str]
    held_out_place: dict[str, str]
    """For some objects, a place where no training image or text shows them."""
    popular_names: frozenset[str]
    """A third of each kind, sampled twice as often as the others."""
    trained_kind_names: frozenset[str]
    """Half of each kind: dialogues are about the kinds of these, the benchmark `kinds` about those of the others."""
    names_by_place: dict[str, dict[str, tuple[str, ...]]]
    """`training`, `held_out` or `all` to place to the names that may be there.

    Popular names are listed twice, except in held-out pairs.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """All object names, in the order of the drawings."""
        return tuple(self.drawings)


@lru_cache(maxsize=16)
def load_catalog(world: SyntheticWorld) -> Catalog:
    """The objects of a world, spread evenly over its kinds; QuantityError where the drawings do not suffice."""
    world.check()
    kinds = _drawings_by_kind(world)
    held_out_place, popular_names, trained_kind_names = _assign_roles(world, kinds)
    drawings = {drawing_name(drawing): drawing for kind in kinds for drawing in kinds[kind]}
    names_by_kind = {kind: tuple(map(drawing_name, kinds[kind])) for kind in kinds}
    names_twice = [name for name in drawings for _ in range(2 if name in popular_names else 1)]
    return Catalog(
        drawings=drawings,
        kinds=names_by_kind,
        kind_of={name: kind for kind, names in names_by_kind.items() for name in names},
        held_out_place=held_out_place,
        popular_names=popular_names,
        trained_kind_names=trained_kind_names,
        names_by_place={
            "training": {x: tuple(name for name in names_twice if held_out_place.get(name) != x) for x in PLACES},
            "held_out": {x: tuple(name for name in drawings if held_out_place.get(name) == x) for x in PLACES},
            "all": {x: tuple(names_twice) for x in PLACES},
        },
    )


def _drawings_by_kind(world: SyntheticWorld) -> dict[str, list[str]]:
    """The first drawing of every kind, then the second of every kind, and so on up to `world.objects` drawings."""
    kinds: dict[str, list[str]] = {kind: [] for kind in list(DRAWINGS)[: world.kinds]}
    ranks = max(len(DRAWINGS[kind]) for kind in kinds)
    order = [(kind, rank) for rank in range(ranks) for kind in kinds if rank < len(DRAWINGS[kind])]
    for kind, rank in order[: world.objects]:
        kinds[kind].append(DRAWINGS[kind][rank])
    return kinds


def _assign_roles(
    world: SyntheticWorld, kinds: dict[str, list[str]]
) -> tuple[dict[str, str], frozenset[str], frozenset[str]]:
    """(held_out_place, popular_names, trained_kind_names) from three independent permutations of every kind."""
    held_out_place: dict[str, str] = {}
    popular_names: set[str] = set()
    trained_kind_names: set[str] = set()
    rng = world_rng(world, "roles", 0)
    for kind_index, drawings in enumerate(kinds.values()):
        names = [drawing_name(drawing) for drawing in drawings]
        for rank, name in enumerate(shuffled_list(names, rng)):
            cycle_position = (rank + kind_index) % _HOLDOUT_CYCLE
            if cycle_position < len(PLACES):
                held_out_place[name] = PLACES[cycle_position]
        popular_names.update(shuffled_list(names, rng)[: max(1, len(names) // 3)])
        trained_kind_names.update(shuffled_list(names, rng)[: (len(names) + kind_index % 2) // 2])
    return held_out_place, frozenset(popular_names), frozenset(trained_kind_names)


def world_rng(world: SyntheticWorld, purpose: str, index: int) -> np.random.Generator:
    """A generator that is a function of the world's seed, the purpose and the index alone."""
    return np.random.Generator(np.random.PCG64([world.seed, *purpose.encode(), index]))


T = TypeVar("T")


def uniform_choice(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of `options`, uniformly. Uses only Generator.random, whose stream numpy keeps stable between versions."""
    return options[int(rng.random() * len(options))]


def shuffled_list(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    """`items` in a uniformly random order."""
    sort_keys = rng.random(len(items)).tolist()
    return [items[index] for index in sorted(range(len(items)), key=sort_keys.__getitem__)]


def weighted_choice(options: Sequence[tuple[float, T]], rng: np.random.Generator) -> T:
    """One of the (weight, option) pairs with probability proportional to its weight; the weights need not sum to 1."""
    draw = rng.random() * sum(weight for weight, _ in options)
    for weight, option in options:
        draw -= weight
        if draw < 0:
            return option
    return options[-1][1]
