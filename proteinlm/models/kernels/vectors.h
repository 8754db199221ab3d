/* Vectors of floats as wide as the processor's registers, the exponential of one, and the turning of pairs of floats.
 *
 * Plain C with the vector types of GCC and Clang. Not for -ffast-math, which would undo the rounding in `exponential`.
 */
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#if LANES > 4
#include <immintrin.h>
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef uint32_t Unsigned __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

static inline Vector load(const float *from) {
    Vector x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store(float *to, Vector x) { memcpy(to, &x, sizeof x); }

static inline Vector all(float x) { return x - (Vector){0}; }

/* Numbers in bfloat16 as floats. */
static inline Vector widened(Halves x) {
#if LANES == 16 /* GCC would take it apart */
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16);
#else
    return (Vector)(__builtin_convertvector(x, Integers) << 16);
#endif
}

/* Numbers in bfloat16, as many as there are lanes. */
static inline Vector load_halves(const uint16_t *from) {
    Halves x;
    memcpy(&x, from, sizeof x);
    return widened(x);
}

/* Each lane rounded to bfloat16, to the even one of two that are as near. */
static inline Halves halves(Vector x) {
#if defined(__AVX512BF16__)
    return (Halves)_mm512_cvtneps_pbh((__m512)x);
#else
    Unsigned bits = (Unsigned)x, is_number = (Unsigned)(x == x);
    Unsigned rounded = bits + 0x7fff + (bits >> 16 & 1);
    return __builtin_convertvector((rounded & is_number | (bits | 0x400000) & ~is_number) >> 16, Halves);
#endif
}

static inline void store_halves(uint16_t *to, Vector x) {
    Halves each = halves(x);
    memcpy(to, &each, sizeof each);
}

/* In each lane a if a > b (a < b), else b: so b where one of them is not a number. */
static inline Vector larger(Vector a, Vector b) {
#if LANES == 16
    return (Vector)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (Vector)_mm256_max_ps((__m256)a, (__m256)b);
#else
    Integers is_larger = a > b;
    return (Vector)(((Integers)a & is_larger) | ((Integers)b & ~is_larger));
#endif
}

static inline Vector smaller(Vector a, Vector b) {
#if LANES == 16
    return (Vector)_mm512_min_ps((__m512)a, (__m512)b);
#else
    return -larger(-a, -b);
#endif
}

#if LANES == 16
/* The nearest integers. */
static inline Vector nearest(Vector x) {
    return (Vector)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x 2^n of integers n. */
static inline Vector times_power_of_two(Vector x, Vector n) { return (Vector)_mm512_scalef_ps((__m512)x, (__m512)n); }
#endif

static inline Vector exponential_near_zero(Vector r) {
    Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * (r * r) + (r + 1.0f);
}

/* exp(x) to about one unit in the last place; x below -87 counts as -87, and x above 88 as 88. Not a number stays so.
 *
 * x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 is subtracted in two parts, the first exact. The polynomial is that of Cephes' expf.
 */
#if LANES == 16
static inline Vector exponential(Vector x) {
    x = larger(all(-87.0f), smaller(all(88.0f), x)); /* in this order, what is not a number stays */
    Vector n = nearest(x * 1.44269504088896341f);
    return times_power_of_two(exponential_near_zero(x - n * 0.693359375f + n * 2.12194440e-4f), n);
}

/* 1 / x to about one unit in the last place; a division takes three times as long. */
static inline Vector inverse_of(Vector x) {
    Vector near = (Vector)_mm512_rcp14_ps((__m512)x);
    return near + near * (1.0f - x * near);
}
#else
/* Adding 1.5 * 2^23 rounds to an integer, which is then found in the lowest bits. */
static inline Vector exponential(Vector x) {
    const float round = 12582912.0f;
    x = larger(all(-87.0f), smaller(all(88.0f), x)); /* in this order, what is not a number stays */
    Vector shifted = x * 1.44269504088896341f + round;
    Vector n = shifted - round;
    Vector p = exponential_near_zero(x - n * 0.693359375f + n * 2.12194440e-4f);
    return (Vector)((Integers)p + ((Integers)shifted << 23)) + (x - x);
}

static inline Vector inverse_of(Vector x) { return 1.0f / x; }
#endif

static inline int64_t filled(int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; }

/* Turn each two neighbours of x (count) by an angle, of which `turns` has the cosine and the sine; back if `way` is -1. */
static inline void turn(float *x, const float *turns, int64_t count, float way) {
    for (int64_t i = 0; i + 1 < count; i += 2) {
        float a = x[i], b = x[i + 1], cosine = turns[i], sine = way * turns[i + 1];
        x[i] = a * cosine - b * sine;
        x[i + 1] = a * sine + b * cosine;
    }
}
