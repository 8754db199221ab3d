/* Products of matrices in bfloat16 for a few rows at a time, with sums in float32.
 *
 * A sum of 12 rows and 32 columns fills the registers. Its left factor is read pair by pair, and of its right factor, which is
 * packed in panels of 32 columns, two vectors.
 */
#pragma once
#include "bf16.h"

#define TILE 12 /* rows of a sum */
#define PANEL 32 /* columns of a sum, and of a panel */
#define ROWS 96 /* computed at once */
#define GAP 32 /* numbers between rows, which would else share a few places of the nearest cache */
#define INLINE static inline __attribute__((always_inline))

/* What is done with 32 numbers of a row of a product: two vectors, which belong at `row` and `column`. */
typedef void Finish(const void *to, int64_t row, int64_t column, Vector a, Vector b);

/* It asks for what `Finish` is going to need, while the product is computed: by itself the processor would ask too late. */
typedef void Prepare(const void *to, int64_t row, int64_t column);

/* sums = the products of 12 rows, `stride` bytes apart, with a panel (size / 2, 32); four pairs of each row at a time, and as
 * many times 64 bytes from `next` on are asked for.
 */
INLINE void tile_of_rows(Vector sums[TILE][2], const char *rows, int64_t stride, const Pair *panel, int64_t size,
                         const char *next) {
    const char *each[4] = {rows, rows + 3 * stride, rows + 6 * stride, rows + 9 * stride};
    for (int r = 0; r < TILE; r++) sums[r][0] = sums[r][1] = (Vector){0};
    for (int64_t k = 0; k < size; k += 8, panel += 4 * PANEL, next += 64) {
        __builtin_prefetch(next, 0, 2);
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            Unsigned first = load_pairs(panel + p * PANEL), second = load_pairs(panel + p * PANEL + ALL);
#pragma GCC unroll 12
            for (int r = 0; r < TILE; r++) {
                Pair pair;
                memcpy(&pair, each[r / 3] + r % 3 * stride + p * sizeof pair, sizeof pair);
                sums[r][0] = of_pairs(sums[r][0], everywhere(pair), first);
                sums[r][1] = of_pairs(sums[r][1], everywhere(pair), second);
            }
        }
        for (int i = 0; i < 4; i++) each[i] += 4 * sizeof(Pair);
        __asm__("" : "+r"(each[0]), "+r"(each[1]), "+r"(each[2]), "+r"(each[3])); /* four pointers, not twelve */
    }
}

/* `finish` what comes of x (rows, size), whose rows are `stride` numbers apart, times panels (columns / 32, size / 2, 32). Up
 * to 11 more rows are read than there are.
 */
INLINE void multiply(const uint16_t *x, int64_t stride, const Pair *panels, int64_t rows, int64_t columns, int64_t size,
                     Prepare prepare, Finish finish, const void *to) {
    for (int64_t column = 0; column < columns; column += PANEL, panels += size / 2 * PANEL)
        for (int64_t row = 0; row < rows; row += TILE) {
            Vector sums[TILE][2];
            for (int r = 0; r < TILE; r++) prepare(to, row + r, column);
            const char *next = (const char *)(panels + size / 2 * PANEL) + row / TILE * size * 8; /* an eighth of a panel */
            tile_of_rows(sums, (const char *)(x + row * stride), 2 * stride, panels, size, next);
#pragma GCC unroll 12
            for (int r = 0; r < TILE; r++)
                if (row + r < rows) finish(to, row + r, column, sums[r][0], sums[r][1]);
        }
}

static inline int64_t smallest(int64_t a, int64_t b) { return a < b ? a : b; }

/* Where a product goes: `to` (T, wide) in bfloat16 or float32, with `bias` (wide) and `residual` (T, wide) added, unless null. */
typedef struct {
    void *to;
    int64_t wide;
    const float *bias, *residual;
} Output;

INLINE void prepare_output(const void *output, int64_t row, int64_t column) {
    const Output *at = output;
    if (at->residual) {
        const float *from = at->residual + row * at->wide + column;
        __builtin_prefetch(from), __builtin_prefetch(from + ALL);
    }
}

INLINE void round_row(const void *output, int64_t row, int64_t column, Vector a, Vector b) {
    const Output *at = output;
    if (at->bias) a += load(at->bias + column), b += load(at->bias + column + ALL);
    uint16_t *to = (uint16_t *)at->to + row * at->wide + column;
    store_halves(to, a), store_halves(to + ALL, b);
}

INLINE void add_row(const void *output, int64_t row, int64_t column, Vector a, Vector b) {
    const Output *at = output;
    int64_t place = row * at->wide + column;
    if (at->bias) a += load(at->bias + column), b += load(at->bias + column + ALL);
    if (at->residual) a += load(at->residual + place), b += load(at->residual + place + ALL);
    store((float *)at->to + place, a), store((float *)at->to + place + ALL, b);
}
