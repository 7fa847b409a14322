"""Training and evaluation on easy-vqa, a complete published data set, as a user's own data.

The score must be above that of a guesser without the image: the most frequent training answer to each question text,
.670 on the test split.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import easy_vqa
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from firstsight.cli.app import command

DATA = Path(easy_vqa.__file__).parent / "data"
SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>")
Rows = list[tuple[str, str, int]]

STUDY = '''
"""A decoder with a patch projection, fine-tuned on questions about drawings of shapes."""
from dataclasses import replace

from firstsight.recipe.mixture import External, ImageTextMix, single_source
from firstsight.recipe.model import ProjectorSpec, VLMSpec, openlm_spec
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Evaluate, RowShape
from firstsight.recipe.study import Study, over_seeds
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.units import Share, Tokens


def external(name, form):
    return External(name=name, form=form, tokens=Tokens(0))


ROW_SHAPE = RowShape(batch_size=32, length=128)
LM = replace(openlm_spec(layers=4, width=128, heads=4, vocab_size=128), mlp_width=512, token_shift=4, embedding_scale=4)
MODEL = VLMSpec(
    lm=LM,
    vision=PatchProjectionSpec(image_size=64, patch_size=16, width=128, fit="resize"),
    encoder="external",
    projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=True),
    attention="causal",
)
TEXT, DIALOGUES = external("easy-text", "text"), external("easy-train", "dialogues")
TOKENIZER, BENCHMARKS = external("easy-words", "tokenizer"), external("easy-benchmarks", "benchmarks")
MIX = ImageTextMix(
    text=single_source(TEXT),
    images=single_source(DIALOGUES, max_epochs=2),
    image_share=Share(1),
    share_unit="rows",
    packing="best_fit",
)
REWARM = Rewarm(peak_lr=3e-3, min_lr=0.0, warmup=Share(1, 20))


def tokens(steps):
    return Tokens(steps * ROW_SHAPE.tokens_per_step)


def easy(scale: Scale) -> Study:
    base = branch_at(scale, Share(1))
    midtrain, finetune = base.stages
    common = dict(model=MODEL, tokenizer=TOKENIZER, row_shape=ROW_SHAPE, mix=MIX)
    schedule = dict(tokens=tokens(20), schedule=REWARM)
    arm = replace(
        base,
        pretrain=replace(
            base.pretrain, model=LM, tokenizer=TOKENIZER, text=single_source(TEXT), row_shape=ROW_SHAPE, **schedule
        ),
        stages=(
            replace(midtrain, **common, **schedule),
            replace(finetune, **common, epoch_tokens=tokens(300), epochs=1, schedule=REWARM),
        ),
        evaluate=Evaluate(benchmarks=BENCHMARKS, vision_tasks=("easy_vqa",), text_tasks=()),
    )
    return Study(name="easy", scale=scale.name, question="Does the model use the image?", arms=over_seeds([arm], [1]))
'''


def read_split(split: str) -> Rows:
    """(question, answer, image number) of each row of the published split."""
    return json.loads((DATA / split / "questions.json").read_text())


def write(root: Path) -> None:
    """Tokenizer, text, dialogues and benchmark in their usual formats, the study, and the site file."""
    train, test = read_split("train"), read_split("test")
    tokenizer = Tokenizer(models.WordLevel(_vocabulary(train + test), unk_token="<|pad|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    task_folder = root / "benchmarks" / "easy_vqa"
    for folder in (task_folder, root / "words"):
        folder.mkdir(parents=True)
    tokenizer.save(str(root / "words" / "tokenizer.json"))
    _write_jsonl(root / "text.jsonl", [{"text": f"{question} {answer}"} for question, answer, _ in train])
    (root / "train.json").write_text(json.dumps([_dialogue(number, *row) for number, row in enumerate(train)]))
    task = {"prompt": "{question}", "metric": "exact", "answered": "words", "chance": 0.5, "version": 1}
    (task_folder / "task.json").write_text(json.dumps(task))
    _write_jsonl(
        task_folder / "questions.jsonl",
        [
            {"id": str(number), "question": question, "image": f"{image}.png", "answer": answer}
            for number, (question, answer, image) in enumerate(test)
        ],
    )
    (root / "benchmarks" / "images").symlink_to(DATA / "test" / "images")
    (root / "easy.py").write_text(STUDY)
    (root / "site.toml").write_text(
        f"""
[machine]
device = "cpu"
cache = "cache"
[sources.easy-words]
path = "words"
[sources.easy-text]
path = "text.jsonl"
[sources.easy-train]
path = "train.json"
pictures = "{DATA}"
[sources.easy-benchmarks]
path = "benchmarks"
"""
    )


def _vocabulary(rows: Rows) -> dict[str, int]:
    words = {word for question, answer, _ in rows for word in (*question.replace("?", " ?").split(), answer)}
    return {word: number for number, word in enumerate((*SPECIAL_TOKENS, *sorted(words)))}


def _dialogue(number: int, question: str, answer: str, image: int) -> dict[str, object]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": str(number), "image": f"train/images/{image}.png", "conversations": turns}


def _write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def constant_answer_score() -> float:
    """The test score of the most frequent training answer to each question text."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question, answer, _ in read_split("train"):
        counts[question][answer] += 1
    test = read_split("test")
    return sum(counts[question].most_common(1)[0][0] == answer for question, answer, _ in test) / len(test)


def test_the_installed_data_set_is_the_published_one() -> None:
    assert (len(read_split("train")), len(read_split("test"))) == (38_575, 9_673)
    assert constant_answer_score() == pytest.approx(0.670, abs=0.0005)


@pytest.mark.slow
def test_a_model_trained_on_easy_vqa_scores_above_its_blind_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.setenv("FIRSTSIGHT_SITE", str(tmp_path / "site.toml"))
    assert command(["run", str(tmp_path / "easy.py"), "--out", str(tmp_path / "runs")]) == 0
    [file] = (tmp_path / "runs" / "steps").glob("evaluate-*/scores.json")
    scores = json.loads(file.read_text())["tasks"]["easy_vqa"]
    assert scores["n"] == 9_673
    assert scores["interval"][0] > constant_answer_score()
    assert scores["blind"] < 0.68
