//! The target `wal` under libFuzzer.

#![no_main]

esker_fuzz::fuzz!("wal");
