/* GELU in the tanh approximation, and its gradient, in float32 or bfloat16. */
#include "gelu.h"

/* Both functions for numbers of one type, by what loads and stores as many as there are lanes. */
#define FUNCTIONS_OF(Number, suffix, load, store)                                                            \
    /* y (count) of x (count). */                                                                            \
    void gelu_forward##suffix(const Number *x, Number *y, int64_t count) {                                   \
        int64_t i = 0;                                                                                       \
        for (; i + LANES <= count; i += LANES) {                                                             \
            Vector each = load(x + i);                                                                       \
            store(y + i, each * sigmoid(each));                                                              \
        }                                                                                                    \
        if (i < count) {                                                                                     \
            Number rest[LANES] = {0};                                                                        \
            memcpy(rest, x + i, (count - i) * sizeof(Number));                                               \
            store(rest, load(rest) * sigmoid(load(rest)));                                                   \
            memcpy(y + i, rest, (count - i) * sizeof(Number));                                               \
        }                                                                                                    \
    }                                                                                                        \
    /* The gradient (count) of x (count), from that of y, `upstream` (count), which it may overwrite. */     \
    void gelu_backward##suffix(const Number *x, const Number *upstream, Number *gradient, int64_t count) {   \
        int64_t i = 0;                                                                                       \
        for (; i + LANES <= count; i += LANES) store(gradient + i, load(upstream + i) * slope(load(x + i))); \
        if (i < count) {                                                                                     \
            Number rest[2][LANES] = {{0}};                                                                   \
            memcpy(rest[0], x + i, (count - i) * sizeof(Number));                                            \
            memcpy(rest[1], upstream + i, (count - i) * sizeof(Number));                                     \
            store(rest[0], load(rest[1]) * slope(load(rest[0])));                                            \
            memcpy(gradient + i, rest[0], (count - i) * sizeof(Number));                                     \
        }                                                                                                    \
    }

FUNCTIONS_OF(float, , load, store)
FUNCTIONS_OF(uint16_t, _bf16, load_halves, store_halves)
