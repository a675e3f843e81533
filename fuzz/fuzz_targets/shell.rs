//! The target `shell` under libFuzzer.

#![no_main]

esker_fuzz::fuzz!("shell");
