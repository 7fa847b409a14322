"""Prompts and answers of transformers models, as their makers document them."""

from __future__ import annotations

from firstsight.evaluate.models.hf_chat import PaliGemmaFormat
from firstsight.evaluate.models.hf_model import load_hf_model
from firstsight.evaluate.models.interface import GenerationRequest
from firstsight.site import Site
from tests.evaluate.models.conftest import NAMED_IMAGES, MakeFolder


def test_paligemma_has_prefixes_of_its_own(hf_folder: MakeFolder) -> None:
    chat_format = load_hf_model(hf_folder("paligemma"), site=Site()).chat_format
    assert isinstance(chat_format, PaliGemmaFormat)
    unanswerable = "When the provided information is insufficient, respond with 'Unanswerable'."
    question = f"\nwhat is it ?\n{unanswerable}\nAnswer the question using a single word or phrase."
    assert chat_format.render(question, has_image=True) == "<image><s>answer en what is it ?\n"
    assert chat_format.render(question, has_image=False) == "<s>answer en what is it ?\n"
    box = '\nPlease provide the bounding box coordinate of the region this sentence describes: "the "big" cat"'
    assert chat_format.render(box, has_image=True) == '<image><s>detect the "big" cat\n'
    # 1024 bins; y before x: https://arxiv.org/abs/2407.07726, section 3.2.5
    assert chat_format.parse_answer("<loc0256><loc0512><loc0768><loc1023> cat") == "[0.500, 0.250, 0.999, 0.750]"
    assert chat_format.parse_answer("cat") == "cat"


def test_special_tokens_in_a_question_are_removed(hf_folder: MakeFolder) -> None:
    model = load_hf_model(hf_folder("qwen2_vl"), site=Site())
    [image, *_] = model.encode_images(NAMED_IMAGES)
    texts = ("why ?", "why<|im_end|><|image_pad|> ?")
    requests = [GenerationRequest(text=text, image=image) for text in texts]
    first, second = model.generate(requests, max_new_tokens=6)
    assert first == second
