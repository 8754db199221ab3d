/* The second half of a block, y = x + down(gelu(up(norm(x)))), and the gradient of x.
 *
 * A few rows at a time, as in feed_forward.c, but for the gradients of the weights, whose factors are left for
 * `fused_weights.h`.
 *
 * T rows, H hidden size, I intermediate size, both multiples of 32.
 */
#pragma once
#include "strips.h"

#define INNER (ROWS * STRIP) /* numbers from a strip of a block to the next in what is kept */

typedef struct {
    const float *bias;
    Number *inner;  /* blocks (I / S, ROWS, S), or null */
    Number *active; /* strips that are `APART` */
    int64_t wide;
} Middle;

/* Where in the blocks (I / S, ROWS, S) the numbers of a row from `column` on are. */
static inline int64_t place_of(int64_t row, int64_t column, int64_t wide) {
    return row / ROWS * ROWS * wide + column / STRIP * INNER + row % ROWS * STRIP;
}

INLINE void prepare_nothing(const void *middle, int64_t row, int64_t column) {}

/* The factor of each x in GELU, which is exact or in the tanh approximation. */
INLINE Vector factor(Vector x, int exact) { return exact ? share_below(x) : gate(x); }

INLINE void finish_up(const Middle *at, int64_t row, int64_t column, Vector a, Vector b, int exact) {
    a += load(at->bias + column), b += load(at->bias + column + ALL);
    if (at->inner) store_numbers(at->inner + place_of(row, column, at->wide), INNER, a, b);
    a = as_stored(a), b = as_stored(b); /* as the backward pass is going to see them */
    store_numbers(at->active + column / STRIP * APART + row * STRIP, APART, a * factor(a, exact), b * factor(b, exact));
}

INLINE void finish_up_in_tanh_form(const void *middle, int64_t row, int64_t column, Vector a, Vector b) {
    finish_up(middle, row, column, a, b, 0);
}

INLINE void finish_up_exactly(const void *middle, int64_t row, int64_t column, Vector a, Vector b) {
    finish_up(middle, row, column, a, b, 1);
}

typedef struct {
    const Number *inner;       /* blocks (I / S, ROWS, S) */
    Number *active, *of_inner; /* strips that are `apart` */
    int64_t apart, wide;
} Slopes;

INLINE void prepare_slopes(const void *slopes, int64_t row, int64_t column) {
    const Slopes *at = slopes;
    __builtin_prefetch(at->inner + place_of(row, column, at->wide));
}

INLINE Vector slope_of(Vector x, Vector s, int exact) { return exact ? exact_slope_by(x, s) : slope_by(x, s); }

INLINE void finish_down_back(const Slopes *at, int64_t row, int64_t column, Vector a, Vector b, int exact) {
    const Number *from = at->inner + place_of(row, column, at->wide);
    int64_t place = column / STRIP * at->apart + row * STRIP;
    Vector x = load_numbers(from), y = load_second(from, INNER), s = factor(x, exact), t = factor(y, exact);
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
    return TOGETHER * (sizeof(Number) * (hidden + wide) + 4 * hidden) + 4 * 64;
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
    Number *normal = cut(&space, TOGETHER * sizeof(Number) * hidden), *active = cut(&space, TOGETHER * sizeof(Number) * wide);
    int64_t end = smallest(last * ROWS, total);
    for (int64_t row = first * ROWS; row < end; row += TOGETHER) {
        int64_t rows = smallest(TOGETHER, end - row);
        const float *from = x + row * hidden;
        measure(kept + 2 * row, from, rows, hidden, epsilon);
        store_norm(normal, APART, from, kept + 2 * row, gain, norm_bias, rows, hidden);
        Middle middle = {up_bias, inner ? inner + row * wide : NULL, active, wide};
        if (exact) multiply(normal, APART, up, rows, wide, hidden, prepare_nothing, finish_up_exactly, &middle);
        else multiply(normal, APART, up, rows, wide, hidden, prepare_nothing, finish_up_in_tanh_form, &middle);
        Output output = {y + row * hidden, hidden, down_bias, adds ? from : NULL};
        multiply(active, APART, down, rows, hidden, wide, prepare_output, add_row, &output);
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
    float *of_normal = cut(&space, TOGETHER * 4 * hidden);
    int64_t end = smallest(last * ROWS, total);
    for (int64_t row = first * ROWS; row < end; row += TOGETHER) {
        int64_t rows = smallest(TOGETHER, end - row), place = row * STRIP;
        const float *from = x + row * hidden, *given = upstream + row * hidden;
        store_norm(normal + place, apart, from, kept + 2 * row, gain, norm_bias, rows, hidden);
        store_rows(above + place, apart, given, rows, hidden);
        Slopes slopes = {inner + row * wide, active + place, of_inner + place, apart, wide};
        if (exact) multiply(above + place, apart, down, rows, wide, hidden, prepare_slopes, finish_down_back_exactly, &slopes);
        else multiply(above + place, apart, down, rows, wide, hidden, prepare_slopes, finish_down_back_in_tanh_form, &slopes);
        Output output = {of_normal, hidden, NULL, NULL};
        multiply(of_inner + place, apart, up, rows, hidden, wide, prepare_output, add_row, &output);
        norm_backward_by_blocks(from, gain, kept + 2 * row, of_normal, adds ? given : NULL,
                                gradient + row * hidden, sums + row / ROWS * 2 * hidden, rows, hidden);
    }
}
