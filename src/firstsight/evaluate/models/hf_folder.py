"""Loads model, tokenizer and processor from a folder in transformers' layout, without code or pickles from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors import SafetensorError

from firstsight.errors import ModelError
from firstsight.hub.download import check_download_complete, resolve_hub_path
from firstsight.limits import read_settings
from firstsight.model.tensors import check_finite
from firstsight.site import Site

VIDEO_PROCESSOR = "video_processor"
_LOCAL_FILES: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class HFComponents:
    """A transformers model on its device, with tokenizer and processor."""

    model_type: str
    model: Any
    tokenizer: Any
    """Pads on the left."""
    processor: Any | None
    text_prefix: str
    """Put before a prompt without a chat template; the tokenizer does not add it."""


def load_hf_components(name_or_path: Path, *, site: Site) -> HFComponents:
    """The model in a local folder or of a hub name, in the dtype of its weights.

    Raises ModelError that names what is missing if transformers cannot load it without code from the folder.
    """
    from transformers import AutoConfig, AutoTokenizer

    import firstsight.hub.hf_classes  # pyright: ignore[reportUnusedImport] # noqa: F401 - registers firstsight's own classes

    folder = name_or_path if name_or_path.is_dir() else resolve_hub_path(str(name_or_path))
    _refuse_pickles(folder)
    with _loading_errors(folder):
        config = AutoConfig.from_pretrained(folder, **_LOCAL_FILES)
        model = _load_model(folder, config, is_vision=_is_vision_model(config))
        processor = _load_processor(folder, config) if _is_vision_model(config) else None
        tokenizer = AutoTokenizer.from_pretrained(folder, **_LOCAL_FILES) if processor is None else processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return HFComponents(
        model_type=config.model_type,
        model=model.to(site.device).eval().requires_grad_(False),
        tokenizer=tokenizer,
        processor=processor,
        # Exports of firstsight were trained on documents that begin with this token, which their tokenizer omits.
        text_prefix=tokenizer.bos_token if "firstsight" in config.to_dict() else "",
    )


def _refuse_pickles(folder: Path) -> None:
    check_download_complete(folder)
    if not any(folder.glob("*.safetensors")):
        file_names = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file())[:8]) or "nothing"
        raise ModelError(
            f"{folder}: wanted weights in *.safetensors. Got {file_names}; pickles are not opened. "
            "Use a revision that has safetensors, or convert them yourself and name that folder."
        )


@contextmanager
def _loading_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        hint = _missing_package_hint(error)
        raise ModelError(f"{folder}: its processor needs a package that is missing. {hint}") from error
    except (ValueError, OSError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        message = " ".join(str(error).split())[:400]
        raise ModelError(
            f"{folder}: wanted a model that transformers loads by itself. Got: {message or repr(error)}. Folders that "
            "lack files or need code of their own cannot be evaluated: use the -hf version, or a newer transformers."
        ) from error


def _missing_package_hint(error: ImportError) -> str:
    message = " ".join(str(error).split())
    known_packages = ("torchvision", "num2words", "sentencepiece", "timm")
    package = next((name for name in known_packages if name in message.lower()), "")
    return f"Run: pip install {package}." if package else f"Got: {message[:300]}."


def _is_vision_model(config: Any) -> bool:
    """Whether it is a vision-language model; ModelError if it is not a causal language model either."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    architecture = str((config.architectures or [""])[0])
    if config.is_encoder_decoder:
        raise ModelError(f"{architecture or config.model_type}: wanted a decoder-only model. Got an encoder-decoder.")
    is_causal_lm = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return not (is_causal_lm and architecture.endswith("ForCausalLM") and config.model_type == "firstsight")
    if not is_causal_lm:
        raise ModelError(
            f"config.json: wanted an image-text-to-text model or a causal language model. Got {config.model_type!r} "
            f"({architecture or 'no architecture'}). Name another folder."
        )
    return False


def _load_model(folder: Path, config: Any, *, is_vision: bool) -> Any:
    """The model; ModelError for missing weights, which transformers would initialise at random, and not finite ones."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto_class: Any = AutoModelForImageTextToText if is_vision else AutoModelForCausalLM
    settings = {"dtype": "auto", "use_safetensors": True, "output_loading_info": True, **_LOCAL_FILES}
    model, loading_info = auto_class.from_pretrained(folder, config=config, **settings)
    if missing := sorted(loading_info["missing_keys"]):
        raise ModelError(f"{folder}: wanted all weights. Got none for {', '.join(missing[:4])}. Download it again.")
    for name, parameter in model.named_parameters():
        check_finite(name, parameter.detach(), location=folder)
    return model


def _load_processor(folder: Path, config: Any) -> Any:
    """The folder's processor with Pillow's image backend, so that scores do not depend on torchvision."""
    from transformers import PROCESSOR_MAPPING, AutoProcessor

    default_class: Any = PROCESSOR_MAPPING.get(type(config), AutoProcessor)
    is_default = _processor_class_name(folder) in ("", default_class.__name__)
    processor_class: Any = default_class if is_default else AutoProcessor
    has_video = processor_class is not AutoProcessor and VIDEO_PROCESSOR in processor_class.get_attributes()
    loading_class = without_video_processor(processor_class) if has_video else AutoProcessor
    return loading_class.from_pretrained(folder, backend="pil", **_LOCAL_FILES)


def _processor_class_name(folder: Path) -> str:
    for name in ("processor_config.json", "preprocessor_config.json"):
        config_path = folder / name
        if config_path.is_file() and (class_name := read_settings(config_path).get("processor_class")):
            return str(class_name)
    return ""


def without_video_processor(processor_class: Any) -> Any:
    """A processor class without its video processor, which needs torchvision and which no benchmark here needs."""

    class ImageOnlyProcessor(processor_class):
        video_processor = SimpleNamespace(num_frames=0, fps=0)  # read by SmolVLM's chat template

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in processor_class.get_attributes() if name != VIDEO_PROCESSOR]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: Any, **kwargs: Any) -> Any:
            image_settings = {key: value for key, value in processor_dict.items() if key != VIDEO_PROCESSOR}
            return super().from_args_and_dict([*args, None], image_settings, **kwargs)

    ImageOnlyProcessor.__name__ = processor_class.__name__  # transformers looks up settings by class name
    return ImageOnlyProcessor
