"""Documents, captions and dialogues of the built-in world, read by a second reader that shares no code with them."""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zstandard

from firstsight import synthetic
from firstsight.recipe.mixture import (
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticTexts,
    SyntheticVocabulary,
    SyntheticWorld,
)
from firstsight.site import Site
from firstsight.synthetic.captions import MAX_DOCUMENT_WORDS, noisy_caption, rich_caption, sample_document, true_phrases
from firstsight.synthetic.catalog import PLACES, load_catalog, world_rng
from firstsight.synthetic.rendering import cached_renderer
from firstsight.synthetic.scenes import sample_scene
from firstsight.synthetic.vocabulary import QUESTION_FORMS, vocabulary_words, word_tokenizer
from firstsight.synthetic.writers import scene_annotation

WORLD = SyntheticWorld(objects=48, kinds=8, image_size=48, max_objects=4, seed=0)
SITE = Site(cache=Path(tempfile.gettempdir()) / "firstsight-tests")
KNOWN = load_catalog(WORLD)
PARTS = re.compile(r"(?:(\S+) )?(top-left|top-right|bottom-left|bottom-right)(?: (?!with)(\S+))?(?: with (\S+))?")


def read(told: str) -> dict:
    """What a telling says: {"at": {place: (name, sign)}, "ground": colour}."""
    found: dict = {"at": {}}
    for part in told.removesuffix(" .").split(" , "):
        if part.startswith("ground "):
            found["ground"] = part.split()[1]
        else:
            before, place, after, sign = PARTS.fullmatch(part).groups()
            found["at"][place] = (before or after, sign)
    return found


def answer(told: dict, question: str) -> str:
    """The answer to a question about a telling, from its words alone."""
    at = told["at"]
    where = {name: place for place, (name, _) in at.items()}
    asked = [word for word in question.split() if word in KNOWN.names]
    if "colour" in question:
        return told["ground"]
    if "many" in question or "number" in question:
        return str(len(at))
    if "word" in question:
        return at[where[asked[0]]][1]
    if "kind" in question:
        return KNOWN.kind_of[at[next(word for word in question.split() if word in PLACES)][0]]
    if re.search(r"\b(where|place)\b", question):
        return where.get(asked[0], "unanswerable")
    side = re.search(r"(right-of|left-of|above|below) the (\S+)", question)
    if side:
        row, column = where[side[2]].split("-")
        flip = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
        beside = f"{row}-{flip[column]}" if side[1].endswith("of") else f"{flip[row]}-{column}"
        assert {"right-of": "left", "left-of": "right", "above": "bottom", "below": "top"}[side[1]] in where[
            side[2]
        ].split("-")
        return at[beside][0]
    if asked:
        return "yes" if asked[0] in where else "no"
    return at[next(word for word in question.split() if word in PLACES)][0]


def form_of(text: str) -> str:
    if " . again " in text:
        return "retelling"
    if " plus " in text:
        return "sums"
    return "told" if any(place in text for place in PLACES) else "kinds"


DOCUMENTS = [sample_document(WORLD, index) for index in range(2000)]


def test_the_second_reader_agrees_with_the_truth():
    for index in range(300):
        shown = sample_scene(WORLD, "text scene", index)
        text = sample_document(WORLD, index).text
        if form_of(text) in ("told", "retelling"):
            told = read(text.split(" . ")[0])
            assert told == {"at": {t.place: (t.name, t.sign) for t in shown.objects}, "ground": shown.ground}


def test_documents_come_in_the_declared_shares_and_fit_a_row():
    forms = Counter(form_of(told.text) for told in DOCUMENTS)
    for form, share in {"retelling": 0.40, "told": 0.44, "kinds": 0.10, "sums": 0.06}.items():
        assert abs(forms[form] / len(DOCUMENTS) - share) < 0.04
    assert max(len(told.text.split()) for told in DOCUMENTS) <= MAX_DOCUMENT_WORDS


def test_told_answers_are_right_and_alone_carry_loss():
    for told in DOCUMENTS:
        if form_of(told.text) == "told":
            head, _, turns = told.text.partition(" . ")
            asked = re.findall(r"(.+?) <\|/h\|> (.+?) <\|/a\|>(?: |$)", turns)
            assert asked and all(answer(read(head), question) == said for question, said in asked)
            assert [told.text[a:b] for a, b in told.loss_spans] == [f"{said} <|/a|>" for _, said in asked]


def test_retellings_say_the_same_and_only_determined_words_carry_loss():
    for told in DOCUMENTS:
        if form_of(told.text) == "retelling":
            first, second = told.text.split(" . again ")
            assert read(first) == read(second)
            free = re.split(r" , ", second.removesuffix(" ."))
            unmarked = _without(told.text, told.loss_spans).split()
            assert unmarked == [*first.split(), ".", "again", *(part.split()[0] for part in free)]


def _without(text: str, spans: tuple[tuple[int, int], ...]) -> str:
    for start, stop in reversed(spans):
        text = text[:start] + text[stop:]
    return text


def test_facts_about_kinds_and_sums_are_true():
    for told in DOCUMENTS:
        for x, k in re.findall(r"(?:^|[.>] )a (\S+) is a (\S+) \.", told.text):
            assert KNOWN.kind_of[x] == k
        for x, k, said in re.findall(r"is a (\S+) a (\S+) <\|/h\|> (yes|no)", told.text):
            assert (KNOWN.kind_of[x] == k) == (said == "yes")
        for x, y, said in re.findall(r"a (\S+) and a (\S+) are (same|other) kind", told.text):
            assert (KNOWN.kind_of[x] == KNOWN.kind_of[y]) == (said == "same") and x != y
        for query, result in re.findall(r"((?:\d+ plus )+\d+) is (\d+)", told.text):
            assert sum(map(int, query.split(" plus "))) == int(result)


def test_kinds_are_told_in_text_alone():
    drawn = cached_renderer(WORLD, SITE.cache)
    kinds = set(KNOWN.kinds) | {"kind"}
    for told in DOCUMENTS:
        if form_of(told.text) in ("told", "retelling"):
            assert not kinds & set(told.text.split())
    for index in range(500):
        shown = sample_scene(WORLD, "captions", index)
        boxes, rng = drawn.boxes(shown), world_rng(WORLD, "test", index)
        said = [
            rich_caption(shown, boxes, rng),
            noisy_caption(shown, rng),
            *true_phrases(shown, boxes),
            json.dumps(scene_annotation(shown, boxes)),
        ]
        assert not kinds & set(" ".join(said).replace('"', " ").split())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every source once, small."""
    out = tmp_path_factory.mktemp("world")
    make = {
        "texts": SyntheticTexts(world=WORLD, documents=300, loss_mask="determined"),
        "plain": SyntheticTexts(world=WORLD, documents=20, loss_mask="all"),
        "rich": SyntheticCaptions(world=WORLD, images=200, quality="rich"),
        "noisy": SyntheticCaptions(world=WORLD, images=200, quality="noisy"),
        "dialogues": SyntheticDialogues(world=WORLD, images=600, turns=3),
        "vocabulary": SyntheticVocabulary(world=WORLD),
    }
    handlers = {
        SyntheticTexts: synthetic.write_texts,
        SyntheticCaptions: synthetic.write_captions,
        SyntheticDialogues: synthetic.write_dialogues,
        SyntheticVocabulary: synthetic.write_vocabulary,
    }
    for name, spec in make.items():
        (out / name).mkdir()
        handlers[type(spec)](spec, inputs={}, out=out / name, site=SITE, on_progress=lambda _: None)
    return out


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in zstandard.open(path, "rt", encoding="utf-8")]


def test_text_records(written: Path):
    marked, plain = rows(written / "texts/text-00000.jsonl.zst"), rows(written / "plain/text-00000.jsonl.zst")
    assert len(marked) == 300 and all(set(row) == {"id", "text", "loss"} for row in marked)
    assert all(set(row) == {"id", "text"} for row in plain)
    assert [row["text"] for row in marked[:20]] == [row["text"] for row in plain]


def dialogues(written: Path) -> list[tuple[int, str, str]]:
    found = []
    for record in json.loads((written / "dialogues/dialogues.json").read_text()):
        turns = [turn["value"] for turn in record["conversations"]]
        assert turns[0].startswith("<image>\n") and not any("<image>" in turn for turn in turns[1:])
        assert len(set(turns[::2])) == len(turns) // 2 == 3
        found += [
            (int(record["id"]), q.removeprefix("<image>\n"), a) for q, a in zip(turns[::2], turns[1::2], strict=True)
        ]
    return found


def test_dialogue_answers_are_true(written: Path):
    drawn = cached_renderer(WORLD, SITE.cache)
    boxes = 0
    for index, question, said in dialogues(written):
        shown = sample_scene(WORLD, "dialogues", index)
        told = {"at": {t.place: (t.name, t.sign) for t in shown.objects}, "ground": shown.ground}
        if "box" in question:
            box = dict(zip([t.name for t in shown.objects], drawn.boxes(shown), strict=True))[question.split()[-1]]
            off = np.abs(np.array(said.split(), float) * 48 - box)
            assert off.max() <= 2 + 48 * 0.005
            boxes += 1
        else:
            assert said == answer(told, question)
    assert boxes > 100


def test_dialogues_ask_for_the_kind_of_half_of_the_objects_only(written: Path):
    asked = {
        sample_scene(WORLD, "dialogues", index).object_at(question.split()[-1]).name  # type: ignore[union-attr]
        for index, question, _ in dialogues(written)
        if "kind" in question
    }
    kinds = {said for _, question, said in dialogues(written) if said in KNOWN.kinds and "kind" not in question}
    assert len(asked) > 12 and asked <= KNOWN.trained_kind_names and not kinds


def test_the_held_out_forms_are_never_used_in_training(written: Path):
    held = [re.escape(forms[2]).replace(r"\{x\}", r"(?:a )?[^ ]+(?: the [^ ]+)?") for forms in QUESTION_FORMS.values()]
    pattern = re.compile("|".join(rf"(?:^|[.>] ){form}(?: <\||$)" for form in held))
    said = [told.text for told in DOCUMENTS] + [question for _, question, _ in dialogues(written)]
    assert not [text for text in said if pattern.search(text)]
    assert pattern.search("cow top-left . what thing is top-left")


def test_rich_captions_are_true_and_complete(written: Path):
    with tarfile.open(written / "rich/00000.tar") as tar:
        names = tar.getnames()
        said = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert names[:3] == ["00000000.json", "00000000.png", "00000000.txt"] and len(names) == 600
    boxed = 0
    for index in range(200):
        facts, caption = json.loads(said[f"{index:08d}.json"]), said[f"{index:08d}.txt"].decode()
        things = {thing["place"]: (thing["name"], thing["sign"]) for thing in facts["things"]}
        if " box " in caption:
            boxed += 1
            found = dict(re.findall(r"(\S+) box (\S+ \S+ \S+ \S+)", caption))
            assert found.keys() == {thing["name"] for thing in facts["things"]}
            assert all(f"{thing['place']} box {found[thing['name']]}" in facts["phrases"] for thing in facts["things"])
        else:
            assert read(caption) == {"at": things, "ground": facts["ground"]}
        assert {f"{name} {place}" for place, (name, _) in things.items()} <= set(facts["phrases"])
    assert 40 < boxed < 95


def test_noisy_captions_are_partial_and_sometimes_wrong(written: Path):
    with tarfile.open(written / "noisy/00000.tar") as tar:
        said = {name: tar.extractfile(name).read().decode("utf-8", "replace") for name in tar.getnames()}  # type: ignore[union-attr]
    right = wrong = 0
    for index in range(200):
        here = {thing["name"] for thing in json.loads(said[f"{index:08d}.json"])["things"]}
        named = [word for word in said[f"{index:08d}.txt"].split() if word in KNOWN.names]
        right, wrong = right + sum(n in here for n in named), wrong + sum(n not in here for n in named)
    assert 0.05 < wrong / (right + wrong) < 0.25


def test_every_word_is_one_known_token(written: Path):
    made = word_tokenizer(WORLD)
    made.encode_special_tokens = True
    assert made.get_vocab_size() == len(vocabulary_words(WORLD)) < 300
    said = [told.text for told in DOCUMENTS] + [text for _, q, a in dialogues(written) for text in (q, a)]
    for quality in ("rich", "noisy"):
        with tarfile.open(written / quality / "00000.tar") as tar:
            said += [tar.extractfile(n).read().decode() for n in tar.getnames() if n.endswith(".txt")]  # type: ignore[union-attr]
    for text in said:
        assert made.encode(text).tokens == text.split()


def test_the_tokenizer_reads_what_people_type(written: Path):
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(written / "vocabulary/tokenizer.json"))
    assert made.encode("What is top-left?").tokens == ["what", "is", "top-left"]
    assert made.encode("0.08 spaceship.").tokens == ["0.08", "<|unk|>", "."]
    assert made.decode(made.encode("is there a cow ?").ids) == "is there a cow"
    assert made.token_to_id("<|endoftext|>") == 0
