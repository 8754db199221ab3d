/* Self-attention over short proteins with narrow heads, and its gradient.
 *
 * One head of one protein at a time, for 16 queries side by side in the lanes of vectors, so that the softmax needs no sum
 * across lanes and products as thin as a head fill the registers. The weights are never written to memory by the forward
 * pass: it keeps the largest score and the inverse of the sum of each query, from which the backward pass makes them again.
 *
 * T tokens, K of them queries, N heads, head dimension D; L tokens of a protein, Q of them queries; W, the head dimension
 * filled up with zeros to a multiple of 4; P, the number of queries filled up to a multiple of 16. Keys and values, (T, N, 2, D),
 * and queries, (K, N, D), may be parts of one tensor (T, N, 3, D): how far apart the heads of either are is said.
 */
#include <stddef.h>

#include "vectors.h"

#define QUERIES 16
#define PARTS (QUERIES / LANES)
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__) /* GCC has it from version 12 */
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (FourIntegers){__VA_ARGS__})
#endif
#define KEYS 4  /* whose scores are computed at once: independent sums keep the processor busy */

typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourIntegers __attribute__((vector_size(16)));
typedef uint16_t FourHalves __attribute__((vector_size(8)));
typedef float Eight __attribute__((vector_size(32)));

typedef struct {
    int64_t heads, dim, wide; /* N, D, W */
    int64_t is_bf16;          /* whether inputs, output and their gradients are bfloat16; else they are float32 */
    const float *turns;       /* (T, D / 2, 2) cosines and sines, or null */
} Shape;

static inline float read(const void *from, int64_t index, int64_t is_bf16) {
    if (!is_bf16) return ((const float *)from)[index];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[index] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline Four load_four(const float *from) {
    Four x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store_four(float *to, Four x) { memcpy(to, &x, sizeof x); }

static inline Four read_four(const void *from, int64_t index, int64_t is_bf16) {
    if (!is_bf16) return load_four((const float *)from + index);
    FourHalves x;
    memcpy(&x, (const uint16_t *)from + index, sizeof x);
    return (Four)(__builtin_convertvector(x, FourIntegers) << 16);
}

static inline void write(void *to, int64_t index, float x, int64_t is_bf16) {
    if (!is_bf16) {
        ((float *)to)[index] = x;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) bits |= 0x400000; /* not a number, which rounding must not make infinite */
    else bits += 0x7fff + (bits >> 16 & 1);
    ((uint16_t *)to)[index] = (uint16_t)(bits >> 16);
}

/* The rows of a tensor that a protein has, and the tokens that they are: `places` (length), or if it is null the rows themselves. */
typedef struct {
    const int64_t *places;
    int64_t begin, length;
} Rows;

/* The rows (`length`, W) of `from`, which are `stride` apart and begin at `first`, times `scale`; turned by `turns` (T, D / 2,
 * 2), unless it is null.
 */
static inline void gather(float *to, const void *from, int64_t first, int64_t stride, Rows rows, const Shape *shape,
                          const float *turns, float scale) {
    int64_t dim = shape->dim, wide = shape->wide, even = dim / 4 * 4, is_bf16 = shape->is_bf16;
    for (int64_t i = 0; i < rows.length; i++, to += wide) {
        int64_t row = rows.begin + i, token = rows.places ? rows.places[i] : row, at = first + row * stride;
        for (int64_t d = 0; d < even; d += 4) store_four(to + d, scale * read_four(from, at + d, is_bf16));
        for (int64_t d = even; d < wide; d++) to[d] = d < dim ? scale * read(from, at + d, is_bf16) : 0;
        if (turns) turn(to, turns + token * dim, dim, 1);
    }
}

/* The inverse of `gather` for a gradient: `each` (`length`, W) is turned back and written. */
static void scatter(void *to, float *each, int64_t at, int64_t stride, Rows rows, const Shape *shape, const float *turns) {
    int64_t dim = shape->dim;
    for (int64_t i = 0; i < rows.length; i++, each += shape->wide) {
        int64_t row = rows.begin + i, token = rows.places ? rows.places[i] : row, first = at + row * stride;
        if (turns) turn(each, turns + token * dim, dim, -1);
        if (shape->is_bf16)
            for (int64_t d = 0; d < dim; d++) write(to, first + d, each[d], 1);
        else {
            int64_t d = 0;
            for (; d + 4 <= dim; d += 4) store_four((float *)to + first + d, load_four(each + d));
            for (; d < dim; d++) ((float *)to)[first + d] = each[d];
        }
    }
}

/* to (4, `to_stride` apart) = from (4, `from_stride` apart), transposed. */
static inline void transpose_four(float *to, int64_t to_stride, const float *from, int64_t from_stride) {
    Four a = load_four(from), b = load_four(from + from_stride);
    Four c = load_four(from + 2 * from_stride), d = load_four(from + 3 * from_stride);
    Four ab = SHUFFLE(a, b, 0, 4, 1, 5), cd = SHUFFLE(c, d, 0, 4, 1, 5);
    store_four(to, SHUFFLE(ab, cd, 0, 1, 4, 5));
    store_four(to + to_stride, SHUFFLE(ab, cd, 2, 3, 6, 7));
    ab = SHUFFLE(a, b, 2, 6, 3, 7), cd = SHUFFLE(c, d, 2, 6, 3, 7);
    store_four(to + 2 * to_stride, SHUFFLE(ab, cd, 0, 1, 4, 5));
    store_four(to + 3 * to_stride, SHUFFLE(ab, cd, 2, 3, 6, 7));
}

/* (W, P) of rows (Q, W), with zeros beyond Q, where `rows` has room for P. */
static inline void transpose(float *to, float *rows, int64_t length, int64_t padded, int64_t wide) {
    memset(rows + length * wide, 0, (padded - length) * wide * sizeof(float));
    for (int64_t i = 0; i < padded; i += 4)
        for (int64_t d = 0; d < wide; d += 4) transpose_four(to + d * padded + i, padded, rows + i * wide + d, wide);
}

/* sums[key][part] = the products of `count` (at most KEYS) rows (W) with 16 columns of (W, P). */
static inline __attribute__((always_inline)) void products(Vector sums[KEYS][PARTS], const float *rows, const float *columns,
                                                           int64_t padded, int64_t wide, int count) {
    for (int key = 0; key < count; key++)
        for (int part = 0; part < PARTS; part++) sums[key][part] = (Vector){0};
    for (int64_t d = 0; d < wide; d++) {
        Vector column[PARTS];
        for (int part = 0; part < PARTS; part++) column[part] = load(columns + d * padded + part * LANES);
        for (int key = 0; key < count; key++)
            for (int part = 0; part < PARTS; part++) sums[key][part] += rows[key * wide + d] * column[part];
    }
}

/* columns (W, 16) = the sum over L keys of weights (L, `stride` apart, 16) times rows (L, W). */
static inline void weighted_sum(float *columns, const float *weights, int64_t stride, const float *rows, int64_t length,
                                int64_t wide) {
    for (int64_t d = 0; d < wide; d += 4) {
        Vector sums[4][PARTS];
        for (int c = 0; c < 4; c++)
            for (int part = 0; part < PARTS; part++) sums[c][part] = (Vector){0};
        for (int64_t key = 0; key < length; key++) {
            for (int part = 0; part < PARTS; part++) {
                Vector weight = load(weights + key * stride + part * LANES);
                for (int c = 0; c < 4; c++) sums[c][part] += rows[key * wide + d + c] * weight;
            }
        }
        for (int c = 0; c < 4; c++)
            for (int part = 0; part < PARTS; part++) store(columns + (d + c) * QUERIES + part * LANES, sums[c][part]);
    }
}

/* rows (L, W) = weights (L, P) times others (Q, W), by columns of `Type`, 4 rows at once. */
#define ROWS_OF_PRODUCT(Type)                                                                                           \
    static void rows_of_product_##Type(float *rows, const float *weights, int64_t padded, const float *others,         \
                                       int64_t length, int64_t queries, int64_t wide) {                                \
        for (int64_t key = 0; key < length; key += KEYS) {                                                              \
            const float *weight = weights + key * padded;                                                               \
            for (int64_t d = 0; d < wide; d += (int64_t)(sizeof(Type) / 4)) {                                           \
                Type sums[KEYS] = {{0}};                                                                                \
                for (int64_t i = 0; i < queries; i++) {                                                                 \
                    Type other;                                                                                         \
                    memcpy(&other, others + i * wide + d, sizeof other);                                                \
                    for (int k = 0; k < KEYS; k++) sums[k] += weight[k * padded + i] * other;                           \
                }                                                                                                       \
                for (int k = 0; k < KEYS; k++) memcpy(rows + (key + k) * wide + d, &sums[k], sizeof(Type));             \
            }                                                                                                           \
        }                                                                                                               \
    }
ROWS_OF_PRODUCT(Four)
ROWS_OF_PRODUCT(Eight)
#if LANES == 16
ROWS_OF_PRODUCT(Vector)
#endif

static void rows_of_product(float *rows, const float *weights, int64_t padded, const float *others, int64_t length,
                            int64_t queries, int64_t wide) {
#if LANES == 16
    if (wide % 16 == 0) {
        rows_of_product_Vector(rows, weights, padded, others, length, queries, wide);
        return;
    }
#endif
    (wide % 8 ? rows_of_product_Four : rows_of_product_Eight)(rows, weights, padded, others, length, queries, wide);
}

/* Floats of the working space of `attention_forward`, for proteins of up to `length` tokens, and as many queries. */
int64_t attention_forward_space(int64_t length, int64_t dim) {
    int64_t wide = filled(dim, 4), padded = filled(length, QUERIES);
    return 4 * padded * wide + padded * QUERIES + QUERIES * wide;
}

/* Floats of the working space of `attention_backward`. */
int64_t attention_backward_space(int64_t length, int64_t dim) {
    int64_t wide = filled(dim, 4), padded = filled(length, QUERIES);
    return 10 * padded * wide + 2 * padded * padded + padded + QUERIES * wide;
}

/* Attention of the heads first to last - 1 of all proteins, N of each. Proteins end at token ends[b]. The queries are all
 * tokens, or if it is not null those of `wanted` (K), which do not fall; asked[b] is where those of a protein end. `output`
 * (K, N, D), and `kept` (2, N, K), the largest score of each query and the inverse of its sum.
 */
void attention_forward(const void *query_rows, const void *others, const float *turns, const int64_t *wanted, void *output,
                       float *kept, const int64_t *ends, const int64_t *asked, int64_t first, int64_t last, int64_t total,
                       int64_t heads, int64_t dim, int64_t query_apart, int64_t others_apart, int64_t is_bf16, float scale,
                       float *space) {
    Shape shape = {heads, dim, filled(dim, 4), is_bf16, turns};
    int64_t wide = shape.wide, query_row = heads * query_apart, row = heads * others_apart;
    for (int64_t protein = first / heads; protein * heads < last; protein++) {
        int64_t begin = protein ? ends[protein - 1] : 0, length = ends[protein] - begin;
        int64_t asked_before = protein ? asked[protein - 1] : 0, queries = asked[protein] - asked_before;
        int64_t padded = filled(queries, QUERIES), size = filled(length > queries ? length : queries, QUERIES) * wide;
        Rows tokens = {NULL, begin, length};
        Rows of_queries = {wanted ? wanted + asked_before : NULL, asked_before, queries};
        float *query = space, *key = query + size, *value = key + size, *columns = value + size;
        float *weights = columns + size, *sums = weights + filled(length, QUERIES) * QUERIES;
        int64_t head = first > protein * heads ? first - protein * heads : 0;
        int64_t end = last < (protein + 1) * heads ? last - protein * heads : heads;
        for (; head < end; head++) {
            int64_t at = head * others_apart;
            gather(query, query_rows, head * query_apart, query_row, of_queries, &shape, turns, scale);
            gather(key, others, at, row, tokens, &shape, turns, 1);
            gather(value, others, at + dim, row, tokens, &shape, NULL, 1);
            transpose(columns, query, queries, padded, wide);
            float *largest = kept + head * total + asked_before, *inverse = largest + heads * total;
            for (int64_t i = 0; i < queries; i += QUERIES) {
                Vector scores[KEYS][PARTS], most[PARTS], sum[PARTS];
                for (int part = 0; part < PARTS; part++) most[part] = all(-3e38f), sum[part] = (Vector){0};
                int64_t j = 0;
                for (; j + KEYS <= length; j += KEYS) {
                    products(scores, key + j * wide, columns + i, padded, wide, KEYS);
                    for (int k = 0; k < KEYS; k++)
                        for (int part = 0; part < PARTS; part++) {
                            most[part] = larger(scores[k][part], most[part]);
                            store(weights + (j + k) * QUERIES + part * LANES, scores[k][part]);
                        }
                }
                for (; j < length; j++) {
                    products(scores, key + j * wide, columns + i, padded, wide, 1);
                    for (int part = 0; part < PARTS; part++) {
                        most[part] = larger(scores[0][part], most[part]);
                        store(weights + j * QUERIES + part * LANES, scores[0][part]);
                    }
                }
                for (j = 0; j < length; j++)
                    for (int part = 0; part < PARTS; part++) {
                        float *at_weight = weights + j * QUERIES + part * LANES;
                        Vector weight = exponential(load(at_weight) - most[part]);
                        sum[part] += weight;
                        store(at_weight, weight);
                    }
                weighted_sum(sums, weights, QUERIES, value, length, wide);
                float of_block[2][QUERIES], rows[QUERIES * 4];
                for (int part = 0; part < PARTS; part++) {
                    store(of_block[0] + part * LANES, most[part]);
                    store(of_block[1] + part * LANES, 1.0f / sum[part]);
                }
                int64_t count = queries - i < QUERIES ? queries - i : QUERIES;
                for (int64_t q = 0; q < count; q++) {
                    largest[i + q] = of_block[0][q];
                    inverse[i + q] = of_block[1][q];
                }
                for (int64_t d = 0; d < dim; d += 4) {
                    int64_t to = ((asked_before + i) * heads + head) * dim + d;
                    for (int q = 0; q < QUERIES; q += 4) transpose_four(rows + q * 4, 4, sums + d * QUERIES + q, QUERIES);
                    for (int64_t q = 0; q < count; q++, to += heads * dim) {
                        Four each = load_four(rows + q * 4) * of_block[1][q];
                        if (!is_bf16 && d + 4 <= dim)
                            store_four((float *)output + to, each);
                        else
                            for (int c = 0; c < 4 && d + c < dim; c++) write(output, to + c, each[c], is_bf16);
                    }
                }
            }
        }
    }
}

/* The gradients of queries and `others`, from that of the output, `upstream` (K, N, D). */
void attention_backward(const void *query_rows, const void *others, const float *turns, const int64_t *wanted,
                        const void *output, const float *kept, const void *upstream, void *query_gradient,
                        void *others_gradient, const int64_t *ends, const int64_t *asked, int64_t first, int64_t last,
                        int64_t total, int64_t heads, int64_t dim, int64_t query_apart, int64_t others_apart,
                        int64_t is_bf16, float scale, float *space) {
    Shape shape = {heads, dim, filled(dim, 4), is_bf16, turns};
    int64_t wide = shape.wide, query_row = heads * query_apart, row = heads * others_apart;
    for (int64_t protein = first / heads; protein * heads < last; protein++) {
        int64_t begin = protein ? ends[protein - 1] : 0, length = ends[protein] - begin;
        int64_t asked_before = protein ? asked[protein - 1] : 0, queries = asked[protein] - asked_before;
        int64_t padded = filled(queries, QUERIES), size = filled(length > queries ? length : queries, QUERIES) * wide;
        Rows tokens = {NULL, begin, length}, outputs = {NULL, asked_before, queries};
        Rows of_queries = {wanted ? wanted + asked_before : NULL, asked_before, queries};
        float *query = space, *key = query + size, *value = key + size, *above = value + size;
        float *query_columns = above + size, *above_columns = query_columns + size;
        float *of_query = above_columns + size, *of_key = of_query + size, *of_value = of_key + size;
        float *weights = of_value + size, *of_scores = weights + filled(length, QUERIES) * padded;
        float *inner = of_scores + filled(length, QUERIES) * padded, *sums = inner + padded;
        int64_t head = first > protein * heads ? first - protein * heads : 0;
        int64_t end = last < (protein + 1) * heads ? last - protein * heads : heads;
        for (; head < end; head++) {
            int64_t at = head * others_apart;
            gather(query, query_rows, head * query_apart, query_row, of_queries, &shape, turns, scale);
            gather(key, others, at, row, tokens, &shape, turns, 1);
            gather(value, others, at + dim, row, tokens, &shape, NULL, 1);
            gather(above, upstream, head * dim, heads * dim, outputs, &shape, NULL, 1);
            transpose(query_columns, query, queries, padded, wide);
            transpose(above_columns, above, queries, padded, wide);
            const float *largest = kept + head * total + asked_before, *inverse = largest + heads * total;
            memset(inner, 0, padded * sizeof(float));
            for (int64_t i = 0; i < queries; i++) {
                int64_t d = 0, of_output = ((asked_before + i) * heads + head) * dim;
                Four sum = {0};
                for (; d + 4 <= dim; d += 4) sum += load_four(above + i * wide + d) * read_four(output, of_output + d, is_bf16);
                for (; d < dim; d++) sum[0] += above[i * wide + d] * read(output, of_output + d, is_bf16);
                inner[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
            }
            for (int64_t i = 0; i < queries; i += QUERIES) {
                float of_block[2][QUERIES] = {{0}};
                int64_t count = queries - i < QUERIES ? queries - i : QUERIES;
                memcpy(of_block[0], largest + i, count * sizeof(float));
                memcpy(of_block[1], inverse + i, count * sizeof(float));
                for (int64_t j = 0; j < length;) {
                    Vector scores[KEYS][PARTS], of_weights[KEYS][PARTS];
                    int keys = length - j < KEYS ? 1 : KEYS;
                    if (keys == KEYS) {
                        products(scores, key + j * wide, query_columns + i, padded, wide, KEYS);
                        products(of_weights, value + j * wide, above_columns + i, padded, wide, KEYS);
                    } else {
                        products(scores, key + j * wide, query_columns + i, padded, wide, 1);
                        products(of_weights, value + j * wide, above_columns + i, padded, wide, 1);
                    }
                    for (int k = 0; k < keys; k++)
                        for (int part = 0; part < PARTS; part++) {
                            Vector most = load(of_block[0] + part * LANES), over = load(of_block[1] + part * LANES);
                            Vector weight = exponential(scores[k][part] - most) * over;
                            int64_t to = (j + k) * padded + i + part * LANES;
                            store(weights + to, weight);
                            store(of_scores + to, weight * (of_weights[k][part] - load(inner + i + part * LANES)));
                        }
                    j += keys;
                }
                weighted_sum(sums, of_scores + i, padded, key, length, wide);
                for (int64_t d = 0; d < wide * QUERIES; d += LANES) store(sums + d, scale * load(sums + d));
                for (int q = 0; q < QUERIES; q += 4)
                    for (int64_t d = 0; d < wide; d += 4)
                        transpose_four(of_query + (i + q) * wide + d, wide, sums + d * QUERIES + q, QUERIES);
            }
            rows_of_product(of_value, weights, padded, above, length, queries, wide);
            rows_of_product(of_key, of_scores, padded, query, length, queries, wide);
            scatter(query_gradient, of_query, head * query_apart, query_row, of_queries, &shape, turns);
            scatter(others_gradient, of_key, at, row, tokens, &shape, turns);
            scatter(others_gradient, of_value, at + dim, row, tokens, &shape, NULL);
        }
    }
}
