"""Every knob of a run, typed and checked. Imports neither torch nor Lightning, so that composing a config is instant.

The YAML files under ``conf/`` hold values; the structure, the documentation and the checks are here. Derived quantities are
methods, computed in this one place. `register_schema` makes the dataclasses known to Hydra, which then rejects a misspelt
key or a wrong type; the ``__post_init__`` checks reject impossible values, naming the knob.
"""

from proteinlm.config.adapters import AdapterConfig, LoraConfig
from proteinlm.config.baselines import (
    FAMILIES,
    BaselineConfig,
    LSTMConfig,
    OneHotConfig,
    PostNormConfig,
    ProtVecConfig,
    ResNetConfig,
    UniRepConfig,
)
from proteinlm.config.data import CsvDataConfig, DataConfig, FilesDataConfig, SyntheticDataConfig
from proteinlm.config.model import (
    ForeignConfig,
    HuggingFaceConfig,
    ModelConfig,
    PretrainedConfig,
    ScaleConfig,
    StartConfig,
    scored,
)
from proteinlm.config.stages import EvaluateConfig, FinetuneConfig, RowConfig, RunConfig, StageConfig, digest
from proteinlm.config.tasks import (
    CustomTaskConfig,
    LabelledTaskConfig,
    LanguageModelConfig,
    MaskedLanguageModelConfig,
    NextResidueConfig,
    SecondaryStructureConfig,
    TaskConfig,
)
from proteinlm.config.training import MachineConfig, OptimConfig, StrategyConfig, TrackingConfig, TrainConfig

__all__ = [
    "AdapterConfig",
    "BaselineConfig",
    "CsvDataConfig",
    "CustomTaskConfig",
    "DataConfig",
    "EvaluateConfig",
    "FilesDataConfig",
    "FinetuneConfig",
    "ForeignConfig",
    "HuggingFaceConfig",
    "LSTMConfig",
    "LabelledTaskConfig",
    "LanguageModelConfig",
    "LoraConfig",
    "MachineConfig",
    "MaskedLanguageModelConfig",
    "ModelConfig",
    "NextResidueConfig",
    "OneHotConfig",
    "OptimConfig",
    "PostNormConfig",
    "PretrainedConfig",
    "ProtVecConfig",
    "ResNetConfig",
    "RowConfig",
    "RunConfig",
    "ScaleConfig",
    "SecondaryStructureConfig",
    "StageConfig",
    "StartConfig",
    "StrategyConfig",
    "SyntheticDataConfig",
    "TaskConfig",
    "TrackingConfig",
    "TrainConfig",
    "UniRepConfig",
    "digest",
    "register_schema",
    "scored",
]


def register_schema() -> None:
    """Make the dataclasses available to the ``defaults`` lists under ``conf/``."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    store.store(name="row_schema", node=RowConfig)
    store.store(name="finetune_schema", node=FinetuneConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
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
