"""CMAN, the cross-modal attention network: one file a part. torch lives only under models/. Does no I/O."""
