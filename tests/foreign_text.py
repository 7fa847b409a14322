"""Texts of the kinds that names in archives, answers and messages of others may contain."""

from __future__ import annotations

import re

from hypothesis import strategies as st

SEQUENCES = (
    *("\x1b[2J", "\x1b[31mred", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x1bP1$r\x1b\\", "\x9b2J", "\x08\x08"),
    *(
        "\r",
        "\n",
        "\r\n",
        "\t",
        "\0",
        "\x7f",
        "\x85",
        "\u2028",
        "\u202eexe.gpj",
        "\u2066",
        "\u200f",
        "\ufeff",
        "\ufffe",
    ),
    *("\ud800", "\udc80", "\udfff", "\U000e0041", "[red]", "<b>", "&", "'\"", "{}", "%s", "é", "画", "🙂"),
)
FOREIGN = st.lists(st.sampled_from(SEQUENCES) | st.text(st.characters(), max_size=4), max_size=6).map("".join)
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""What a terminal may obey, or what changes the order in which text is read."""
