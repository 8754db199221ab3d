/* GELU in the tanh approximation, and its slope.
 *
 * x (1 + tanh u) / 2 is x s with s = 1 / (1 + exp(-2 u)), where u = sqrt(2 / pi) (x + 0.044715 x^3): one exponential.
 */
#include "vectors.h"

#define TWICE_ROOT 1.5957691216057308f /* 2 sqrt(2 / pi) */
#define CUBIC 0.044715f

/* s of each x. */
static inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential(x * -TWICE_ROOT * (1.0f + CUBIC * (x * x)))); }

/* The slope at x, whose s is known. */
static inline Vector slope_by(Vector x, Vector s) {
    return s + x * (s - s * s) * (TWICE_ROOT * (1.0f + 3.0f * CUBIC * (x * x)));
}

static inline Vector slope(Vector x) { return slope_by(x, sigmoid(x)); }
