"""What lies in a folder of transformers: its model, its tokenizer and what makes inputs of words and pictures.

No code is read from a folder and no pickle is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from firstsight.errors import ModelError
from firstsight.hub.finding import check_whole, folder_of
from firstsight.site import Site

PICTURES = "image_processor"
VIDEOS = "video_processor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A model that stands ready on its device, and what it reads with."""

    kind: str
    """Its model_type."""
    model: Any
    words: Any
    """Its tokenizer; it pads at the left."""
    processor: Any | None
    """None for a model of text alone."""
    begins: str
    """What a plain text must begin with beyond what the tokenizer puts there by itself."""


def parts(place: Path, *, site: Site) -> Parts:
    """The model of a local folder or of a hub name, weights as they are stored.

    Raises ModelError for what transformers cannot load without running a stranger's code, and names what is missing.
    """
    import firstsight.hub.classes  # pyright: ignore[reportUnusedImport] # noqa: F401 - our exports' classes

    folder = place if place.is_dir() else folder_of(str(place))
    _refuse_pickles(folder)
    with _told(folder):
        config = _config(folder)
        model = _model(folder, config, sees=_sees(config))
        processor = _processor(folder, config) if _sees(config) else None
        words = _words(folder) if processor is None else processor.tokenizer
    words.padding_side = "left"
    if words.pad_token is None:
        words.pad_token = words.eos_token
    # Documents began with the end token when these were trained, and their tokenizer does not put it there.
    begins = words.bos_token if "firstsight" in config.to_dict() else ""
    ready = model.to(site.device).eval().requires_grad_(False)
    return Parts(kind=config.model_type, model=ready, words=words, processor=processor, begins=begins)


def _refuse_pickles(folder: Path) -> None:
    check_whole(folder)
    if not any(folder.glob("*.safetensors")):
        held = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file())[:8]) or "nothing"
        raise ModelError(
            f"{folder}: wanted weights in *.safetensors. Got {held}; pickles of strangers are not opened. "
            "Take a revision that has safetensors, or convert them yourself and name that folder."
        )


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What transformers says of a folder that it cannot load, as ModelError."""
    try:
        yield
    except ImportError as error:
        raise ModelError(f"{folder}: its processor needs a package that is missing. {_need(error)}") from error
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:400]
        raise ModelError(
            f"{folder}: wanted a model that transformers loads by itself. Got: {said or repr(error)}. Folders that "
            "lack parts or bring code of their own cannot be judged: take the -hf version, or a newer transformers."
        ) from error


def _need(error: ImportError) -> str:
    said = " ".join(str(error).split())
    known = ("torchvision", "num2words", "sentencepiece", "timm")
    named = next((name for name in known if name in said.lower()), "")
    return f"Run: pip install {named}." if named else f"Got: {said[:300]}."


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _sees(config: Any) -> bool:
    """Whether it is a model that sees; ModelError where it is no model that answers."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    named = str((config.architectures or [""])[0])
    if config.is_encoder_decoder:
        raise ModelError(f"{named or config.model_type}: wanted a decoder alone. Got an encoder and a decoder.")
    text = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return not (text and named.endswith("ForCausalLM") and config.model_type == "firstsight")
    if not text:
        raise ModelError(
            f"config.json: wanted an image-text-to-text model or a causal language model. Got {config.model_type!r} "
            f"({named or 'no architecture'}). Name another folder."
        )
    return False


def _model(folder: Path, config: Any, *, sees: bool) -> Any:
    """With all of its weights: transformers itself would draw what a folder lacks."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    model, told = kind.from_pretrained(
        folder,
        config=config,
        dtype="auto",
        trust_remote_code=False,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    if lacking := sorted(told["missing_keys"]):
        raise ModelError(f"{folder}: wanted all weights. Got none for {', '.join(lacking[:4])}. Download it again.")
    return model


def _words(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _processor(folder: Path, config: Any) -> Any:
    """The folder's own, with Pillow's picture processor, so that scores do not hang on torchvision being installed."""
    from transformers import PROCESSOR_MAPPING, AutoProcessor

    usual: Any = PROCESSOR_MAPPING.get(type(config), AutoProcessor)
    own: Any = usual if _named(folder) in ("", usual.__name__) else AutoProcessor
    films = own is not AutoProcessor and VIDEOS in own.get_attributes()
    kind = without_videos(own) if films else AutoProcessor
    return kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True, backend="pil")


def _named(folder: Path) -> str:
    """The processor's class as the folder names it; empty where it does not."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        file = folder / name
        if file.is_file() and (found := json.loads(file.read_text()).get("processor_class")):
            return str(found)
    return ""


def without_videos(own: Any) -> Any:
    """A processor's class less its part for videos, which no benchmark here has and which alone needs torchvision."""

    class Pictures(own):
        video_processor = SimpleNamespace(num_frames=0, fps=0)  # SmolVLM's chat template asks for these

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in own.get_attributes() if name != VIDEOS]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: Any, **kwargs: Any) -> Any:
            kept = {key: value for key, value in processor_dict.items() if key != VIDEOS}
            return super().from_args_and_dict([*args, None], kept, **kwargs)

    Pictures.__name__ = own.__name__  # transformers looks settings up by it
    return Pictures
