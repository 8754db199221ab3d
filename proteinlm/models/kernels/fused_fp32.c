/* Layers fused with what surrounds them, with products in float32. */
#ifdef __AVX512F__
#include "numbers_fp32.h"

#include "fused_attention.h"
#include "fused_feed_forward.h"
#include "fused_linear.h"
#include "fused_weights.h"
#endif
