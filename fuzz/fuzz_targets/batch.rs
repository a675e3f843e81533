//! The target `batch` under libFuzzer.

#![no_main]

esker_fuzz::fuzz!("batch");
