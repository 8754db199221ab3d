/* Products of matrices for a few rows at a time, with sums in float32, of numbers as `numbers_bf16.h` or `numbers_fp32.h` has
 * them.
 *
 * A sum of 12 rows and 32 columns fills the registers. Its right factor is packed in panels of 32 columns, of which two vectors
 * of words are read for each word of the left factor. The left factor comes in strips (columns / S, rows, S) of S = `STRIP`
 * numbers: a strip is 64 bytes wide, a line of the cache, and lies in one piece, which the processor fetches ahead.
 */
#pragma once

#define TILE 12 /* rows of a sum */
#define PANEL 32 /* columns of a sum, and of a panel */
#define ROWS 96 /* of a block, the least that a thread takes */
#define TOGETHER (2 * ROWS) /* computed at once */
#define STRIP (16 * PER_WORD) /* columns of a strip */
#define APART (TOGETHER * STRIP) /* numbers from a strip of rows that are computed at once to the next */

/* What is done with 32 numbers of a row of a product: two vectors, which belong at `row` and `column`. */
typedef void Finish(const void *to, int64_t row, int64_t column, Vector a, Vector b);

/* It asks for what `Finish` is going to need, while the product is computed: by itself the processor would ask too late. */
typedef void Prepare(const void *to, int64_t row, int64_t column);

/* sums = the products of `count` rows, 12 or fewer, of strips, `apart` from one another, with a panel (size, 32) of words.
 * `next` is asked for, 64 bytes for each four words of a row.
 */
INLINE void tile_of_rows(Vector sums[TILE][2], const Number *rows, int64_t apart, const Word *panel, int64_t size,
                         const char *next, int count) {
    for (int r = 0; r < count; r++) sums[r][0] = sums[r][1] = (Vector){0};
    for (int64_t k = 0; k < size; k += STRIP, rows += apart) {
        const Word *each = (const Word *)rows;
        for (int quarter = 0; quarter < 4; quarter++, each += 4, panel += 4 * PANEL, next += 64) {
            __builtin_prefetch(next, 0, 2);
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++) {
                Words first = load_words(panel + p * PANEL), second = load_words(panel + p * PANEL + ALL);
#pragma GCC unroll 12
                for (int r = 0; r < count; r++) {
                    Words word = spread(each[r * 16 + p]);
                    sums[r][0] = add_products(sums[r][0], word, first);
                    sums[r][1] = add_products(sums[r][1], word, second);
                }
            }
        }
    }
}

/* `finish` `count` rows from `row` on of what comes of x times a panel. Rows that there are not are read, and not finished. */
INLINE void finish_rows(const Number *x, int64_t apart, const Word *panel, int64_t row, int64_t rows, int64_t column,
                        int64_t size, Prepare prepare, Finish finish, const void *to, int count) {
    int64_t words = size / PER_WORD;
    Vector sums[TILE][2];
    for (int r = 0; r < count; r++) prepare(to, row + r, column);
    const char *next = (const char *)(panel + words * PANEL) + row / TILE * words * 8; /* a sixteenth of a panel */
    tile_of_rows(sums, x + row * STRIP, apart, panel, size, next, count);
#pragma GCC unroll 12
    for (int r = 0; r < count; r++)
        if (row + r < rows) finish(to, row + r, column, sums[r][0], sums[r][1]);
}

/* `finish` what comes of x, strips (size / S, rows, S) that are `apart`, times panels (columns / 32, size, 32) of words, of
 * which there are `size` in a row. Up to 11 more rows are read than there are.
 */
INLINE void multiply(const Number *x, int64_t apart, const Word *panels, int64_t rows, int64_t columns, int64_t size,
                     Prepare prepare, Finish finish, const void *to) {
    for (int64_t column = 0; column < columns; column += PANEL, panels += size / PER_WORD * PANEL)
        for (int64_t row = 0; row < rows; row += TILE)
            finish_rows(x, apart, panels, row, rows, column, size, prepare, finish, to, TILE);
}

/* Where a product goes: `to` (T, wide), numbers or floats, with `bias` (wide) and `residual` (T, wide) added, unless null. */
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

INLINE void store_row(const void *output, int64_t row, int64_t column, Vector a, Vector b) {
    const Output *at = output;
    if (at->bias) a += load(at->bias + column), b += load(at->bias + column + ALL);
    store_numbers((Number *)at->to + row * at->wide + column, ALL, a, b);
}

INLINE void add_row(const void *output, int64_t row, int64_t column, Vector a, Vector b) {
    const Output *at = output;
    int64_t place = row * at->wide + column;
    if (at->bias) a += load(at->bias + column), b += load(at->bias + column + ALL);
    if (at->residual) a += load(at->residual + place), b += load(at->residual + place + ALL);
    store((float *)at->to + place, a), store((float *)at->to + place + ALL, b);
}
