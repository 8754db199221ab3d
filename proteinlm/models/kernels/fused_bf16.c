/* Layers fused with what surrounds them, with products in bfloat16. */
#ifdef __AVX512BF16__
#include "numbers_bf16.h"

#include "fused_attention.h"
#include "fused_feed_forward.h"
#include "fused_linear.h"
#include "fused_weights.h"
#endif
