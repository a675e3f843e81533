//! `options`, `completions`, `man`: the program about itself.

use clap::CommandFactory;
use clap_complete::Shell;
use esker::{Compaction, DbOptions, KeyspaceOptions};
use serde::Serialize;

use crate::args::Cli;
use crate::error::Failure;
use crate::output::Out;

/// What the table of options says about one.
#[derive(Serialize)]
struct OptionRow {
    name: &'static str,
    scope: &'static str,
    default: String,
    meaning: &'static str,
}

/// Meanings and ranges by name; a test holds the names against the engine's.
const MEANINGS: &[(&str, &str)] = &[
    ("durability", "of writes that name none: sync, buffered, async, disabled"),
    ("background_threads", "threads for flush and compaction, 0..=64; 0 works inside the calls"),
    ("cache_bytes", "bytes of blocks kept in memory, 0..=1 TiB"),
    ("open_tables_max", "tables kept open at once, 16..=1000000"),
    (
        "wal_bytes_max",
        "bytes of live log above which the oldest data is flushed, at least two segments",
    ),
    ("wal_segment_bytes", "length of a log segment, 64 KiB..=1 GiB"),
    ("wal_mode", "how log bytes are written: map, write"),
    ("wal_recovery", "a damaged log at open: point_in_time, absolute, tolerate_tail, salvage"),
    ("async_interval_ms", "longest time an async write stays unsynced, 1..=200 ms"),
    ("read_mode", "how tables are read: mmap, pread"),
    ("verify", "when block checksums are verified: once, always"),
    ("scrub_interval_s", "seconds between passes over every table; 0 never"),
    ("compaction_rate", "bytes that compaction may write in a second: none, auto, or a number"),
    ("read_only", "open for reading only: true, false; reading verbs always do"),
    ("create_if_missing", "create the database: true, false; only for verbs that create"),
    ("record_workload", "file to record the workload into, for `advise --trace`; empty: none"),
    ("memtable_bytes", "bytes of a memtable at which it is flushed, 4 KiB..=4 GiB"),
    ("memtables_max", "memtables in memory at once, 2..=64"),
    ("block_bytes", "bytes of a data block before compression, 512..=1 MiB"),
    ("table_bytes", "bytes of a table at which compaction starts the next, 4 KiB..=4 GiB"),
    ("compression", "by level, comma-separated: none, snap, zstd"),
    ("filter_bits", "bloom filter bits a key by level, comma-separated, 0..=32"),
    ("filter", "the kind of bloom filter of new tables: blocked, bloom"),
    ("compaction", "the strategy, by name"),
    ("l0_runs", "leveled: runs in level 0 at which they are merged down, 1..=64"),
    ("base_bytes", "leveled: bytes of the first level below 0, at least 64 KiB"),
    ("fanout", "leveled: how many times larger each level is than the one above, 2..=100"),
    ("merge_width", "size_tiered, time_window: similar runs that are merged into one, 2..=32"),
    (
        "size_slack_percent",
        "size_tiered: how much larger than newer runs a similar one is, 0..=1000",
    ),
    ("runs_max", "size_tiered: runs above which unlike ones are merged, merge_width..=128"),
    ("space_percent_max", "size_tiered: newer runs in percent of the oldest, 1..=10000"),
    ("runs_per_level", "lazy_leveled: runs of a level that become one of the next, 2..=64"),
    ("last_level_fanout", "lazy_leveled: the last level against all above it, 1..=100"),
    ("total_bytes_max", "fifo: bytes above which the oldest tables are dropped, at least 64 KiB"),
    ("age_max_s", "fifo: seconds after which a table is dropped; 0 never"),
    ("merge_runs", "fifo: adjacent small runs that are merged into one, 2..=64; 0 never"),
    ("window_s", "time_window: seconds of a window, 1..=315360000"),
    ("debt_bytes_soft", "compaction debt at which writers begin to be slowed, at least 1 MiB"),
    ("default_ttl_s", "seconds after which what a plain put wrote expires; 0 never"),
];

/// `options`.
pub fn options(out: &mut Out) -> Result<(), Failure> {
    let rows = option_rows();
    if out.json {
        return out.json_line(&rows);
    }
    let rows = rows.into_iter().map(|row| {
        vec![row.name.to_owned(), row.scope.to_owned(), row.default, row.meaning.to_owned()]
    });
    out.table(&["option", "of", "default", "meaning"], rows.collect(), &[])
}

fn option_rows() -> Vec<OptionRow> {
    let database = DbOptions::NAMES.iter().map(|name| ("database", *name, database_default(name)));
    let keyspace =
        KeyspaceOptions::NAMES.iter().map(|name| ("keyspace", *name, keyspace_default(name)));
    let rows = database.chain(keyspace).map(|(scope, name, default)| {
        let meaning = MEANINGS.iter().find(|(known, _)| *known == name);
        OptionRow { name, scope, default, meaning: meaning.map_or("", |(_, meaning)| meaning) }
    });
    rows.collect()
}

/// The default of the database option called `name`, as `--option` reads it.
fn database_default(name: &str) -> String {
    let options = DbOptions::default();
    match name {
        "durability" => options.durability.as_str().to_owned(),
        "background_threads" => options.background_threads.to_string(),
        "cache_bytes" => options.cache_bytes.to_string(),
        "open_tables_max" => options.open_tables_max.to_string(),
        "wal_bytes_max" => options.wal_bytes_max.to_string(),
        "wal_segment_bytes" => options.wal_segment_bytes.to_string(),
        "wal_mode" => options.wal_mode.as_str().to_owned(),
        "wal_recovery" => options.wal_recovery.as_str().to_owned(),
        "async_interval_ms" => options.async_interval_ms.to_string(),
        "read_mode" => options.read_mode.as_str().to_owned(),
        "verify" => options.verify.as_str().to_owned(),
        "scrub_interval_s" => options.scrub_interval_s.to_string(),
        "compaction_rate" => options.compaction_rate.to_string(),
        "read_only" => options.read_only.to_string(),
        "create_if_missing" => options.create_if_missing.to_string(),
        _ => String::new(),
    }
}

/// The default of the keyspace option called `name`, of the first strategy that has it.
fn keyspace_default(name: &str) -> String {
    let options_of = |strategy: &&str| {
        KeyspaceOptions::default().compaction(Compaction::from_name(strategy)).to_pairs()
    };
    let mut pairs = Compaction::BUILT_IN.iter().flat_map(options_of);
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value).unwrap_or_default()
}

/// `completions SHELL`.
pub fn completions(shell: Shell, out: &mut Out) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "engine-cli", &mut script);
    out.raw(&script)
}

/// `man`.
pub fn man(out: &mut Out) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(Failure::output)?;
    // One page for all: the synopsis and options of every command follow the program's own.
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        page.extend_from_slice(format!(".SH \"{}\"\n", verb.get_name().to_uppercase()).as_bytes());
        let man = clap_mangen::Man::new(verb.clone());
        man.render_synopsis_section(&mut page).map_err(Failure::output)?;
        man.render_description_section(&mut page).map_err(Failure::output)?;
        man.render_options_section(&mut page).map_err(Failure::output)?;
    }
    out.raw(&page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_a_meaning_and_a_default_that_reads_back() {
        let rows = option_rows();
        let names = [DbOptions::NAMES, KeyspaceOptions::NAMES].concat();
        assert_eq!(rows.iter().map(|row| row.name).collect::<Vec<_>>(), names);
        let mut database = DbOptions::default();
        for row in &rows {
            assert!(!row.meaning.is_empty(), "{}", row.name);
            let known = match row.scope {
                "database" => database.set(row.name, &row.default).unwrap(),
                _ => Compaction::BUILT_IN.iter().any(|strategy| {
                    let default =
                        KeyspaceOptions::default().compaction(Compaction::from_name(strategy));
                    let mut keyspace = default.clone();
                    keyspace.set(row.name, &row.default).is_ok_and(|known| known)
                        && keyspace == default
                }),
            };
            assert!(known, "{}", row.name);
        }
        assert_eq!(database, DbOptions::default());
    }
}
