"""Which side of each matrix of a block tensor parallelism cuts (Megatron-LM, arXiv 1909.08053, section 3). Plain data.

``column`` cuts a layer's outputs, ``row`` its inputs: a pair of them needs one sum over the processes forward and one
backward. A cut of ``query_key_value`` is a cut between heads, because its rows are ordered by head. Everything else (the
LayerNorms, the embeddings, the language-model head, whose vocabulary has 128 rows) is the same on every process.
"""

BLOCK = {
    "attention.query_key_value": "column",
    "attention.output": "row",
    "feed_forward.gate": "column",
    "feed_forward.up": "column",
    "feed_forward.down": "row",
}
