"""A model that is filled parameter by parameter starts from the values of one that is built whole, bit for bit."""

import pytest
import torch
from torch import distributed

from proteinlm import planner
from proteinlm.parallel import dtensors
from proteinlm.tasks.masked_language_model import MaskedLanguageModel
from proteinlm.training.sharded import Sharded, copy_part, mesh
from proteinlm.training.strategies import arrange
from tests.runs import SMALL, composed, in_group


@pytest.mark.parametrize("seed", [0, 7])
def test_the_values_are_those_of_the_model_built_whole(seed: int):
    torch.manual_seed(seed)
    whole = MaskedLanguageModel(composed(*SMALL), ("valid",))
    torch.manual_seed(seed)
    part_by_part = MaskedLanguageModel(composed(*SMALL, "strategy=fsdp"), ("valid",))
    assert all(parameter.is_meta for parameter in part_by_part.parameters()), "nothing is held before it is divided"
    assert part_by_part.step_loss.device.type == "cpu"
    assert part_by_part.init_recorder
    torch.manual_seed(99)  # the state that counts is that of the building
    before = torch.get_rng_state()
    largest = []

    def put(parameter: torch.Tensor, value: torch.Tensor) -> None:
        largest.append(value.numel())
        copy_part(parameter, value)

    part_by_part.init_recorder.materialise(part_by_part, torch.device("cpu"), put)
    assert torch.equal(torch.get_rng_state(), before)
    found = dict(part_by_part.named_parameters())
    for name, parameter in whole.named_parameters():
        assert torch.equal(dtensors.local(found[name]), parameter), name
    assert len(largest) == len(found), "each once"
    assert max(largest) == max(parameter.numel() for parameter in whole.parameters())


@pytest.mark.parametrize("processes", [2, 4])
def test_a_divided_model_starts_from_the_same_values(processes: int):
    divisions = [("strategy=fsdp",), ("strategy=tensor",)]
    if processes == 4:
        divisions = [("strategy=hsdp", "strategy.replicas=2"), ("strategy=fsdp_tensor",)]

    def work() -> None:
        distributed.init_process_group("gloo")
        torch.manual_seed(3)
        whole = dict(MaskedLanguageModel(composed(*SMALL), ()).named_parameters())
        for division in divisions:
            config = composed(*SMALL, *division, f"strategy.devices={processes}")
            torch.manual_seed(3)
            module = MaskedLanguageModel(config, ())
            sharded = Sharded(config.strategy)
            sharded._device_mesh = mesh(config.strategy, "cpu")
            sharded.parallel_devices = [torch.device("cpu")] * processes
            arrange(module, config.strategy, sharded)
            assert module.init_recorder is None
            held = sum(dtensors.local(parameter).numel() for parameter in module.parameters())
            assert (
                held == sum(planner.parameters_per_process(config.backbone, config.strategy).values())
                or distributed.get_rank()
            )
            for name, parameter in module.named_parameters():
                assert torch.equal(dtensors.whole(parameter), whole[name]), (division, name)

    in_group(processes, work)
