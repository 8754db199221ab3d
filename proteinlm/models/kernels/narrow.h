/* Products for a few rows at a time, in float32.
 *
 * H hidden size, a multiple of 16.
 */
#include "norm.h"

#define ROWS 96 /* computed at once */
#define PIECE 512 /* rows whose sums are kept apart, so that threads do not change them */
#define GAP 16 /* between rows of the working space, which would else share a few places of the nearest cache */
#define PANEL 16 /* columns that are side by side in a packed matrix */
#define TILE_ROWS 6
#define TILE_VECTORS (LANES == 16 ? 4 : 2) /* sums that fill the registers */

/* A matrix by its first number, and how far apart its rows and columns are. */
typedef struct {
    const float *first;
    int64_t row, column;
} Matrix;

/* A matrix (K, n) whose columns come in panels of 16: how far apart rows and panels are. */
typedef struct {
    const float *first;
    int64_t row, panel;
} Panels;

static inline const float *vector_of(Panels b, int64_t vector) {
    return b.first + vector * LANES / PANEL * b.panel + vector * LANES % PANEL;
}

/* `rows` x `vectors` of c, `stride` apart, from the products of a (rows, size) and b (size, vectors); c is added to or written. */
static inline __attribute__((always_inline)) void tile(float *c, int64_t stride, Matrix a, Panels b, int64_t vector, int64_t size,
                                                       int adds, int rows, int vectors) {
    Vector sums[TILE_ROWS][TILE_VECTORS];
    const float *columns[TILE_VECTORS];
    for (int v = 0; v < vectors; v++) columns[v] = vector_of(b, vector + v);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = adds ? load(c + r * stride + v * LANES) : (Vector){0};
    for (int64_t k = 0; k < size; k++) {
        Vector each[TILE_VECTORS];
        for (int v = 0; v < vectors; v++) each[v] = load(columns[v] + k * b.row);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) sums[r][v] += a.first[r * a.row + k * a.column] * each[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(c + r * stride + v * LANES, sums[r][v]);
}

#define ROWS_OF_TILES(count)                                                                                                 \
    static void tiles_##count(float *c, int64_t stride, Matrix a, Panels b, int64_t vector, int64_t rows, int64_t size,      \
                              int adds) {                                                                                    \
        while (rows) {                                                                                                       \
            int64_t taken;                                                                                                   \
            if (rows >= TILE_ROWS) tile(c, stride, a, b, vector, size, adds, taken = TILE_ROWS, count);                      \
            else if (rows >= 4) tile(c, stride, a, b, vector, size, adds, taken = 4, count);                                 \
            else if (rows >= 2) tile(c, stride, a, b, vector, size, adds, taken = 2, count);                                 \
            else tile(c, stride, a, b, vector, size, adds, taken = 1, count);                                                \
            rows -= taken, c += taken * stride, a.first += taken * a.row;                                                    \
        }                                                                                                                    \
    }
ROWS_OF_TILES(1)
ROWS_OF_TILES(2)
#if LANES == 16
ROWS_OF_TILES(3)
ROWS_OF_TILES(4)
#endif

/* c (rows, columns), `stride` apart, = or, if it `adds`, += a (rows, size) times b (size, columns). */
static void multiply(float *c, int64_t stride, Matrix a, Panels b, int64_t rows, int64_t columns, int64_t size, int adds) {
    int64_t vectors = columns / LANES;
    for (int64_t v = 0; v < vectors;) {
        int64_t left = vectors - v;
#if LANES == 16
        if (left >= 4) tiles_4(c + v * LANES, stride, a, b, v, rows, size, adds), v += 4;
        else if (left == 3) tiles_3(c + v * LANES, stride, a, b, v, rows, size, adds), v += 3;
        else
#endif
        if (left >= 2) tiles_2(c + v * LANES, stride, a, b, v, rows, size, adds), v += 2;
        else tiles_1(c + v * LANES, stride, a, b, v, rows, size, adds), v += 1;
    }
}

/* Lay a matrix (size, columns) out in panels in `to` (columns / 16, size, 16). */
static Panels pack(float *to, Matrix from, int64_t size, int64_t columns) {
    for (int64_t j = 0; j < columns; j += PANEL)
        for (int64_t k = 0; k < size; k++) {
            float *each = to + j * size + k * PANEL;
            const float *first = from.first + k * from.row + j * from.column;
            if (from.column == 1) memcpy(each, first, PANEL * sizeof(float));
            else for (int64_t i = 0; i < PANEL; i++) each[i] = first[i * from.column];
        }
    return (Panels){to, PANEL, size * PANEL};
}
