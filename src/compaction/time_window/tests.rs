//! Time-window compaction over metadata alone: plans on drawn trees, and trees that grow and expire.
