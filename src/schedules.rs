//! What the unit tests under a scheduler take from `tests/schedules/`.

#![cfg(test)]

#[path = "../tests/schedules/explore.rs"]
pub(crate) mod explore;
#[path = "../tests/it/trust.rs"]
mod trust;
