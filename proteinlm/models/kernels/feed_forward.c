/* The second half of a narrow block, y = x + down(gelu(up(norm(x)))), and its gradient, in float32.
 *
 * A few rows at a time, so that what is in between stays in the core's cache: by themselves the products of a narrow model are
 * slowed by a third by what they read from memory.
 *
 * T rows, H hidden size, I intermediate size, both multiples of 16.
 */
#include <math.h>

#include "gelu.h"

#define ROWS 96 /* computed at once */
#define PIECE 512 /* rows whose sums are kept apart, so that threads do not change them */
#define GAP 16 /* between rows of the working space, which would else share a few places of the nearest cache */
#define PANEL 16 /* columns that are side by side in a packed matrix */
#define TILE_ROWS 6
#define TILE_VECTORS (LANES == 16 ? 4 : 2) /* sums that fill the registers */

/* A matrix by its first number, and how far apart its rows and columns are. */
typedef struct {
    const float *first;
    int64_t row, column;
} Matrix;

/* A matrix (K, n) whose columns come in panels of 16: how far apart rows and panels are. */
typedef struct {
    const float *first;
    int64_t row, panel;
} Panels;

static inline const float *vector_of(Panels b, int64_t vector) {
    return b.first + vector * LANES / PANEL * b.panel + vector * LANES % PANEL;
}

/* `rows` x `vectors` of c, `stride` apart, from the products of a (rows, size) and b (size, vectors); c is added to or written. */
static inline __attribute__((always_inline)) void tile(float *c, int64_t stride, Matrix a, Panels b, int64_t vector, int64_t size,
                                                       int adds, int rows, int vectors) {
    Vector sums[TILE_ROWS][TILE_VECTORS];
    const float *columns[TILE_VECTORS];
    for (int v = 0; v < vectors; v++) columns[v] = vector_of(b, vector + v);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = adds ? load(c + r * stride + v * LANES) : (Vector){0};
    for (int64_t k = 0; k < size; k++) {
        Vector each[TILE_VECTORS];
        for (int v = 0; v < vectors; v++) each[v] = load(columns[v] + k * b.row);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) sums[r][v] += a.first[r * a.row + k * a.column] * each[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(c + r * stride + v * LANES, sums[r][v]);
}

#define ROWS_OF_TILES(count)                                                                                                 \
    static void tiles_##count(float *c, int64_t stride, Matrix a, Panels b, int64_t vector, int64_t rows, int64_t size,      \
                              int adds) {                                                                                    \
        while (rows) {                                                                                                       \
            int64_t taken;                                                                                                   \
            if (rows >= TILE_ROWS) tile(c, stride, a, b, vector, size, adds, taken = TILE_ROWS, count);                      \
            else if (rows >= 4) tile(c, stride, a, b, vector, size, adds, taken = 4, count);                                 \
            else if (rows >= 2) tile(c, stride, a, b, vector, size, adds, taken = 2, count);                                 \
            else tile(c, stride, a, b, vector, size, adds, taken = 1, count);                                                \
            rows -= taken, c += taken * stride, a.first += taken * a.row;                                                    \
        }                                                                                                                    \
    }
ROWS_OF_TILES(1)
ROWS_OF_TILES(2)
#if LANES == 16
ROWS_OF_TILES(3)
ROWS_OF_TILES(4)
#endif

/* c (rows, columns), `stride` apart, = or, if it `adds`, += a (rows, size) times b (size, columns). */
static void multiply(float *c, int64_t stride, Matrix a, Panels b, int64_t rows, int64_t columns, int64_t size, int adds) {
    int64_t vectors = columns / LANES;
    for (int64_t v = 0; v < vectors;) {
        int64_t left = vectors - v;
#if LANES == 16
        if (left >= 4) tiles_4(c + v * LANES, stride, a, b, v, rows, size, adds), v += 4;
        else if (left == 3) tiles_3(c + v * LANES, stride, a, b, v, rows, size, adds), v += 3;
        else
#endif
        if (left >= 2) tiles_2(c + v * LANES, stride, a, b, v, rows, size, adds), v += 2;
        else tiles_1(c + v * LANES, stride, a, b, v, rows, size, adds), v += 1;
    }
}

/* Lay a matrix (size, columns) out in panels in `to` (columns / 16, size, 16). */
static Panels pack(float *to, Matrix from, int64_t size, int64_t columns) {
    for (int64_t j = 0; j < columns; j++)
        for (int64_t k = 0; k < size; k++)
            to[j / PANEL * size * PANEL + k * PANEL + j % PANEL] = from.first[k * from.row + j * from.column];
    return (Panels){to, PANEL, size * PANEL};
}

static inline float sum_of_lanes(Vector x) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)x);
#else
    float each[LANES];
    store(each, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++) each[lane] += each[lane + half];
    return each[0];
#endif
}

/* normal (rows, H) = the LayerNorm of x (rows, H), by the mean and the inverse deviation of each row in `kept` (rows, 2). */
static void apply_norm(float *normal, const float *x, const float *kept, const float *gain, const float *bias, int64_t rows,
                       int64_t hidden) {
    for (int64_t r = 0; r < rows; r++, x += hidden, normal += hidden, kept += 2)
        for (int64_t i = 0; i < hidden; i += LANES)
            store(normal + i, (load(x + i) - kept[0]) * kept[1] * load(gain + i) + load(bias + i));
}

static void measure(float *kept, const float *x, int64_t rows, int64_t hidden, float epsilon) {
    for (int64_t r = 0; r < rows; r++, x += hidden, kept += 2) {
        Vector total = {0}, squares = {0};
        for (int64_t i = 0; i < hidden; i += LANES) total += load(x + i);
        kept[0] = sum_of_lanes(total) / hidden;
        for (int64_t i = 0; i < hidden; i += LANES) {
            Vector away = load(x + i) - kept[0];
            squares += away * away;
        }
        kept[1] = 1.0f / sqrtf(sum_of_lanes(squares) / hidden + epsilon);
    }
}

/* sums (columns) += the sum over the rows of x (rows, columns), which are `stride` apart. */
static void add_rows(float *sums, const float *x, int64_t stride, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < columns; i += LANES) {
        Vector sum = load(sums + i);
        for (int64_t r = 0; r < rows; r++) sum += load(x + r * stride + i);
        store(sums + i, sum);
    }
}

/* Floats of the working space of either function. */
int64_t feed_forward_space(int64_t hidden, int64_t wide) {
    return 2 * hidden * wide + ROWS * (2 * hidden + 2 * (wide + GAP));
}

/* y (T, H) of the rows first to last - 1 of x (T, H). It keeps the mean and the inverse deviation of each row in `kept` (T, 2),
 * and what GELU is applied to in `inner` (T, I), unless that is null.
 */
void feed_forward_forward(const float *x, const float *gain, const float *bias, const float *up, const float *up_bias,
                          const float *down, const float *down_bias, float *y, float *kept, float *inner, int64_t first,
                          int64_t last, int64_t hidden, int64_t wide, float epsilon, float *space) {
    int64_t stride = wide + GAP;
    float *packed = space, *normal = packed + 2 * hidden * wide, *active = normal + ROWS * hidden;
    Panels of_up = pack(packed, (Matrix){up, 1, hidden}, hidden, wide);
    Panels of_down = pack(packed + hidden * wide, (Matrix){down, 1, wide}, wide, hidden);
    for (int64_t row = first; row < last; row += ROWS) {
        int64_t rows = last - row < ROWS ? last - row : ROWS;
        const float *from = x + row * hidden;
        float *to = y + row * hidden;
        measure(kept + 2 * row, from, rows, hidden, epsilon);
        apply_norm(normal, from, kept + 2 * row, gain, bias, rows, hidden);
        multiply(active, stride, (Matrix){normal, hidden, 1}, of_up, rows, wide, hidden, 0);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < wide; i += LANES) {
                Vector value = load(active + r * stride + i) + load(up_bias + i);
                if (inner) store(inner + (row + r) * wide + i, value);
                store(active + r * stride + i, value * sigmoid(value));
            }
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < hidden; i += LANES)
                store(to + r * hidden + i, load(from + r * hidden + i) + load(down_bias + i));
        multiply(to, hidden, (Matrix){active, stride, 1}, of_down, rows, hidden, wide, 1);
    }
}

/* What `rows` add to the gradient (rows, H) of x by its LayerNorm, whose gradient is `given` (rows, H): `gradient` becomes
 * the sum of that and `above` (rows, H), and the gradients of gain and bias are added to.
 */
static void norm_backward(const float *x, const float *gain, const float *kept, const float *given, const float *above,
                          float *gradient, float *of_gain, float *of_bias, int64_t rows, int64_t hidden) {
    for (int64_t r = 0; r < rows; r++, x += hidden, given += hidden, above += hidden, gradient += hidden, kept += 2) {
        float mean = kept[0], inverse = kept[1];
        Vector total = {0}, along = {0};
        for (int64_t i = 0; i < hidden; i += LANES) {
            Vector each = (load(x + i) - mean) * inverse, slope = load(given + i), inner = slope * load(gain + i);
            total += inner, along += inner * each;
            store(of_gain + i, load(of_gain + i) + slope * each);
            store(of_bias + i, load(of_bias + i) + slope);
        }
        float shift = inverse * sum_of_lanes(total) / hidden, tilt = inverse * sum_of_lanes(along) / hidden;
        for (int64_t i = 0; i < hidden; i += LANES) {
            Vector each = (load(x + i) - mean) * inverse;
            store(gradient + i, load(above + i) + inverse * load(given + i) * load(gain + i) - shift - tilt * each);
        }
    }
}

/* The gradient (T, H) of x from that of y, `upstream` (T, H), in the rows of the pieces first to last - 1 of all `total` rows.
 * What the rows of a piece add to the gradients of gain, bias, up, up_bias, down and down_bias, one after the other, is
 * written to a row of `sums`.
 */
void feed_forward_backward(const float *x, const float *gain, const float *bias, const float *up, const float *down,
                           const float *kept, const float *inner, const float *upstream, float *gradient, float *sums,
                           int64_t first, int64_t last, int64_t total, int64_t hidden, int64_t wide, float *space) {
    int64_t stride = wide + GAP, parameters = 3 * hidden + wide + 2 * hidden * wide;
    float *packed = space, *normal = packed + 2 * hidden * wide, *of_normal = normal + ROWS * hidden;
    float *active = of_normal + ROWS * hidden, *of_inner = active + ROWS * stride;
    Panels up_panels = pack(packed, (Matrix){up, hidden, 1}, wide, hidden);
    Panels down_panels = pack(packed + hidden * wide, (Matrix){down, wide, 1}, hidden, wide);
    for (int64_t piece = first; piece < last; piece++) {
        float *of_gain = sums + piece * parameters, *of_bias = of_gain + hidden, *of_up = of_bias + hidden;
        float *of_up_bias = of_up + hidden * wide, *of_down = of_up_bias + wide, *of_down_bias = of_down + hidden * wide;
        memset(of_gain, 0, parameters * sizeof(float));
        int64_t end = (piece + 1) * PIECE < total ? (piece + 1) * PIECE : total;
        for (int64_t row = piece * PIECE; row < end; row += ROWS) {
            int64_t rows = end - row < ROWS ? end - row : ROWS;
            const float *from = x + row * hidden, *above = upstream + row * hidden;
            apply_norm(normal, from, kept + 2 * row, gain, bias, rows, hidden);
            multiply(of_inner, stride, (Matrix){above, hidden, 1}, down_panels, rows, wide, hidden, 0);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t i = 0; i < wide; i += LANES) {
                    Vector value = load(inner + (row + r) * wide + i), s = sigmoid(value);
                    store(active + r * stride + i, value * s);
                    store(of_inner + r * stride + i, load(of_inner + r * stride + i) * slope_by(value, s));
                }
            add_rows(of_up_bias, of_inner, stride, rows, wide);
            add_rows(of_down_bias, above, hidden, rows, hidden);
            multiply(of_down, wide, (Matrix){above, 1, hidden}, (Panels){active, stride, PANEL}, hidden, wide, rows, 1);
            multiply(of_up, hidden, (Matrix){of_inner, 1, stride}, (Panels){normal, hidden, PANEL}, wide, hidden, rows, 1);
            multiply(of_normal, hidden, (Matrix){of_inner, stride, 1}, up_panels, rows, hidden, wide, 0);
            norm_backward(from, gain, kept + 2 * row, of_normal, above, gradient + row * hidden, of_gain, of_bias, rows, hidden);
        }
    }
}
