"""A benchmark that the field cites, on one model: what ``benchmark.yaml`` comes to."""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from proteinlm.config.checks import at_least, one_of, plain_name
from proteinlm.config.model import PretrainedConfig
from proteinlm.config.training import StrategyConfig
from proteinlm.errors import InputError

METHODS = ("masked_marginals", "wildtype_marginals", "pseudo_likelihood")


@dataclass
class BenchmarkModelConfig:
    """The model that is embedded with."""

    path: str = ""
    """The directory of its weights; by default those that come with the suite."""
    random: bool = False
    """Take random weights of the same shape."""


@dataclass
class BenchmarkConfig:
    """One benchmark of FLIP or PBC under a linear probe, or ProteinGym without training, completely."""

    benchmark: str = MISSING
    """``flip/NAME``, ``pbc/NAME``, ``tape/NAME`` or ``proteingym/substitutions``; its ``benchmark=`` need not be written."""
    root: str = "benchmarks"
    """The directory that has ``flip/NAME_splits.zip``, ``pbc/NAME.fasta``, ``tape/NAME/NAME_train.json`` and
    ``proteingym/DMS_substitutions.csv``.
    """
    name: str = ""
    """The model's in the table; by default that of the pretraining run whose ``pretrain/model`` it is, of any other
    directory its own. Results go to ``output/group/name/``."""
    group: str = "benchmarks"
    """What the results belong to: a sweep's name puts them beside its rows."""
    output: str = "runs"
    split: str = ""
    """One split; by default all."""
    network: bool = True
    """Compare a model; false: what needs no network alone."""
    model: BenchmarkModelConfig = field(default_factory=BenchmarkModelConfig)
    control: bool = False
    """Compare with random weights of the same shape, too."""
    baselines: bool = True
    """Compare with what needs no network."""
    train_proteins: int = 0
    """At most so many proteins to train on, and for validation, mostly the same in all splits; 0: all."""
    test_proteins: int = 0
    """Likewise to test on; 0: all, as a result should."""
    relatives: bool = False
    """Say how many test proteins have a close relative among those to train on (`proteinlm.data.similarity.leakage`)."""
    resamples: int = 1000
    """Of the bootstrap."""
    seed: int = 0
    """Of random weights."""
    method: str = METHODS[0]
    """Of ProteinGym: ``masked_marginals``, ``wildtype_marginals`` or ``pseudo_likelihood``."""
    window: int = 1022
    """Of ProteinGym: residues around a mutation that the model sees of a longer protein."""
    part: str = "1/1"
    """Of ProteinGym: ``3/16`` scores each sixteenth assay from the third on, so that sixteen jobs share them."""
    precision: str = "auto"
    batch_tokens: int = 0
    """Tokens that are computed at once; 0 chooses."""
    cache: str = ""
    """Where embeddings are kept; by default ``$PROTEINLM_CACHE``, or ``~/.cache/proteinlm``."""
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    """Of a job: one process."""

    def __post_init__(self) -> None:
        if not self.name:
            self.name = self._default_name
        for knob in ("name", "group"):
            plain_name(knob, getattr(self, knob))
        for knob in ("train_proteins", "test_proteins", "seed", "batch_tokens"):
            at_least(0, knob, getattr(self, knob))
        at_least(20, "resamples", self.resamples)
        at_least(2, "window", self.window)
        one_of("method", self.method, METHODS)
        number, _, count = self.part.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise InputError(f"part={self.part} is not as in 3/16")
        if self.strategy.devices * self.strategy.nodes > 1:
            raise InputError(
                f"strategy={self.strategy.name}: a benchmark runs in one process; -m spreads several over jobs"
            )

    @property
    def _default_name(self) -> str:
        if not self.network:
            return "without-a-network"
        name = PretrainedConfig(path=self.model.path).run_name if self.model.path else "proteinlm"
        return f"{name}-random-{self.seed}" if self.model.random else name

    @property
    def share(self) -> tuple[int, int]:
        """The number of `part`, from 1, and how many there are."""
        number, _, count = self.part.partition("/")
        return int(number), int(count)

    @property
    def home(self) -> Path:
        """The directory of the model's results, ``output/group/name``."""
        return Path(self.output).expanduser() / self.group / self.name

    @property
    def log(self) -> Path:
        """What a job of a multirun writes."""
        asked = [self.benchmark.replace("/", "-"), self.split, *(self.part.split("/") if self.part != "1/1" else [])]
        return self.home / f"{'-'.join(filter(None, asked))}.log"
