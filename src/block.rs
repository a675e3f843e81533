//! stub
pub(crate) mod builder;
pub(crate) mod cursor;
