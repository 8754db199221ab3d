"""From stored proteins to packed batches: order, packing, masking, labels."""
