"""Score weights that were kept: the command line of ``experiments.finetune keep_weights=true``, and ``split=valid``."""

from experiments.finetune import line
from proteinlm.config import EvaluateConfig
from proteinlm.launch import entry, processes


@entry.hydra_main("evaluate")
def main(config: EvaluateConfig) -> None:
    entry.start("experiments.evaluate", config, run)


def run(config: EvaluateConfig) -> None:
    with entry.importing():
        from proteinlm.training import finetuning

    scores = finetuning.evaluate(config)
    if processes.is_rank_zero():
        for score in scores:
            print(line(config.name, score))


if __name__ == "__main__":
    main()
