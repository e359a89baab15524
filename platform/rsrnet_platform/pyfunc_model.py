"""The MLflow flavour of a checkpoint; a registered model carries this file and runs it when it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext


class RSRNetModel(PythonModel):
    """RSRNet as ``mlflow.pyfunc.load_model`` returns it."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint that lies among the model's artifacts."""
        from rsrnet.localizer import Localizer

        self.localizer = Localizer(Path(context.artifacts["weights"]).parent)

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Localize the inharmonious region of each image.

        Args:
            context: unused, MLflow passes it.
            model_input: RGB images of one size, uint8 (N, H, W, 3).
            params: unused, MLflow passes it.

        Returns:
            Masks, float32 (N, H, W) in [0, 1], 1 = inharmonious.

        Raises:
            ValueError: if the images are of different sizes; MLflow lets such arrays of objects through.
        """
        if model_input.dtype == object:
            raise ValueError("images of different sizes cannot be one array: ask once for each size")
        if not len(model_input):
            return np.zeros(model_input.shape[:3], np.float32)
        return np.stack(self.localizer(list(model_input)))


mlflow.models.set_model(RSRNetModel())
