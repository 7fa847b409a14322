"""One function a figure; every mark names the address it came from, in its tooltip and, in SVG, in its label."""

from firstsight.report.figures.curves import Curves, curves, losses, schedules
from firstsight.report.figures.look import SCHEDULES, themed
from firstsight.report.figures.stable import stable
from firstsight.report.figures.tasks import both, heat, tasks

__all__ = ["SCHEDULES", "Curves", "both", "curves", "heat", "losses", "schedules", "stable", "tasks", "themed"]
