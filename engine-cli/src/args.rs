//! The command line as types. `clap` derives the parser, the help, the man page and the completions from them.
//!
//! Keys and values arrive as the operating system's bytes and are decoded by [`text`](crate::text) once `--hex` is
//! known.

mod copies;
mod planning;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use esker::Durability;

pub use self::copies::{BackupsArgs, CopyArgs, RestoreArgs};
pub use self::planning::{AdviseArgs, KeysArg, Prefer, SimulateArgs, WorkloadArgs};
use crate::database::DEFAULT_KEYSPACE;
use crate::error::Failure;
use crate::output::Format;
use crate::range::KeyRange;
use crate::text::Encoding;
use crate::units::parse_seconds;

const EXIT_CODES: &str = "\
Exit codes:
  0  done (also when the reader of our output closed it early)
  1  the key is absent (get)
  2  the command line is wrong
  3  corruption: stored bytes are not what was written
  4  I/O error; also: there is no database at the path
  5  locked: the database is open elsewhere
  6  refused: invalid argument, unsupported format, busy, poisoned, bad input line
130  interrupted (Ctrl-C during compact or load; 143: load by SIGTERM): the database is valid

Errors are one line on stderr: `error: WHAT: WHERE: WHAT TO DO`; -v adds the causes.

Keys and values are UTF-8 text. Bytes that are not printable are shown as \\xNN and read so; a backslash is \\\\. \
With --hex they are hexadecimal, in and out.";

/// Command line of esker databases: write, read, scan, compact, look inside, measure.
#[derive(Debug, Parser)]
#[command(name = "engine-cli", version, after_help = EXIT_CODES, max_term_width = 100, arg_required_else_help = false)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that stand before or after any command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Directory of the database
    #[arg(long, alias = "dir", global = true, env = "ENGINE_DB", value_name = "DIR")]
    pub db: Option<PathBuf>,
    /// Keyspace to work on. Checkpoints, backups, verify and repair are of all keyspaces, whatever it says
    #[arg(long, global = true, value_name = "NAME", default_value = DEFAULT_KEYSPACE)]
    pub keyspace: String,
    /// How results are written
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Keys and values are hexadecimal, in and out
    #[arg(long, global = true)]
    pub hex: bool,
    /// Set an option of the database or of the keyspace; repeatable. `engine-cli options` lists them
    #[arg(long = "option", global = true, value_name = "NAME=VALUE")]
    pub options: Vec<String>,
    /// Say the causes of an error too
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write one entry; creates the database
    Put(PutArgs),
    /// Print the value of a key; exit 1 if it is absent
    Get(GetArgs),
    /// Delete a key; absent keys are fine
    Delete(DeleteArgs),
    /// Print the entries of a range in order
    Scan(ScanArgs),
    /// Write every entry of a file; creates the database
    Load(LoadArgs),
    /// Print every entry in a form that `load` reads
    Dump(DumpArgs),
    /// Write memtables to tables and wait until that is done
    Flush,
    /// Merge the tables of the keyspace, or of a range of it, and wait until that is done
    Compact(CompactArgs),
    /// Make every earlier write durable
    Sync,
    /// Print the metrics
    Stats,
    /// Draw the tree by level
    Levels,
    /// Print write, read and space amplification by part
    Amp(AmpArgs),
    /// Read every byte of every file and name what is damaged; exit 3 if anything is
    Verify,
    /// Make a second database of this moment in a new directory, by hard links
    Checkpoint(CopyArgs),
    /// Add a backup to a backup directory; only what it lacks is copied
    Backup(CopyArgs),
    /// List, verify or remove the backups in a directory; needs no database
    Backups(BackupsArgs),
    /// Make the database that --db names, which must not exist, of a backup
    Restore(RestoreArgs),
    /// Save what is readable of a damaged database, and say which keys may be lost
    Repair(crate::verbs::salvage::RepairArgs),
    /// Decode a log segment, a manifest or a table, wherever it lies
    Inspect(crate::verbs::inspect::InspectArgs),
    /// List or drop keyspaces
    Keyspaces(KeyspacesArgs),
    /// Print every option with its default, range and meaning
    Options,
    /// Run workloads of db-bench and YCSB by name; one JSON line for each
    Bench(BenchArgs),
    /// Turn the output of `bench amplification` into a page of plots (HTML, self-contained)
    Report(ReportArgs),
    /// Predict what compaction strategies cost under a described workload; needs no database
    Simulate(SimulateArgs),
    /// Compare compaction strategies for a described or recorded workload and recommend one
    Advise(AdviseArgs),
    /// Read commands from standard input; a line editor on a terminal
    Shell(ShellArgs),
    /// Index every path below a directory, change, read, compact, verify; print the amplification
    Demo(DemoArgs),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the man page
    Man,
}

#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
pub struct PutArgs {
    pub key: OsString,
    #[arg(required_unless_present = "value_file", conflicts_with = "value_file")]
    pub value: Option<OsString>,
    /// Take the value's bytes from a file, as they are; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub value_file: Option<PathBuf>,
    /// Time after which the entry expires: seconds, or a time like 12h or 7d
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub ttl: Option<u64>,
    #[command(flatten)]
    pub durability: DurabilityArg,
}

/// When a write is safe.
#[derive(Args, Debug)]
pub struct DurabilityArg {
    /// When the write is safe: sync (before we return; the default), buffered (survives the process), async
    #[arg(long, value_name = "sync|buffered|async", value_parser = parse_durability)]
    pub durability: Option<Durability>,
}

#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
pub struct GetArgs {
    pub key: OsString,
    /// Only the value's bytes: no escapes (unless --hex), no newline
    #[arg(long)]
    pub raw: bool,
}

#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
pub struct DeleteArgs {
    pub key: OsString,
    #[command(flatten)]
    pub durability: DurabilityArg,
}

/// A range of keys.
#[derive(Args, Debug)]
pub struct RangeArgs {
    /// First key
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub from: Option<OsString>,
    /// Key before which to stop
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub to: Option<OsString>,
}

impl RangeArgs {
    /// The range, decoded.
    pub fn decode(&self, encoding: Encoding) -> Result<KeyRange, Failure> {
        Ok(KeyRange {
            from: encoding.optional_argument("--from", self.from.as_deref())?,
            to: encoding.optional_argument("--to", self.to.as_deref())?,
        })
    }
}

#[derive(Args, Debug)]
pub struct ScanArgs {
    #[command(flatten)]
    pub range: RangeArgs,
    /// Only keys that begin so
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub prefix: Option<OsString>,
    /// From the top down
    #[arg(long)]
    pub reverse: bool,
    /// At most so many entries
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    pub limit: u64,
    /// Print keys without values
    #[arg(long)]
    pub keys_only: bool,
    /// Print only how many entries there are
    #[arg(long)]
    pub count: bool,
}

/// The forms of `load` and `dump`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DumpFormat {
    /// KEY, a tab, VALUE on a line, as `scan` prints them
    Tsv,
    /// {"key": KEY, "value": VALUE} on a line
    Jsonl,
    /// As tsv, in hexadecimal
    Hex,
}

#[derive(Args, Debug)]
pub struct LoadArgs {
    /// File to read; `-` is standard input
    pub file: PathBuf,
    /// Form of the lines
    #[arg(long, value_enum, default_value_t = DumpFormat::Tsv)]
    pub input: DumpFormat,
    /// Write all entries in one batch: a bad line leaves nothing behind. The file must fit in memory
    #[arg(long)]
    pub atomic: bool,
    /// The keys ascend, bytewise, each once: bulk ingest, which writes every byte once. With --atomic it need not fit
    /// in memory
    #[arg(long)]
    pub sorted: bool,
}

#[derive(Args, Debug)]
pub struct DumpArgs {
    /// Form of the lines (default tsv, or jsonl with --format json)
    #[arg(long, alias = "input", value_enum)]
    pub output: Option<DumpFormat>,
}

#[derive(Args, Debug)]
pub struct CompactArgs {
    #[command(flatten)]
    pub range: RangeArgs,
    /// Write no faster than the option `compaction_rate` says, as automatic compactions do
    #[arg(long)]
    pub limited: bool,
}

#[derive(Args, Debug)]
pub struct AmpArgs {
    /// Scan every keyspace, and so know exactly what is alive
    #[arg(long)]
    pub exact: bool,
}

#[derive(Args, Debug)]
pub struct KeyspacesArgs {
    #[command(subcommand)]
    pub action: Option<KeyspacesAction>,
}

#[derive(Debug, Subcommand)]
pub enum KeyspacesAction {
    /// Print every keyspace
    List,
    /// Delete a keyspace with everything in it
    Drop {
        name: String,
        /// Really delete it
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub struct ShellArgs {
    /// Where the line editor keeps its history (default: in the user's state directory)
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Directory whose paths are indexed
    #[arg(default_value = "/usr")]
    pub root: PathBuf,
}

/// Flags of `bench`: those of the peers' harness, with the same meaning. One process may run several workloads in turn
/// on the same database; it is closed and opened again between them.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Workloads, run in turn on the same database
    #[arg(required = true, value_enum, value_name = "WORKLOAD")]
    pub workloads: Vec<crate::bench::Workload>,
    /// Operations of each workload, over all threads
    #[arg(long, default_value_t = 1_000_000)]
    pub n: u64,
    /// Keys are 16-digit decimals below this (default: n)
    #[arg(long)]
    pub keys: Option<u64>,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: u64,
    /// Bytes of a value; its second half repeats the first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1 << 30))]
    pub vs: u64,
    /// Block cache, MiB
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    pub cache: u64,
    /// Memtable, MiB (default: 64, or what the database has)
    #[arg(long, value_name = "MIB")]
    pub mem: Option<u64>,
    /// Compression (default: none, or what the database has)
    #[arg(long, value_name = "none|snap|zstd")]
    pub comp: Option<String>,
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Entries of a scan
    #[arg(long, default_value_t = 100)]
    pub len: u64,
    /// 1: delete the database first
    #[arg(long, default_value_t = 0, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub fresh: u8,
    /// 1: wait for flush and compaction before space is taken
    #[arg(long, default_value_t = 0, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub settle: u8,
    /// 1: end with SIGKILL instead of closing, after the last workload
    #[arg(long, default_value_t = 0, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub crash: u8,
    /// 1: every value is different; 0: one value for all, as the peers' harness does
    #[arg(long, default_value_t = 0, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub vary: u8,
    /// Text carried into the JSON line
    #[arg(long, default_value = "")]
    pub tag: String,
    /// Of amplification: the strategies to compare
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME,...",
        default_value = "leveled,size_tiered,lazy_leveled,fifo,time_window"
    )]
    pub strategies: Vec<String>,
    /// Of amplification: the loads to compare them under
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LOAD,...",
        default_value = "load,overwrite_uniform,overwrite_zipf,time_series,delete_heavy"
    )]
    pub loads: Vec<crate::amplification::Load>,
}

#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Files with the output of `bench amplification`
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    text.parse().map_err(|error: esker::Error| error.what().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
