//! The verbs that do one thing and end, one file a family.

pub mod about;
pub mod advise;
pub mod amplification;
pub mod copies;
pub mod entries;
pub mod inspect;
pub mod reports;
pub mod salvage;
pub mod simulate;
pub mod transfer;
pub mod upkeep;
