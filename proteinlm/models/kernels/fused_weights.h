/* The weights of a linear layer, packed for the products of `products.h`, and their gradient.
 *
 * T rows, N outputs and K inputs, multiples of 32.
 */
#pragma once
#include "products.h"

#define CHUNK 256 /* words of rows whose products are summed at once */
#define BLOCK 256 /* inputs whose right factors stay in the second cache */
#define GROUPS (3 * STRIP / TILE) /* of 12 columns that are packed at once: three strips */

/* The panels first to last - 1 of a weight (N, K), for the product of x (T, K) with its transpose: (N / 32, K, 32),
 * in words, of which a row has K, or in bfloat16 half of that.
 */
void OF(weights_pack)(const float *weight, Word *panels, int64_t first, int64_t last, int64_t inputs) {
    for (int64_t n = first * PANEL; n < last * PANEL; n += ALL) {
        Word *to = panels + n / PANEL * PANEL * (inputs / PER_WORD) + n % PANEL;
        for (int64_t k = 0; k < inputs; k += STRIP, to += ALL * PANEL) {
            __m512i rows[ALL];
            for (int r = 0; r < ALL; r++) rows[r] = words_of(weight + (n + r) * inputs + k);
            store_transpose((uint32_t *)to, PANEL, rows);
        }
    }
}

/* The panels first to last - 1 of a weight (N, K), for the product of y (T, N) with it: (K / 32, N, 32), in words. */
void OF(weights_pack_back)(const float *weight, Word *panels, int64_t first, int64_t last, int64_t outputs, int64_t inputs) {
    for (int64_t k = first * PANEL; k < last * PANEL; k += PANEL)
        for (int64_t n = 0; n < outputs; n += PER_WORD)
            for (int64_t i = 0; i < PANEL; i += ALL) {
                Word *to = panels + (k * outputs + n * PANEL) / PER_WORD + i;
                store_words(to, words_of_rows(weight + n * inputs + k + i, inputs));
            }
}

/* Bytes of the working space of `weights_gradient` for `outputs` of the N. */
int64_t OF(weights_space)(int64_t outputs, int64_t inputs) {
    return 4 * (CHUNK * TILE + ALL) * (outputs / TILE + 2 * GROUPS) + 4 * CHUNK * inputs + 3 * 64;
}

/* A matrix by its first number, and how far apart its rows, and its strips, are. */
typedef struct {
    const Number *first;
    int64_t row, strip;
} Strips;

/* The numbers of a row of a strip, or zeros behind the last of its `rows`. */
static inline __m512i load_strip(const Number *strip, int64_t stride, int64_t row, int64_t rows) {
    return row < rows ? _mm512_loadu_si512(strip + row * stride) : _mm512_setzero_si512();
}

/* right (rows, 32), in words, = 32 columns of x. */
static void pack_right(Word *right, Strips x, int64_t rows) {
    for (int64_t row = 0; row < rows; row += PER_WORD, right += PANEL)
        for (int i = 0; i < PANEL; i += ALL) {
            const Number *strip = x.first + i / STRIP * x.strip;
            __m512i a = load_strip(strip, x.row, row, rows), b = load_strip(strip, x.row, row + PER_WORD - 1, rows);
            store_words(right + i, join(a, b, i % STRIP));
        }
}

/* left (`GROUPS`), of each 12 columns of y (rows, 12) in words, `apart` from one another; zeros for columns of which y has none
 * from its strip `strips` on. The sum of each column is written to `sums`.
 */
static void pack_left(Word *left, int64_t apart, Strips y, int64_t strips, int64_t rows, float *sums) {
    Vector sum[GROUPS] = {{0}};
    for (int64_t row = 0; row < rows; row += PER_WORD, left += TILE) {
        __m512i a[3], b[3];
        for (int i = 0; i < 3; i++) {
            const Number *strip = y.first + i * y.strip;
            int64_t filled = i < strips ? rows : 0;
            a[i] = load_strip(strip, y.row, row, filled), b[i] = load_strip(strip, y.row, row + PER_WORD - 1, filled);
        }
#pragma GCC unroll 8
        for (int g = 0; g < GROUPS; g++) {
            int i = g * TILE / STRIP, first = g * TILE % STRIP;
            Words each;
            if (first + TILE <= STRIP) each = join(a[i], b[i], first);
            else each = join(line_from(a[i], a[i + 1], first), line_from(b[i], b[i + 1], first), 0);
            store_words(left + g * apart, each); /* four more than belong there, which the next row overwrites */
            sum[g] = add_products(sum[g], each, ones());
        }
    }
    for (int column = 0; column < GROUPS * TILE; column++) sums[column] = sum[column / TILE][column % TILE];
}

/* The outputs 12 first to 12 last - 1 of the gradient (N, K) of a weight, y (T, N)^T x (T, K), and of that of the bias (N), the
 * sum of y, are written, or added to if it `adds`. Rows of y and x, and their strips, are as far apart as is said.
 */
void OF(weights_gradient)(const Number *y, const Number *x, float *of_weight, float *of_bias, int64_t first,
                           int64_t last, int64_t total, int64_t y_row, int64_t y_strip, int64_t x_row, int64_t x_strip,
                           int64_t outputs, int64_t inputs, int64_t adds, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    int64_t begin = first * TILE, end = smallest(last * TILE, outputs), packed = first / GROUPS * GROUPS * TILE;
    Word *left = cut(&space, 4 * (CHUNK * TILE + ALL) * (last - first + 2 * GROUPS - 1)), *right = cut(&space, 4 * CHUNK * inputs);
    for (int64_t row = 0; row < total; row += PER_WORD * CHUNK, adds = 1) {
        int64_t rows = smallest(PER_WORD * CHUNK, total - row), words = (rows + PER_WORD - 1) / PER_WORD;
        int64_t apart = words * TILE + ALL;
        for (int64_t k = 0; k < inputs; k += PANEL)
            pack_right(right + k * words, (Strips){x + row * x_row + k / STRIP * x_strip, x_row, x_strip}, rows);
        for (int64_t n = packed; n < end; n += GROUPS * TILE) {
            float sums[GROUPS * TILE];
            Strips from = {y + row * y_row + n / STRIP * y_strip, y_row, y_strip};
            pack_left(left + (n - packed) / TILE * apart, apart, from, (outputs - n) / STRIP, rows, sums);
            for (int64_t i = n < begin ? begin : n; i < end && i < n + GROUPS * TILE; i++) of_bias[i] = (adds ? of_bias[i] : 0) + sums[i - n];
        }
        for (int64_t block = 0; block < inputs; block += BLOCK)
        for (int64_t n = begin; n < end; n += TILE)
            for (int64_t k = block; k < inputs && k < block + BLOCK; k += PANEL) {
                float *to = of_weight + n * inputs + k;
                int64_t valid = smallest(TILE, end - n);
                for (int r = 0; r < valid; r++) __builtin_prefetch(to + r * inputs, 1), __builtin_prefetch(to + r * inputs + ALL, 1);
                Vector sums[TILE][2] = {{{0}}};
                const Word *a = left + (n - packed) / TILE * apart, *b = right + k * words;
#pragma GCC unroll 2
                for (int64_t p = 0; p < words; p++, a += TILE, b += PANEL) {
                    Words one = load_words(b), two = load_words(b + ALL);
#pragma GCC unroll 12
                    for (int r = 0; r < TILE; r++) {
                        Words word = spread(a[r]);
                        sums[r][0] = add_products(sums[r][0], word, one);
                        sums[r][1] = add_products(sums[r][1], word, two);
                    }
                }
#pragma GCC unroll 12
                for (int r = 0; r < TILE; r++)
                    if (r < valid) {
                        float *each = to + r * inputs;
                        if (adds) sums[r][0] += load(each), sums[r][1] += load(each + ALL);
                        store(each, sums[r][0]), store(each + ALL, sums[r][1]);
                    }
            }
    }
}
