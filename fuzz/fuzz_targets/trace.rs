//! The target `trace` under libFuzzer.

#![no_main]

esker_fuzz::fuzz!("trace");
