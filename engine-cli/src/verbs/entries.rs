//! `put`, `get`, `delete`, `scan`: single entries and ranges of them.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use esker::{WriteBatch, WriteOptions};

use crate::args::{DeleteArgs, DurabilityArg, GetArgs, Global, PutArgs, ScanArgs};
use crate::database::{Access, Opened, Overrides};
use crate::error::{Exit, Failure};
use crate::output::Out;
use crate::text::Encoding;

/// `put KEY VALUE`.
pub fn put(global: &Global, args: &PutArgs, encoding: Encoding) -> Result<(), Failure> {
    let key = encoding.argument("KEY", &args.key)?;
    let value = match (&args.value, &args.value_file) {
        (Some(value), _) => encoding.argument("VALUE", value)?,
        (None, Some(file)) => read_value(file)?,
        (None, None) => Vec::new(),
    };
    let opened = Opened::open(global, Access::Create)?;
    let options = write_options(&args.durability, &opened.overrides);
    let written = match args.ttl.map(Duration::from_secs) {
        None => opened.keyspace.put_with(&key, &value, &options),
        Some(ttl) => {
            let mut batch = WriteBatch::new();
            batch.put_in_with_ttl(&opened.keyspace, &key, &value, ttl);
            opened.db.write_with(batch, &options)
        }
    };
    written.map_err(|error| of_keyspace(error, &opened))?;
    opened.close()
}

/// `get KEY`.
pub fn get(global: &Global, args: &GetArgs, out: &mut Out) -> Result<(), Failure> {
    let key = out.encoding.argument("KEY", &args.key)?;
    let opened = Opened::open(global, Access::Read)?;
    let value = opened.keyspace.get(&key).map_err(|error| of_keyspace(error, &opened))?;
    let Some(value) = value else {
        return Err(Failure::Quiet(Exit::Absent));
    };
    match (args.raw, out.encoding) {
        (true, Encoding::Text) => out.raw(&value)?,
        (true, Encoding::Hex) => out.raw(Encoding::Hex.show(&value).as_bytes())?,
        (false, _) if out.json => out.json_entry(&key, Some(&value))?,
        (false, encoding) => out.line(encoding.show(&value))?,
    }
    drop(value);
    opened.close()
}

/// `delete KEY`.
pub fn delete(global: &Global, args: &DeleteArgs, encoding: Encoding) -> Result<(), Failure> {
    let key = encoding.argument("KEY", &args.key)?;
    let opened = Opened::open(global, Access::Change)?;
    let options = write_options(&args.durability, &opened.overrides);
    opened.keyspace.delete_with(&key, &options).map_err(|error| of_keyspace(error, &opened))?;
    opened.close()
}

/// `scan`.
pub fn scan(global: &Global, args: &ScanArgs, out: &mut Out) -> Result<(), Failure> {
    let mut range = args.range.decode(out.encoding)?;
    if let Some(prefix) = out.encoding.optional_argument("--prefix", args.prefix.as_deref())? {
        range = range.with_prefix(&prefix);
    }
    let opened = Opened::open(global, Access::Read)?;
    let mut cursor = opened.keyspace.cursor();
    let found = range.walk(&mut cursor, args.reverse, args.limit, |key, value| {
        if args.count {
            return Ok(());
        }
        out.entry(key, (!args.keys_only).then_some(value))
    })?;
    if args.count {
        out.line(found.to_string())?;
    }
    drop(cursor);
    opened.close()
}

/// `put` and `delete` are durable when they return, unless the command line says otherwise.
fn write_options(arg: &DurabilityArg, overrides: &Overrides) -> WriteOptions {
    match arg.durability {
        Some(durability) => WriteOptions::with_durability(durability),
        None if overrides.names("durability") => WriteOptions::default(),
        None => WriteOptions::SYNC,
    }
}

fn of_keyspace(error: esker::Error, opened: &Opened) -> Failure {
    let place = format!("{} (keyspace {})", opened.db.path().display(), opened.keyspace.name());
    Failure::from(error).at(place)
}

fn read_value(file: &Path) -> Result<Vec<u8>, Failure> {
    if file == Path::new("-") {
        let mut value = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut value);
        return match read {
            Ok(_) => Ok(value),
            Err(error) => Err(Failure::io("read", Path::new("standard input"), error)),
        };
    }
    fs::read(file).map_err(|error| Failure::io("read", file, error))
}
