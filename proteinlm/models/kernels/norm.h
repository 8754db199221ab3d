/* LayerNorm and its gradient for a few rows at a time, and sums over rows, in float32.
 *
 * H hidden size, a multiple of 16.
 */
#pragma once
#include <math.h>

#include "vectors.h"

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

/* The gradient (rows, H) of x by its LayerNorm, whose gradient is `given` (rows, H), and `above` (rows, H) added to it,
 * unless that is null. The gradients of gain and bias are added to.
 */
static void norm_backward(const float *x, const float *gain, const float *kept, const float *given, const float *above,
                          float *gradient, float *of_gain, float *of_bias, int64_t rows, int64_t hidden) {
    for (int64_t r = 0; r < rows; r++, x += hidden, given += hidden, gradient += hidden, kept += 2) {
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
            Vector back = inverse * load(given + i) * load(gain + i) - shift - tilt * each;
            store(gradient + i, above ? load(above + i) + back : back);
        }
        if (above) above += hidden;
    }
}
