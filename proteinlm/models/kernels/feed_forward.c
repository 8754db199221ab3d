/* The second half of a narrow block, y = x + down(gelu(up(norm(x)))), and its gradient, in float32.
 *
 * A few rows at a time, so that what is in between stays in the core's cache: by themselves the products of a narrow model are
 * slowed by a third by what they read from memory.
 *
 * T rows, H hidden size, I intermediate size, both multiples of 16.
 */
#include "gelu.h"
#include "narrow.h"

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
