/* Numbers in bfloat16 as `products.h` takes them: a word is a pair of them. */
#pragma once
#include "bf16.h"
#include "gelu.h"

#define OF(name) name##_bf16
#define PER_WORD 2

typedef uint16_t Number;
typedef Pair Word;
typedef Unsigned Words;

static inline Words load_words(const Word *from) { return load_pairs(from); }

static inline void store_words(Word *to, Words x) { store_pairs(to, x); }

/* The same word in all lanes. */
static inline Words spread(Word x) { return everywhere(x); }

static inline Vector add_products(Vector sum, Words a, Words b) { return of_pairs(sum, a, b); }

/* The 16 words of 32 floats. */
static inline __m512i words_of(const float *from) {
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)load(from + ALL), (__m512)load(from));
}

/* 16 words of numbers of two rows. */
static inline Words words_of_rows(const float *from, int64_t stride) { return paired(load(from), load(from + stride)); }

/* 16 numbers, and those that follow them: in bfloat16 in the same strip, in float32 in the next, which is `apart`. */
static inline Vector load_numbers(const Number *from) { return load_halves(from); }

static inline Vector load_second(const Number *from, int64_t apart) { return load_halves(from + ALL); }

/* 32 numbers, rounded, so that `load_numbers` and `load_second` find them. */
static inline void store_numbers(Number *to, int64_t apart, Vector a, Vector b) {
    store_pairs((Pair *)to, one_after_other(a, b));
}

/* `count` numbers, rounded, 16 or fewer. */
static inline void store_some(Number *to, Vector x, int64_t count) {
    Halves each = halves(x);
    if (count == ALL) memcpy(to, &each, sizeof each);
    else memcpy(to, &each, count * sizeof(Number));
}

/* The words of numbers that are in a, then b. */
static inline Words word_of(Vector a, Vector b) { return paired(a, b); }

/* 16 words of numbers of two rows. */
static inline Words words_of_two(const Number *from, int64_t stride) {
    Halves a, b;
    memcpy(&a, from, sizeof a), memcpy(&b, from + stride, sizeof b);
    return (Words)_mm512_or_si512(_mm512_cvtepu16_epi32((__m256i)a), _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)b), 16));
}

/* Each x as it is once it was stored. */
static inline Vector as_stored(Vector x) { return widened(halves(x)); }

/* `sigmoid` to about 1e-4 of it, enough for what is rounded to bfloat16. */
static inline Vector gate(Vector x) {
    Vector scaled = x * (x * x * (-TWICE_ROOT * CUBIC * LOG2_E) - TWICE_ROOT * LOG2_E);
    return (Vector)_mm512_rcp14_ps((__m512)(1.0f + power_of_two(scaled)));
}

/* Of two neighbouring vectors the 32 numbers from `first` of the first on. */
static inline __m512i line_from(__m512i a, __m512i b, int first) {
    Unsigned places;
    for (int i = 0; i < ALL; i++) places[i] = (first + 2 * i) | (first + 2 * i + 1) << 16;
    return _mm512_permutex2var_epi16(a, (__m512i)places, b);
}

/* Of two rows the 16 words from the number `first` on. */
static inline Words join(__m512i a, __m512i b, int first) {
    Unsigned places;
    for (int i = 0; i < ALL; i++) places[i] = (first + i) % 32 | (32 + (first + i) % 32) << 16;
    return (Words)_mm512_permutex2var_epi16(a, (__m512i)places, b);
}

static inline Words ones(void) { return everywhere(0x3f803f80); }
