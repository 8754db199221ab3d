/* LayerNorm and the linear layer after it, y = norm(x) W + bias, and their gradient, in float32, a few rows at a time.
 *
 * T rows, H hidden size, I outputs, both multiples of 16.
 */
#include "narrow.h"

/* Floats of the working space of either function. */
int64_t norm_linear_space(int64_t hidden, int64_t wide) { return hidden * wide + 2 * ROWS * hidden; }

/* y (T, I) of the rows first to last - 1 of x (T, H), by `weight` (I, H). It keeps the mean and the inverse deviation of each
 * row in `kept` (T, 2).
 */
void norm_linear_forward(const float *x, const float *gain, const float *bias, const float *weight, const float *weight_bias,
                         float *y, float *kept, int64_t first, int64_t last, int64_t hidden, int64_t wide, float epsilon,
                         float *space) {
    float *normal = space + hidden * wide;
    Panels panels = pack(space, (Matrix){weight, 1, hidden}, hidden, wide);
    for (int64_t row = first; row < last; row += ROWS) {
        int64_t rows = last - row < ROWS ? last - row : ROWS;
        measure(kept + 2 * row, x + row * hidden, rows, hidden, epsilon);
        apply_norm(normal, x + row * hidden, kept + 2 * row, gain, bias, rows, hidden);
        for (int64_t r = row; r < row + rows; r++) memcpy(y + r * wide, weight_bias, wide * sizeof(float));
        multiply(y + row * wide, wide, (Matrix){normal, hidden, 1}, panels, rows, wide, hidden, 1);
    }
}

/* The gradient (T, H) of x from that of y, `upstream` (T, I), in the rows of the pieces first to last - 1 of all `total` rows.
 * What the rows of a piece add to the gradients of gain, bias, weight and weight_bias, one after the other, is written to a
 * row of `sums`.
 */
void norm_linear_backward(const float *x, const float *gain, const float *bias, const float *weight, const float *kept,
                          const float *upstream, float *gradient, float *sums, int64_t first, int64_t last, int64_t total,
                          int64_t hidden, int64_t wide, float *space) {
    int64_t parameters = 2 * hidden + wide + hidden * wide;
    float *normal = space + hidden * wide, *of_normal = normal + ROWS * hidden;
    Panels panels = pack(space, (Matrix){weight, hidden, 1}, wide, hidden);
    for (int64_t piece = first; piece < last; piece++) {
        float *of_gain = sums + piece * parameters, *of_bias = of_gain + hidden, *of_weight = of_bias + hidden;
        float *of_weight_bias = of_weight + hidden * wide;
        memset(of_gain, 0, parameters * sizeof(float));
        int64_t end = (piece + 1) * PIECE < total ? (piece + 1) * PIECE : total;
        for (int64_t row = piece * PIECE; row < end; row += ROWS) {
            int64_t rows = end - row < ROWS ? end - row : ROWS;
            const float *from = x + row * hidden, *above = upstream + row * wide;
            apply_norm(normal, from, kept + 2 * row, gain, bias, rows, hidden);
            add_rows(of_weight_bias, above, wide, rows, wide);
            multiply(of_weight, hidden, (Matrix){above, 1, wide}, (Panels){normal, hidden, PANEL}, wide, hidden, rows, 1);
            multiply(of_normal, hidden, (Matrix){above, wide, 1}, panels, rows, hidden, wide, 0);
            norm_backward(from, gain, kept + 2 * row, of_normal, NULL, gradient + row * hidden, of_gain, of_bias, rows, hidden);
        }
    }
}
