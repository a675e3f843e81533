//! The verbs that do one thing and end, one file a family.

pub mod about;
pub mod amplification;
pub mod entries;
pub mod reports;
pub mod transfer;
pub mod upkeep;
