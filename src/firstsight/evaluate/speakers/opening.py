"""From a folder to one who can be asked."""

from __future__ import annotations

from pathlib import Path

from firstsight.evaluate.cache import content
from firstsight.evaluate.speakers.own import own
from firstsight.evaluate.speakers.speaker import Speaker
from firstsight.site import Site


def speaker(checkpoint: Path, *, site: Site) -> Speaker:
    """Whoever lies in the folder `checkpoint`; ModelError where nobody does."""
    if (checkpoint / "spec.json").is_file():
        return own(checkpoint, site=site)
    content(checkpoint)  # ModelError for a folder that is nobody's
    from firstsight.evaluate.speakers.foreign import foreign  # transformers takes a second to import

    return foreign(checkpoint, site=site)
