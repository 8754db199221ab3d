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

#define LOG2_E 1.44269504088896341f

/* `sigmoid` to about 7e-5 of it, enough for what is rounded to bfloat16. */
static inline Vector rough_sigmoid(Vector x) {
    Vector scaled = x * (x * x * (-TWICE_ROOT * CUBIC * LOG2_E) - TWICE_ROOT * LOG2_E);
    return (Vector)_mm512_rcp14_ps((__m512)(1.0f + power_of_two(scaled)));
}

typedef struct {
    const float *bias;
    uint16_t *inner, *active; /* strips of a block; inner may be null */
} Middle;

static inline Vector as_floats(Halves x) { return (Vector)(__builtin_convertvector(x, Unsigned) << 16); }

INLINE void prepare_nothing(const void *middle, int64_t row, int64_t column) {}

INLINE void finish_up(const void *middle, int64_t row, int64_t column, Vector a, Vector b) {
    const Middle *at = middle;
    int64_t place = column / STRIP * BLOCK_STRIP + row * STRIP;
    a += load(at->bias + column), b += load(at->bias + column + ALL);
    if (at->inner) round_pair(at->inner + place, a, b);
    a = as_floats(halves(a)), b = as_floats(halves(b)); /* as the backward pass is going to see them */
    round_pair(at->active + place, a * rough_sigmoid(a), b * rough_sigmoid(b));
}

typedef struct {
    const uint16_t *inner;       /* strips of a block */
    uint16_t *active, *of_inner; /* strips that are `apart` */
    int64_t apart;
} Slopes;

INLINE void prepare_slopes(const void *slopes, int64_t row, int64_t column) {
    const Slopes *at = slopes;
    __builtin_prefetch(at->inner + column / STRIP * BLOCK_STRIP + row * STRIP);
}

INLINE void finish_down_back(const void *slopes, int64_t row, int64_t column, Vector a, Vector b) {
    const Slopes *at = slopes;
    const uint16_t *from = at->inner + column / STRIP * BLOCK_STRIP + row * STRIP;
    int64_t place = column / STRIP * at->apart + row * STRIP;
    Vector x = load_halves(from), y = load_halves(from + ALL), s = rough_sigmoid(x), t = rough_sigmoid(y);
    round_pair(at->active + place, x * s, y * t);
    round_pair(at->of_inner + place, a * slope_by(x, s), b * slope_by(y, t));
}

/* Bytes of the working space of either function. */
int64_t feed_forward_bf16_space(int64_t hidden, int64_t wide) {
    return ROWS * 2 * (hidden + wide) + ROWS * 4 * hidden + 4 * 64;
}

/* y (T, H) of x (T, H), in the blocks first to last - 1 of `ROWS` of all `total` rows; without x itself unless it `adds`. It
 * keeps the mean and the inverse deviation of each row in `kept` (T, 2), and what GELU is applied to in `inner`, strips (I / 32,
 * ROWS, 32) for each block, unless that is null.
 */
void feed_forward_bf16_forward(const float *x, const float *gain, const float *norm_bias, const Pair *up,
                               const float *up_bias, const Pair *down, const float *down_bias, float *y, float *kept,
                               uint16_t *inner, int64_t first, int64_t last, int64_t total, int64_t hidden, int64_t wide,
                               int64_t adds, float epsilon, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    uint16_t *normal = cut(&space, ROWS * 2 * hidden), *active = cut(&space, ROWS * 2 * wide);
    for (int64_t row = first * ROWS; row < last * ROWS; row += ROWS) {
        int64_t rows = smallest(ROWS, total - row);
        const float *from = x + row * hidden;
        measure(kept + 2 * row, from, rows, hidden, epsilon);
        round_norm(normal, BLOCK_STRIP, from, kept + 2 * row, gain, norm_bias, rows, hidden);
        Middle middle = {up_bias, inner ? inner + row * wide : NULL, active};
        multiply(normal, BLOCK_STRIP, up, rows, wide, hidden, prepare_nothing, finish_up, &middle);
        Output output = {y + row * hidden, hidden, down_bias, adds ? from : NULL};
        multiply(active, BLOCK_STRIP, down, rows, hidden, wide, prepare_output, add_row, &output);
    }
}

/* The gradient (T, H) of x from that of y, `upstream` (T, H), and what the gradients of the weights are products of, in strips
 * that are `apart`: `normal`, `above`, `active` and `of_inner`, of each layer its input and the gradient of its output. Each
 * block writes what its rows add to the gradients of gain and bias of the norm to its row of `sums` (2, H).
 */
void feed_forward_bf16_backward(const float *x, const float *gain, const float *norm_bias, const Pair *up, const Pair *down,
                                const float *kept, const uint16_t *inner, const float *upstream, float *gradient,
                                uint16_t *normal, uint16_t *above, uint16_t *active, uint16_t *of_inner, float *sums,
                                int64_t first, int64_t last, int64_t total, int64_t hidden, int64_t wide, int64_t adds,
                                int64_t apart, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    float *of_normal = cut(&space, ROWS * 4 * hidden);
    for (int64_t block = first; block < last; block++) {
        int64_t row = block * ROWS, rows = smallest(ROWS, total - row), place = row * STRIP;
        const float *from = x + row * hidden, *given = upstream + row * hidden;
        float *of_gain = sums + block * 2 * hidden;
        round_norm(normal + place, apart, from, kept + 2 * row, gain, norm_bias, rows, hidden);
        round_rows(above + place, apart, given, rows, hidden);
        Slopes slopes = {inner + row * wide, active + place, of_inner + place, apart};
        multiply(above + place, apart, down, rows, wide, hidden, prepare_slopes, finish_down_back, &slopes);
        Output output = {of_normal, hidden, NULL, NULL};
        multiply(of_inner + place, apart, up, rows, hidden, wide, prepare_output, add_row, &output);
        memset(of_gain, 0, 2 * hidden * sizeof(float));
        norm_backward(from, gain, kept + 2 * row, of_normal, adds ? given : NULL, gradient + row * hidden, of_gain,
                      of_gain + hidden, rows, hidden);
    }
}
#endif
