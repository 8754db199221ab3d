"""Encoders of Hugging Face give the states of transformers and its tokenizers, in any company and in any task."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
import transformers
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from proteinlm import checkpoint, load
from proteinlm.config import FinetuneConfig, ForeignConfig, ModelConfig, PublishedConfig, register_schema
from proteinlm.data import synthetic
from proteinlm.data.batches.packing import pack_letters
from proteinlm.errors import InputError
from proteinlm.interop import huggingface
from proteinlm.models import huggingface as foreign
from proteinlm.models import registry
from proteinlm.training import finetuning
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run
from tests.inference.models import saved
from tests.runs import ROOT
from tests.tasks import toys

SEQUENCES = [protein(length, length) for length in (40, 7, 41, 1, 90)] + ["MKXBOUZA"]
LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO"
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ESM = SIZE | {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "max_position_embeddings": 128}


def esm(directory: Path, **options: object) -> None:
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *LETTERS, ".", "-", "<null_1>", "<mask>"]
    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.EsmTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
    transformers.EsmForMaskedLM(transformers.EsmConfig(**ESM, token_dropout=True, **options)).save_pretrained(directory)


def esm2(directory: Path) -> None:
    esm(directory, position_embedding_type="rotary")


def esm1b(directory: Path) -> None:
    esm(directory, position_embedding_type="absolute", emb_layer_norm_before=True)


def bert_tokenizer(directory: Path) -> None:
    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]))
    transformers.BertTokenizer(str(directory / "vocab.txt"), do_lower_case=False).save_pretrained(directory)


def protbert(directory: Path) -> None:
    bert_tokenizer(directory)
    config = transformers.BertConfig(**SIZE, vocab_size=30, max_position_embeddings=128)
    transformers.BertForMaskedLM(config).save_pretrained(directory)


def megatron_bert(directory: Path) -> None:
    bert_tokenizer(directory)
    config = transformers.MegatronBertConfig(**SIZE, vocab_size=30, max_position_embeddings=128)
    transformers.MegatronBertForMaskedLM(config).save_pretrained(directory)


def prott5(directory: Path) -> None:
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"▁{letter}": place for place, letter in enumerate(LETTERS, start=3)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    config = transformers.T5Config(vocab_size=28, d_model=32, d_kv=4, d_ff=64, num_layers=2, num_heads=4)
    transformers.T5ForConditionalGeneration(config).save_pretrained(directory)


def exported(directory: Path) -> None:
    huggingface.export(saved(directory.with_name(f"{directory.name}-source")), directory)


MAKERS = (esm2, esm1b, protbert, megatron_bert, prott5, exported)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of each class, by the maker's name."""
    home = tmp_path_factory.mktemp("encoders")
    for maker in MAKERS:
        torch.manual_seed(0)
        maker(home / maker.__name__)
    return home


def states_alone(directory: Path, sequence: str) -> np.ndarray:
    """Hidden states (L + 1, H) of one protein, without padding, by transformers and its tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    kind = transformers.T5EncoderModel if "t5" in directory.name else transformers.AutoModel
    model = kind.from_pretrained(directory).eval()
    ids = tokenizer(" ".join(sequence), return_tensors="pt")["input_ids"]
    begin = 0 if "t5" in directory.name else 1
    with torch.inference_mode():
        states = model(input_ids=ids).last_hidden_state[0].numpy()
    assert len(states) == len(sequence) + begin + (directory.name != "exported")
    residues = states[begin : begin + len(sequence)]
    return np.concatenate([states[:1] if begin else residues.mean(axis=0, keepdims=True), residues])


@pytest.mark.parametrize("name", [maker.__name__ for maker in MAKERS])
def test_states_are_those_of_each_protein_alone(encoders: Path, name: str):
    weights = checkpoint.load_weights(encoders / name)
    kind = {"prott5": ForeignConfig, "exported": ModelConfig}.get(name, PublishedConfig)
    assert type(weights.config) is kind
    backbone = registry.build(weights.config).eval()
    checkpoint.restore({"backbone": backbone}, weights)
    for order in (range(len(SEQUENCES)), np.argsort([len(sequence) for sequence in SEQUENCES])):
        packed = pack_letters([np.frombuffer(SEQUENCES[place].encode(), np.uint8) for place in order])
        with torch.inference_mode():
            hidden = backbone(packed.tokens, packed.starts, packed.longest)
        for place, states in zip(order, hidden.split(packed.starts.diff().tolist()), strict=True):
            np.testing.assert_allclose(states, states_alone(encoders / name, SEQUENCES[place]), atol=2e-5)


@pytest.mark.parametrize("name", ["protbert", "megatron_bert"])
def test_a_directory_without_settings_of_its_tokenizer_is_not_lower_cased(encoders: Path, name: str, tmp_path: Path):
    shutil.copytree(encoders / name, tmp_path / name)
    for file in ("tokenizer_config.json", "tokenizer.json"):  # BERT's own default is to lower-case
        (tmp_path / name / file).unlink()
    (tmp_path / name / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]))
    bare, original = (load(directory / name, device="cpu") for directory in (tmp_path, encoders))
    assert bare.config == original.config
    np.testing.assert_array_equal(bare.embed(SEQUENCES), original.embed(SEQUENCES))


def test_letters_that_an_encoder_does_not_know_are_its_x(encoders: Path, tmp_path: Path):
    shutil.copytree(encoders / "protbert", tmp_path / "protbert")
    for file in ("tokenizer_config.json", "tokenizer.json"):
        (tmp_path / "protbert" / file).unlink()
    known = [letter if letter not in "BUZO" else f"[unused-{letter}]" for letter in LETTERS]
    (tmp_path / "protbert/vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]))
    model = load(tmp_path / "protbert", device="cpu")
    unknown, x, other = model.embed(["MKBUAZO", "MKXXAXX", "MKAAAAA"])
    np.testing.assert_array_equal(unknown, x)
    assert np.abs(x - other).max() > 0.01


def test_the_padding_is_bounded():
    lengths = [1, 1, 4, 5, 5, 6, 7, 50]
    batches = [[len(part) for part in batch] for batch in foreign._batches([torch.zeros(n) for n in lengths])]
    assert batches == [[1, 1], [4, 5, 5], [6, 7], [50]]


@pytest.fixture
def composed(encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(synthetic, "labelled", toys.labelled, raising=False)
    shared = [option for option in toys.TINY if not option.startswith("model")]

    def make(name: str, *overrides: str) -> FinetuneConfig:
        register_schema()
        model = ("model=hf", f"model.path={encoders / name}")
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = OmegaConf.to_object(compose("finetune", [*shared, *model, f"output={tmp_path}", *overrides]))
        assert isinstance(config, FinetuneConfig)
        return config

    return make


@pytest.mark.parametrize("name", [maker.__name__ for maker in MAKERS])
def test_every_class_learns_a_task(composed, encoders: Path, tmp_path: Path, name: str):
    overrides = ("task=secondary_structure", "seeds=1", "keep_weights=true", "task.tokens=8192")
    result = finetuning.run(composed(name, *overrides))
    assert (result.row, result.hidden_size, result.num_layers, result.num_heads) == (name, 32, 2, 4)
    learnt = result.score("secondary_structure_q3", "cb513", "accuracy")
    assert learnt is not None
    assert learnt.value > 0.5  # 0.33 is chance
    stage = tmp_path / "single" / name / "secondary_structure_q3"
    (best,) = stage.glob("seed-0/best/step-*")
    kept, original = checkpoint.load_weights(best), checkpoint.load_weights(encoders / name)
    assert asdict(kept.config) == asdict(original.config)  # knows its architecture without the directory it came from
    assert result.start == original.fingerprint
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">a\nACDEF\n")
    code, output, _ = run("predict", "secondary_structure", fasta, "--model", stage, "--device", "cpu")
    assert code == 0
    assert len(output.splitlines()[1].split(",")[2]) == 5


@pytest.mark.parametrize("task", ["contact", "remote_homology", "stability", "fluorescence"])
def test_every_task_runs(composed, task: str):
    adapter = "lora" if task == "stability" else "none"
    budget = ("seeds=1", "task.tokens=1024", "task.validations=1")
    result = finetuning.run(composed("esm2", f"task={task}", f"adapter={adapter}", *budget))
    assert result.score(task, "valid", "spearman" if task in ("stability", "fluorescence") else result.scores[0].metric)


def test_embeddings_and_what_is_not_to_be_had(encoders: Path, tmp_path: Path):
    model = load(encoders / "esm2", device="cpu")
    for vector, sequence in zip(model.embed(SEQUENCES), SEQUENCES, strict=True):
        np.testing.assert_allclose(vector, states_alone(encoders / "esm2", sequence)[1:].mean(axis=0), atol=2e-5)
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">a\nACDEF\n")
    assert_refused(run("pppl", fasta, "--model", encoders / "prott5"), "no language-model head in it")
    outcome = run("contacts", fasta, "--model", encoders / "prott5", "--out", tmp_path / "a.npz", "--fit", "synthetic")
    assert_refused(outcome, "prott5: t5, of which only hidden states are to be had")
    assert load(encoders / "esm1b").longest == 128 - 2 - 2
    assert load(encoders / "protbert").longest == 126
    fasta.write_text(f">a\n{'A' * 127}\n")
    outcome = run("embed", fasta, "--model", encoders / "protbert", "--out", tmp_path / "a.npz")
    assert_refused(outcome, "127 residues, more than the 126")


def test_what_is_no_protein_encoder_is_refused(tmp_path: Path):
    for name, content, message in (
        ("gpt", '{"model_type": "gpt2"}', "model_type 'gpt2' is not one of esm, bert, megatron-bert, t5"),
        ("empty", '{"model_type": "t5"}', "not readable by transformers"),
        ("mute", '{"model_type": "t5"}', "no vocabulary of its tokenizer in it: none of tokenizer.json, spiece.model"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
        if name == "empty":
            (tmp_path / name / "tokenizer.json").write_text("{}")
        with pytest.raises(InputError, match=message) as refusal:
            load(tmp_path / name)
        assert "\n" not in str(refusal.value)
    protbert(tmp_path / "english")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTV"]
    (tmp_path / "english/vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "english/vocab.txt")).save_pretrained(tmp_path / "english")
    with pytest.raises(InputError, match="no token for the amino acid W"):
        load(tmp_path / "english")
