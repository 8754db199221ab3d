/* Rows, or their LayerNorm, in strips of bfloat16 for the products of `products_bf16.h`. */
#pragma once
#include "norm.h"
#include "products_bf16.h"

/* to (columns / 32, rows, 32), strips that are `apart`, = x (rows, columns) in bfloat16. */
static void copy_rows(uint16_t *to, int64_t apart, const uint16_t *x, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++, x += columns, to += STRIP)
        for (int64_t i = 0; i < columns; i += STRIP) memcpy(to + i / STRIP * apart, x + i, STRIP * sizeof(uint16_t));
}

/* The same of x in float32. */
static void round_rows(uint16_t *to, int64_t apart, const float *x, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++, x += columns, to += STRIP)
        for (int64_t i = 0; i < columns; i += STRIP) round_pair(to + i / STRIP * apart, load(x + i), load(x + i + ALL));
}

static inline Vector normal_of(const float *x, const float *kept, const float *gain, const float *bias) {
    return (load(x) - kept[0]) * kept[1] * load(gain) + load(bias);
}

/* The same of the LayerNorm of x (rows, H), as `apply_norm` has it. */
static void round_norm(uint16_t *to, int64_t apart, const float *x, const float *kept, const float *gain, const float *bias,
                       int64_t rows, int64_t hidden) {
    for (int64_t r = 0; r < rows; r++, x += hidden, kept += 2, to += STRIP)
        for (int64_t i = 0; i < hidden; i += STRIP)
            round_pair(to + i / STRIP * apart, normal_of(x + i, kept, gain + i, bias + i),
                       normal_of(x + i + ALL, kept, gain + i + ALL, bias + i + ALL));
}
