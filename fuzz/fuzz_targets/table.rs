//! The target `table` under libFuzzer.

#![no_main]

esker_fuzz::fuzz!("table");
