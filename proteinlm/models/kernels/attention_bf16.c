/* Self-attention in bfloat16, and its gradient, by the processor's own products of numbers in bfloat16.
 *
 * One head of one protein at a time. As in attention.c, queries lie side by side in the lanes, the softmax is in float32, and
 * the forward pass keeps two numbers of each query. Scores are held for a few queries at a time: memory grows with the length
 * of a protein, not with its square.
 *
 * Of `joint` (T, N, 3, D), queries, keys and values; L tokens of a protein; W, the head dimension filled up with zeros to a
 * multiple of 16; P, the number of tokens or of queries, filled up to a multiple of 32.
 */
#include <math.h>
#include <stddef.h>

#ifdef __AVX512BF16__
#include "bf16.h"

#define QUERIES 32 /* whose scores are held at once */
#define PARTS (QUERIES / ALL)
#define KEYS 4 /* whose scores are computed at once: independent sums keep the processor busy */

typedef struct {
    int64_t heads, dim, wide; /* N, D, W */
    const float *turns;       /* (T, D / 2, 2) cosines and sines, or null */
} Shape;

/* exp(x), enough for a weight that is rounded to bfloat16. */
static inline Vector weight_of(Vector x) { return power_of_two(x * 1.44269504088896341f); }

/* The rows of a tensor that a protein has: those of `places` (length), or if it is null those from `begin` on. */
typedef struct {
    const int64_t *places;
    int64_t begin, length;
} Rows;

/* The rows (`length`, W) of `from`, which are `stride` apart, and zeros up to P; turned by `turns` (T, D / 2, 2), unless it is
 * null.
 */
static void gather(uint16_t *to, const uint16_t *from, int64_t stride, Rows rows, const Shape *shape, const float *turns) {
    int64_t dim = shape->dim, wide = shape->wide;
    for (int64_t i = 0; i < rows.length; i++, to += wide) {
        int64_t row = rows.places ? rows.places[i] : rows.begin + i;
        memcpy(to, from + row * stride, dim * sizeof(uint16_t));
        memset(to + dim, 0, (wide - dim) * sizeof(uint16_t));
        if (turns) {
            float each[ALL];
            for (int64_t d = 0; d < dim; d += ALL) {
                int64_t count = dim - d < ALL ? dim - d : ALL;
                store(each, load_halves(to + d));
                turn(each, turns + row * dim + d, count, 1);
                store_halves(to + d, load(each));
            }
        }
    }
    memset(to, 0, (filled(rows.length, QUERIES) - rows.length) * wide * sizeof(uint16_t));
}

/* The inverse of `gather` for a gradient: `each` (`length`, W), times `scale`, is turned back, rounded and written. */
static void scatter(uint16_t *to, float *each, int64_t stride, Rows rows, const Shape *shape, const float *turns,
                    float scale) {
    int64_t dim = shape->dim;
    for (int64_t i = 0; i < rows.length; i++, each += shape->wide) {
        int64_t row = rows.places ? rows.places[i] : rows.begin + i, d = 0;
        if (turns) turn(each, turns + row * dim, dim, -1);
        for (; d + ALL <= dim; d += ALL) store_halves(to + row * stride + d, scale * load(each + d));
        if (d < dim) {
            Halves rest = halves(scale * load(each + d));
            memcpy(to + row * stride + d, &rest, (dim - d) * sizeof(uint16_t));
        }
    }
}

/* Columns (W / 2, P) of pairs of rows (P, W): a pair has two neighbours of a row. */
static void columns_of(Pair *columns, const uint16_t *rows, int64_t padded, int64_t wide) {
    const Pair *pairs = (const Pair *)rows;
    for (int64_t i = 0; i < padded; i += ALL) {
        int64_t d = 0;
        for (; d + ALL <= wide / 2; d += ALL)
            transpose_block(columns + d * padded + i, padded, pairs + i * (wide / 2) + d, wide / 2);
        if (d < wide / 2) { /* 8 pairs are left */
            Pair few[ALL * ALL] = {0}, turned[ALL * ALL];
            for (int q = 0; q < ALL; q++) memcpy(few + q * ALL, pairs + (i + q) * (wide / 2) + d, ALL / 2 * sizeof(Pair));
            transpose_block(turned, ALL, few, ALL);
            for (int c = 0; c < ALL / 2; c++) store_pairs(columns + (d + c) * padded + i, load_pairs(turned + c * ALL));
        }
    }
}

/* Pairs (P / 2, W) of rows (P, W): a pair has one number of each of two rows. */
static void rows_in_pairs(Pair *pairs, const uint16_t *rows, int64_t padded, int64_t wide) {
    for (int64_t i = 0; i < padded; i += 2, rows += 2 * wide, pairs += wide)
        for (int64_t d = 0; d < wide; d += ALL) {
            Halves a, b;
            memcpy(&a, rows + d, sizeof a);
            memcpy(&b, rows + wide + d, sizeof b);
            store_pairs(pairs + d, __builtin_convertvector(a, Unsigned) | __builtin_convertvector(b, Unsigned) << 16);
        }
}

/* sums[key][part] = the products of `KEYS` rows (W) with 32 columns of (W / 2, P). */
static inline __attribute__((always_inline)) void products(Vector sums[KEYS][PARTS], const uint16_t *rows,
                                                           const Pair *columns, int64_t padded, int64_t wide) {
    const Pair *pairs = (const Pair *)rows;
    for (int key = 0; key < KEYS; key++)
        for (int part = 0; part < PARTS; part++) sums[key][part] = (Vector){0};
    for (int64_t d = 0; d < wide / 2; d++) {
        Unsigned column[PARTS];
        for (int part = 0; part < PARTS; part++) column[part] = load_pairs(columns + d * padded + part * ALL);
        for (int key = 0; key < KEYS; key++) {
            Unsigned row = everywhere(pairs[key * (wide / 2) + d]);
            for (int part = 0; part < PARTS; part++) sums[key][part] = of_pairs(sums[key][part], row, column[part]);
        }
    }
}

/* rows (32, W) = the sum over `length` keys of weights (L / 2, 32) times others (L / 2, W), both in pairs of keys, each row
 * times its `scale` (32).
 */
static inline void weighted_sum(float *rows, const Pair *weights, const Pair *others, int64_t length, int64_t wide,
                                const Vector scale[PARTS]) {
    for (int64_t d = 0; d < wide; d += ALL) {
        float columns[PARTS][ALL * ALL];
        for (int c = 0; c < ALL; c += 8) {
            Vector sums[8][PARTS];
            for (int k = 0; k < 8; k++)
                for (int part = 0; part < PARTS; part++) sums[k][part] = (Vector){0};
            for (int64_t pair = 0; pair < (length + 1) / 2; pair++) {
                Unsigned weight[PARTS];
                for (int part = 0; part < PARTS; part++) weight[part] = load_pairs(weights + pair * QUERIES + part * ALL);
                for (int k = 0; k < 8; k++) {
                    Unsigned other = everywhere(others[pair * wide + d + c + k]);
                    for (int part = 0; part < PARTS; part++) sums[k][part] = of_pairs(sums[k][part], other, weight[part]);
                }
            }
            for (int k = 0; k < 8; k++)
                for (int part = 0; part < PARTS; part++) store(columns[part] + (c + k) * ALL, scale[part] * sums[k][part]);
        }
        for (int part = 0; part < PARTS; part++)
            transpose_block((Pair *)rows + part * ALL * wide + d, wide, (const Pair *)columns[part], ALL);
    }
}

/* rows (L, W) += weights (L, 32) times others (16, W), which are in pairs of queries; `count` vectors of a row at once. */
static inline __attribute__((always_inline)) void add_products(float *rows, const uint16_t *weights, const Pair *others,
                                                               int64_t length, int64_t wide, int count) {
    const Pair *pairs = (const Pair *)weights;
    for (int64_t key = 0; key < length; key += KEYS)
        for (int64_t d = 0; d < wide; d += count * ALL) {
            Vector sums[KEYS][4];
            for (int k = 0; k < KEYS; k++)
                for (int c = 0; c < count; c++) sums[k][c] = load(rows + (key + k) * wide + d + c * ALL);
            for (int64_t q = 0; q < QUERIES / 2; q++) {
                Unsigned other[4];
                for (int c = 0; c < count; c++) other[c] = load_pairs(others + q * wide + d + c * ALL);
                for (int k = 0; k < KEYS; k++) {
                    Unsigned weight = everywhere(pairs[(key + k) * (QUERIES / 2) + q]);
                    for (int c = 0; c < count; c++) sums[k][c] = of_pairs(sums[k][c], weight, other[c]);
                }
            }
            for (int k = 0; k < KEYS; k++)
                for (int c = 0; c < count; c++) store(rows + (key + k) * wide + d + c * ALL, sums[k][c]);
        }
}

static void add_rows_of_product(float *rows, const uint16_t *weights, const Pair *others, int64_t length, int64_t wide) {
    if (wide % 64 == 0)
        add_products(rows, weights, others, length, wide, 4);
    else if (wide % 32 == 0)
        add_products(rows, weights, others, length, wide, 2);
    else
        add_products(rows, weights, others, length, wide, 1);
}

/* Floats of the working space of `attention_bf16_forward`, for proteins of up to `length` tokens. */
int64_t attention_bf16_forward_space(int64_t length, int64_t dim) {
    int64_t wide = filled(dim, 16), padded = filled(length, QUERIES);
    return padded * (2 * wide + QUERIES + QUERIES / 2) + QUERIES * wide + 16 * 8;
}

/* Floats of the working space of `attention_bf16_backward`. */
int64_t attention_bf16_backward_space(int64_t length, int64_t dim) {
    int64_t wide = filled(dim, 16), padded = filled(length, QUERIES);
    return padded * (7 * wide + QUERIES + QUERIES / 2 + 1) + 16 * 16;
}

/* Attention of the proteins first to last - 1, which end at token ends[b]. The queries are all tokens, or if it is not null
 * those of `wanted` (K), which rise; asked[b] is where those of a protein end. `output` (K, N, D), and `kept` (2, N, K), the
 * largest score of each query and the inverse of its sum.
 */
void attention_bf16_forward(const uint16_t *joint, const float *turns, const int64_t *wanted, uint16_t *output, float *kept,
                            const int64_t *ends, const int64_t *asked, int64_t first, int64_t last, int64_t total,
                            int64_t heads, int64_t dim, float scale, char *room) {
    Shape shape = {heads, dim, filled(dim, 16), turns};
    int64_t wide = shape.wide, stride = heads * 3 * dim;
    for (int64_t protein = first; protein < last; protein++) {
        int64_t begin = protein ? ends[protein - 1] : 0, length = ends[protein] - begin, padded = filled(length, QUERIES);
        int64_t asked_before = protein ? asked[protein - 1] : 0, queries = asked[protein] - asked_before;
        int64_t columns_wide = filled(queries, QUERIES);
        Rows tokens = {NULL, begin, length};
        Rows of_queries = {wanted ? wanted + asked_before : NULL, begin, queries};
        char *space = (char *)filled((intptr_t)room, 64);
        uint16_t *rows = cut(&space, 2 * padded * wide), *key = cut(&space, 2 * padded * wide);
        Pair *columns = cut(&space, 2 * padded * wide), *value = cut(&space, 2 * padded * wide);
        float *scores = cut(&space, 4 * padded * QUERIES), *sums = cut(&space, 4 * QUERIES * wide);
        Pair *weights = cut(&space, 2 * padded * QUERIES);
        for (int64_t head = 0; head < heads; head++) {
            const uint16_t *at = joint + head * 3 * dim;
            gather(rows, at + 2 * dim, stride, tokens, &shape, NULL);
            rows_in_pairs(value, rows, padded, wide);
            gather(rows, at, stride, of_queries, &shape, turns);
            columns_of(columns, rows, columns_wide, wide);
            gather(key, at + dim, stride, tokens, &shape, turns);
            float *largest = kept + head * total + asked_before, *inverse = largest + heads * total;
            for (int64_t i = 0; i < queries; i += QUERIES) {
                Vector most[PARTS], sum[PARTS];
                for (int part = 0; part < PARTS; part++) most[part] = all(-3e38f), sum[part] = (Vector){0};
                for (int64_t j = 0; j < length; j += KEYS) {
                    Vector products_of[KEYS][PARTS];
                    products(products_of, key + j * wide, columns + i, columns_wide, wide);
                    for (int k = 0; k < KEYS; k++)
                        for (int part = 0; part < PARTS; part++) {
                            Vector score = scale * products_of[k][part];
                            if (j + k < length) most[part] = larger(score, most[part]);
                            store(scores + (j + k) * QUERIES + part * ALL, score);
                        }
                }
                for (int64_t j = 0; j < length; j += 2)
                    for (int part = 0; part < PARTS; part++) {
                        const float *score = scores + j * QUERIES + part * ALL;
                        Vector a = weight_of(load(score) - most[part]), b = {0};
                        if (j + 1 < length) b = weight_of(load(score + QUERIES) - most[part]);
                        sum[part] += a + b;
                        store_pairs(weights + j / 2 * QUERIES + part * ALL, paired(a, b));
                    }
                float of_block[2][QUERIES];
                for (int part = 0; part < PARTS; part++) {
                    sum[part] = 1.0f / sum[part];
                    store(of_block[0] + part * ALL, most[part]);
                    store(of_block[1] + part * ALL, sum[part]);
                }
                int64_t count = queries - i < QUERIES ? queries - i : QUERIES;
                memcpy(largest + i, of_block[0], count * sizeof(float));
                memcpy(inverse + i, of_block[1], count * sizeof(float));
                weighted_sum(sums, weights, value, length, wide, sum);
                Rows of_sums = {NULL, asked_before + i, count};
                scatter(output + head * dim, sums, heads * dim, of_sums, &shape, NULL, 1);
            }
        }
    }
}

/* The gradient (T, N, 3, D) of `joint`, from that of the output, `upstream` (K, N, D). It must be zero before where there are
 * queries that are not wanted.
 */
void attention_bf16_backward(const uint16_t *joint, const float *turns, const int64_t *wanted, const uint16_t *output,
                             const float *kept, const uint16_t *upstream, uint16_t *gradient, const int64_t *ends,
                             const int64_t *asked, int64_t first, int64_t last, int64_t total, int64_t heads, int64_t dim,
                             float scale, char *room) {
    Shape shape = {heads, dim, filled(dim, 16), turns};
    int64_t wide = shape.wide, stride = heads * 3 * dim;
    const Vector ones[PARTS] = {all(1), all(1)};
    for (int64_t protein = first; protein < last; protein++) {
        int64_t begin = protein ? ends[protein - 1] : 0, length = ends[protein] - begin, padded = filled(length, QUERIES);
        int64_t asked_before = protein ? asked[protein - 1] : 0, queries = asked[protein] - asked_before;
        int64_t columns_wide = filled(queries, QUERIES);
        Rows tokens = {NULL, begin, length}, outputs = {NULL, asked_before, queries};
        Rows of_queries = {wanted ? wanted + asked_before : NULL, begin, queries};
        char *space = (char *)filled((intptr_t)room, 64);
        int64_t size = 2 * padded * wide; /* bytes of half the numbers */
        uint16_t *rows = cut(&space, size), *key = cut(&space, size), *value = cut(&space, size);
        Pair *query_columns = cut(&space, size), *above_columns = cut(&space, size);
        Pair *query_pairs = cut(&space, size), *key_pairs = cut(&space, size), *above_pairs = cut(&space, size);
        float *of_query = cut(&space, 2 * size), *of_key = cut(&space, 2 * size), *of_value = cut(&space, 2 * size);
        uint16_t *weights = cut(&space, 2 * padded * QUERIES), *of_scores = cut(&space, 2 * padded * QUERIES);
        Pair *of_scores_pairs = cut(&space, 2 * padded * QUERIES);
        float *inner = cut(&space, 4 * padded);
        for (int64_t head = 0; head < heads; head++) {
            const uint16_t *at = joint + head * 3 * dim;
            gather(rows, at, stride, of_queries, &shape, turns);
            columns_of(query_columns, rows, columns_wide, wide);
            rows_in_pairs(query_pairs, rows, columns_wide, wide);
            gather(key, at + dim, stride, tokens, &shape, turns);
            rows_in_pairs(key_pairs, key, padded, wide);
            gather(value, at + 2 * dim, stride, tokens, &shape, NULL);
            gather(rows, output + head * dim, heads * dim, outputs, &shape, NULL);
            uint16_t *above = (uint16_t *)of_query; /* until the gradient takes its place */
            gather(above, upstream + head * dim, heads * dim, outputs, &shape, NULL);
            for (int64_t i = 0; i < columns_wide; i++) {
                Vector sum = {0};
                for (int64_t d = 0; d < wide; d += ALL) sum += load_halves(above + i * wide + d) * load_halves(rows + i * wide + d);
                inner[i] = _mm512_reduce_add_ps((__m512)sum);
            }
            columns_of(above_columns, above, columns_wide, wide);
            rows_in_pairs(above_pairs, above, columns_wide, wide);
            memset(of_key, 0, 4 * padded * wide);
            memset(of_value, 0, 4 * padded * wide);
            const float *largest = kept + head * total + asked_before, *inverse = largest + heads * total;
            for (int64_t i = 0; i < queries; i += QUERIES) {
                float of_block[2][QUERIES] = {{0}};
                int64_t count = queries - i < QUERIES ? queries - i : QUERIES;
                memcpy(of_block[0], largest + i, count * sizeof(float));
                memcpy(of_block[1], inverse + i, count * sizeof(float));
                for (int64_t j = 0; j < length; j += KEYS) {
                    Vector weight[KEYS][PARTS], of_score[KEYS][PARTS];
                    products(weight, key + j * wide, query_columns + i, columns_wide, wide);
                    for (int k = 0; k < KEYS; k++)
                        for (int part = 0; part < PARTS; part++) {
                            Vector most = load(of_block[0] + part * ALL), over = load(of_block[1] + part * ALL);
                            weight[k][part] = j + k < length ? weight_of(scale * weight[k][part] - most) * over : (Vector){0};
                        }
                    products(of_score, value + j * wide, above_columns + i, columns_wide, wide);
                    for (int k = 0; k < KEYS; k++)
                        for (int part = 0; part < PARTS; part++) {
                            int64_t to = (j + k) * QUERIES + part * ALL;
                            of_score[k][part] = weight[k][part] * (of_score[k][part] - load(inner + i + part * ALL));
                            store_halves(weights + to, weight[k][part]);
                            store_halves(of_scores + to, of_score[k][part]);
                        }
                    for (int k = 0; k < KEYS; k += 2)
                        for (int part = 0; part < PARTS; part++)
                            store_pairs(of_scores_pairs + (j + k) / 2 * QUERIES + part * ALL,
                                        paired(of_score[k][part], of_score[k + 1][part]));
                }
                weighted_sum(of_query + i * wide, of_scores_pairs, key_pairs, length, wide, ones);
                add_rows_of_product(of_value, weights, above_pairs + i / 2 * wide, length, wide);
                add_rows_of_product(of_key, of_scores, query_pairs + i / 2 * wide, length, wide);
            }
            uint16_t *to = gradient + head * 3 * dim;
            scatter(to, of_query, stride, of_queries, &shape, turns, scale);
            scatter(to + dim, of_key, stride, tokens, &shape, turns, scale);
            scatter(to + 2 * dim, of_value, stride, tokens, &shape, NULL, 1);
        }
    }
}
#endif
