/* The second half of a block, y = x + down(gelu(up(norm(x)))), and the gradient of x, with products in bfloat16.
 *
 * A few rows at a time, as in feed_forward.c, but for the gradients of the weights, whose factors are left in bfloat16 for
 * `weights_bf16.c`.
 *
 * T rows, H hidden size, I intermediate size, both multiples of 32.
 */
#ifdef __AVX512BF16__
#include "gelu.h"
#include "norm_bf16.h"
#include "products_bf16.h"

#define LOG2_E 1.44269504088896341f

/* `sigmoid` to about 7e-5 of it, enough for what is rounded to bfloat16. */
static inline Vector rough_sigmoid(Vector x) {
    Vector scaled = x * (x * x * (-TWICE_ROOT * CUBIC * LOG2_E) - TWICE_ROOT * LOG2_E);
    return (Vector)_mm512_rcp14_ps((__m512)(1.0f + power_of_two(scaled)));
}

typedef struct {
    const float *bias;
    uint16_t *inner, *active; /* rows wide, and wide + GAP apart; inner may be null */
    int64_t wide;
} Middle;

INLINE void finish_middle(const Middle *at, int64_t row, int64_t column, Vector x) {
    Halves rounded = halves(x + load(at->bias + column));
    if (at->inner) memcpy(at->inner + row * at->wide + column, &rounded, sizeof rounded);
    x = (Vector)(__builtin_convertvector(rounded, Unsigned) << 16);
    store_halves(at->active + row * (at->wide + GAP) + column, x * rough_sigmoid(x));
}

INLINE void prepare_nothing(const void *middle, int64_t row, int64_t column) {}

INLINE void finish_up(const void *middle, int64_t row, int64_t column, Vector a, Vector b) {
    finish_middle(middle, row, column, a), finish_middle(middle, row, column + ALL, b);
}

typedef struct {
    const uint16_t *inner;       /* rows wide apart */
    uint16_t *active, *of_inner; /* rows wide + GAP apart */
    int64_t wide;
} Slopes;

INLINE void prepare_slopes(const void *slopes, int64_t row, int64_t column) {
    const Slopes *at = slopes;
    int64_t place = row * (at->wide + GAP) + column;
    __builtin_prefetch(at->inner + row * at->wide + column);
    __builtin_prefetch(at->active + place, 1), __builtin_prefetch(at->of_inner + place, 1);
}

INLINE void finish_slope(const Slopes *at, int64_t row, int64_t column, Vector slope_of_active) {
    Vector x = load_halves(at->inner + row * at->wide + column), s = rough_sigmoid(x);
    int64_t place = row * (at->wide + GAP) + column;
    store_halves(at->active + place, x * s);
    store_halves(at->of_inner + place, slope_of_active * slope_by(x, s));
}

INLINE void finish_down_back(const void *slopes, int64_t row, int64_t column, Vector a, Vector b) {
    finish_slope(slopes, row, column, a), finish_slope(slopes, row, column + ALL, b);
}

/* Bytes of the working space of either function. */
int64_t feed_forward_bf16_space(int64_t hidden, int64_t wide) {
    return (ROWS + TILE) * 2 * (hidden + wide + 2 * GAP) + ROWS * 4 * hidden + 4 * 64;
}

/* y (T, H) of x (T, H), in the blocks first to last - 1 of `ROWS` of all `total` rows; without x itself unless it `adds`. It
 * keeps the mean and the inverse deviation of each row in `kept` (T, 2), and what GELU is applied to in `inner` (T, I), unless
 * that is null.
 */
void feed_forward_bf16_forward(const float *x, const float *gain, const float *norm_bias, const Pair *up,
                               const float *up_bias, const Pair *down, const float *down_bias, float *y, float *kept,
                               uint16_t *inner, int64_t first, int64_t last, int64_t total, int64_t hidden, int64_t wide,
                               int64_t adds, float epsilon, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    uint16_t *normal = cut(&space, (ROWS + TILE) * 2 * (hidden + GAP)), *active = cut(&space, (ROWS + TILE) * 2 * (wide + GAP));
    for (int64_t row = first * ROWS; row < last * ROWS; row += ROWS) {
        int64_t rows = smallest(ROWS, total - row);
        const float *from = x + row * hidden;
        measure(kept + 2 * row, from, rows, hidden, epsilon);
        round_norm(normal, hidden + GAP, from, kept + 2 * row, gain, norm_bias, rows, hidden);
        Middle middle = {up_bias, inner ? inner + row * wide : NULL, active, wide};
        multiply(normal, hidden + GAP, up, rows, wide, hidden, prepare_nothing, finish_up, &middle);
        Output output = {y + row * hidden, hidden, down_bias, adds ? from : NULL};
        multiply(active, wide + GAP, down, rows, hidden, wide, prepare_output, add_row, &output);
    }
}

/* The gradient (T, H) of x from that of y, `upstream` (T, H), and what the gradients of the weights are products of: `normal`
 * and `above` (T, H + GAP), `active` and `of_inner` (T, I + GAP), of each layer its input and the gradient of its output. Each
 * block writes what its rows add to the gradients of gain and bias of the norm to its row of `sums` (2, H). The last block may
 * read, but not write, up to 11 rows behind those of `above` and `of_inner`.
 */
void feed_forward_bf16_backward(const float *x, const float *gain, const float *norm_bias, const Pair *up, const Pair *down,
                                const float *kept, const uint16_t *inner, const float *upstream, float *gradient,
                                uint16_t *normal, uint16_t *above, uint16_t *active, uint16_t *of_inner, float *sums,
                                int64_t first, int64_t last, int64_t total, int64_t hidden, int64_t wide, int64_t adds,
                                char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    float *of_normal = cut(&space, ROWS * 4 * hidden);
    for (int64_t block = first; block < last; block++) {
        int64_t row = block * ROWS, rows = smallest(ROWS, total - row);
        const float *from = x + row * hidden, *given = upstream + row * hidden;
        uint16_t *rounded = above + row * (hidden + GAP), *slopes = of_inner + row * (wide + GAP);
        float *of_gain = sums + block * 2 * hidden;
        round_norm(normal + row * (hidden + GAP), hidden + GAP, from, kept + 2 * row, gain, norm_bias, rows, hidden);
        round_rows(rounded, hidden + GAP, given, rows, hidden);
        Slopes middle = {inner + row * wide, active + row * (wide + GAP), slopes, wide};
        multiply(rounded, hidden + GAP, down, rows, wide, hidden, prepare_slopes, finish_down_back, &middle);
        Output output = {of_normal, hidden, NULL, NULL};
        multiply(slopes, wide + GAP, up, rows, hidden, wide, prepare_output, add_row, &output);
        memset(of_gain, 0, 2 * hidden * sizeof(float));
        norm_backward(from, gain, kept + 2 * row, of_normal, adds ? given : NULL, gradient + row * hidden, of_gain,
                      of_gain + hidden, rows, hidden);
    }
}
#endif
