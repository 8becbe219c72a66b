"""Settings of dat-report."""

from dataclasses import dataclass

from dat_train.cli.settings.setting import setting


@dataclass
class ReportConfig:
    runs: list[str] = setting("folders of runs, as runs/digits", path=True)
    output: str = setting("the page to write", path=True)
