//! The models of a power cut: what of the unsynced state survives.
//!
//! Real file systems promise little of it: bytes may come before names, names before bytes, lengths
//! before either, in the order of a journal or in none, and a write may be cut anywhere. Each model is
//! one of these pure, or a mixture by chance. None of them touches what was synced.

/// What a power cut leaves of the state that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// Synced bytes under synced names, and nothing else.
    Nothing,
    /// All bytes and all names.
    Everything,
    /// All names, but of the bytes only the synced ones: new files are empty.
    NamesOnly,
    /// All bytes, but only synced names.
    BytesOnly,
    /// All names and lengths, but of the bytes only the synced ones, and zeros where there are none:
    /// what delayed allocation leaves.
    NamesAndLengths,
    /// The first `kept` of the unsynced changes of all files and directories, in the order in which
    /// they were made ([`SimFs::unsynced_count`](super::SimFs::unsynced_count) says how many there are): an ordered
    /// journal. Writes lost to a failed sync are not among them.
    Prefix {
        /// How many survive; more than there are is all of them.
        kept: u64,
    },
    /// Everything, but of the last unsynced write of each file only the first bytes.
    Torn {
        /// How many bytes of it survive, modulo its length.
        kept_bytes: u64,
        /// What stands in place of the others.
        rest: TornRest,
    },
    /// All bytes, and of the unsynced changes of names in each directory all but one: directory entries reach the disk
    /// in no order.
    AllNamesButOne {
        /// Which one is missing, modulo how many there are.
        index: u64,
    },
    /// Chance decides, separately for every unsynced 4 KiB block, file length and change of a name.
    ///
    /// Blocks may be torn inside and lengths lie between old and new. The surviving changes of
    /// names are mostly the first ones of each directory, sometimes any that fit together. 0
    /// percent equals `Nothing`, 100 `Everything`.
    Random {
        /// How likely each survives.
        percent: u8,
        /// The same seed on the same state gives the same result.
        seed: u64,
    },
}

/// What stands where the rest of a torn write should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TornRest {
    /// What was there before; a file that was to grow ends at the tear.
    Old,
    /// Zeros where the file was to grow: the length reached the disk before the bytes did. What was there before is
    /// there still.
    Zeros,
}
