//! The target `manifest` under libFuzzer.

#![no_main]

esker_fuzz::fuzz!("manifest");
