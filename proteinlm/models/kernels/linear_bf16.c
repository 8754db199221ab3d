/* Linear layers with products in bfloat16, and the gradient of their inputs: with a LayerNorm before them, or with a residual
 * sum after them, both in float32.
 *
 * A few rows at a time, so that what surrounds a product costs no way to the memory. Weights are packed by `weights_bf16.c`.
 *
 * T rows, H inputs, I outputs, multiples of 32.
 */
#ifdef __AVX512BF16__
#include "norm_bf16.h"
#include "products_bf16.h"

/* Bytes of the working space of all of these functions. */
int64_t linear_bf16_space(int64_t hidden, int64_t wide) {
    int64_t widest = hidden > wide ? hidden : wide;
    return (ROWS + TILE) * 2 * (widest + GAP) + ROWS * 4 * hidden + 3 * 64;
}

/* y (T, I) = norm(x) W^T + bias, of x (T, H), in the blocks first to last - 1 of `ROWS` of all `total` rows. It keeps the mean
 * and the inverse deviation of each row in `kept` (T, 2).
 */
void norm_linear_bf16_forward(const float *x, const float *gain, const float *norm_bias, const Pair *weight,
                              const float *bias, uint16_t *y, float *kept, int64_t first, int64_t last, int64_t total,
                              int64_t hidden, int64_t wide, float epsilon, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    uint16_t *normal = cut(&space, (ROWS + TILE) * 2 * (hidden + GAP));
    for (int64_t row = first * ROWS; row < last * ROWS; row += ROWS) {
        int64_t rows = smallest(ROWS, total - row);
        measure(kept + 2 * row, x + row * hidden, rows, hidden, epsilon);
        round_norm(normal, hidden + GAP, x + row * hidden, kept + 2 * row, gain, norm_bias, rows, hidden);
        Output output = {y + row * wide, wide, bias, NULL};
        multiply(normal, hidden + GAP, weight, rows, wide, hidden, prepare_output, round_row, &output);
    }
}

/* The gradient (T, H) of x from that of y, `upstream` (T, I), and `normal` (T, H + GAP), what the product was of. Each block
 * writes what its rows add to the gradients of gain and bias of the norm to its row of `sums` (2, H).
 */
void norm_linear_bf16_backward(const float *x, const float *gain, const float *norm_bias, const Pair *weight,
                               const float *kept, const uint16_t *upstream, float *gradient, uint16_t *normal, float *sums,
                               int64_t first, int64_t last, int64_t total, int64_t hidden, int64_t wide, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    uint16_t *above = cut(&space, (ROWS + TILE) * 2 * (wide + GAP));
    float *of_normal = cut(&space, ROWS * 4 * hidden);
    for (int64_t block = first; block < last; block++) {
        int64_t row = block * ROWS, rows = smallest(ROWS, total - row);
        const float *from = x + row * hidden;
        float *of_gain = sums + block * 2 * hidden;
        for (int64_t r = 0; r < rows; r++) memcpy(above + r * (wide + GAP), upstream + (row + r) * wide, 2 * wide);
        Output output = {of_normal, hidden, NULL, NULL};
        multiply(above, wide + GAP, weight, rows, hidden, wide, prepare_output, add_row, &output);
        round_norm(normal + row * (hidden + GAP), hidden + GAP, from, kept + 2 * row, gain, norm_bias, rows, hidden);
        memset(of_gain, 0, 2 * hidden * sizeof(float));
        norm_backward(from, gain, kept + 2 * row, of_normal, NULL, gradient + row * hidden, of_gain, of_gain + hidden, rows, hidden);
    }
}

/* y (T, I) = x W^T + bias, of x (T, H), and `residual` (T, I), unless that is null, added to it. */
void linear_bf16_forward(const uint16_t *x, const Pair *weight, const float *bias, const float *residual, float *y,
                         int64_t first, int64_t last, int64_t total, int64_t hidden, int64_t wide, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    uint16_t *copy = cut(&space, (ROWS + TILE) * 2 * (hidden + GAP));
    for (int64_t row = first * ROWS; row < last * ROWS; row += ROWS) {
        int64_t rows = smallest(ROWS, total - row);
        for (int64_t r = 0; r < rows; r++) memcpy(copy + r * (hidden + GAP), x + (row + r) * hidden, 2 * hidden);
        Output output = {y + row * wide, wide, bias, residual ? residual + row * wide : NULL};
        multiply(copy, hidden + GAP, weight, rows, wide, hidden, prepare_output, add_row, &output);
    }
}

/* The gradient (T, H) of x from that of y, `upstream` (T, I), which is left rounded in `above` (T, I + GAP). */
void linear_bf16_backward(const Pair *weight, const float *upstream, uint16_t *gradient, uint16_t *above, int64_t first,
                          int64_t last, int64_t total, int64_t hidden, int64_t wide) {
    for (int64_t row = first * ROWS; row < last * ROWS; row += ROWS) {
        int64_t rows = smallest(ROWS, total - row);
        uint16_t *rounded = above + row * (wide + GAP);
        round_rows(rounded, wide + GAP, upstream + row * wide, rows, wide);
        Output output = {gradient + row * hidden, hidden, NULL, NULL};
        multiply(rounded, wide + GAP, weight, rows, hidden, wide, prepare_output, round_row, &output);
    }
}
#endif
