"""Score weights that were kept: the command line of ``experiments.finetune keep_weights=true``, and ``split=valid``."""

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.finetune import line
from proteinlm.config import EvaluateConfig, register_schema
from proteinlm.launch import entry

register_schema()


@hydra.main(version_base="1.3", config_path=str(entry.CONF), config_name="evaluate")
@entry.reported
def main(composed: DictConfig) -> None:
    config: EvaluateConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    log = config.directory.parent / f"{config.task.label}.log"
    entry.job("experiments.evaluate", config.strategy, log, lambda: run(config))


def run(config: EvaluateConfig) -> None:
    with entry.importing():
        from proteinlm.training import finetuning

    scores = finetuning.evaluate(config)
    if entry.reports():
        for score in scores:
            print(line(config.name, score))


if __name__ == "__main__":
    entry.entry(main)
