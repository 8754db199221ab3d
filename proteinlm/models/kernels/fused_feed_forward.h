/* The second half of a block, y = x + down(gelu(up(norm(x)))), and the gradient of x.
 *
 * A few rows at a time, as in feed_forward.c, but for the gradients of the weights, whose factors are left for
 * `fused_weights.h`.
 *
 * T rows, H hidden size, I intermediate size, both multiples of 32.
 */
#pragma once
#include "strips.h"

typedef struct {
    const float *bias;
    Number *inner, *active; /* strips of a block; inner may be null */
} Middle;

INLINE void prepare_nothing(const void *middle, int64_t row, int64_t column) {}

/* The factor of each x in GELU, which is exact or in the tanh approximation. */
INLINE Vector factor(Vector x, int exact) { return exact ? share_below(x) : gate(x); }

INLINE void finish_up(const Middle *at, int64_t row, int64_t column, Vector a, Vector b, int exact) {
    int64_t place = column / STRIP * BLOCK_STRIP + row * STRIP;
    a += load(at->bias + column), b += load(at->bias + column + ALL);
    if (at->inner) store_numbers(at->inner + place, BLOCK_STRIP, a, b);
    a = as_stored(a), b = as_stored(b); /* as the backward pass is going to see them */
    store_numbers(at->active + place, BLOCK_STRIP, a * factor(a, exact), b * factor(b, exact));
}

INLINE void finish_up_in_tanh_form(const void *middle, int64_t row, int64_t column, Vector a, Vector b) {
    finish_up(middle, row, column, a, b, 0);
}

INLINE void finish_up_exactly(const void *middle, int64_t row, int64_t column, Vector a, Vector b) {
    finish_up(middle, row, column, a, b, 1);
}

typedef struct {
    const Number *inner;       /* strips of a block */
    Number *active, *of_inner; /* strips that are `apart` */
    int64_t apart;
} Slopes;

INLINE void prepare_slopes(const void *slopes, int64_t row, int64_t column) {
    const Slopes *at = slopes;
    __builtin_prefetch(at->inner + column / STRIP * BLOCK_STRIP + row * STRIP);
}

INLINE Vector slope_of(Vector x, Vector s, int exact) { return exact ? exact_slope_by(x, s) : slope_by(x, s); }

INLINE void finish_down_back(const Slopes *at, int64_t row, int64_t column, Vector a, Vector b, int exact) {
    const Number *from = at->inner + column / STRIP * BLOCK_STRIP + row * STRIP;
    int64_t place = column / STRIP * at->apart + row * STRIP;
    Vector x = load_numbers(from), y = load_second(from, BLOCK_STRIP), s = factor(x, exact), t = factor(y, exact);
    store_numbers(at->active + place, at->apart, x * s, y * t);
    store_numbers(at->of_inner + place, at->apart, a * slope_of(x, s, exact), b * slope_of(y, t, exact));
}

INLINE void finish_down_back_in_tanh_form(const void *slopes, int64_t row, int64_t column, Vector a, Vector b) {
    finish_down_back(slopes, row, column, a, b, 0);
}

INLINE void finish_down_back_exactly(const void *slopes, int64_t row, int64_t column, Vector a, Vector b) {
    finish_down_back(slopes, row, column, a, b, 1);
}

/* Bytes of the working space of either function. */
int64_t OF(feed_forward_space)(int64_t hidden, int64_t wide) {
    return ROWS * sizeof(Number) * (hidden + wide) + ROWS * 4 * hidden + 4 * 64;
}

/* y (T, H) of x (T, H), in the blocks first to last - 1 of `ROWS` of all `total` rows; without x itself unless it `adds`, and
 * with GELU in the tanh approximation unless it is `exact`. It keeps the mean and the inverse deviation of each row in `kept`
 * (T, 2), and what GELU is applied to in `inner`, strips (I / S, ROWS, S) for each block, unless that is null.
 */
void OF(feed_forward_forward)(const float *x, const float *gain, const float *norm_bias, const Word *up,
                               const float *up_bias, const Word *down, const float *down_bias, float *y, float *kept,
                               Number *inner, int64_t first, int64_t last, int64_t total, int64_t hidden, int64_t wide,
                               int64_t adds, int64_t exact, float epsilon, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    Number *normal = cut(&space, ROWS * sizeof(Number) * hidden), *active = cut(&space, ROWS * sizeof(Number) * wide);
    for (int64_t row = first * ROWS; row < last * ROWS; row += ROWS) {
        int64_t rows = smallest(ROWS, total - row);
        const float *from = x + row * hidden;
        measure(kept + 2 * row, from, rows, hidden, epsilon);
        store_norm(normal, BLOCK_STRIP, from, kept + 2 * row, gain, norm_bias, rows, hidden);
        Middle middle = {up_bias, inner ? inner + row * wide : NULL, active};
        if (exact) multiply(normal, BLOCK_STRIP, up, rows, wide, hidden, prepare_nothing, finish_up_exactly, &middle);
        else multiply(normal, BLOCK_STRIP, up, rows, wide, hidden, prepare_nothing, finish_up_in_tanh_form, &middle);
        Output output = {y + row * hidden, hidden, down_bias, adds ? from : NULL};
        multiply(active, BLOCK_STRIP, down, rows, hidden, wide, prepare_output, add_row, &output);
    }
}

/* The gradient (T, H) of x from that of y, `upstream` (T, H), and what the gradients of the weights are products of, in strips
 * that are `apart`: `normal`, `above`, `active` and `of_inner`, of each layer its input and the gradient of its output. Each
 * block writes what its rows add to the gradients of gain and bias of the norm to its row of `sums` (2, H).
 */
void OF(feed_forward_backward)(const float *x, const float *gain, const float *norm_bias, const Word *up, const Word *down,
                                const float *kept, const Number *inner, const float *upstream, float *gradient,
                                Number *normal, Number *above, Number *active, Number *of_inner, float *sums,
                                int64_t first, int64_t last, int64_t total, int64_t hidden, int64_t wide, int64_t adds,
                                int64_t exact, int64_t apart, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    float *of_normal = cut(&space, ROWS * 4 * hidden);
    for (int64_t block = first; block < last; block++) {
        int64_t row = block * ROWS, rows = smallest(ROWS, total - row), place = row * STRIP;
        const float *from = x + row * hidden, *given = upstream + row * hidden;
        float *of_gain = sums + block * 2 * hidden;
        store_norm(normal + place, apart, from, kept + 2 * row, gain, norm_bias, rows, hidden);
        store_rows(above + place, apart, given, rows, hidden);
        Slopes slopes = {inner + row * wide, active + place, of_inner + place, apart};
        if (exact) multiply(above + place, apart, down, rows, wide, hidden, prepare_slopes, finish_down_back_exactly, &slopes);
        else multiply(above + place, apart, down, rows, wide, hidden, prepare_slopes, finish_down_back_in_tanh_form, &slopes);
        Output output = {of_normal, hidden, NULL, NULL};
        multiply(of_inner + place, apart, up, rows, hidden, wide, prepare_output, add_row, &output);
        memset(of_gain, 0, 2 * hidden * sizeof(float));
        norm_backward(from, gain, kept + 2 * row, of_normal, adds ? given : NULL, gradient + row * hidden, of_gain,
                      of_gain + hidden, rows, hidden);
    }
}
