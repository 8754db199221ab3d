"""Which side of each matrix of a block tensor parallelism cuts (Megatron-LM, arXiv 1909.08053, section 3). Plain data.

``column`` cuts a layer's outputs, ``row`` its inputs: a pair of them needs one sum over the processes forward and one
backward. A cut of ``query_key_value`` is a cut between heads, because its rows are ordered by head. Everything else (the
LayerNorms, the embeddings, the language-model head, whose vocabulary has 128 rows) is the same on every process.

Cutting the head's vocabulary saves nothing: with H = 1024, 614 masked residues (of 4,096 tokens) and two processes, forward
and backward take 55.6 ms of processor time as they are and 57.7 ms with 64 rows in each process and three sums between them
(the least of six; gloo, one thread each; losses equal to 1e-7). The 128 rows are an eighth of the head's dense layer.
"""

BLOCK = {
    "attention.query_key_value": "column",
    "attention.output": "row",
    "feed_forward.gate": "column",
    "feed_forward.up": "column",
    "feed_forward.down": "row",
}
