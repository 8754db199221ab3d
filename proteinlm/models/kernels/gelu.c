/* GELU in the tanh approximation, and its gradient.
 *
 * x (1 + tanh u) / 2 is x s with s = 1 / (1 + exp(-2 u)), where u = sqrt(2 / pi) (x + 0.044715 x^3): one exponential.
 */
#include "vectors.h"

#define TWICE_ROOT 1.5957691216057308f /* 2 sqrt(2 / pi) */
#define CUBIC 0.044715f

static inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential(x * -TWICE_ROOT * (1.0f + CUBIC * (x * x)))); }

static inline Vector slope(Vector x) {
    Vector s = sigmoid(x);
    return s + x * (s - s * s) * (TWICE_ROOT * (1.0f + 3.0f * CUBIC * (x * x)));
}

/* y (count) of x (count). */
void gelu_forward(const float *x, float *y, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        Vector each = load(x + i);
        store(y + i, each * sigmoid(each));
    }
    if (i < count) {
        float rest[LANES] = {0};
        memcpy(rest, x + i, (count - i) * sizeof(float));
        store(rest, load(rest) * sigmoid(load(rest)));
        memcpy(y + i, rest, (count - i) * sizeof(float));
    }
}

/* The gradient (count) of x (count), from that of y, `upstream` (count), in whose place it may be written. */
void gelu_backward(const float *x, const float *upstream, float *gradient, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(gradient + i, load(upstream + i) * slope(load(x + i)));
    if (i < count) {
        float rest[2][LANES] = {{0}};
        memcpy(rest[0], x + i, (count - i) * sizeof(float));
        memcpy(rest[1], upstream + i, (count - i) * sizeof(float));
        store(rest[0], load(rest[1]) * slope(load(rest[0])));
        memcpy(gradient + i, rest[0], (count - i) * sizeof(float));
    }
}
