/* Self-attention in bfloat16, and its gradient, by the processor's own products of numbers in bfloat16.
 *
 * One head of one protein at a time. As in attention.c, queries lie side by side in the lanes, the softmax is in float32, and
 * the forward pass keeps two numbers of each query. Scores are held for a few queries at a time: memory grows with the length
 * of a protein, not with its square.
 *
 * T tokens, K of them queries, N heads, head dimension D; L tokens of a protein; W, the head dimension filled up with zeros to a
 * multiple of 16; P, the number of tokens or of queries, filled up to a multiple of 32. Keys and values, (T, N, 2, D), and
 * queries, (K, N, D), may be parts of one tensor (T, N, 3, D): how far apart the heads of either are is said.
 */
#include <math.h>
#include <stddef.h>

#ifdef __AVX512BF16__
#include "bf16.h"

#define PARTS 2 /* vectors of queries whose scores are held at once, or one of them where no more are left */
#define QUERIES (PARTS * ALL)
#define SUMS 8 /* which are computed at once: independent ones keep the processor busy */
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int64_t heads, dim, wide; /* N, D, W */
    const float *turns;       /* (T, D / 2, 2) cosines and sines, or null */
} Shape;


/* The rows of a tensor that a protein has, and the tokens that they are: `places` (length), or if it is null the rows themselves. */
typedef struct {
    const int64_t *places;
    int64_t begin, length;
} Rows;

/* The rows (`length`, W) of `from`, which are `stride` apart, and zeros up to P; turned by `turns` (T, D / 2, 2), unless it is
 * null.
 */
static void gather(uint16_t *to, const uint16_t *from, int64_t stride, int64_t next, Rows rows, const Shape *shape,
                   const float *turns) {
    int64_t dim = shape->dim, wide = shape->wide;
    for (int64_t i = 0; i < rows.length; i++, to += wide) {
        int64_t row = rows.begin + i, token = rows.places ? rows.places[i] : row, d = 0;
        const uint16_t *each = from + row * stride;
        for (; d + ALL <= dim; d += ALL) memcpy(to + d, each + d, ALL * sizeof(uint16_t)), __builtin_prefetch(each + d + next);
        for (; d < wide; d++) to[d] = d < dim ? each[d] : 0;
        if (turns) {
            float turned[ALL];
            for (d = 0; d < dim; d += ALL) {
                int64_t count = dim - d < ALL ? dim - d : ALL;
                store(turned, load_halves(to + d));
                turn(turned, turns + token * dim + d, count, 1);
                store_halves(to + d, load(turned));
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
        int64_t row = rows.begin + i, token = rows.places ? rows.places[i] : row, d = 0;
        if (turns) turn(each, turns + token * dim, dim, -1);
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
            store_pairs(pairs + d, (Unsigned)_mm512_cvtepu16_epi32((__m256i)a) |
                                       (Unsigned)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)b), 16));
        }
}

/* sums[key][part] = the products of `SUMS` / `parts` rows (W) with `parts` times 16 columns of (W / 2, P). */
INLINE void products(Vector sums[SUMS][PARTS], const uint16_t *rows, const Pair *columns, int64_t padded, int64_t wide,
                     int parts) {
    const Pair *pairs = (const Pair *)rows;
    for (int key = 0; key < SUMS / parts; key++)
        for (int part = 0; part < parts; part++) sums[key][part] = (Vector){0};
    for (int64_t d = 0; d < wide / 2; d++) {
        Unsigned column[PARTS];
        for (int part = 0; part < parts; part++) column[part] = load_pairs(columns + d * padded + part * ALL);
        for (int key = 0; key < SUMS / parts; key++) {
            Unsigned row = everywhere(pairs[key * (wide / 2) + d]);
            for (int part = 0; part < parts; part++) sums[key][part] = of_pairs(sums[key][part], row, column[part]);
        }
    }
}

/* rows (Q, W) = the sum over `length` keys of weights (L / 2, Q) times others (L / 2, W), both in pairs of keys, each row times
 * its `scale` (Q), of Q = 16 `parts` queries.
 */
INLINE void weighted_sum(float *rows, const Pair *weights, const Pair *others, int64_t length, int64_t wide,
                         const Vector scale[PARTS], int parts) {
    for (int64_t d = 0; d < wide; d += ALL) {
        float columns[PARTS][ALL * ALL];
        for (int c = 0; c < ALL; c += 8) {
            Vector sums[8][PARTS];
            for (int k = 0; k < 8; k++)
                for (int part = 0; part < parts; part++) sums[k][part] = (Vector){0};
            for (int64_t pair = 0; pair < (length + 1) / 2; pair++) {
                Unsigned weight[PARTS];
                for (int part = 0; part < parts; part++) weight[part] = load_pairs(weights + (pair * parts + part) * ALL);
                for (int k = 0; k < 8; k++) {
                    Unsigned other = everywhere(others[pair * wide + d + c + k]);
                    for (int part = 0; part < parts; part++) sums[k][part] = of_pairs(sums[k][part], other, weight[part]);
                }
            }
            for (int k = 0; k < 8; k++)
                for (int part = 0; part < parts; part++) store(columns[part] + (c + k) * ALL, scale[part] * sums[k][part]);
        }
        for (int part = 0; part < parts; part++)
            transpose_block((Pair *)rows + part * ALL * wide + d, wide, (const Pair *)columns[part], ALL);
    }
}

#define KEYS 4 /* whose rows are added to at once */

/* rows (L, W) += weights (L, Q) times others (Q / 2, W), which are in pairs of queries, of Q = 16 `parts` queries; `count`
 * vectors of a row at once.
 */
INLINE void add_products(float *rows, const uint16_t *weights, const Pair *others, int64_t length, int64_t wide, int parts,
                         int count) {
    const Pair *pairs = (const Pair *)weights;
    for (int64_t key = 0; key < length; key += KEYS)
        for (int64_t d = 0; d < wide; d += count * ALL) {
            Vector sums[KEYS][4];
            for (int k = 0; k < KEYS; k++)
                for (int c = 0; c < count; c++) sums[k][c] = load(rows + (key + k) * wide + d + c * ALL);
            for (int64_t q = 0; q < parts * ALL / 2; q++) {
                Unsigned other[4];
                for (int c = 0; c < count; c++) other[c] = load_pairs(others + q * wide + d + c * ALL);
                for (int k = 0; k < KEYS; k++) {
                    Unsigned weight = everywhere(pairs[(key + k) * (parts * ALL / 2) + q]);
                    for (int c = 0; c < count; c++) sums[k][c] = of_pairs(sums[k][c], weight, other[c]);
                }
            }
            for (int k = 0; k < KEYS; k++)
                for (int c = 0; c < count; c++) store(rows + (key + k) * wide + d + c * ALL, sums[k][c]);
        }
}

INLINE void add_rows_of_product(float *rows, const uint16_t *weights, const Pair *others, int64_t length, int64_t wide,
                                int parts) {
    if (wide % 64 == 0)
        add_products(rows, weights, others, length, wide, parts, 4);
    else if (wide % 32 == 0)
        add_products(rows, weights, others, length, wide, parts, 2);
    else
        add_products(rows, weights, others, length, wide, parts, 1);
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

/* What is known of a head of a protein, filled up with zeros, and L, its `length` in tokens. */
typedef struct {
    const uint16_t *key, *value; /* (P, W) */
    const Pair *key_pairs, *value_pairs; /* (P / 2, W) */
    int64_t length, wide;
    float scale;
} Head;

/* The `scores` (P, Q) of the first `SUMS` / `parts` of `keys` (P, W), of which `count` are there, with Q = 16 `parts` queries in
 * columns that are `apart`, and the largest of each query.
 */
INLINE void score(float *scores, Vector most[PARTS], const uint16_t *keys, const Pair *columns, int64_t apart, int64_t wide,
                  int count, int parts) {
    Vector each[SUMS][PARTS];
    products(each, keys, columns, apart, wide, parts);
    for (int k = 0; k < SUMS / parts; k++)
        for (int part = 0; part < parts; part++) {
            if (k < count) most[part] = larger(each[k][part], most[part]);
            store(scores + (k * parts + part) * ALL, each[k][part]);
        }
}

/* The sums (Q, W) of values, of Q = 16 `parts` queries in columns that are `apart`, with the largest score of each query, in
 * powers of two, and the inverse of the sum of its weights. `scores` (P, Q) and `weights` (P / 2, Q) are working space.
 */
INLINE void attend(float *rows, float *largest, float *inverse, float *scores, Pair *weights, const Pair *columns,
                   int64_t apart, const Head *head, int parts) {
    const int keys = SUMS / parts, queries = parts * ALL;
    const int64_t length = head->length, wide = head->wide;
    const Vector scale = all(head->scale * LOG2_E);
    Vector most[PARTS], sum[PARTS];
    for (int part = 0; part < parts; part++) most[part] = all(-3e38f), sum[part] = (Vector){0};
    for (int64_t j = 0; j + keys <= length; j += keys)
        score(scores + j * queries, most, head->key + j * wide, columns, apart, wide, keys, parts);
    if (length % keys)
        score(scores + (length - length % keys) * queries, most, head->key + (length - length % keys) * wide, columns, apart,
              wide, length % keys, parts);
    for (int part = 0; part < parts; part++) most[part] = most[part] * scale;
    for (int64_t j = 0; j < length / 2; j++)
        for (int part = 0; part < parts; part++) {
            const float *score = scores + 2 * j * queries + part * ALL;
            Vector a = power_of_two(load(score) * scale - most[part]);
            Vector b = power_of_two(load(score + queries) * scale - most[part]);
            sum[part] += a + b;
            store_pairs(weights + j * queries + part * ALL, paired(a, b));
        }
    if (length % 2)
        for (int part = 0; part < parts; part++) {
            Vector a = power_of_two(load(scores + (length - 1) * queries + part * ALL) * scale - most[part]);
            sum[part] += a;
            store_pairs(weights + length / 2 * queries + part * ALL, paired(a, (Vector){0}));
        }
    for (int part = 0; part < parts; part++) {
        sum[part] = 1.0f / sum[part];
        store(largest + part * ALL, most[part]);
        store(inverse + part * ALL, sum[part]);
    }
    weighted_sum(rows, weights, head->value_pairs, length, wide, sum, parts);
}

/* Attention of the proteins first to last - 1, which end at token ends[b]. The queries are all tokens, or if it is not null
 * those of `wanted` (K), which do not fall; asked[b] is where those of a protein end. `output` (K, N, D), and `kept` (2, N, K),
 * the largest score of each query, in powers of two, and the inverse of its sum.
 */
void attention_bf16_forward(const uint16_t *query, const uint16_t *others, const float *turns, const int64_t *wanted,
                            uint16_t *output, float *kept, const int64_t *ends, const int64_t *asked, int64_t first,
                            int64_t last, int64_t total, int64_t heads, int64_t dim, int64_t query_apart,
                            int64_t others_apart, float scale, char *room) {
    Shape shape = {heads, dim, filled(dim, 16), turns};
    int64_t wide = shape.wide, query_row = heads * query_apart, row = heads * others_apart;
    for (int64_t protein = first; protein < last; protein++) {
        int64_t begin = protein ? ends[protein - 1] : 0, length = ends[protein] - begin, padded = filled(length, QUERIES);
        int64_t asked_before = protein ? asked[protein - 1] : 0, queries = asked[protein] - asked_before;
        int64_t apart = filled(queries, QUERIES);
        Rows tokens = {NULL, begin, length};
        Rows of_queries = {wanted ? wanted + asked_before : NULL, asked_before, queries};
        char *space = (char *)filled((intptr_t)room, 64);
        uint16_t *rows = cut(&space, 2 * padded * wide), *key = cut(&space, 2 * padded * wide);
        Pair *columns = cut(&space, 2 * padded * wide), *value = cut(&space, 2 * padded * wide);
        float *scores = cut(&space, 4 * padded * QUERIES), *sums = cut(&space, 4 * QUERIES * wide);
        Pair *weights = cut(&space, 2 * padded * QUERIES);
        Head of_head = {.key = key, .value_pairs = value, .length = length, .wide = wide, .scale = scale};
        for (int64_t head = 0; head < heads; head++) {
            const uint16_t *at = others + head * others_apart;
            gather(rows, at + dim, row, others_apart, tokens, &shape, NULL);
            rows_in_pairs(value, rows, padded, wide);
            gather(rows, query + head * query_apart, query_row, query_apart, of_queries, &shape, turns);
            columns_of(columns, rows, apart, wide);
            gather(key, at, row, others_apart, tokens, &shape, turns);
            float *largest = kept + head * total + asked_before, *inverse = largest + heads * total;
            for (int64_t i = 0; i < queries; i += QUERIES) {
                float most[QUERIES], over[QUERIES];
                int64_t count = smallest(queries - i, QUERIES);
                if (count > ALL) attend(sums, most, over, scores, weights, columns + i, apart, &of_head, PARTS);
                else attend(sums, most, over, scores, weights, columns + i, apart, &of_head, 1);
                memcpy(largest + i, most, count * sizeof(float));
                memcpy(inverse + i, over, count * sizeof(float));
                Rows of_sums = {NULL, asked_before + i, count};
                scatter(output + head * dim, sums, heads * dim, of_sums, &shape, NULL, 1);
            }
        }
    }
}

typedef struct {
    uint16_t *weights, *of_scores; /* (P, Q) */
    Pair *of_scores_pairs;         /* (P / 2, Q) */
} Scores;

typedef struct {
    const Pair *query_columns, *above_columns; /* (W / 2, `apart`) */
    const Pair *query_pairs, *above_pairs;     /* (P / 2, W) */
    const float *largest, *inverse, *inner;    /* of 32 queries; the last are the products of outputs and their gradients */
    int64_t apart;
} Queries;

/* The weights that `SUMS` / `parts` keys from the j-th on, of which `count` are there, have for Q = 16 `parts` queries from the
 * i-th on, by what `attend` gave, and the gradients of the scores.
 */
INLINE void scores_back(const Scores *to, const Queries *of, int64_t i, int64_t j, const Head *head, int count, int parts) {
    const int keys = SUMS / parts, queries = parts * ALL;
    const Vector scale = all(head->scale * LOG2_E);
    Vector weights[SUMS][PARTS], of_scores[SUMS][PARTS];
    products(weights, head->key + j * head->wide, of->query_columns + i, of->apart, head->wide, parts);
    for (int k = 0; k < keys; k++)
        for (int part = 0; part < parts; part++) {
            Vector most = load(of->largest + part * ALL), over = load(of->inverse + part * ALL);
            Vector weight = power_of_two(weights[k][part] * scale - most) * over;
            weights[k][part] = k < count ? weight : (Vector){0};
        }
    for (int k = 0; k < keys; k++) {
        uint16_t *row = to->weights + (j + k) * queries;
        if (parts == 1) store_halves(row, weights[k][0]);
        else store_pairs((Pair *)row, one_after_other(weights[k][0], weights[k][1]));
    }
    products(of_scores, head->value + j * head->wide, of->above_columns + i, of->apart, head->wide, parts);
    for (int k = 0; k < keys; k++) {
        uint16_t *row = to->of_scores + (j + k) * queries;
        for (int part = 0; part < parts; part++) of_scores[k][part] = weights[k][part] * (of_scores[k][part] - load(of->inner + part * ALL));
        if (parts == 1) store_halves(row, of_scores[k][0]);
        else store_pairs((Pair *)row, one_after_other(of_scores[k][0], of_scores[k][1]));
    }
    for (int k = 0; k < keys; k += 2)
        for (int part = 0; part < parts; part++)
            store_pairs(to->of_scores_pairs + (j + k) / 2 * queries + part * ALL,
                        paired(of_scores[k][part], of_scores[k + 1][part]));
}

/* The gradients of Q = 16 `parts` queries from the i-th on, to `of_query` (Q, W), and what they add to those of keys and
 * values, `of_key` and `of_value` (P, W).
 */
INLINE void queries_back(float *of_query, float *of_key, float *of_value, const Scores *scores, const Queries *of, int64_t i,
                         const Head *head, int parts) {
    const Vector ones[PARTS] = {all(1), all(1)};
    int64_t length = head->length, wide = head->wide;
    const int keys = SUMS / parts;
    int64_t j = 0;
    for (; j + keys <= length; j += keys) scores_back(scores, of, i, j, head, keys, parts);
    if (j < length) scores_back(scores, of, i, j, head, length - j, parts);
    weighted_sum(of_query, scores->of_scores_pairs, head->key_pairs, length, wide, ones, parts);
    add_rows_of_product(of_value, scores->weights, of->above_pairs + i / 2 * wide, length, wide, parts);
    add_rows_of_product(of_key, scores->of_scores, of->query_pairs + i / 2 * wide, length, wide, parts);
}

/* The gradients of `query` and `others`, from that of the output, `upstream` (K, N, D). */
void attention_bf16_backward(const uint16_t *query, const uint16_t *others, const float *turns, const int64_t *wanted,
                             const uint16_t *output, const float *kept, const uint16_t *upstream, uint16_t *query_gradient,
                             uint16_t *others_gradient, const int64_t *ends, const int64_t *asked, int64_t first,
                             int64_t last, int64_t total, int64_t heads, int64_t dim, int64_t query_apart,
                             int64_t others_apart, float scale, char *room) {
    Shape shape = {heads, dim, filled(dim, 16), turns};
    int64_t wide = shape.wide, query_row = heads * query_apart, row = heads * others_apart;
    for (int64_t protein = first; protein < last; protein++) {
        int64_t begin = protein ? ends[protein - 1] : 0, length = ends[protein] - begin, padded = filled(length, QUERIES);
        int64_t asked_before = protein ? asked[protein - 1] : 0, queries = asked[protein] - asked_before;
        int64_t apart = filled(queries, QUERIES);
        Rows tokens = {NULL, begin, length}, outputs = {NULL, asked_before, queries};
        Rows of_queries = {wanted ? wanted + asked_before : NULL, asked_before, queries};
        char *space = (char *)filled((intptr_t)room, 64);
        int64_t size = 2 * padded * wide; /* bytes of half the numbers */
        uint16_t *rows = cut(&space, size), *key = cut(&space, size), *value = cut(&space, size);
        Pair *query_columns = cut(&space, size), *above_columns = cut(&space, size);
        Pair *query_pairs = cut(&space, size), *key_pairs = cut(&space, size), *above_pairs = cut(&space, size);
        float *of_query = cut(&space, 2 * size), *of_key = cut(&space, 2 * size), *of_value = cut(&space, 2 * size);
        uint16_t *weights = cut(&space, 2 * padded * QUERIES), *of_scores = cut(&space, 2 * padded * QUERIES);
        Scores scores = {weights, of_scores, cut(&space, 2 * padded * QUERIES)};
        float *inner = cut(&space, 4 * padded);
        Head of_head = {.key = key, .value = value, .key_pairs = key_pairs, .length = length, .wide = wide, .scale = scale};
        for (int64_t head = 0; head < heads; head++) {
            const uint16_t *at = others + head * others_apart;
            gather(rows, query + head * query_apart, query_row, query_apart, of_queries, &shape, turns);
            columns_of(query_columns, rows, apart, wide);
            rows_in_pairs(query_pairs, rows, apart, wide);
            gather(key, at, row, others_apart, tokens, &shape, turns);
            rows_in_pairs(key_pairs, key, padded, wide);
            gather(value, at + dim, row, others_apart, tokens, &shape, NULL);
            gather(rows, output + head * dim, heads * dim, dim, outputs, &shape, NULL);
            uint16_t *above = (uint16_t *)of_query; /* until the gradient takes its place */
            gather(above, upstream + head * dim, heads * dim, dim, outputs, &shape, NULL);
            for (int64_t i = 0; i < apart; i++) {
                Vector sum = {0};
                for (int64_t d = 0; d < wide; d += ALL) sum += load_halves(above + i * wide + d) * load_halves(rows + i * wide + d);
                inner[i] = _mm512_reduce_add_ps((__m512)sum);
            }
            columns_of(above_columns, above, apart, wide);
            rows_in_pairs(above_pairs, above, apart, wide);
            memset(of_key, 0, 4 * padded * wide);
            memset(of_value, 0, 4 * padded * wide);
            const float *largest = kept + head * total + asked_before, *inverse = largest + heads * total;
            for (int64_t i = 0; i < queries; i += QUERIES) {
                float most[QUERIES] = {0}, over[QUERIES] = {0};
                int64_t count = smallest(queries - i, QUERIES);
                memcpy(most, largest + i, count * sizeof(float));
                memcpy(over, inverse + i, count * sizeof(float));
                Queries of = {query_columns, above_columns, query_pairs, above_pairs, most, over, inner + i, apart};
                float *to = of_query + i * wide;
                if (count > ALL) queries_back(to, of_key, of_value, &scores, &of, i, &of_head, PARTS);
                else queries_back(to, of_key, of_value, &scores, &of, i, &of_head, 1);
            }
            uint16_t *to = others_gradient + head * others_apart;
            scatter(query_gradient + head * query_apart, of_query, query_row, of_queries, &shape, turns, scale);
            scatter(to, of_key, row, tokens, &shape, turns, scale);
            scatter(to + dim, of_value, row, tokens, &shape, NULL, 1);
        }
    }
}
#endif
