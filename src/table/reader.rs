//! stub

/// An open table.
#[derive(Debug)]
pub(crate) struct TableReader;
