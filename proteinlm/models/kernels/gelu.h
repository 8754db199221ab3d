/* GELU, x s, by the s of each x, and its slope.
 *
 * In the tanh approximation x (1 + tanh u) / 2 is x s with s = 1 / (1 + exp(-2 u)), where
 * u = sqrt(2 / pi) (x + 0.044715 x^3): one exponential. Exactly, s is the share of a normal distribution that is below x,
 * (1 + erf(x / sqrt(2))) / 2.
 */
#pragma once
#include "vectors.h"

#define TWICE_ROOT 1.5957691216057308f /* 2 sqrt(2 / pi) */
#define CUBIC 0.044715f

/* s of each x. */
static inline Vector sigmoid(Vector x) {
    return inverse_of(1.0f + exponential(x * -TWICE_ROOT * (1.0f + CUBIC * (x * x))));
}

/* The slope at x, whose s is known. */
static inline Vector slope_by(Vector x, Vector s) {
    return s + x * (s - s * s) * (TWICE_ROOT * (1.0f + 3.0f * CUBIC * (x * x)));
}

#define ROOT_OF_HALF 0.70710678118654752f
#define HIGHEST_DENSITY 0.39894228040143268f /* 1 / sqrt(2 pi) */

/* The share of a normal distribution that is below each x, to 2e-7; the rational function of erf is Eigen's. */
static inline Vector share_below(Vector x) {
    Vector z = larger(all(-4.0f), smaller(all(4.0f), x * ROOT_OF_HALF)), square = z * z;
    Vector p = square * -2.72614225801306e-10f + 2.77068142495902e-08f;
    p = p * square - 2.10102402082508e-06f;
    p = p * square - 5.69250639462346e-05f;
    p = p * square - 7.34990630326855e-04f;
    p = p * square - 2.95459980854025e-03f;
    p = p * square - 1.60960333262415e-02f;
    Vector q = square * -1.45660718464996e-05f - 2.13374055278905e-04f;
    q = q * square - 1.68282697438203e-03f;
    q = q * square - 7.37332916720468e-03f;
    q = q * square - 1.42647390514189e-02f;
    return 0.5f + 0.5f * (z * p * inverse_of(q));
}

/* The slope of the exact form at x, whose s is known. */
static inline Vector exact_slope_by(Vector x, Vector s) {
    return s + x * HIGHEST_DENSITY * exponential(x * x * -0.5f);
}

static inline Vector slope(Vector x) { return slope_by(x, sigmoid(x)); }
