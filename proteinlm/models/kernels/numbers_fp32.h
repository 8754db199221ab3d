/* Numbers in float32 as `products.h` takes them: each is a word. What a function does is said in `numbers_bf16.h`. */
#pragma once
#include "gelu.h"
#include "lanes.h"

#define OF(name) name##_fp32
#define PER_WORD 1

typedef float Number;
typedef float Word;
typedef Vector Words;

static inline Words load_words(const Word *from) { return load(from); }

static inline void store_words(Word *to, Words x) { store(to, x); }

static inline Words spread(Word x) { return all(x); }

static inline Vector add_products(Vector sum, Words a, Words b) { return sum + a * b; }

static inline __m512i words_of(const float *from) { return (__m512i)load(from); }

static inline Words words_of_rows(const float *from, int64_t stride) { return load(from); }

static inline Vector load_numbers(const Number *from) { return load(from); }

static inline Vector load_second(const Number *from, int64_t apart) { return load(from + apart); }

static inline void store_numbers(Number *to, int64_t apart, Vector a, Vector b) { store(to, a), store(to + apart, b); }

static inline void store_some(Number *to, Vector x, int64_t count) {
    if (count == ALL) store(to, x);
    else memcpy(to, &x, count * sizeof(Number));
}

static inline Words word_of(Vector a, Vector b) { return a; }

static inline Words words_of_two(const Number *from, int64_t stride) { return load(from); }

/* 2^x to about one unit in the last place. */
static inline Vector power_of_two(Vector x) {
    Vector n = nearest(x), r = x - n;
    Vector p = r * 1.53458118e-4f + 1.33999313e-3f;
    p = p * r + 9.61848896e-3f;
    p = p * r + 5.55032878e-2f;
    p = p * r + 2.40226469e-1f;
    p = p * r + 6.93147206e-1f;
    p = p * r + 1.0f;
    return times_power_of_two(p, n);
}

static inline Vector as_stored(Vector x) { return x; }

static inline Vector gate(Vector x) { return sigmoid(x); }

static inline __m512i line_from(__m512i a, __m512i b, int first) {
    Unsigned places;
    for (int i = 0; i < ALL; i++) places[i] = first + i;
    return (__m512i)_mm512_permutex2var_ps((__m512)a, (__m512i)places, (__m512)b);
}

static inline Words join(__m512i a, __m512i b, int first) { return (Words)line_from(a, a, first); }

static inline Words ones(void) { return all(1.0f); }
