/* The weights of a linear layer, packed in bfloat16 for the products of `products_bf16.h`, and their gradient.
 *
 * T rows, N outputs and K inputs, multiples of 32.
 */
#ifdef __AVX512BF16__
#include "products_bf16.h"

#define CHUNK 256 /* pairs of rows whose products are summed at once */
#define BLOCK 256 /* inputs whose right factors stay in the second cache */
#define GROUPS 8 /* of 12 columns that are packed at once: three strips */

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
    return 4 * (CHUNK * TILE + ALL) * (outputs / TILE + 2 * GROUPS) + 4 * CHUNK * inputs + 3 * 64;
}

/* A matrix in bfloat16 by its first number, and how far apart its rows, and its strips of 32 columns, are. */
typedef struct {
    const uint16_t *first;
    int64_t row, strip;
} Strips;

/* 32 numbers of a row of a strip, or zeros behind the last of its `rows`. */
static inline __m512i load_strip(const uint16_t *strip, int64_t stride, int64_t row, int64_t rows) {
    return row < rows ? _mm512_loadu_si512(strip + row * stride) : _mm512_setzero_si512();
}

/* Pairs of a number of a and one of b, of the 16 from `first` on. */
static inline Unsigned pairs_of_rows(__m512i a, __m512i b, int first) {
    Unsigned places;
    for (int i = 0; i < ALL; i++) places[i] = (first + i) % 32 | (32 + (first + i) % 32) << 16;
    return (Unsigned)_mm512_permutex2var_epi16(a, (__m512i)places, b);
}

/* Of two neighbouring vectors the 32 numbers from `first` of the first on. */
static inline __m512i numbers_from(__m512i a, __m512i b, int first) {
    Unsigned places;
    for (int i = 0; i < ALL; i++) places[i] = first + 2 * i | (first + 2 * i + 1) << 16;
    return _mm512_permutex2var_epi16(a, (__m512i)places, b);
}

/* right (rows / 2, 32) = pairs of rows of a strip. */
static void pack_right(Pair *right, const uint16_t *strip, int64_t stride, int64_t rows) {
    for (int64_t row = 0; row < rows; row += 2, right += PANEL) {
        __m512i a = load_strip(strip, stride, row, rows), b = load_strip(strip, stride, row + 1, rows);
        store_pairs(right, pairs_of_rows(a, b, 0)), store_pairs(right + ALL, pairs_of_rows(a, b, ALL));
    }
}

/* left (8) = pairs (rows / 2, 12) of rows of y for each 12 of 96 columns, `apart` from one another; zeros for columns of which
 * y has none from its strip `strips` on. The sum of each column is written to `sums` (96).
 */
static void pack_left(Pair *left, int64_t apart, Strips y, int64_t strips, int64_t rows, float *sums) {
    const Unsigned ones = everywhere(0x3f803f80); /* two ones */
    Vector sum[GROUPS] = {{0}};
    for (int64_t row = 0; row < rows; row += 2, left += TILE) {
        __m512i a[3], b[3];
        for (int i = 0; i < 3; i++) {
            a[i] = load_strip(y.first + i * y.strip, y.row, row, i < strips ? rows : 0);
            b[i] = load_strip(y.first + i * y.strip, y.row, row + 1, i < strips ? rows : 0);
        }
#pragma GCC unroll 8
        for (int g = 0; g < GROUPS; g++) {
            int i = g * TILE / STRIP, first = g * TILE % STRIP;
            Unsigned each;
            if (first + TILE <= STRIP) each = pairs_of_rows(a[i], b[i], first);
            else each = pairs_of_rows(numbers_from(a[i], a[i + 1], first), numbers_from(b[i], b[i + 1], first), 0);
            store_pairs(left + g * apart, each); /* four more than belong there, which the next row overwrites */
            sum[g] = of_pairs(sum[g], each, ones);
        }
    }
    for (int column = 0; column < GROUPS * TILE; column++) sums[column] = sum[column / TILE][column % TILE];
}

/* The outputs 12 first to 12 last - 1 of the gradient (N, K) of a weight, y (T, N)^T x (T, K), and of that of the bias (N), the
 * sum of y, are added to. Rows of y and x, and their strips of 32 columns, are as far apart as is said.
 */
void weights_bf16_gradient(const uint16_t *y, const uint16_t *x, float *of_weight, float *of_bias, int64_t first,
                           int64_t last, int64_t total, int64_t y_row, int64_t y_strip, int64_t x_row, int64_t x_strip,
                           int64_t outputs, int64_t inputs, char *room) {
    char *space = (char *)filled((intptr_t)room, 64);
    int64_t begin = first * TILE, end = smallest(last * TILE, outputs), packed = first / GROUPS * GROUPS * TILE;
    Pair *left = cut(&space, 4 * (CHUNK * TILE + ALL) * (last - first + 2 * GROUPS - 1)), *right = cut(&space, 4 * CHUNK * inputs);
    for (int64_t row = 0; row < total; row += 2 * CHUNK) {
        int64_t rows = smallest(2 * CHUNK, total - row), pairs = (rows + 1) / 2, apart = pairs * TILE + ALL;
        for (int64_t k = 0; k < inputs; k += PANEL)
            pack_right(right + k * pairs, x + row * x_row + k / STRIP * x_strip, x_row, rows);
        for (int64_t n = packed; n < end; n += GROUPS * TILE) {
            float sums[GROUPS * TILE];
            Strips from = {y + row * y_row + n / STRIP * y_strip, y_row, y_strip};
            pack_left(left + (n - packed) / TILE * apart, apart, from, (outputs - n) / STRIP, rows, sums);
            for (int64_t i = n < begin ? begin : n; i < end && i < n + GROUPS * TILE; i++) of_bias[i] += sums[i - n];
        }
        for (int64_t block = 0; block < inputs; block += BLOCK)
        for (int64_t n = begin; n < end; n += TILE)
            for (int64_t k = block; k < inputs && k < block + BLOCK; k += PANEL) {
                float *to = of_weight + n * inputs + k;
                int64_t valid = smallest(TILE, end - n);
                for (int r = 0; r < valid; r++) __builtin_prefetch(to + r * inputs, 1), __builtin_prefetch(to + r * inputs + ALL, 1);
                Vector sums[TILE][2] = {{{0}}};
                const Pair *a = left + (n - packed) / TILE * apart, *b = right + k * pairs;
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
