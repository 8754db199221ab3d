"""A small MSA Transformer in fair-esm's layout, with weights that follow from their names, and what fair-esm makes of it.

``python -m tests.interop.esm_msa_samples``, where fair-esm 2.0.0 is installed, prints the numbers in `OUTPUT`.
"""

from argparse import Namespace
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

LAYERS, HEADS, SIZE, WIDE, POSITIONS, ROWS = 2, 3, 12, 20, 64, 16
ALIGNMENT = ("MKTAYIAXR", "-RTGYLAKQ", "MKSAY.A-B", "MRTGLLUZO")
ARGUMENTS = Namespace(
    arch="msa_transformer", layers=LAYERS, embed_dim=SIZE, ffn_embed_dim=WIDE, attention_heads=HEADS, dropout=0.1,
    attention_dropout=0.1, activation_dropout=0.1, max_tokens=2**14, max_positions=POSITIONS, embed_positions_msa=True,
)  # fmt: skip
OUTPUT: dict[str, list[float]] = {
        "logits": [-2.014739, 1.295246, 2.4839678, -2.0735772, 1.6708989, 4.086103, -2.0693879, 1.4946887,
        2.0496228, -1.474048, 1.7943121, 3.8601723, -1.196134, 2.0450027, 1.8370838, -1.135903, 2.3956316,
        3.3849742, -2.6102052, 1.5087775, 2.4895053, -2.1070189, 1.8728129, 3.4460783],
        "hidden": [0.46059915, -0.25454867, -0.075047649, 0.39526892, -0.27840194, -0.27834082, 0.37584066,
        -0.28017187, 0.10663654, 0.34296376, -0.28089416, -0.1962215, 0.44376484, -0.20193845, 0.019559992,
        0.37038028, -0.2355817, -0.25233915, 0.50774682, -0.30144686, -0.046893403, 0.46525097, -0.30441552,
        -0.3521049],
        "contacts": [0.54568505, 0.43588901, 0.4746058, 0.57611644, 0.53459942, 0.51149976, 0.47892091, 0.54116702,
        0.5072341, 0.43588901, 0.49042317, 0.52072144, 0.47336867, 0.52152884, 0.50718337, 0.51021463, 0.56699878,
        0.51672959, 0.4746058, 0.52072144, 0.58373159, 0.53746974, 0.48895198, 0.47646612, 0.53011572, 0.46237397,
        0.46391699],
}  # fmt: skip


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of fair-esm's tensors."""
    found: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (33, SIZE),
        "embed_positions.weight": (POSITIONS + 2, SIZE),
        "msa_position_embedding": (1, 1024, 1, SIZE),
        "contact_head.regression.weight": (1, LAYERS * HEADS),
        "contact_head.regression.bias": (1,),
        "lm_head.bias": (33,),
        "lm_head.weight": (33, SIZE),
        "lm_head.dense.weight": (SIZE, SIZE),
        "lm_head.dense.bias": (SIZE,),
    }
    norms = ["emb_layer_norm_before", "emb_layer_norm_after", "lm_head.layer_norm"]
    for layer in (f"layers.{number}" for number in range(LAYERS)):
        for axis in ("row", "column"):
            norms.append(f"{layer}.{axis}_self_attention.layer_norm")
            for each in ("k", "v", "q", "out"):
                name = f"{layer}.{axis}_self_attention.layer.{each}_proj"
                found |= {f"{name}.weight": (SIZE, SIZE), f"{name}.bias": (SIZE,)}
        norms.append(f"{layer}.feed_forward_layer.layer_norm")
        name = f"{layer}.feed_forward_layer.layer"
        found |= {f"{name}.fc1.weight": (WIDE, SIZE), f"{name}.fc1.bias": (WIDE,)}
        found |= {f"{name}.fc2.weight": (SIZE, WIDE), f"{name}.fc2.bias": (SIZE,)}
    for norm in norms:
        found |= {f"{norm}.weight": (SIZE,), f"{norm}.bias": (SIZE,)}
    return found


def tensors() -> dict[str, torch.Tensor]:
    """Weights by their names, which are the same on any machine."""
    made = {}
    for name, shape in shapes().items():
        draw = np.random.Generator(np.random.PCG64(crc32(name.encode())))
        values = draw.standard_normal(shape) * (0.5 if len(shape) > 1 else 0.2)
        values = values + 1 if name.endswith("norm.weight") else values
        made[name] = torch.from_numpy(values.astype(np.float32))
    made["lm_head.weight"] = made["embed_tokens.weight"]
    return made


def save(directory: Path) -> Path:
    """Write a checkpoint as it was released: rows and columns by each other's names, the regression beside it."""
    model, regression = {}, {}
    for name, tensor in tensors().items():
        if name.startswith("contact_head"):
            regression[name] = tensor
            continue
        swapped = name.replace("row", "column") if "row" in name else name.replace("column", "row")
        model[("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + swapped] = tensor
    torch.save({"args": ARGUMENTS, "model": model}, directory / "small.pt")
    torch.save({"model": regression}, directory / "small-contact-regression.pt")
    return directory / "small.pt"


def numbers(logits: torch.Tensor, hidden: torch.Tensor, contacts: torch.Tensor) -> dict[str, list[float]]:
    """Some of the logits (R, C, V), hidden states (R, C, D) and contacts (L, L), spread over all of them."""
    parts = {"logits": logits, "hidden": hidden, "contacts": contacts}
    return {name: part.flatten()[:: max(1, part.numel() // 24)].tolist() for name, part in parts.items()}


def main() -> None:
    import esm  # type: ignore[import-not-found]

    alphabet = esm.Alphabet.from_architecture("msa_transformer")
    model = esm.MSATransformer(ARGUMENTS, alphabet).eval()
    model.load_state_dict(tensors())
    _, _, tokens = alphabet.get_batch_converter()([(str(row), text) for row, text in enumerate(ALIGNMENT)])
    with torch.no_grad():
        found = model(tokens, repr_layers=[LAYERS], return_contacts=True)
    made = numbers(found["logits"][0], found["representations"][LAYERS][0], found["contacts"][0])
    print({name: [float(f"{value:.8g}") for value in values] for name, values in made.items()})


if __name__ == "__main__":
    main()
