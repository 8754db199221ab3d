/* Self-attention, and its gradient, by the products of `numbers_bf16.h` or `numbers_fp32.h`.
 *
 * One head of one protein at a time. As in attention.c, queries lie side by side in the lanes, the softmax is in float32, and
 * the forward pass keeps two numbers of each query. Scores are held for a few queries at a time: memory grows with the length
 * of a protein, not with its square.
 *
 * T tokens, K of them queries, N heads, head dimension D; L tokens of a protein; W, the head dimension filled up with zeros to a
 * multiple of 16; P, the number of tokens or of queries, whichever are more, filled up to a multiple of 32; S numbers of a word.
 * Keys and values, (T, N, 2, D), and queries, (K, N, D), may be parts of one tensor (T, N, 3, D): how far apart the heads of
 * either are is said.
 */
#pragma once
#include "lanes.h"

#define PARTS 2 /* vectors of queries whose scores are held at once, or one of them where no more are left */
#define QUERIES (PARTS * ALL)
#define SUMS 8 /* which are computed at once: independent ones keep the processor busy */
#define KEYS 4 /* whose rows are added to at once */

typedef struct {
    int64_t heads, dim, wide; /* N, D, W */
    const float *turns;       /* (T, D / 2, 2) cosines and sines, or null */
} Shape;

/* The rows of a tensor that a protein has, and the tokens that they are: `places` (length), or if it is null the rows. */
typedef struct {
    const int64_t *places;
    int64_t begin, length;
} Rows;

/* A protein: its tokens, the places that its queries have among all tokens and among all queries, P, and which heads of it are
 * among the heads first to last - 1 of all proteins.
 */
typedef struct {
    Rows tokens, queries, outputs;
    int64_t padded, head, end;
} Protein;

static Protein protein_at(int64_t b, const int64_t *ends, const int64_t *asked, const int64_t *wanted, int64_t heads,
                          int64_t first, int64_t last) {
    int64_t begin = b ? ends[b - 1] : 0, length = ends[b] - begin, before = b ? asked[b - 1] : 0, count = asked[b] - before;
    Rows tokens = {NULL, begin, length}, outputs = {NULL, before, count}, queries = outputs;
    queries.places = wanted ? wanted + before : NULL;
    int64_t head = first > b * heads ? first - b * heads : 0, end = smallest(heads, last - b * heads);
    return (Protein){tokens, queries, outputs, filled(length > count ? length : count, QUERIES), head, end};
}

/* The rows (`length`, W) of `from`, which are `stride` apart, and zeros up to P; turned by `turns` (T, D / 2, 2), unless it is
 * null. What is `next` numbers further on, a row of the next head, is asked for.
 */
static void gather(Number *to, const Number *from, int64_t stride, int64_t next, Rows rows, const Shape *shape,
                   const float *turns) {
    int64_t dim = shape->dim, wide = shape->wide;
    for (int64_t i = 0; i < rows.length; i++, to += wide) {
        int64_t row = rows.begin + i, token = rows.places ? rows.places[i] : row, d = 0;
        const Number *each = from + row * stride;
        for (; d + ALL <= dim; d += ALL) memcpy(to + d, each + d, ALL * sizeof(Number)), __builtin_prefetch(each + d + next);
        for (; d < wide; d++) to[d] = d < dim ? each[d] : 0;
        if (turns) {
            float turned[ALL];
            for (d = 0; d < dim; d += ALL) {
                store(turned, load_numbers(to + d));
                turn(turned, turns + token * dim + d, smallest(dim - d, ALL), 1);
                store_some(to + d, load(turned), ALL);
            }
        }
    }
    memset(to, 0, (filled(rows.length, QUERIES) - rows.length) * wide * sizeof(Number));
}

/* The inverse of `gather` for a gradient: `each` (`length`, W), times `scale`, is turned back, rounded and written. */
static void scatter(Number *to, float *each, int64_t stride, Rows rows, const Shape *shape, const float *turns, float scale) {
    int64_t dim = shape->dim;
    for (int64_t i = 0; i < rows.length; i++, each += shape->wide) {
        int64_t row = rows.begin + i, token = rows.places ? rows.places[i] : row, d = 0;
        if (turns) turn(each, turns + token * dim, dim, -1);
        for (; d + ALL <= dim; d += ALL) store_some(to + row * stride + d, scale * load(each + d), ALL);
        if (d < dim) store_some(to + row * stride + d, scale * load(each + d), dim - d);
    }
}

/* Columns (P / 32, W / S, 32) of words of rows (P, W): a word has neighbours of a row. */
static void columns_of(Word *columns, const Number *rows, int64_t padded, int64_t wide) {
    const Word *words = (const Word *)rows;
    int64_t size = wide / PER_WORD;
    for (int64_t i = 0; i < padded; i += ALL, words += ALL * size) {
        Word *to = columns + i / QUERIES * QUERIES * size + i % QUERIES;
        int64_t d = 0;
        for (; d + ALL <= size; d += ALL) transpose_words(to + d * QUERIES, QUERIES, words + d, size);
        if (d < size) { /* 8 words are left */
            Word few[ALL * ALL] = {0}, turned[ALL * ALL];
            for (int q = 0; q < ALL; q++) memcpy(few + q * ALL, words + q * size + d, ALL / 2 * sizeof(Word));
            transpose_words(turned, ALL, few, ALL);
            for (int c = 0; c < ALL / 2; c++) store_words(to + (d + c) * QUERIES, load_words(turned + c * ALL));
        }
    }
}

/* sums[key][part] = the products of `SUMS` / `parts` rows (W) with `parts` times 16 of the columns (W / S, 32). */
INLINE void products(Vector sums[SUMS][PARTS], const Number *rows, const Word *columns, int64_t wide, int parts) {
    const Word *words = (const Word *)rows;
    int64_t size = wide / PER_WORD;
    for (int key = 0; key < SUMS / parts; key++)
        for (int part = 0; part < parts; part++) sums[key][part] = (Vector){0};
    for (int64_t d = 0; d < size; d++) {
        Words column[PARTS];
        for (int part = 0; part < parts; part++) column[part] = load_words(columns + d * QUERIES + part * ALL);
        for (int key = 0; key < SUMS / parts; key++) {
            Words row = spread(words[key * size + d]);
            for (int part = 0; part < parts; part++) sums[key][part] = add_products(sums[key][part], row, column[part]);
        }
    }
}

/* rows (Q, W) = the sum over `length` keys of weights (L / S, Q) times others (L / S, W), both in words of keys, each row times
 * its `scale` (Q), of Q = 16 `parts` queries.
 */
INLINE void weighted_sum(float *rows, const Word *weights, const Word *others, int64_t length, int64_t wide,
                         const Vector scale[PARTS], int parts) {
    for (int64_t d = 0; d < wide; d += ALL) {
        float columns[PARTS][ALL * ALL];
        for (int c = 0; c < ALL; c += 8) {
            Vector sums[8][PARTS];
            for (int k = 0; k < 8; k++)
                for (int part = 0; part < parts; part++) sums[k][part] = (Vector){0};
            for (int64_t word = 0; word < (length + PER_WORD - 1) / PER_WORD; word++) {
                Words weight[PARTS];
                for (int part = 0; part < parts; part++) weight[part] = load_words(weights + (word * parts + part) * ALL);
                for (int k = 0; k < 8; k++) {
                    Words other = spread(others[word * wide + d + c + k]);
                    for (int part = 0; part < parts; part++) sums[k][part] = add_products(sums[k][part], other, weight[part]);
                }
            }
            for (int k = 0; k < 8; k++)
                for (int part = 0; part < parts; part++) store(columns[part] + (c + k) * ALL, scale[part] * sums[k][part]);
        }
        for (int part = 0; part < parts; part++) transpose_words(rows + part * ALL * wide + d, wide, columns[part], ALL);
    }
}

/* rows (L, W) += weights (L, Q) times others (Q / S, W), which are in words of queries, of Q = 16 `parts` queries; `count`
 * vectors of a row at once.
 */
INLINE void add_vectors(float *rows, const Number *weights, const Word *others, int64_t length, int64_t wide, int parts,
                        int count) {
    const Word *words = (const Word *)weights;
    int64_t size = parts * ALL / PER_WORD;
    for (int64_t key = 0; key < length; key += KEYS)
        for (int64_t d = 0; d < wide; d += count * ALL) {
            Vector sums[KEYS][4];
            for (int k = 0; k < KEYS; k++)
                for (int c = 0; c < count; c++) sums[k][c] = load(rows + (key + k) * wide + d + c * ALL);
            for (int64_t q = 0; q < size; q++) {
                Words other[4];
                for (int c = 0; c < count; c++) other[c] = load_words(others + q * wide + d + c * ALL);
                for (int k = 0; k < KEYS; k++) {
                    Words weight = spread(words[(key + k) * size + q]);
                    for (int c = 0; c < count; c++) sums[k][c] = add_products(sums[k][c], weight, other[c]);
                }
            }
            for (int k = 0; k < KEYS; k++)
                for (int c = 0; c < count; c++) store(rows + (key + k) * wide + d + c * ALL, sums[k][c]);
        }
}

INLINE void add_rows_of_product(float *rows, const Number *weights, const Word *others, int64_t length, int64_t wide, int parts) {
    if (wide % 64 == 0) add_vectors(rows, weights, others, length, wide, parts, 4);
    else if (wide % 32 == 0) add_vectors(rows, weights, others, length, wide, parts, 2);
    else add_vectors(rows, weights, others, length, wide, parts, 1);
}

/* Rows (P, W) by words, (P / S, W): one number of each of S rows. In float32 that is what they are, and nothing is copied. */
static const Word *in_words(Word *words, const Number *rows, int64_t padded, int64_t wide) {
    if (PER_WORD == 1) return (const Word *)rows;
    for (int64_t i = 0; i < padded; i += PER_WORD)
        for (int64_t d = 0; d < wide; d += ALL) store_words(words + i / PER_WORD * wide + d, words_of_two(rows + i * wide + d, wide));
    return words;
}

/* Floats of the working space of `attention_forward`, for proteins of up to `length` tokens, and as many queries. */
int64_t OF(attention_forward_space)(int64_t length, int64_t dim) {
    int64_t wide = filled(dim, ALL), padded = filled(length, QUERIES);
    int64_t numbers = padded * (4 * wide + QUERIES), floats = padded * QUERIES + QUERIES * wide;
    return numbers * sizeof(Number) / 4 + floats + ALL * 8;
}

/* Floats of the working space of `attention_backward`. */
int64_t OF(attention_backward_space)(int64_t length, int64_t dim) {
    int64_t wide = filled(dim, ALL), padded = filled(length, QUERIES);
    int64_t numbers = padded * (9 * wide + 3 * QUERIES), floats = padded * (3 * wide + 1);
    return numbers * sizeof(Number) / 4 + floats + ALL * 16;
}

/* What is known of a head of a protein, filled up with zeros, and L, its `length` in tokens. */
typedef struct {
    const Number *key, *value;           /* (P, W) */
    const Word *key_words, *value_words; /* (P / S, W) */
    int64_t length, wide;
    float scale;
} Head;

/* The `scores` (P, Q) of the first `SUMS` / `parts` of `keys` (P, W), of which `count` are there, with Q = 16 `parts` queries in
 * columns (W / S, 32), and the largest of each query.
 */
INLINE void score(float *scores, Vector most[PARTS], const Number *keys, const Word *columns, int64_t wide, int count,
                  int parts) {
    Vector each[SUMS][PARTS];
    products(each, keys, columns, wide, parts);
    for (int k = 0; k < SUMS / parts; k++)
        for (int part = 0; part < parts; part++) {
            if (k < count) most[part] = larger(each[k][part], most[part]);
            store(scores + (k * parts + part) * ALL, each[k][part]);
        }
}

/* The sums (Q, W) of values, of Q = 16 `parts` queries in columns (W / S, 32), with the largest score of each query, in
 * powers of two, and the inverse of the sum of its weights. `scores` (P, Q) and `weights` (P / S, Q) are working space.
 */
INLINE void attend(float *rows, float *largest, float *inverse, float *scores, Word *weights, const Word *columns,
                   const Head *head, int parts) {
    const int keys = SUMS / parts, queries = parts * ALL;
    const int64_t length = head->length, wide = head->wide;
    const Vector scale = all(head->scale * LOG2_E);
    Vector most[PARTS], sum[PARTS];
    for (int part = 0; part < parts; part++) most[part] = all(-3e38f), sum[part] = (Vector){0};
    for (int64_t j = 0; j + keys <= length; j += keys)
        score(scores + j * queries, most, head->key + j * wide, columns, wide, keys, parts);
    int64_t left = length % keys, j = length - left;
    if (left) score(scores + j * queries, most, head->key + j * wide, columns, wide, left, parts);
    for (int part = 0; part < parts; part++) most[part] = most[part] * scale;
    for (int64_t j = 0; j < length; j += PER_WORD)
        for (int part = 0; part < parts; part++) {
            const float *score = scores + j * queries + part * ALL;
            Vector a = power_of_two(load(score) * scale - most[part]), b = {0};
            if (PER_WORD == 2 && j + 1 < length) b = power_of_two(load(score + queries) * scale - most[part]);
            sum[part] += a + b;
            store_words(weights + j / PER_WORD * queries + part * ALL, word_of(a, b));
        }
    for (int part = 0; part < parts; part++) {
        sum[part] = 1.0f / sum[part];
        store(largest + part * ALL, most[part]);
        store(inverse + part * ALL, sum[part]);
    }
    weighted_sum(rows, weights, head->value_words, length, wide, sum, parts);
}

/* Attention of the heads first to last - 1 of all proteins, N of each. Proteins end at token ends[b]. The queries are all
 * tokens, or if it is not null those of `wanted` (K), which do not fall; asked[b] is where those of a protein end. `output`
 * (K, N, D), and `kept` (2, N, K), the largest score of each query, in powers of two, and the inverse of its sum.
 */
void OF(attention_forward)(const Number *query, const Number *others, const float *turns, const int64_t *wanted,
                           Number *output, float *kept, const int64_t *ends, const int64_t *asked, int64_t first,
                           int64_t last, int64_t total, int64_t heads, int64_t dim, int64_t query_apart,
                           int64_t others_apart, float scale, char *room) {
    Shape shape = {heads, dim, filled(dim, ALL), turns};
    int64_t wide = shape.wide, query_row = heads * query_apart, row = heads * others_apart;
    for (int64_t b = first / heads; b * heads < last; b++) {
        Protein protein = protein_at(b, ends, asked, wanted, heads, first, last);
        int64_t padded = protein.padded, length = protein.tokens.length, queries = protein.queries.length;
        int64_t asked_before = protein.queries.begin, asked_padded = filled(queries, QUERIES);
        char *space = (char *)filled((intptr_t)room, 64);
        int64_t size = padded * wide * sizeof(Number);
        Number *rows = cut(&space, size), *key = cut(&space, size);
        Word *columns = cut(&space, size), *words = cut(&space, size);
        float *scores = cut(&space, 4 * padded * QUERIES), *sums = cut(&space, 4 * QUERIES * wide);
        Word *weights = cut(&space, padded * QUERIES * sizeof(Number));
        Head of_head = {.key = key, .length = length, .wide = wide, .scale = scale};
        for (int64_t head = protein.head; head < protein.end; head++) {
            const Number *at = others + head * others_apart;
            gather(rows, query + head * query_apart, query_row, query_apart, protein.queries, &shape, turns);
            columns_of(columns, rows, asked_padded, wide);
            gather(rows, at + dim, row, others_apart, protein.tokens, &shape, NULL);
            of_head.value_words = in_words(words, rows, padded, wide);
            gather(key, at, row, others_apart, protein.tokens, &shape, turns);
            float *largest = kept + head * total + asked_before, *inverse = largest + heads * total;
            for (int64_t i = 0; i < queries; i += QUERIES) {
                float most[QUERIES], over[QUERIES];
                int64_t count = smallest(queries - i, QUERIES);
                if (count > ALL) attend(sums, most, over, scores, weights, columns + i * wide / PER_WORD, &of_head, PARTS);
                else attend(sums, most, over, scores, weights, columns + i * wide / PER_WORD, &of_head, 1);
                memcpy(largest + i, most, count * sizeof(float));
                memcpy(inverse + i, over, count * sizeof(float));
                scatter(output + head * dim, sums, heads * dim, (Rows){NULL, asked_before + i, count}, &shape, NULL, 1);
            }
        }
    }
}

typedef struct {
    Number *weights, *of_scores; /* (P, Q) */
    Word *of_scores_words;       /* (P / S, Q) in words of keys: in float32 `of_scores` */
} Scores;

typedef struct {
    const Word *query_columns, *above_columns; /* (P / 32, W / S, 32) */
    const Word *query_words, *above_words;     /* (P / S, W) */
    const float *largest, *inverse, *inner;    /* of 32 queries; the last are the products of outputs and their gradients */
} Queries;

INLINE void store_parts(Number *row, const Vector each[PARTS], int parts) {
    if (parts == 1) store_some(row, each[0], ALL);
    else store_numbers(row, ALL, each[0], each[1]);
}

/* The weights that `SUMS` / `parts` keys from the j-th on, of which `count` are there, have for Q = 16 `parts` queries from the
 * i-th on, by what `attend` gave, and the gradients of the scores.
 */
INLINE void scores_back(const Scores *to, const Queries *of, int64_t i, int64_t j, const Head *head, int count, int parts) {
    const int keys = SUMS / parts, queries = parts * ALL;
    const Vector scale = all(head->scale * LOG2_E);
    Vector weights[SUMS][PARTS], of_scores[SUMS][PARTS];
    products(weights, head->key + j * head->wide, of->query_columns + i * head->wide / PER_WORD, head->wide, parts);
    for (int k = 0; k < keys; k++)
        for (int part = 0; part < parts; part++) {
            Vector most = load(of->largest + part * ALL), over = load(of->inverse + part * ALL);
            weights[k][part] = k < count ? power_of_two(weights[k][part] * scale - most) * over : (Vector){0};
        }
    for (int k = 0; k < keys; k++) store_parts(to->weights + (j + k) * queries, weights[k], parts);
    products(of_scores, head->value + j * head->wide, of->above_columns + i * head->wide / PER_WORD, head->wide, parts);
    for (int k = 0; k < keys; k++) {
        for (int part = 0; part < parts; part++)
            of_scores[k][part] = weights[k][part] * (of_scores[k][part] - load(of->inner + part * ALL));
        store_parts(to->of_scores + (j + k) * queries, of_scores[k], parts);
    }
    for (int k = 0; PER_WORD == 2 && k < keys; k += 2)
        for (int part = 0; part < parts; part++)
            store_words(to->of_scores_words + (j + k) / 2 * queries + part * ALL,
                        word_of(of_scores[k][part], of_scores[k + 1][part]));
}

/* The gradients of Q = 16 `parts` queries from the i-th on, to `of_query` (Q, W), and what they add to those of keys and
 * values, `of_key` and `of_value` (P, W).
 */
INLINE void queries_back(float *of_query, float *of_key, float *of_value, const Scores *scores, const Queries *of, int64_t i,
                         const Head *head, int parts) {
    const Vector ones[PARTS] = {all(1), all(1)};
    int64_t length = head->length, wide = head->wide, keys = SUMS / parts, j = 0;
    for (; j + keys <= length; j += keys) scores_back(scores, of, i, j, head, keys, parts);
    if (j < length) scores_back(scores, of, i, j, head, length - j, parts);
    weighted_sum(of_query, scores->of_scores_words, head->key_words, length, wide, ones, parts);
    add_rows_of_product(of_value, scores->weights, of->above_words + i / PER_WORD * wide, length, wide, parts);
    add_rows_of_product(of_key, scores->of_scores, of->query_words + i / PER_WORD * wide, length, wide, parts);
}

/* The gradients of `query` and `others`, from that of the output, `upstream` (K, N, D). */
void OF(attention_backward)(const Number *query, const Number *others, const float *turns, const int64_t *wanted,
                            const Number *output, const float *kept, const Number *upstream, Number *query_gradient,
                            Number *others_gradient, const int64_t *ends, const int64_t *asked, int64_t first,
                            int64_t last, int64_t total, int64_t heads, int64_t dim, int64_t query_apart,
                            int64_t others_apart, float scale, char *room) {
    Shape shape = {heads, dim, filled(dim, ALL), turns};
    int64_t wide = shape.wide, query_row = heads * query_apart, row = heads * others_apart;
    for (int64_t b = first / heads; b * heads < last; b++) {
        Protein protein = protein_at(b, ends, asked, wanted, heads, first, last);
        int64_t padded = protein.padded, length = protein.tokens.length, queries = protein.queries.length;
        int64_t asked_before = protein.queries.begin, asked_padded = filled(queries, QUERIES);
        char *space = (char *)filled((intptr_t)room, 64);
        int64_t size = padded * wide * sizeof(Number), of_scores_size = padded * QUERIES * sizeof(Number);
        Number *query_rows = cut(&space, size), *key = cut(&space, size), *value = cut(&space, size), *above = cut(&space, size);
        Word *query_columns = cut(&space, size), *above_columns = cut(&space, size);
        Word *query_words = cut(&space, size), *key_words = cut(&space, size), *above_words = cut(&space, size);
        float *of_query = cut(&space, 4 * padded * wide), *of_key = cut(&space, 4 * padded * wide);
        float *of_value = cut(&space, 4 * padded * wide), *inner = cut(&space, 4 * padded);
        Number *weights = cut(&space, of_scores_size), *of_scores = cut(&space, of_scores_size);
        Scores scores = {weights, of_scores, PER_WORD == 1 ? (Word *)of_scores : cut(&space, of_scores_size)};
        Head of_head = {.key = key, .value = value, .length = length, .wide = wide, .scale = scale};
        Queries of = {.query_columns = query_columns, .above_columns = above_columns};
        for (int64_t head = protein.head; head < protein.end; head++) {
            const Number *at = others + head * others_apart;
            gather(query_rows, query + head * query_apart, query_row, query_apart, protein.queries, &shape, turns);
            columns_of(query_columns, query_rows, asked_padded, wide);
            of.query_words = in_words(query_words, query_rows, asked_padded, wide);
            gather(key, at, row, others_apart, protein.tokens, &shape, turns);
            of_head.key_words = in_words(key_words, key, padded, wide);
            gather(value, at + dim, row, others_apart, protein.tokens, &shape, NULL);
            gather(above, upstream + head * dim, heads * dim, dim, protein.outputs, &shape, NULL);
            columns_of(above_columns, above, asked_padded, wide);
            of.above_words = in_words(above_words, above, asked_padded, wide);
            Number *result = (Number *)of_query; /* until the gradient takes its place */
            gather(result, output + head * dim, heads * dim, dim, protein.outputs, &shape, NULL);
            for (int64_t i = 0; i < asked_padded; i++) {
                Vector sum = {0};
                for (int64_t d = 0; d < wide; d += ALL) sum += load_numbers(above + i * wide + d) * load_numbers(result + i * wide + d);
                inner[i] = _mm512_reduce_add_ps((__m512)sum);
            }
            memset(of_key, 0, 4 * padded * wide);
            memset(of_value, 0, 4 * padded * wide);
            const float *largest = kept + head * total + asked_before, *inverse = largest + heads * total;
            for (int64_t i = 0; i < queries; i += QUERIES) {
                float most[QUERIES] = {0}, over[QUERIES] = {0};
                int64_t count = smallest(queries - i, QUERIES);
                memcpy(most, largest + i, count * sizeof(float));
                memcpy(over, inverse + i, count * sizeof(float));
                of.largest = most, of.inverse = over, of.inner = inner + i;
                float *to = of_query + i * wide;
                if (count > ALL) queries_back(to, of_key, of_value, &scores, &of, i, &of_head, PARTS);
                else queries_back(to, of_key, of_value, &scores, &of, i, &of_head, 1);
            }
            Number *to = others_gradient + head * others_apart;
            scatter(query_gradient + head * query_apart, of_query, query_row, protein.queries, &shape, turns, scale);
            scatter(to, of_key, row, protein.tokens, &shape, turns, scale);
            scatter(to + dim, of_value, row, protein.tokens, &shape, NULL, 1);
        }
    }
}
