/* Pairs of numbers in bfloat16, by the processor's own instructions.
 *
 * The instruction adds to each of 16 lanes the products of two neighbouring numbers. So what is summed over lies in pairs: one
 * operand in 16 lanes of pairs, the other one pair for all lanes.
 */
#pragma once
#include "lanes.h"

typedef uint32_t Pair; /* of bfloat16 */

static inline Vector of_pairs(Vector sum, Unsigned a, Unsigned b) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

static inline Unsigned load_pairs(const Pair *from) {
    Unsigned x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store_pairs(Pair *to, Unsigned x) { memcpy(to, &x, sizeof x); }

static inline Unsigned everywhere(Pair x) { return (Unsigned)_mm512_set1_epi32((int)x); }

/* The 32 numbers of a and then b, rounded. */
static inline Unsigned one_after_other(Vector a, Vector b) { return (Unsigned)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a); }

/* In each lane a and b, rounded. */
static inline Unsigned paired(Vector a, Vector b) {
    Unsigned places;
    for (int i = 0; i < ALL; i++) places[i] = i | (ALL + i) << 16;
    return (Unsigned)_mm512_permutexvar_epi16((__m512i)places, (__m512i)one_after_other(a, b));
}

/* 2^x to about 8e-5 of it, enough for what is rounded to bfloat16. */
static inline Vector power_of_two(Vector x) {
    Vector n = nearest(x), r = x - n;
    Vector p = r * 5.517166e-2f + 2.4261114e-1f;
    p = p * r + 6.9326099e-1f;
    p = p * r + 9.9992807e-1f;
    return times_power_of_two(p, n);
}
