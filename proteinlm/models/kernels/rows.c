/* Sums of rows of a matrix that are known to be of one kind. */
#include "vectors.h"

#define VECTORS 4 /* of a row that are summed at once */

static inline __attribute__((always_inline)) Vector read(const void *x, int64_t index, int64_t is_bf16) {
    return is_bf16 ? load_halves((const uint16_t *)x + index) : load((const float *)x + index);
}

/* sums (U, W), rows first to last - 1, of x (T, W): row u is the sum of the rows order[ends[u - 1]] to order[ends[u] - 1]. Both
 * are in bfloat16 or in float32, and W is a multiple of four vectors.
 */
void rows_sum(const void *x, void *sums, const int64_t *order, const int64_t *ends, int64_t first, int64_t last, int64_t wide,
              int64_t is_bf16) {
    for (int64_t u = first; u < last; u++)
        for (int64_t i = 0; i < wide; i += VECTORS * LANES) {
            Vector sum[VECTORS] = {{0}};
            for (int64_t row = u ? ends[u - 1] : 0; row < ends[u]; row++)
                for (int v = 0; v < VECTORS; v++) sum[v] += read(x, order[row] * wide + i + v * LANES, is_bf16);
            for (int v = 0; v < VECTORS; v++) {
                int64_t to = u * wide + i + v * LANES;
                if (is_bf16) store_halves((uint16_t *)sums + to, sum[v]);
                else store((float *)sums + to, sum[v]);
            }
        }
}
