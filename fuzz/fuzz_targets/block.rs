//! The target `block` under libFuzzer.

#![no_main]

esker_fuzz::fuzz!("block");
