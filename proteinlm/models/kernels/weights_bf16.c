/* The weights of a linear layer, packed in bfloat16 for the products of `products_bf16.h`, and their gradient.
 *
 * T rows, N outputs and K inputs, multiples of 32.
 */
#ifdef __AVX512BF16__
#include "products_bf16.h"

#define CHUNK 256 /* pairs of rows whose products are summed at once */
#define BLOCK 256 /* inputs whose right factors stay in the second cache */
#define GROUPS 4 /* of 24 columns that are packed at once: whole lines of the cache */

/* The panels first to last - 1 of a weight (N, K), for the product of x (T, K) with its transpose: (N / 32, K / 2, 32). */
void weights_bf16_pack(const float *weight, Pair *panels, int64_t first, int64_t last, int64_t inputs) {
    for (int64_t n = first * PANEL; n < last * PANEL; n += ALL) {
        Pair *to = panels + n / PANEL * PANEL * (inputs / 2) + n % PANEL;
        for (int64_t k = 0; k < inputs; k += 2 * ALL, to += ALL * PANEL) {
            __m512i rows[ALL];
            for (int r = 0; r < ALL; r++) {
                const float *from = weight + (n + r) * inputs + k;
                rows[r] = (__m512i)_mm512_cvtne2ps_pbh((__m512)load(from + ALL), (__m512)load(from));
            }
            store_transpose(to, PANEL, rows);
        }
    }
}

/* The panels first to last - 1 of a weight (N, K), for the product of y (T, N) with it: (K / 32, N / 2, 32). */
void weights_bf16_pack_back(const float *weight, Pair *panels, int64_t first, int64_t last, int64_t outputs, int64_t inputs) {
    for (int64_t k = first * PANEL; k < last * PANEL; k += PANEL)
        for (int64_t n = 0; n < outputs; n += 2)
            for (int64_t i = 0; i < PANEL; i += ALL) {
                const float *from = weight + n * inputs + k + i;
                store_pairs(panels + k * (outputs / 2) + n / 2 * PANEL + i, paired(load(from), load(from + inputs)));
            }
}

/* Bytes of the working space of `weights_bf16_gradient` for `outputs` of the N. */
int64_t weights_bf16_space(int64_t outputs, int64_t inputs) {
    return 4 * (CHUNK * TILE + ALL) * (outputs / TILE + 2) + 4 * CHUNK * inputs + 3 * 64;
}

/* Up to 32 numbers of a row of x, which are `there`; zeros of the row behind the last. */
static inline __m512i load_row(const uint16_t *x, int64_t stride, int64_t row, int64_t rows, __mmask32 there) {
    return row < rows ? _mm512_maskz_loadu_epi16(there, x + row * stride) : _mm512_setzero_si512();
}

/* Pairs of a number of a and one of b, of the 16 from `first` on, which is a constant. */
static inline Unsigned pairs_of_rows(__m512i a, __m512i b, int first) {
    Unsigned places;
    for (int i = 0; i < ALL; i++) places[i] = (first + i) % 32 | (32 + (first + i) % 32) << 16;
    return (Unsigned)_mm512_permutex2var_epi16(a, (__m512i)places, b);
}

/* right (32 / 32, rows / 2, 32) = pairs of rows of x (rows, 32). */
static void pack_right(Pair *right, const uint16_t *x, int64_t stride, int64_t rows) {
    for (int64_t row = 0; row < rows; row += 2, right += PANEL) {
        __m512i a = load_row(x, stride, row, rows, -1), b = load_row(x, stride, row + 1, rows, -1);
        store_pairs(right, pairs_of_rows(a, b, 0)), store_pairs(right + ALL, pairs_of_rows(a, b, ALL));
    }
}

/* left (columns / 12) = for each 12 columns pairs (rows / 2, 12) of rows of y (rows, columns), and zeros where there are none,
 * `apart` from one another. The sum of each column is added to `sums` (columns).
 */
static void pack_left(Pair *left, int64_t apart, const uint16_t *y, int64_t stride, int64_t rows, int64_t columns, float *sums) {
    const Unsigned ones = everywhere(0x3f803f80);
    Vector sum[2 * GROUPS] = {{0}};
    __mmask32 there[GROUPS];
    int64_t groups = (columns + 2 * TILE - 1) / (2 * TILE);
    for (int g = 0; g < groups; g++) there[g] = (1u << smallest(2 * TILE, columns - g * 2 * TILE)) - 1;
    for (int64_t row = 0; row < rows; row += 2, left += TILE)
        for (int g = 0; g < groups; g++) {
            const uint16_t *from = y + g * 2 * TILE;
            __m512i a = load_row(from, stride, row, rows, there[g]), b = load_row(from, stride, row + 1, rows, there[g]);
            for (int half = 0; half < 2; half++) { /* four more are written, before what belongs there */
                Unsigned each = pairs_of_rows(a, b, half * TILE);
                store_pairs(left + (2 * g + half) * apart, each);
                sum[2 * g + half] = of_pairs(sum[2 * g + half], each, ones);
            }
        }
    for (int64_t column = 0; column < columns; column += TILE) {
        float each[ALL];
        store(each, sum[column / TILE]);
        for (int64_t i = 0; i < TILE && column + i < columns; i++)
            sums[column + i] += each[i];
    }
}

/* The outputs 12 first to 12 last - 1 of the gradient (N, K) of a weight, y (T, N)^T x (T, K), whose rows are `y_stride` and
 * `x_stride` apart, and of that of the bias (N), the sum of y. They are added to.
 */
void weights_bf16_gradient(const uint16_t *y, const uint16_t *x, float *of_weight, float *of_bias, int64_t first,
                           int64_t last, int64_t total, int64_t y_stride, int64_t x_stride, int64_t outputs, int64_t inputs,
                           char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    int64_t begin = first * TILE, end = smallest(last * TILE, outputs);
    Pair *left = cut(&space, 4 * (CHUNK * TILE + ALL) * (last - first + 1)), *right = cut(&space, 4 * CHUNK * inputs);
    for (int64_t row = 0; row < total; row += 2 * CHUNK) {
        int64_t rows = smallest(2 * CHUNK, total - row), pairs = (rows + 1) / 2, apart = pairs * TILE + ALL;
        const uint16_t *ys = y + row * y_stride, *xs = x + row * x_stride;
        for (int64_t k = 0; k < inputs; k += PANEL) pack_right(right + k * pairs, xs + k, x_stride, rows);
        for (int64_t n = begin; n < end; n += GROUPS * 2 * TILE)
            pack_left(left + (n - begin) / TILE * apart, apart, ys + n, y_stride, rows, smallest(GROUPS * 2 * TILE, end - n), of_bias + n);
        for (int64_t block = 0; block < inputs; block += BLOCK)
        for (int64_t n = begin; n < end; n += TILE)
            for (int64_t k = block; k < inputs && k < block + BLOCK; k += PANEL) {
                float *to = of_weight + n * inputs + k;
                int64_t valid = smallest(TILE, end - n);
                for (int r = 0; r < valid; r++) __builtin_prefetch(to + r * inputs, 1), __builtin_prefetch(to + r * inputs + ALL, 1);
                Vector sums[TILE][2] = {{{0}}};
                const Pair *a = left + (n - begin) / TILE * apart, *b = right + k * pairs;
#pragma GCC unroll 2
                for (int64_t p = 0; p < pairs; p++, a += TILE, b += PANEL) {
                    Unsigned one = load_pairs(b), two = load_pairs(b + ALL);
#pragma GCC unroll 12
                    for (int r = 0; r < TILE; r++) {
                        sums[r][0] = of_pairs(sums[r][0], everywhere(a[r]), one);
                        sums[r][1] = of_pairs(sums[r][1], everywhere(a[r]), two);
                    }
                }
#pragma GCC unroll 12
                for (int r = 0; r < TILE; r++)
                    if (r < valid) {
                        float *each = to + r * inputs;
                        store(each, load(each) + sums[r][0]);
                        store(each + ALL, load(each + ALL) + sums[r][1]);
                    }
            }
    }
}
#endif
