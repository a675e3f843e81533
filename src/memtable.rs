//! stub
pub(crate) mod arena;
pub(crate) mod cursor;
