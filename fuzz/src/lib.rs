//! Binds a target of `esker-fuzz-targets` to libFuzzer: runs it, and mutates its inputs by its format.

/// For the macro.
pub use libfuzzer_sys;

use esker_fuzz_targets::Target;
use esker_fuzz_targets::mutation::{Random, mutate};
use libfuzzer_sys::fuzzer_mutate;

/// The entry points that libFuzzer looks for, for the target called `$name`.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        use $crate::libfuzzer_sys;

        libfuzzer_sys::fuzz_target!(|input: &[u8]| {
            ($crate::target($name).run)(input);
        });

        libfuzzer_sys::fuzz_mutator!(
            |input: &mut [u8], len: usize, len_max: usize, seed: u32| {
                $crate::mutate_in_place($name, input, len, len_max, seed)
            }
        );
    };
}

/// The target called `name`.
pub fn target(name: &str) -> &'static Target {
    esker_fuzz_targets::by_name(name).expect("the binary is named after a target")
}

/// Mutates the first `len` bytes of `input`, which has room for `len_max`. Returns the new length. What is done to the
/// bytes of a part is what libFuzzer knows to do.
pub fn mutate_in_place(
    name: &str,
    input: &mut [u8],
    len: usize,
    len_max: usize,
    seed: u32,
) -> usize {
    let mut bytes = input[..len].to_vec();
    let mut change = |part: &mut Vec<u8>, part_len_max: usize| {
        let (part_len, room) = (part.len(), part_len_max.max(part.len()).max(1));
        part.resize(room, 0);
        let new_len = fuzzer_mutate(part, part_len, room);
        part.truncate(new_len);
    };
    let mut random = Random::new(seed.into());
    mutate(target(name).format, &mut bytes, len_max, &mut random, &mut change);
    input[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}
