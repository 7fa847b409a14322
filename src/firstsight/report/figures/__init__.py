"""One function for each figure; every mark has the address of its evaluate or training step in its tooltip."""

from firstsight.report.figures.curves import TrainingCurves, learning_rate_chart, loss_chart, read_curves
from firstsight.report.figures.look import SCHEDULE_LABELS, vega_lite_spec
from firstsight.report.figures.stable import stable_score_chart
from firstsight.report.figures.tasks import combined_chart, task_grid, task_heatmap

__all__ = [
    "SCHEDULE_LABELS",
    "TrainingCurves",
    "combined_chart",
    "learning_rate_chart",
    "loss_chart",
    "read_curves",
    "stable_score_chart",
    "task_grid",
    "task_heatmap",
    "vega_lite_spec",
]
