"""Every knob of a run, typed and checked. Imports neither torch nor Lightning, so that composing a config is instant.

The YAML files under ``conf/`` hold values; the structure, the documentation and the checks are here. Derived quantities are
methods, computed in this one place. `register_schema` makes the dataclasses known to Hydra, which then rejects a misspelt
key or a wrong type; the ``__post_init__`` checks reject impossible values, naming the knob.
"""

from proteinlm.config.adapters import AdapterConfig as AdapterConfig
from proteinlm.config.adapters import LoraConfig as LoraConfig
from proteinlm.config.baselines import FAMILIES as FAMILIES
from proteinlm.config.baselines import BaselineConfig as BaselineConfig
from proteinlm.config.baselines import LSTMConfig as LSTMConfig
from proteinlm.config.baselines import OneHotConfig as OneHotConfig
from proteinlm.config.baselines import PostNormConfig as PostNormConfig
from proteinlm.config.baselines import ProtVecConfig as ProtVecConfig
from proteinlm.config.baselines import ResNetConfig as ResNetConfig
from proteinlm.config.baselines import UniRepConfig as UniRepConfig
from proteinlm.config.benchmarks import BenchmarkConfig as BenchmarkConfig
from proteinlm.config.data import CsvDataConfig as CsvDataConfig
from proteinlm.config.data import DataConfig as DataConfig
from proteinlm.config.data import FilesDataConfig as FilesDataConfig
from proteinlm.config.data import SyntheticDataConfig as SyntheticDataConfig
from proteinlm.config.model import LAYER_NORM_EPSILON as LAYER_NORM_EPSILON
from proteinlm.config.model import ForeignConfig as ForeignConfig
from proteinlm.config.model import HuggingFaceConfig as HuggingFaceConfig
from proteinlm.config.model import ModelConfig as ModelConfig
from proteinlm.config.model import PretrainedConfig as PretrainedConfig
from proteinlm.config.model import ScaleConfig as ScaleConfig
from proteinlm.config.model import StartConfig as StartConfig
from proteinlm.config.model import max_scored_tokens as max_scored_tokens
from proteinlm.config.published import PUBLISHED as PUBLISHED
from proteinlm.config.published import PublishedConfig as PublishedConfig
from proteinlm.config.stages import EvaluateConfig as EvaluateConfig
from proteinlm.config.stages import FinetuneConfig as FinetuneConfig
from proteinlm.config.stages import RowConfig as RowConfig
from proteinlm.config.stages import RunConfig as RunConfig
from proteinlm.config.stages import StageConfig as StageConfig
from proteinlm.config.stages import digest as digest
from proteinlm.config.stages import relevant as relevant
from proteinlm.config.tasks import CustomTaskConfig as CustomTaskConfig
from proteinlm.config.tasks import LabelledTaskConfig as LabelledTaskConfig
from proteinlm.config.tasks import LanguageModelConfig as LanguageModelConfig
from proteinlm.config.tasks import MaskedLanguageModelConfig as MaskedLanguageModelConfig
from proteinlm.config.tasks import NextResidueConfig as NextResidueConfig
from proteinlm.config.tasks import SecondaryStructureConfig as SecondaryStructureConfig
from proteinlm.config.tasks import TaskConfig as TaskConfig
from proteinlm.config.training import MachineConfig as MachineConfig
from proteinlm.config.training import OptimConfig as OptimConfig
from proteinlm.config.training import StrategyConfig as StrategyConfig
from proteinlm.config.training import TrackingConfig as TrackingConfig
from proteinlm.config.training import TrainConfig as TrainConfig


def register_schema() -> None:
    """Make the dataclasses available to the ``defaults`` lists under ``conf/``."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    store.store(name="row_schema", node=RowConfig)
    store.store(name="finetune_schema", node=FinetuneConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="benchmark_schema", node=BenchmarkConfig)
    store.store(group="model", name="schema", node=ModelConfig)
    for family, node in FAMILIES.items():
        store.store(group="model", name=f"{family}_schema", node=node)
    store.store(group="model", name="pretrained_schema", node=PretrainedConfig)
    store.store(group="model", name="hf", node=HuggingFaceConfig)
    store.store(group="task", name="masked_language_model_schema", node=MaskedLanguageModelConfig)
    store.store(group="task", name="next_residue_schema", node=NextResidueConfig)
    store.store(group="task", name="labelled_schema", node=LabelledTaskConfig)
    store.store(group="task", name="secondary_structure_schema", node=SecondaryStructureConfig)
    store.store(group="task", name="custom_schema", node=CustomTaskConfig)
    store.store(group="data", name="synthetic_schema", node=SyntheticDataConfig)
    store.store(group="data", name="files_schema", node=FilesDataConfig)
    store.store(group="data", name="csv_schema", node=CsvDataConfig)
    store.store(group="adapter", name="schema", node=AdapterConfig)
    store.store(group="adapter", name="lora_schema", node=LoraConfig)
    store.store(group="strategy", name="schema", node=StrategyConfig)
    store.store(group="tracking", name="schema", node=TrackingConfig)
