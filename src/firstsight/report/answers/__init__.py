"""`firstsight answers`: picture, prompt, answers, truth and score, question by question."""

from firstsight.report.answers.album import Album, Thumbnail, thumbnail
from firstsight.report.answers.cards import cards, look_up
from firstsight.report.answers.page import render
from firstsight.report.answers.sheet import Kept, Sheet
from firstsight.report.answers.wording import shown

__all__ = ["Album", "Kept", "Sheet", "Thumbnail", "cards", "look_up", "render", "shown", "thumbnail"]
