"Pages that are read with their pictures: `python .ci/store_outputs.py PAGE` runs one and stores what it shows."

TEACHING = (
    "nbs/data/01_tasks.ipynb",
    "nbs/data/04_transforms.ipynb",
    "nbs/data/10_batches.ipynb",
    "nbs/datasets/02_shapes.ipynb",
    "nbs/engine/07_schedules.ipynb",
    "nbs/evaluation/00_metrics.ipynb",
    "nbs/evaluation/02_maps.ipynb",
    "nbs/evaluation/03_pictures.ipynb",
    "nbs/methods/00_losses.ipynb",
    "nbs/methods/03_mib.ipynb",
    "nbs/methods/04_plop.ipynb",
    "nbs/methods/05_wilson.ipynb",
    "nbs/methods/09_old_first.ipynb",
    "nbs/models/00_norms.ipynb",
    "nbs/models/10_localizer.ipynb",
    "nbs/pseudo/00_pamr.ipynb",
    "nbs/pseudo/01_labels.ipynb",
    "nbs/pseudo/02_targets.ipynb",
    "nbs/pseudo/05_old_first.ipynb",
    "nbs/run/03_folder.ipynb",
)
