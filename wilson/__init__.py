"""wilson: weakly incremental learning for semantic segmentation, notebook first.

The names below are all that notebooks and scripts need; each is imported when it is first used.
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wilson.api.data_overview import overview
    from wilson.api.functions import collect_parameters, load_run, prepare, runs, sweep, train, verify
    from wilson.api.run import Run
    from wilson.api.run_comparison import compare
    from wilson.core.params import param
    from wilson.data.tasks import Task
    from wilson.datasets.base import Dataset
    from wilson.deploy.pretrained import Segmenter
    from wilson.engine.trainer import Callback
    from wilson.evaluation.metrics import Metric
    from wilson.experiments.notebook_parameters import check_parameters
    from wilson.methods.base import Method
    from wilson.models.segmenter import make_segmenter
    from wilson.pseudo.targets import TargetRule
    from wilson.widgets.comparison import Comparison
    from wilson.widgets.studio import Studio

_MODULES = {
    "train": "api.functions", "load_run": "api.functions", "runs": "api.functions", "sweep": "api.functions",
    "prepare": "api.functions", "verify": "api.functions", "Run": "api.run", "Task": "data.tasks",
    "Callback": "engine.trainer", "Dataset": "datasets.base", "Method": "methods.base",
    "Metric": "evaluation.metrics", "TargetRule": "pseudo.targets", "param": "core.params",
    "make_segmenter": "models.segmenter", "Segmenter": "deploy.pretrained",
    "compare": "api.run_comparison", "overview": "api.data_overview",
    "Studio": "widgets.studio", "Comparison": "widgets.comparison",
    "collect_parameters": "api.functions", "check_parameters": "experiments.notebook_parameters",
}
__all__ = ["Callback", "Comparison", "Dataset", "Method", "Metric", "Run", "Segmenter", "Studio", "TargetRule",
           "Task", "check_parameters", "collect_parameters", "compare", "load_run", "make_segmenter", "overview",
           "param", "prepare", "runs", "sweep", "train", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'wilson' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"wilson.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
