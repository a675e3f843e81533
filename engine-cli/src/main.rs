//! `engine-cli`: the command line of esker.
fn main() {}
