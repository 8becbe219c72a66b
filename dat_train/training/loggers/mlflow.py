"""MLflow, through its client; needs the extra `mlflow`."""

import logging
import os
import time
import warnings
from pathlib import Path

from dat_train.atomic import write_text
from dat_train.errors import UserError
from dat_train.settings import flat
from dat_train.training.loggers.logger import About, named_values

ROWS = 100  # sent at a time
# Defaults that the user's environment overrides: no telemetry, and short waits for a server that does not answer.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class MlflowLogger:
    """Run on an MLflow server or in a local database. A killed run is continued under the same id.

    Args:
        folder: of the run; contains the id.
        about: the configuration becomes parameters, the environment tags.
        experiment: name of the MLflow experiment.
        uri: server or database; None: MLFLOW_TRACKING_URI, else `folder`/../mlflow.db, which
            `mlflow ui --backend-store-uri sqlite:///runs/mlflow.db` shows.
    """

    def __init__(self, folder: Path, about: About, *, experiment: str, uri: str | None) -> None:
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise UserError("mlflow is not installed: pip install mlflow") from None

        for library in ("mlflow", "alembic"):  # these log the creation of their tables
            logging.getLogger(library).setLevel(logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        runs = folder.resolve().parent
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs / 'mlflow.db'}"
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of its database library
            self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        place = str(runs / "mlflow") if uri.startswith("sqlite:") else None  # a server has its own storage
        number = found.experiment_id if found else self._client.create_experiment(experiment, artifact_location=place)
        self._waiting: list = []
        self._run = self._continue(folder / "mlflow_id") or self._begin(folder / "mlflow_id", number, about)
        self._seen = {group: self._last_step(group) for group in ("train", "validation")}

    def _continue(self, path: Path) -> str | None:
        """Reopen the run whose id is in the file. Returns None if there is none."""
        from mlflow.exceptions import MlflowException

        if not path.exists():
            return None
        identity = path.read_text(encoding="utf-8").strip()
        try:
            self._client.update_run(identity, status="RUNNING")
        except MlflowException:  # another server, or it was deleted there
            return None
        return identity

    def _begin(self, path: Path, experiment: str, about: About) -> str:
        from mlflow.entities import Param

        tags = {f"environment.{key}": str(value) for key, value in about.environment.items()}
        if about.environment.get("git_commit"):
            tags["mlflow.source.git.commit"] = about.environment["git_commit"]
        identity = self._client.create_run(experiment, run_name=about.name, tags=tags).info.run_id
        self._client.log_batch(identity, params=[Param(key, str(value)) for key, value in flat(about.config).items()])
        write_text(path, identity + "\n")
        return identity

    def _last_step(self, group: str) -> int:
        """Return the last step that the server already has."""
        return max((metric.step for metric in self._client.get_metric_history(self._run, f"{group}/loss")), default=-1)

    def log(self, group: str, row: dict) -> None:
        """Skip rows that the server already has. They are identical, because runs are reproducible."""
        if row["step"] > self._seen[group]:
            self._waiting.append((group, row, int(time.time() * 1000)))
        if group == "validation" or len(self._waiting) >= ROWS:
            self.sync()

    def log_picture(self, name: str, path: Path, step: int) -> None:
        self._client.log_artifact(self._run, str(path))

    def sync(self) -> None:
        """Send the waiting rows."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, when, row["step"])
            for group, row, when in self._waiting
            for name, value in named_values(group, row).items()
        ]
        self._waiting.clear()
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self.sync()
        self._client.set_terminated(self._run)
