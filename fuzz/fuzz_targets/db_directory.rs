//! The target `db_directory` under libFuzzer.

#![no_main]

esker_fuzz::fuzz!("db_directory");
