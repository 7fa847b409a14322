"""From a folder to one who can be asked."""

from __future__ import annotations

from pathlib import Path

from firstsight.evaluate.answer_cache import list_checkpoint_files
from firstsight.evaluate.models.interface import EvalModel
from firstsight.evaluate.models.native import load_native_model
from firstsight.site import Site


def load_eval_model(checkpoint: Path, *, site: Site) -> EvalModel:
    """Whoever lies in the folder `checkpoint`; ModelError where nobody does."""
    if (checkpoint / "spec.json").is_file():
        return load_native_model(checkpoint, site=site)
    list_checkpoint_files(checkpoint)  # ModelError for a folder that is nobody's
    from firstsight.evaluate.models.hf_model import load_hf_model  # transformers takes a second to import

    return load_hf_model(checkpoint, site=site)
