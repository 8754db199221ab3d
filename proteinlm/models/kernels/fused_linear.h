/* Linear layers and the gradient of their inputs: with a LayerNorm before them, or with a residual sum after them, both in
 * float32.
 *
 * A few rows at a time, so that what surrounds a product costs no way to the memory. Weights are packed by
 * `fused_weights.h`.
 *
 * T rows, H inputs, I outputs, multiples of 32.
 */
#pragma once
#include "strips.h"

/* Bytes of the working space of all of these functions. */
int64_t OF(linear_space)(int64_t hidden, int64_t wide) {
    return TOGETHER * (sizeof(Number) * (hidden > wide ? hidden : wide) + 4 * hidden) + 3 * 64;
}

/* y (T, I) = norm(x) W^T + bias, of x (T, H), in the blocks first to last - 1 of `ROWS` of all `total` rows. It keeps the mean
 * and the inverse deviation of each row in `kept` (T, 2).
 */
void OF(norm_linear_forward)(const float *x, const float *gain, const float *norm_bias, const Word *weight,
                              const float *bias, Number *y, float *kept, int64_t first, int64_t last, int64_t total,
                              int64_t hidden, int64_t wide, float epsilon, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    Number *normal = cut(&space, TOGETHER * sizeof(Number) * hidden);
    int64_t end = smallest(last * ROWS, total);
    for (int64_t row = first * ROWS; row < end; row += TOGETHER) {
        int64_t rows = smallest(TOGETHER, end - row);
        measure(kept + 2 * row, x + row * hidden, rows, hidden, epsilon);
        store_norm(normal, APART, x + row * hidden, kept + 2 * row, gain, norm_bias, rows, hidden);
        Output output = {y + row * wide, wide, bias, NULL};
        multiply(normal, APART, weight, rows, wide, hidden, prepare_output, store_row, &output);
    }
}

/* The gradient (T, H) of x from that of y, `upstream` (T, I), added to `residual` (T, H), unless that is null. What the
 * gradient of the weight is a product of, `normal` and `above`, the input of the product and `upstream`, is left in strips that
 * are `apart`. Each block writes what its rows add to the gradients of gain and bias of the norm to its row of `sums` (2, H).
 */
void OF(norm_linear_backward)(const float *x, const float *gain, const float *norm_bias, const Word *weight,
                               const float *kept, const Number *upstream, const float *residual, float *gradient,
                               Number *normal, Number *above, float *sums, int64_t first, int64_t last, int64_t total,
                               int64_t hidden, int64_t wide, int64_t apart, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    float *of_normal = cut(&space, TOGETHER * 4 * hidden);
    int64_t end = smallest(last * ROWS, total);
    for (int64_t row = first * ROWS; row < end; row += TOGETHER) {
        int64_t rows = smallest(TOGETHER, end - row);
        const float *from = x + row * hidden;
        copy_rows(above + row * STRIP, apart, upstream + row * wide, rows, wide);
        Output output = {of_normal, hidden, NULL, NULL};
        multiply(above + row * STRIP, apart, weight, rows, hidden, wide, prepare_output, add_row, &output);
        store_norm(normal + row * STRIP, apart, from, kept + 2 * row, gain, norm_bias, rows, hidden);
        norm_backward_by_blocks(from, gain, kept + 2 * row, of_normal, residual ? residual + row * hidden : NULL,
                                gradient + row * hidden, sums + row / ROWS * 2 * hidden, rows, hidden);
    }
}

/* y (T, I) = x W^T + bias, of x (T, H), and `residual` (T, I), unless that is null, added to it. */
void OF(linear_forward)(const Number *x, const Word *weight, const float *bias, const float *residual, float *y,
                         int64_t first, int64_t last, int64_t total, int64_t hidden, int64_t wide, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    Number *strips = cut(&space, TOGETHER * sizeof(Number) * hidden);
    int64_t end = smallest(last * ROWS, total);
    for (int64_t row = first * ROWS; row < end; row += TOGETHER) {
        int64_t rows = smallest(TOGETHER, end - row);
        copy_rows(strips, APART, x + row * hidden, rows, hidden);
        Output output = {y + row * wide, wide, bias, residual ? residual + row * wide : NULL};
        multiply(strips, APART, weight, rows, wide, hidden, prepare_output, add_row, &output);
    }
}

#define FEW 4 /* rows of a sum where no more are left */

/* The columns 32 first to 32 last - 1 of y (T, I) = x W^T, of x (T, H), which may have few rows. */
void OF(columns_of_product)(const Number *x, const Word *weight, float *y, int64_t first, int64_t last, int64_t total,
                            int64_t hidden, int64_t wide, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    Number *strips = cut(&space, TOGETHER * sizeof(Number) * hidden);
    for (int64_t row = 0; row < total; row += TOGETHER) {
        int64_t rows = smallest(TOGETHER, total - row);
        copy_rows(strips, APART, x + row * hidden, rows, hidden);
        Output output = {y + row * wide, wide, NULL, NULL};
        for (int64_t column = first * PANEL; column < last * PANEL; column += PANEL) {
            const Word *panel = weight + column * hidden / PER_WORD;
            int64_t i = 0;
            for (; i < rows - FEW; i += TILE)
                finish_rows(strips, APART, panel, i, rows, column, hidden, prepare_output, add_row, &output, TILE);
            if (i < rows) finish_rows(strips, APART, panel, i, rows, column, hidden, prepare_output, add_row, &output, FEW);
        }
    }
}

/* The gradient (T, H) of x from that of y, `upstream` (T, I), which is left in `above`, strips that are `apart`. */
void OF(linear_backward)(const Word *weight, const float *upstream, Number *gradient, Number *above, int64_t first,
                          int64_t last, int64_t total, int64_t hidden, int64_t wide, int64_t apart) {
    int64_t end = smallest(last * ROWS, total);
    for (int64_t row = first * ROWS; row < end; row += TOGETHER) {
        int64_t rows = smallest(TOGETHER, end - row);
        store_rows(above + row * STRIP, apart, upstream + row * wide, rows, wide);
        Output output = {gradient + row * hidden, hidden, NULL, NULL};
        multiply(above + row * STRIP, apart, weight, rows, hidden, wide, prepare_output, store_row, &output);
    }
}
