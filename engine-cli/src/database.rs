//! Opening a database as a verb needs it, with the options of the command line.
//!
//! Three ways to open. `Read`: read-only, nothing on disk changes, a missing database or keyspace is an error.
//! `Change`: for writing, but missing is an error too. `Create`: what is missing is created.
//!
//! `--option NAME=VALUE` goes to the database's options or to those of the addressed keyspace, by its name. An
//! existing keyspace keeps its stored options except for the named ones. A reading verb checks keyspace options, their
//! ranges too, and leaves them: they say how to write. What the verb itself decides (`read_only`, and
//! `create_if_missing` unless the verb creates) is not for the command line to change.

use std::path::{Path, PathBuf};

use esker::{Compaction, Db, DbOptions, ErrorKind, Keyspace, KeyspaceOptions};

use crate::args::Global;
use crate::error::Failure;

/// The keyspace that every database has.
pub const DEFAULT_KEYSPACE: &str = "default";

/// What a verb does to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Change,
    Create,
}

/// An open database and the addressed keyspace.
pub struct Opened {
    pub db: Db,
    pub keyspace: Keyspace,
    pub overrides: Overrides,
}

/// The options of the command line, sorted by what they belong to.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pairs: Vec<(String, String)>,
}

impl Opened {
    /// Opens the database and the keyspace that the command line names.
    pub fn open(global: &Global, access: Access) -> Result<Self, Failure> {
        Opened::open_with(global, access, DbOptions::default(), KeyspaceOptions::default())
    }

    /// As [`Opened::open`], where a verb has its own defaults, which the command line's options override.
    pub fn open_with(
        global: &Global,
        access: Access,
        defaults: DbOptions,
        keyspace_defaults: KeyspaceOptions,
    ) -> Result<Self, Failure> {
        let dir = directory(global)?;
        let overrides = Overrides::parse(&global.options)?;
        let mut options = overrides.database(defaults)?;
        match access {
            Access::Read => {
                options.read_only = true;
                options.create_if_missing = false;
            }
            Access::Change => options.create_if_missing = false,
            Access::Create => {}
        }
        if access == Access::Create && dir.is_symlink() && !dir.exists() {
            return Err(Failure::refused("the directory is a link that leads nowhere")
                .at(dir.display().to_string())
                .advise("make what it links to, or remove the link"));
        }
        let db = match access {
            Access::Create if global.keyspace == DEFAULT_KEYSPACE => {
                open_or_create(&dir, options, overrides.keyspace(keyspace_defaults.clone())?)
            }
            _ => Db::builder().options(options).open(&dir),
        };
        let db = db.map_err(|error| at(error, &dir))?;
        let opened = match access {
            Access::Create => overrides.create(&db, &global.keyspace, keyspace_defaults),
            Access::Change => {
                existing(&db, &global.keyspace).and_then(|keyspace| overrides.apply(&db, keyspace))
            }
            Access::Read => existing(&db, &global.keyspace)
                .and_then(|keyspace| overrides.keyspace(keyspace.options()).map(|_| keyspace)),
        };
        let keyspace = opened.map_err(|failure| failure.at(dir.display().to_string()))?;
        Ok(Opened { db, keyspace, overrides })
    }

    /// Closes the database and says what went wrong with that.
    pub fn close(self) -> Result<(), Failure> {
        let dir = self.db.path().to_path_buf();
        drop(self.keyspace);
        self.db.close().map_err(|error| at(error, &dir))
    }
}

/// Opens the database, or creates it with these options of its default keyspace, so that they hold from its first
/// memtable on. An existing database keeps those it has.
fn open_or_create(dir: &Path, options: DbOptions, keyspace: KeyspaceOptions) -> esker::Result<Db> {
    let existing = DbOptions { create_if_missing: false, ..options.clone() };
    match Db::builder().options(existing).open(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound && options.create_if_missing => {
            Db::builder().options(options).default_keyspace(keyspace).open(dir)
        }
        opened => opened,
    }
}

/// The directory that the command line names.
pub fn directory(global: &Global) -> Result<PathBuf, Failure> {
    match &global.db {
        Some(dir) if !dir.as_os_str().is_empty() => Ok(dir.clone()),
        _ => Err(Failure::usage("no database is named").advise("give --db DIR, or set ENGINE_DB")),
    }
}

/// Refuses a file in the place of a database, where the engine would say something else.
pub fn refuse_file(dir: &Path) -> Result<(), Failure> {
    if dir.is_file() {
        return Err(Failure::refused("not a directory")
            .at(dir.display().to_string())
            .advise("name the directory of a database, not a file"));
    }
    Ok(())
}

/// The failure for an engine error that concerns the database in `dir`.
pub fn at(error: esker::Error, dir: &Path) -> Failure {
    Failure::from(error).at(dir.display().to_string())
}

fn existing(db: &Db, name: &str) -> Result<Keyspace, Failure> {
    db.open_keyspace(name)?.ok_or_else(|| {
        Failure::refused(format!("there is no keyspace {name:?}"))
            .advise(format!("the keyspaces are: {}", db.list_keyspaces().join(", ")))
    })
}

impl Overrides {
    /// Splits `NAME=VALUE` and refuses names that no option has.
    pub fn parse(texts: &[String]) -> Result<Self, Failure> {
        let mut pairs = Vec::with_capacity(texts.len());
        for text in texts {
            let Some((name, value)) = text.split_once('=') else {
                return Err(Failure::usage(format!("--option {text} is not NAME=VALUE"))
                    .advise("write it like --option memtable_bytes=65536"));
            };
            if !DbOptions::NAMES.contains(&name) && !KeyspaceOptions::NAMES.contains(&name) {
                let names = [DbOptions::NAMES, KeyspaceOptions::NAMES].concat().join(", ");
                return Err(Failure::usage(format!("there is no option {name}"))
                    .advise(format!("the options are: {names}")));
            }
            pairs.push((name.to_owned(), value.to_owned()));
        }
        // Options of a strategy are read against the strategy chosen so far, so that one comes first.
        pairs.sort_by_key(|(name, _)| name != "compaction");
        Ok(Overrides { pairs })
    }

    /// Whether the command line sets the option called `name`.
    pub fn names(&self, name: &str) -> bool {
        self.pairs.iter().any(|(set, _)| set == name)
    }

    /// The options as pairs, the strategy first.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// `options` with those of the command line over them.
    pub fn database(&self, mut options: DbOptions) -> Result<DbOptions, Failure> {
        for (name, value) in &self.pairs {
            options.set(name, value).map_err(|error| Failure::from(error).at("command line"))?;
        }
        Ok(options)
    }

    /// `options` with those of the command line over them.
    pub fn keyspace(&self, mut options: KeyspaceOptions) -> Result<KeyspaceOptions, Failure> {
        for (name, value) in &self.pairs {
            options.set(name, value).map_err(|error| Failure::from(error).at("command line"))?;
        }
        if self.pairs.iter().any(|(name, _)| KeyspaceOptions::NAMES.contains(&name.as_str())) {
            self.check_strategy(&options)?;
            options.validate().map_err(|error| Failure::from(error).at("command line"))?;
        }
        Ok(options)
    }

    /// Refuses a strategy by a name that only a program of one's own could know.
    fn check_strategy(&self, options: &KeyspaceOptions) -> Result<(), Failure> {
        let name = options.compaction.name();
        if !self.names("compaction") || Compaction::BUILT_IN.contains(&name) {
            return Ok(());
        }
        Err(Failure::refused(format!("there is no compaction strategy {name}"))
            .at("command line")
            .advise(format!("the strategies are: {}", Compaction::BUILT_IN.join(", "))))
    }

    /// Checks all options where there is no keyspace to apply them to: one of a strategy is right if it is so for any.
    pub fn check(&self) -> Result<(), Failure> {
        let options = self.database(DbOptions::default())?;
        options.validate().map_err(|error| Failure::from(error).at("command line"))?;
        let checked = self.keyspace(KeyspaceOptions::default());
        let mut strategies = Compaction::BUILT_IN.iter().map(|name| Compaction::from_name(name));
        let fits =
            |strategy| self.keyspace(KeyspaceOptions::default().compaction(strategy)).is_ok();
        if checked.is_err() && strategies.any(fits) { Ok(()) } else { checked.map(drop) }
    }

    /// Opens the keyspace called `name`, or creates it with `defaults`; either way with these options over it.
    pub fn create(
        &self,
        db: &Db,
        name: &str,
        defaults: KeyspaceOptions,
    ) -> Result<Keyspace, Failure> {
        match db.open_keyspace(name)? {
            Some(keyspace) => self.apply(db, keyspace),
            None => Ok(db.keyspace(name, self.keyspace(defaults)?)?),
        }
    }

    fn apply(&self, db: &Db, keyspace: Keyspace) -> Result<Keyspace, Failure> {
        let stored = keyspace.options();
        let wanted = self.keyspace(stored.clone())?;
        if wanted == stored {
            return Ok(keyspace);
        }
        Ok(db.keyspace(keyspace.name(), wanted)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn parse(texts: &[&str]) -> Result<Overrides, Failure> {
        Overrides::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_routed_by_name() {
        let overrides = parse(&["block_bytes=512", "read_mode=pread"]).unwrap();
        assert_eq!(overrides.keyspace(KeyspaceOptions::default()).unwrap().block_bytes, 512);
        let options = overrides.database(DbOptions::default()).unwrap();
        assert_eq!(options.read_mode, esker::ReadMode::Pread);
        assert!(overrides.names("read_mode") && !overrides.names("verify"));
    }

    #[test]
    fn unknown_names_are_usage_errors_and_bad_values_are_refused() {
        assert_eq!(parse(&["nonsense=1"]).unwrap_err().exit(), Exit::Usage);
        assert_eq!(parse(&["block_bytes"]).unwrap_err().exit(), Exit::Usage);
        let bad = parse(&["block_bytes=x"]).unwrap().keyspace(KeyspaceOptions::default());
        assert_eq!(bad.unwrap_err().exit(), Exit::Refused);
    }

    #[test]
    fn the_strategy_is_set_before_its_options() {
        let overrides = parse(&["fanout=4", "compaction=leveled"]).unwrap();
        let options = overrides.keyspace(KeyspaceOptions::default()).unwrap();
        assert_eq!(options, {
            let leveled = esker::Leveled { fanout: 4, ..esker::Leveled::default() };
            KeyspaceOptions::default().compaction(leveled)
        });
    }
}
