/* One logit for each pair of residues, weight . tanh(first_i + second_j), and its gradient.
 *
 * The (L, L, H) in between never exists. tanh x is 1 - 2 / (1 + exp(2 x)).
 *
 * L residues, R of them as rows, H hidden size.
 */
#include "vectors.h"

static inline Vector tangent(Vector x) { return 1.0f - 2.0f / (1.0f + exponential(x + x)); }

/* Logits (L, L), rows first to last - 1, of `one` (L, H) and `other` (H, P), transposed and filled up to P, lanes at a time. */
void pairs_forward(const float *one, const float *other, const float *weight, float bias, float *logits, int64_t first,
                   int64_t last, int64_t length, int64_t padded, int64_t hidden) {
    for (int64_t i = first; i < last; i++)
        for (int64_t j = 0; j < length; j += LANES) {
            Vector sum = all(bias);
            for (int64_t h = 0; h < hidden; h++)
                sum += weight[h] * tangent(one[i * hidden + h] + load(other + h * padded + j));
            if (j + LANES <= length)
                store(logits + i * length + j, sum);
            else
                memcpy(logits + i * length + j, &sum, (length - j) * sizeof(float));
        }
}

/* From the gradient (L, L) of the logits that of `one` (L, P), rows first to last - 1, and what these rows add to that of
 * `other` (L, P) and of `weight` (P): both are written, not added to. All are filled up to P, a multiple of the lanes.
 */
void pairs_backward(const float *one, const float *other, const float *weight, const float *upstream, float *of_one,
                    float *of_other, float *of_weight, int64_t first, int64_t last, int64_t length, int64_t padded) {
    memset(of_other, 0, length * padded * sizeof(float));
    memset(of_weight, 0, padded * sizeof(float));
    for (int64_t i = first; i < last; i++)
        for (int64_t h = 0; h < padded; h += LANES) {
            Vector each = load(one + i * padded + h), factor = load(weight + h), of_each = {0}, of_factor = {0};
            for (int64_t j = 0; j < length; j++) {
                Vector t = tangent(each + load(other + j * padded + h));
                float given = upstream[i * length + j];
                float *to = of_other + j * padded + h;
                Vector inner = given * (factor - factor * (t * t));
                of_each += inner;
                of_factor += given * t;
                store(to, load(to) + inner);
            }
            store(of_one + i * padded + h, of_each);
            store(of_weight + h, load(of_weight + h) + of_factor);
        }
}
