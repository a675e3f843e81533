//! The target `operations` under libFuzzer.

#![no_main]

esker_fuzz::fuzz!("operations");
