"""A plan is what a run then takes: parameters exactly, the bytes that it holds and saves nearly; and what cannot fit is
refused with a change that would.
"""

import contextlib
import io
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairscale.optim import OSS
from scipy.stats import lognorm
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.table7.published import TABLE7
from proteinlm import optim, planner
from proteinlm.cli import main
from proteinlm.config import ModelConfig, RunConfig, max_scored_tokens
from proteinlm.errors import InputError
from proteinlm.models import attention_compiled, fused_layers, narrow_layers
from proteinlm.models.attention import boundaries
from proteinlm.models.backbone import Backbone, Block
from proteinlm.models.heads import LanguageModelHead
from proteinlm.parallel.recompute import recompute
from proteinlm.planner import HARDWARE, PFAM, Proteins, parameter_shapes, plan
from proteinlm.planner.cli import run_config
from proteinlm.tasks.masked_language_model import MaskedLanguageModel
from proteinlm.training import dry_run, pretraining
from tests.runs import ROOT, SMALL, in_group
from tests.runs import composed as small

H100 = HARDWARE["h100"]
LARGEST = "experiment/table7=hidden-3072-layer-24-head-16"


@pytest.mark.parametrize("row", TABLE7)
def test_the_tensors_of_every_row(row: str):
    config = run_config([f"experiment/table7={row}"])
    with torch.device("meta"):
        module = MaskedLanguageModel(config, ())
    assert [(name, tuple(p.shape)) for name, p in module.named_parameters()] == list(
        parameter_shapes(config.backbone).items()
    )


def test_attention_reaches_as_far_as_the_proteins_do():
    config = small(*SMALL)
    data = pretraining.PretrainingData(config)
    proteins = Proteins.of(data.corpus.splits["train"].lengths(), config.model.max_positions)
    one_epoch = sum(1 for step in data.schedule.steps(0, 100) for m in step if m.epoch == 0)
    seen = data.schedule.totals(-(-one_epoch // config.train.micro_batches))
    assert proteins.attended_tokens == pytest.approx(seen.squares / seen.tokens, rel=0.05)
    assert Proteins.of(np.array([9, 99, 4999]), 1000) == Proteins(3, 1110, 10**2 + 100**2 + 1000**2, 1000)


def saved(work: Callable[[], torch.Tensor]) -> int:
    """Bytes that autograd keeps on this device for the backward pass of `work`, counting each memory once."""
    kept: dict[int, int] = {}
    alive = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x if x._base is None else x._base, nn.Parameter):
            alive.append(x)  # else its memory might be used, and counted, again
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        work()
    return sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("longer", [0, 1])
def test_what_a_block_saves(mixed: bool, dropout: float, longer: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention_compiled, "load_kernels", lambda: None)  # with it, less is kept than planned
    for layers in (fused_layers, narrow_layers):  # so it is with these
        monkeypatch.setattr(layers, "suits", lambda *_: False)
    length = max_scored_tokens(mixed) + longer
    model = ModelConfig(128, 1, 4, dropout=dropout)
    block = Block(model)
    starts = torch.tensor([0, length], dtype=torch.int32)
    dtype = torch.bfloat16 if mixed else torch.float32
    where = boundaries(starts, length, dtype)
    x = torch.randn(length, 128, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        measured = saved(lambda: block(x, where))
    copies = 2 * 12 * 128**2 if mixed else 0  # autocast's, of the matrices
    # PyTorch's kernel, and dropout, keep more on a CPU than on a GPU
    tolerance = 0.2 if longer or dropout else 0.005
    planned = planner.block_activation_bytes(model, 1, mixed, 0 if longer else length) * length + copies
    assert planned == pytest.approx(measured, rel=tolerance)


@pytest.mark.parametrize("encoder", [("gelu", "learned"), ("gated", "rotary")])
def test_flops_are_those_that_torch_counts(encoder: tuple[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention_compiled, "load_kernels", lambda: None)  # what is compiled is not counted
    for layers in (fused_layers, narrow_layers):
        monkeypatch.setattr(layers, "suits", lambda *_: False)
    model = ModelConfig(64, 3, 4, max_positions=128, feed_forward=encoder[0], positions=encoder[1])
    backbone, head = Backbone(model), LanguageModelHead(model)
    lengths, targets = [64] * 4, 32  # matrix products attend without filler, and are counted
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    with FlopCounterMode(display=False) as counter:
        hidden = backbone(torch.randint(5, 25, (sum(lengths),)), starts, max(lengths))
        head(hidden[:targets], backbone.token_embedding.weight)
    planned = model.training_flops(sum(lengths), sum(length**2 for length in lengths), targets)
    assert planned == 3 * counter.get_total_flops()  # the backward pass has two products for each


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_the_optimiser_remembers_what_was_planned(matrices: str):
    config = small(*SMALL, f"optim.matrices={matrices}")
    module = MaskedLanguageModel(config, ())
    optimizer, _ = optim.build(module, config.optim, 10, config.backbone)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    planned = planner.memory(config, planner.processor(1))
    assert planned.optimiser == sum(tensor.nbytes for tensor in moments if tensor.dim())  # not the number of the step
    assert planned.gradients == planned.weights == sum(parameter.nbytes for parameter in module.parameters())


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
@pytest.mark.parametrize("processes", [2, 3, 8])
def test_the_fullest_process_is_the_one_that_fairscale_makes_it(matrices: str, processes: int):
    cluster = ("strategy=ddp_sharded", f"strategy.devices={processes}", "train.step_tokens=12288")
    config = small(*SMALL, f"optim.matrices={matrices}", "model.num_layers=3", *cluster)
    optimizer, _ = optim.build(MaskedLanguageModel(config, ()), config.optim, 10, config.backbone)
    stand_in = SimpleNamespace(_partition_parameters=[], world_size=processes, param_groups=optimizer.param_groups)
    shares = OSS.partition_parameters(stand_in)  # type: ignore[arg-type]
    held = [
        sum((1 if group["muon"] else 2) * p.numel() for group in share for p in group["params"]) for share in shares
    ]
    assert planner.memory(config, planner.processor(1)).optimiser == 4 * max(held)


@pytest.mark.parametrize("mixed", [False, True])
def test_what_is_gathered_and_what_is_computed_again(mixed: bool):
    def needed(*overrides: str) -> tuple[float, float]:
        return planner.activation_bytes(small(*SMALL, *overrides), mixed)

    shapes = planner.parameter_shapes(small(*SMALL).backbone)
    of_blocks = sum(math.prod(shape) for name, shape in shapes.items() if ".blocks." in name)
    others = sum(math.prod(shape) for name, shape in shapes.items() if ".blocks." not in name)
    kept, working = needed()
    for strategy in ("fsdp", "hsdp"):
        gathered, together = needed(f"strategy={strategy}", "strategy.devices=2")
        assert gathered == pytest.approx(kept), "autocast's copies are of whole matrices"
        # of two blocks and of one block's gradients; tables, and their gradients
        assert together - working == pytest.approx(4 * (3 * of_blocks / 2 + 2 * others))
    one_more = needed("model.num_layers=3")[0] - kept
    stream = 4 * 32 * 512  # the residual stream of a micro-batch, in fp32
    again, _ = needed("strategy.activations=recompute")
    assert again == pytest.approx(kept - one_more + 2 * stream), "of one block at a time, and the input of each"
    moved, _ = needed("strategy.activations=recompute_offload", "model.num_layers=5")
    assert moved == pytest.approx(again), "the inputs of two"


@pytest.mark.parametrize(
    ("precision", "cuda", "bf16"),
    [
        ("fp32", True, False),
        ("fp32", False, False),
        ("bf16-mixed", True, True),
        ("bf16-mixed", False, True),
        ("auto", True, True),
        ("auto", False, False),
    ],
)
def test_products_are_in_bf16_where_a_run_computes_them_so(precision: str, cuda: bool, bf16: bool):
    config = small(*SMALL, f"train.precision={precision}")
    assert planner.computes_in_bf16(config, planner.Hardware("any", 1e9, cuda=cuda)) == bf16


@pytest.mark.parametrize("activations", ["keep", "recompute"])
def test_what_a_whole_model_saves(activations: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention_compiled, "load_kernels", lambda: None)
    config = small(*SMALL, "model.num_layers=6", "model.hidden_size=64", f"strategy.activations={activations}")
    module = MaskedLanguageModel(config, ())
    if activations == "recompute":
        for block in module.backbone.blocks:
            recompute(block)
    data = pretraining.PretrainingData(config)
    micro_batch = next(data.schedule.steps(0, 1))[0]
    batch = data._masked("train", 0)[micro_batch]
    measured = saved(lambda: module(batch))
    lengths = batch.masked.packed.starts.diff()
    weights_of = float((lengths[lengths <= max_scored_tokens(False)] ** 2).sum() / lengths.sum())
    planned, _ = planner.activation_bytes(config, False, weights_of)
    planned *= len(batch.masked.packed.tokens) / config.train.micro_batch_tokens
    if activations == "recompute":  # a block's own are made in the backward pass, which has not begun
        planned -= planner.block_activation_bytes(config.backbone, 1, False, weights_of) * len(
            batch.masked.packed.tokens
        )
    # the last block computes only the states that are read, which the plan does not know
    assert measured / 1.2 <= planned <= 1.25 * measured


def test_the_largest_row_on_64_processes_is_composed_planned_and_built():
    cluster = ("strategy=fsdp", "strategy.devices=8", "strategy.nodes=8", "hardware=h100")
    config = run_config([LARGEST, "profile=paper", *cluster, "train.micro_batch_tokens=4352"])

    def work() -> None:
        made = plan(config, PFAM, H100)
        assert made.parameters == 2_735_398_016
        module = dry_run.sharded_model(config)
        assert all(p.is_meta for p in module.parameters())
        held = sum(planner.parameters_per_process(config.backbone, config.strategy).values())
        assert sum(p.to_local().numel() for p in module.parameters()) == held
        assert made.memory.weights == 4 * held
        config.strategy.name, config.strategy.tensor = "fsdp_tensor", 4
        module = dry_run.sharded_model(config)
        held = sum(planner.parameters_per_process(config.backbone, config.strategy).values())
        assert sum(p.to_local().numel() for p in module.parameters()) == held
        config.strategy.name = "hsdp"
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            dry_run.run(config)
        assert "backbone.blocks.0.attention.query_key_value.weight 9216 x 3072      1152 x 3072" in printed.getvalue()
        assert "341,924,752 of 2,735,398,016 parameters, 1.4 GB of weights" in printed.getvalue()

    in_group(1, work)


@pytest.mark.parametrize(
    ("overrides", "message", "remedy"),
    [
        ((), r"152.\d GB are needed .* H100 has 80.0 GB", "train.micro_batch_tokens=8192"),
        (("model.num_heads=8", "train.micro_batch_tokens=4096"), "model.num_heads=8 gives no", "model.num_heads=12"),
        (("train.max_epochs=0.01", "train.micro_batch_tokens=4096"), "are 0.0 epochs", "train.tokens="),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(overrides: tuple[str, ...], message: str, remedy: str):
    overrides = ("profile=single_gpu", *overrides)
    config = run_config([LARGEST, *overrides])
    with pytest.raises(InputError, match=rf"{message}.*: {remedy}\d* would fit \(force=true") as error:
        planner.check(config, PFAM, H100)
    config.force = True
    planner.check(config, PFAM, H100)
    suggested = str(error.value).rsplit(": ", 1)[1].split(" would fit")[0]
    assert not planner.check(run_config([LARGEST, *overrides, *suggested.split()]), PFAM, H100).config.force


def test_a_launch_is_refused_before_it_owns_a_directory(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planner, "processor", lambda processes: planner.Hardware("CPU", 1e6, cuda=False))
    config = small(*SMALL, f"output={tmp_path}")
    with pytest.raises(InputError, match=r"are needed in each process and CPU has 1.0 MB"):
        pretraining.run(config)
    assert not list(tmp_path.rglob("config.yaml"))


def test_pfam_is_what_is_said_of_it():
    """32,593,668 proteins are TAPE's training split; the recipe's positions are 2,176."""
    assert (PFAM.count, PFAM.longest) == (32_593_668, 2_176)
    lengths = lognorm(s=0.62, scale=141).ppf((np.arange(100_000) + 0.5) / 100_000)
    made = Proteins.of(lengths, 2_176)
    assert PFAM.tokens / PFAM.count == pytest.approx(made.tokens / made.count, rel=0.005)
    assert PFAM.attended_tokens == pytest.approx(made.attended_tokens, rel=0.01)


def test_sums_known_from_elsewhere():
    def planned(*overrides: str) -> planner.Plan:
        config: RunConfig = run_config([LARGEST, "profile=paper", *overrides])
        return plan(config, PFAM, H100)

    # Cheng et al.'s optimum for the 3B row, by their figure: 173 billion tokens
    assert planned().optimal_tokens[0] == pytest.approx(173e9, rel=0.01)
    # 6 N + 12 L H s per token
    known = 6 * 12 * 24 * 3072**2 + 12 * 24 * 3072 * PFAM.attended_tokens
    assert planned().flops_per_token == pytest.approx(known, rel=0.005)
    told = dict(planner.describe(planned()))["model"]
    assert told == f"{planned().config.name}: 2,735,398,016 parameters, {known / 1e9:.3g} GFLOP a token"
    weights = 4 * 2_735_398_016
    assert planned("strategy=ddp", "strategy.devices=8").received_bytes == pytest.approx(2 * weights * 7 / 8, rel=1e-3)
    sharded = planned("strategy=fsdp", "strategy.devices=8")  # four micro-batches in each process
    assert sharded.received_bytes == pytest.approx(4 * 3 * weights * 7 / 8, rel=1e-3)
    assert sharded.memory.states == pytest.approx(16 / 4 * weights / 8, rel=1e-3)


def test_a_step_takes_its_computation_and_what_that_does_not_hide():
    def planned(*overrides: str, **changed: float) -> planner.Plan:
        return plan(run_config([LARGEST, "profile=paper", *overrides]), PFAM, replace(H100, **changed))

    def seconds(made: planner.Plan) -> tuple[float, float]:
        assert made.speed
        assert made.hours
        step = made.config.train.step_tokens
        assert [hours * 3600 * speed for hours, speed in zip(made.hours, made.speed[::-1], strict=True)] == (
            pytest.approx([made.config.train.tokens] * 2)
        )
        return step / made.speed[1], step / made.speed[0]  # least first

    def computing(made: planner.Plan, processes: int) -> list[float]:
        work = made.config.train.step_tokens * made.flops_per_token
        return [work / (processes * 989.4e12 * share) for share in (made.utilisation.high, made.utilisation.low)]

    one = planned()
    assert seconds(one) == pytest.approx(computing(one, 1))
    eight = ("strategy.devices=8",)
    sharded = planned("strategy=fsdp", *eight)
    assert seconds(sharded) == pytest.approx(computing(sharded, 8)), "behind the computation"
    slow = planned("strategy=fsdp", *eight, link=1e6, network=1e15)
    assert seconds(slow) == pytest.approx([slow.received_bytes / 1e6] * 2)
    nodes = ("strategy.nodes=2", *eight)
    assert seconds(planned("strategy=fsdp", *nodes, link=1e15, network=1e6))[0] > 1e4
    replicas = planned("strategy=hsdp", *nodes, network=1.0)
    assert seconds(replicas) == pytest.approx(computing(replicas, 16)), "nearly all stays inside a node"
    tensor = planned("strategy=fsdp_tensor", "strategy.tensor=4", *eight, link=2e9)
    waiting = tensor.received_bytes / 2e9
    assert seconds(tensor) == pytest.approx([time + waiting for time in computing(tensor, 8)])
    assert planned(peak=None).speed is planned(peak=None).hours is None


def test_what_a_process_receives_in_a_step():
    """Ring algorithms: of a gather or a reduction over W processes, each receives (W - 1) / W of the whole."""
    weights = 4 * 2_735_398_016

    def received(*overrides: str) -> tuple[float, int]:
        config = run_config([LARGEST, "profile=paper", *overrides])
        return plan(config, PFAM, H100).received_bytes, config.train.step_tokens // 8704

    alone, _ = received()
    assert alone == 0
    sharded, _ = received("strategy=ddp_sharded", "strategy.devices=8")
    assert sharded == pytest.approx(3 * weights * 7 / 8, rel=1e-3)
    replicas, micro_batches = received("strategy=hsdp", "strategy.devices=8", "strategy.nodes=2")
    gathers = 3 * micro_batches / 16 * weights * 7 / 8
    assert replicas == pytest.approx(gathers + 2 * weights / 8 / 2, rel=1e-3)
    # two sums forward and two backward in each of 24 blocks, each a reduction and a gather of 3,072 bf16 numbers a token
    states, micro_batches = received("strategy=fsdp_tensor", "strategy.devices=4", "strategy.tensor=4")
    assert states == pytest.approx(micro_batches * 24 * 4 * 2 * 8704 * 3072 * 2 * 3 / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("dim", "kernel"),
    [
        (16, "varlen_attn, head dimension 16 in tiles of 32"),
        (64, "varlen_attn, head dimension 64"),
        (72, "varlen_attn, head dimension 72 in tiles of 96"),
        (136, "varlen_attn, head dimension 136 in tiles of 192"),
        (256, "varlen_attn, head dimension 256"),
        (264, "none: head dimension 264 is above 256"),
    ],
)
def test_the_kernel_of_a_head_dimension(dim: int, kernel: str):
    model = ModelConfig(2 * dim, 1, 2)
    assert planner.kernel(model, fused=True) == kernel
    assert planner.kernel(model, fused=False) == f"scaled_dot_product_attention, head dimension {dim}"


@pytest.mark.parametrize(
    ("model", "known"),
    [
        (("model.hidden_size=256", "model.num_layers=4", "model.num_heads=8"), False),  # 3.1 M in the blocks
        (("model.hidden_size=256", "model.num_layers=5", "model.num_heads=8"), True),
        (("model.hidden_size=8192", "model.num_layers=13", "model.num_heads=64"), True),  # 10.5 B
        (("model.hidden_size=8192", "model.num_layers=14", "model.num_heads=64"), False),
        (("model=lstm", "model.hidden_size=2048"), False),
    ],
)
def test_optimal_tokens_are_given_for_sizes_that_the_laws_were_fitted_to(model: tuple[str, ...], known: bool):
    made = plan(run_config([*model]), PFAM, H100)
    assert (made.optimal_tokens is not None) == known
    assert ("optimal tokens" in dict(planner.describe(made))) == known


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=custom", "data.csv=mine.csv"], "error: task=custom is for `proteinlm finetune`: pretraining takes "),
        (["--pfam", "--price", "nan"], "error: --price nan is not a price"),
        (["--pfam", "--on", "abacus"], "error: --on abacus is not one of h200, h100, a100, cpu"),
        (["--pfam", "optim.epsilon=-1"], "error: optim.epsilon=-1.0 is less than 0"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", ["proteinlm", "plan", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_the_command_line_needs_no_torch():
    code = (
        "import sys; from proteinlm.cli import app; sys.argv = ['proteinlm', 'plan', '--rows', '--pfam', '--on', 'h100',"
        "'--price', '2', 'profile=paper', 'strategy=fsdp', 'strategy.devices=8']; app(standalone_mode=False);"
        "sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert all(any(line.lstrip().startswith(row) for line in lines) for row in TABLE7)
    assert "varlen_attn, 48 in tiles of 64" in ended.stdout
