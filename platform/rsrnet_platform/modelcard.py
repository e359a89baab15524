"""The documents inside a registered model: what it is, how to use it, what it stands on, and under which terms.

A model may be copied to where nothing of this project is known, so its folder says everything itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import rsrnet
from rsrnet_platform import strict_yaml

if TYPE_CHECKING:
    from rsrnet.checkpoint import ModelCard

MODEL_CARD, JOB = "MODEL_CARD.md", "job.yaml"
CODE_LICENSE, WEIGHTS_LICENSE = "LICENSE", "LICENSE-WEIGHTS.md"

_METRICS = {"ap": "AP", "f1": "F1", "iou": "IoU"}
_UNKNOWN = "not recorded"


def documents(
    card: ModelCard, job_yaml: str | None, tags: Mapping[str, str], metrics: Mapping[str, float]
) -> dict[str, str]:
    """The text of each document by its file name.

    Args:
        card: of the checkpoint.
        job_yaml: the resolved job file of the training; None: it is not known, and there is no such document.
        tags: what the model stands on, from :func:`rsrnet_platform.provenance.tags`.
        metrics: ``PREFIX/ap``, ``PREFIX/f1`` and ``PREFIX/iou``, where the prefix names the images and mask, such as
            ``val`` or ``test/HCOCO``; and counts, such as ``data/training``. Others are left out.
    """
    job = strict_yaml.read(job_yaml) if job_yaml else {}
    texts = {
        MODEL_CARD: _model_card(card, job, tags, metrics),
        CODE_LICENSE: _license(),
        WEIGHTS_LICENSE: _weights_license(card, job),
    }
    if job_yaml:
        texts[JOB] = job_yaml
    return texts


def _license() -> str:
    """The licence of the code, as it was installed or from the checkout."""
    try:
        text = distribution("rsrnet").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        text = None
    return text or (Path(rsrnet.__file__).parents[1] / "LICENSE").read_text(encoding="utf-8")


def _weights_license(card: ModelCard, job: Mapping[str, Any]) -> str:
    return f"""# Terms of the weights

The code in `code/` and `pyfunc_model.py` is under the Apache License 2.0 (`{CODE_LICENSE}`). The weights in
`artifacts/model.safetensors` are not code. They derive from

- the images they were trained on: {_dataset(job)}. Those who own a dataset set the terms of its use; the parts of
  iHarmony4 come from Microsoft COCO, MIT-Adobe FiveK, Flickr and day2night, each with terms of its own;
- the start of the encoder: {_encoder(card, job)}.

Whether these terms bind the weights, and permit what you intend, is for you to find out. Whoever trained the model can
grant rights to their own part only, and this file grants none beyond the code's licence.
"""


def _model_card(
    card: ModelCard, job: Mapping[str, Any], tags: Mapping[str, str], metrics: Mapping[str, float]
) -> str:
    return f"""# RSRNet

Finds the region of a composite image whose colour or light does not fit the rest. For every pixel it gives a number
from 0 to 1, where 1 means inharmonious. An implementation of *Inharmonious Region Localization via Recurrent
Self-Reasoning*.

## Use

Install `requirements.txt`; nothing of the project that trained it is needed. `MODEL` is this folder.

```python
import mlflow

model = mlflow.pyfunc.load_model("MODEL")
masks = model.predict(images)  # uint8 (N, H, W, 3), RGB, to float32 (N, H, W)
```

Images of different sizes cannot be one array: ask once for each size. Without MLflow, and with images of any sizes, as
arrays, PIL images or paths:

```python
import sys

sys.path.insert(0, "MODEL/code")
from rsrnet import Localizer

mask = Localizer("MODEL/artifacts")("composite.jpg")  # float32 (H, W)
```

Over HTTP, with the environment activated in which the requirements are installed:

```sh
mlflow models serve --model-uri MODEL --env-manager local --port 5000
curl http://127.0.0.1:5000/invocations -H 'Content-Type: application/json' -d @MODEL/serving_input_example.json
```

The request is `{{"inputs": images}}` with whole numbers from 0 to 255, the answer `{{"predictions": masks}}`. MLflow
cuts fractions off, so pixels scaled to 0..1 would all be black.

## Network

{_table(_network(card))}

Every image is resized to {card.size} x {card.size} pixels, and its mask back to the image's size.

## Training data

{_table(_data(job, tags, metrics))}

{"The job file is `job.yaml`; it names folders of the machine that trained the model." if job else ""}

## Metrics

{_scores(metrics)}

The means over images of the published protocol: each predicted mask is stretched to 0..1, then compared with 0.5.

## Limits

{_limits(card, job, metrics)}

## Paper

Penghao Wu, Li Niu, Jing Liang, Liqing Zhang: *Inharmonious Region Localization via Recurrent Self-Reasoning*. British
Machine Vision Conference (BMVC), 2022. The weights are not the authors', who released none.

Licences: `{CODE_LICENSE}` for the code, `{WEIGHTS_LICENSE}` for the weights.
"""


def _network(card: ModelCard) -> dict[str, str]:
    model = card.model
    iterations = "no RSR module" if model.reasoning == "none" else str(model.iterations)
    return {
        "encoder": f"ResNet{model.depth}, width {model.width}",
        "iterations K": iterations,
        "reasoning": model.reasoning,
        "combination": model.combination,
        "input size": f"{card.size} x {card.size}",
        "epochs trained": str(card.epoch),
    }


def _data(job: Mapping[str, Any], tags: Mapping[str, str], metrics: Mapping[str, float]) -> dict[str, str]:
    def count(name: str) -> str:
        value = metrics.get(f"data/{name}")
        return _UNKNOWN if value is None else f"{value:,.0f}"

    commit = tags.get("mlflow.source.git.commit", _UNKNOWN)
    dirty = ", with changes that were not committed" if tags.get("git_dirty") == "true" else ""
    return {
        "dataset": _dataset(job),
        "training images": count("training"),
        "validation images": count("validation"),
        "images left out as unusable": count("skipped"),
        "fingerprint of the images": tags.get("dataset_fingerprint", _UNKNOWN),
        "fingerprint of the validation images": tags.get("validation_fingerprint", _UNKNOWN),
        "code": f"rsrnet {rsrnet.__version__}, commit {commit}{dirty}",
    }


def _dataset(job: Mapping[str, Any]) -> str:
    """The dataset's name, which is that of its folder without the path, and the list of training images."""
    data = job.get("data")
    if not data:
        return _UNKNOWN
    return f"{PurePosixPath(data['root']).name}, list {PurePosixPath(data['train']).name}"


def _encoder(card: ModelCard, job: Mapping[str, Any]) -> str:
    source = job.get("fit", {}).get("encoder_weights")
    if source is None:
        return _UNKNOWN
    if source == "none":
        return "random numbers, so nothing else"
    if source == "imagenet":
        return (
            f"torchvision's ResNet{card.model.depth} trained on ImageNet. torchvision is under the BSD 3-Clause "
            "License, and says that its weights may have terms of their own; ImageNet's are for research"
        )
    return f"the file `{PurePosixPath(source).name}`, whose terms its owner knows"


def _scores(metrics: Mapping[str, float]) -> str:
    """A table of AP, F1 and IoU, a row for each kind of images and mask."""
    rows: dict[str, dict[str, str]] = {}
    for key, value in metrics.items():
        prefix, _, metric = key.rpartition("/")
        if metric in _METRICS and prefix and math.isfinite(value):
            rows.setdefault(prefix, {})[metric] = f"{value:.4f}"
    if not rows:
        return "None were recorded."
    lines = [
        f"| {prefix} | {' | '.join(row.get(metric, '') for metric in _METRICS)} |"
        for prefix, row in rows.items()
    ]
    head = f"| images | {' | '.join(_METRICS.values())} |"
    return "\n".join([head, "| --- | --- | --- | --- |", *lines])


def _limits(card: ModelCard, job: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    limits = [
        "It looks for one kind of flaw: a region whose colour or light differs from the rest. A spliced region that "
        "was harmonised, an erased object or a generated image show none of it.",
        "It always gives a mask, also for an untouched photograph. " + _threshold(card),
        "It is no forensic proof: unusual light in a real photograph looks the same to it, and JPEG, filters and "
        "scaling change what it finds.",
        f"It sees {card.size} x {card.size} pixels. Regions that vanish at that size are not found, and the edges of a "
        "mask are no finer.",
    ]
    if str(job.get("data", {}).get("train", "")).rpartition("/")[2].startswith("le50"):
        limits.append("Its training composites have foregrounds of up to 50 % of the image, as in the paper.")
    images = metrics.get("data/training")
    if images is not None and images < 10_000:
        limits.append(f"It learnt from {images:,.0f} images only; the paper's had more than 50,000.")
    return "\n".join(f"- {limit}" for limit in limits)


def _threshold(card: ModelCard) -> str:
    found = card.detection
    if found is None:
        return "No threshold of a score was chosen that would tell the two apart."
    return (
        f"Its score, the mean of the highest hundredth of a mask (`Localizer.examine`), tells the two apart: at least "
        f"{found.threshold:.3f} for {found.true_positive_rate:.0%} of {found.composites:,} validation composites and "
        f"for {found.false_positive_rate:.0%} of {found.photographs:,} photographs (AUC {found.auc:.3f})."
    )


def _table(values: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in values.items())])
