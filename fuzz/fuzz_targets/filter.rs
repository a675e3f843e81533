//! The target `filter` under libFuzzer.

#![no_main]

esker_fuzz::fuzz!("filter");
