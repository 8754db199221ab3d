/* Rows, or their LayerNorm, in strips for the products of `products.h`. */
#pragma once
#include "norm.h"
#include "products.h"

/* to (columns / S, rows, S), strips that are `apart`, = x (rows, columns). */
static void copy_rows(Number *to, int64_t apart, const Number *x, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++, x += columns, to += STRIP)
        for (int64_t i = 0; i < columns; i += STRIP) memcpy(to + i / STRIP * apart, x + i, STRIP * sizeof(Number));
}

/* The same of floats. */
static void store_rows(Number *to, int64_t apart, const float *x, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++, x += columns, to += STRIP)
        for (int64_t i = 0; i < columns; i += PANEL)
            store_numbers(to + i / STRIP * apart, apart, load(x + i), load(x + i + ALL));
}

static inline Vector normal_of(const float *x, const float *kept, const float *gain, const float *bias) {
    return (load(x) - kept[0]) * kept[1] * load(gain) + load(bias);
}

/* The same of the LayerNorm of x (rows, H), as `apply_norm` has it. */
static void store_norm(Number *to, int64_t apart, const float *x, const float *kept, const float *gain, const float *bias,
                       int64_t rows, int64_t hidden) {
    for (int64_t r = 0; r < rows; r++, x += hidden, kept += 2, to += STRIP)
        for (int64_t i = 0; i < hidden; i += PANEL)
            store_numbers(to + i / STRIP * apart, apart, normal_of(x + i, kept, gain + i, bias + i),
                          normal_of(x + i + ALL, kept, gain + i + ALL, bias + i + ALL));
}

/* The gradient (rows, H) of x by its LayerNorm, as `norm_backward` has it. What each block of `ROWS` adds to the gradients of
 * gain and bias is written to its row of `sums` (2, H).
 */
static void norm_backward_by_blocks(const float *x, const float *gain, const float *kept, const float *given,
                                    const float *above, float *gradient, float *sums, int64_t rows, int64_t hidden) {
    for (int64_t row = 0; row < rows; row += ROWS, sums += 2 * hidden) {
        int64_t at = row * hidden;
        memset(sums, 0, 2 * hidden * sizeof(float));
        norm_backward(x + at, gain, kept + 2 * row, given + at, above ? above + at : NULL, gradient + at, sums, sums + hidden,
                      smallest(ROWS, rows - row), hidden);
    }
}
