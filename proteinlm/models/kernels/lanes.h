/* What goes by the sixteen lanes of AVX-512. */
#pragma once
#include "vectors.h"

#define ALL 16 /* lanes */
#define LOG2_E 1.44269504088896341f
#define INLINE static inline __attribute__((always_inline))

/* The transpose of 16 rows of 16 words of 32 bits, which are in `a`. It overwrites them. */
static inline void store_transpose(uint32_t *to, int64_t to_stride, __m512i a[16]) {
    __m512i b[16];
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_storeu_si512(to + (i + 4) * to_stride, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88));
        _mm512_storeu_si512(to + (i + 8) * to_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
        _mm512_storeu_si512(to + (i + 12) * to_stride, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xdd));
    }
}

/* The transpose of 16 rows of 16 words of 32 bits, `from_stride` apart. */
static inline void transpose_words(void *to, int64_t to_stride, const void *from, int64_t from_stride) {
    __m512i rows[ALL];
    for (int i = 0; i < ALL; i++) rows[i] = _mm512_loadu_si512((const uint32_t *)from + i * from_stride);
    store_transpose(to, to_stride, rows);
}

/* The next `bytes` of a working space. */
static inline void *cut(char **space, int64_t bytes) {
    void *start = *space;
    *space += filled(bytes, 64);
    return start;
}

static inline int64_t smallest(int64_t a, int64_t b) { return a < b ? a : b; }
