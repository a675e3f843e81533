//! `inspect`: what stands in one file, an item a line.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use esker::fs::StdFs;
use esker::inspect::{self, Field, InspectOptions, Item};
use serde_json::{Map, Value};

use crate::error::Failure;
use crate::output::Out;

/// Kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InspectKind {
    /// A log segment, NNNNNN.wal
    Wal,
    /// MANIFEST-NNNNNN
    Manifest,
    /// NNNNNN.table
    Table,
}

/// The arguments of `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// What the file is
    #[arg(value_enum)]
    pub kind: InspectKind,
    /// The file
    pub file: PathBuf,
    /// Show every entry of a table
    #[arg(long)]
    pub entries: bool,
}

impl InspectKind {
    /// What files of this kind begin with, and what they are called.
    fn signature(self) -> (&'static [u8; 8], &'static str) {
        match self {
            InspectKind::Wal => (b"eskerwal", "wal"),
            InspectKind::Manifest => (b"ESKERMAN", "manifest"),
            InspectKind::Table => (b"eskertab", "table"),
        }
    }
}

/// Refuses what is no file, or begins as a file of another kind does: that is no damage.
fn refuse_other_kind(args: &InspectArgs) -> Result<(), Failure> {
    let refused = |what: &str| Failure::refused(what).at(args.file.display().to_string());
    if args.file.is_dir() {
        return Err(refused("a directory, not a file").advise("name a file in it"));
    }
    if !args.file.is_file() {
        // The engine says so; opening it here might wait for ever.
        return Ok(());
    }
    let mut begin = [0; 8];
    // What cannot be read is told by the engine.
    let _ = File::open(&args.file).and_then(|mut file| file.read_exact(&mut begin));
    for kind in InspectKind::value_variants() {
        let (magic, name) = kind.signature();
        if *kind != args.kind && begin == *magic {
            let asked = args.kind.signature().1;
            return Err(refused(&format!("the file is not of kind {asked}, but of kind {name}"))
                .advise(format!("run `engine-cli inspect {name} FILE`")));
        }
    }
    Ok(())
}

/// `inspect wal|manifest|table FILE [--entries]`.
pub fn inspect(args: &InspectArgs, out: &mut Out) -> Result<(), Failure> {
    refuse_other_kind(args)?;
    let mut failure = None;
    let mut visit = |item: Item| {
        show(&item, out).map_err(|told| {
            // Only our own output fails here; what the engine makes of it does not matter.
            failure = Some(told);
            esker::Error::invalid("cannot write")
        })
    };
    let options = InspectOptions { entries: args.entries };
    let done = match args.kind {
        InspectKind::Wal => inspect::wal(&StdFs, &args.file, &mut visit),
        InspectKind::Manifest => inspect::manifest(&StdFs, &args.file, &mut visit),
        InspectKind::Table => inspect::table(&StdFs, &args.file, &options, &mut visit),
    };
    match failure {
        Some(failure) => Err(failure),
        None => Ok(done?),
    }
}

fn show(item: &Item, out: &mut Out) -> Result<(), Failure> {
    if out.json {
        return out.json_line(&to_json(item, out));
    }
    let mut line = format!("{:>8}  {}", item.offset, item.what);
    for (name, field) in &item.fields {
        let text = match field {
            Field::Number(number) => number.to_string(),
            Field::Text(text) => text.clone(),
            Field::Bytes(bytes) => out.encoding.show(bytes),
            other => format!("{other:?}"),
        };
        line.push_str("  ");
        line.push_str(name);
        line.push('=');
        line.push_str(&text);
    }
    out.line(line)
}

fn to_json(item: &Item, out: &Out) -> Value {
    let mut object = Map::new();
    object.insert("offset".to_owned(), item.offset.into());
    object.insert("what".to_owned(), item.what.into());
    for (name, field) in &item.fields {
        let value = match field {
            Field::Number(number) => (*number).into(),
            Field::Text(text) => text.as_str().into(),
            Field::Bytes(bytes) => out.encoding.show(bytes).into(),
            other => format!("{other:?}").into(),
        };
        object.insert((*name).to_owned(), value);
    }
    Value::Object(object)
}
