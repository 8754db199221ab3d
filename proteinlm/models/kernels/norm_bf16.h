/* Rows in float32, or their LayerNorm, rounded to bfloat16. */
#pragma once
#include "norm.h"

/* to (rows, columns), `stride` apart, = x (rows, columns). */
static void round_rows(uint16_t *to, int64_t stride, const float *x, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++, x += columns, to += stride)
        for (int64_t i = 0; i < columns; i += LANES) store_halves(to + i, load(x + i));
}

/* normal (rows, H), `stride` apart, = the LayerNorm of x (rows, H), as `apply_norm` has it. */
static void round_norm(uint16_t *normal, int64_t stride, const float *x, const float *kept, const float *gain,
                       const float *bias, int64_t rows, int64_t hidden) {
    for (int64_t r = 0; r < rows; r++, x += hidden, normal += stride, kept += 2)
        for (int64_t i = 0; i < hidden; i += LANES)
            store_halves(normal + i, (load(x + i) - kept[0]) * kept[1] * load(gain + i) + load(bias + i));
}
