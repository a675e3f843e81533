//! The workloads by name: `db_bench`'s, and YCSB's A to F.

use clap::ValueEnum;

/// A workload. What each does to the database stands in `driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Workload {
    /// Put keys in order
    FillSeq,
    /// Put random keys
    FillRandom,
    /// Put random keys, each durable before the next
    FillSync,
    /// Put random keys over those that are there
    Overwrite,
    /// Put random keys in batches of 100
    BatchLoad,
    /// Get random keys
    ReadRandom,
    /// Get keys that are absent, from inside the range of those that are there
    ReadMissing,
    /// Get keys by a zipfian distribution (0.99)
    ReadZipf,
    /// Seek to a random key and read --len entries
    SeekScan,
    /// The same from the top down
    RevScan,
    /// Read everything once, in order
    ScanAll,
    /// Half gets, half puts, zipfian
    Mixed,
    /// YCSB A: half gets, half puts, zipfian
    YcsbA,
    /// YCSB B: 95% gets, 5% puts, zipfian
    YcsbB,
    /// YCSB C: gets, zipfian
    YcsbC,
    /// YCSB D: 95% gets of the newest keys, 5% new keys
    YcsbD,
    /// YCSB E: 95% scans of up to --len entries, 5% new keys
    YcsbE,
    /// YCSB F: half gets, half read-modify-writes, zipfian
    YcsbF,
    /// Get random keys while one more thread overwrites
    Rww,
    /// Merge all tables
    Compact,
    /// Open the database
    Open,
    /// Every compaction strategy under every load of --loads, in databases below DIR: samples and totals
    Amplification,
}

impl Workload {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Workload::FillSeq => "fillseq",
            Workload::FillRandom => "fillrandom",
            Workload::FillSync => "fillsync",
            Workload::Overwrite => "overwrite",
            Workload::BatchLoad => "batchload",
            Workload::ReadRandom => "readrandom",
            Workload::ReadMissing => "readmissing",
            Workload::ReadZipf => "readzipf",
            Workload::SeekScan => "seekscan",
            Workload::RevScan => "revscan",
            Workload::ScanAll => "scanall",
            Workload::Mixed => "mixed",
            Workload::YcsbA => "ycsba",
            Workload::YcsbB => "ycsbb",
            Workload::YcsbC => "ycsbc",
            Workload::YcsbD => "ycsbd",
            Workload::YcsbE => "ycsbe",
            Workload::YcsbF => "ycsbf",
            Workload::Rww => "rww",
            Workload::Compact => "compact",
            Workload::Open => "open",
            Workload::Amplification => "amplification",
        }
    }

    /// Whether its keys follow a zipfian distribution, whose constants take time to compute.
    pub fn is_zipfian(self) -> bool {
        matches!(
            self,
            Workload::ReadZipf
                | Workload::Mixed
                | Workload::YcsbA
                | Workload::YcsbB
                | Workload::YcsbC
                | Workload::YcsbD
                | Workload::YcsbE
                | Workload::YcsbF
        )
    }

    /// Whether it fills the database and does nothing else.
    pub fn only_writes(self) -> bool {
        matches!(
            self,
            Workload::FillSeq
                | Workload::FillRandom
                | Workload::FillSync
                | Workload::Overwrite
                | Workload::BatchLoad
        )
    }

    /// Whether it is one operation on the whole database, whatever `--n` and `--threads` say.
    pub fn is_single(self) -> bool {
        matches!(self, Workload::ScanAll | Workload::Compact | Workload::Open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for workload in Workload::value_variants() {
            let value = workload.to_possible_value().unwrap();
            assert_eq!(value.get_name(), workload.name());
        }
    }
}
