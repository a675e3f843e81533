//! stub

/// Stub, replaced by its owner.
#[derive(Debug, Default)]
pub struct SimFs;
