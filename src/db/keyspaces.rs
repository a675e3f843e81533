//! Creating, changing and dropping keyspaces: manifest edits like any other, and the map that writers look into.

use std::sync::Arc;

use crate::db::install::{self, commit_edit};
use crate::db::state::{
    DEFAULT_KEYSPACE, Inner, KeyspaceCore, KeyspaceMap, ReadView, require_strategy, stored_options,
};
use crate::error::{Error, Result};
use crate::key::SequenceNumber;
use crate::options::KeyspaceOptions;
use crate::sync::atomic::Ordering;
use crate::version::Version;
use crate::version::edit::{KeyspaceCreated, VersionEdit, check_keyspace_name};

/// Opens the keyspace called `name` with `options`, creating it if it is new.
pub(crate) fn open(
    inner: &Inner,
    name: &str,
    options: KeyspaceOptions,
) -> Result<Arc<KeyspaceCore>> {
    inner.check_open()?;
    check_keyspace_name(name)?;
    options.validate()?;
    let strategy = require_strategy(&inner.strategies, &options)?;
    // Under the tree lock nobody else creates or drops.
    let mut tree = inner.tree.lock();
    let known = inner.keyspaces.load().by_name(name).cloned();
    if let Some(core) = known {
        if **core.options.load() != options {
            inner.check_writable()?;
            let edit = VersionEdit {
                keyspaces_changed: vec![(core.id, stored_options(&options))],
                ..VersionEdit::default()
            };
            commit_edit(inner, &mut tree, edit)?;
            core.view.load().active.set_limit_bytes(options.memtable_bytes);
            core.set_options(options);
            *core.strategy.write() = Some(strategy);
            drop(tree);
            install::changed(inner, &core);
            inner.listeners.tell();
        }
        return Ok(core);
    }
    inner.check_writable()?;
    let id = tree.state.next_keyspace_id;
    let created = KeyspaceCreated { id, name: name.to_owned(), options: stored_options(&options) };
    commit_edit(
        inner,
        &mut tree,
        VersionEdit { keyspaces_created: vec![created], ..VersionEdit::default() },
    )?;
    let core = KeyspaceCore::new(id, name, options, Arc::new(Version::empty()), Some(strategy));
    inner.keyspaces.rcu(|map| {
        let mut map = KeyspaceMap::clone(map);
        map.by_id.insert(id, Arc::clone(&core));
        map
    });
    Ok(core)
}

/// Drops the keyspace called `name`. Returns whether there was one.
pub(crate) fn drop_keyspace(inner: &Inner, name: &str) -> Result<bool> {
    inner.check_writable()?;
    if name == DEFAULT_KEYSPACE {
        return Err(Error::invalid("the keyspace `default` cannot be dropped")
            .advise("delete its keys instead"));
    }
    let mut tree = inner.tree.lock();
    let Some(core) = inner.keyspaces.load().by_name(name).cloned() else { return Ok(false) };
    {
        // Under the commit lock: a write that took its place before is in the log and dies with the keyspace; a later
        // one is refused.
        let commit = inner.commit().lock();
        commit.check()?;
        core.dropped.store(true, Ordering::Relaxed);
    }
    let edit = VersionEdit { keyspaces_dropped: vec![core.id], ..VersionEdit::default() };
    if let Err(error) = commit_edit(inner, &mut tree, edit) {
        // Nothing can be written any more, but what there is can be read.
        core.dropped.store(false, Ordering::Relaxed);
        return Err(error);
    }
    inner.keyspaces.rcu(|map| {
        let mut map = KeyspaceMap::clone(map);
        map.by_id.remove(&core.id);
        map
    });
    drop(tree);
    let view = core.view.load_full();
    for (level, _, table) in view.version.tables() {
        install::let_go(inner, &core, level, table);
    }
    {
        // Nobody may find the memtable in use between the two steps and rotate it after them: what is then immutable
        // would be waited for, and flushed by nobody.
        let _commit = inner.commit().lock();
        core.rotate(SequenceNumber::ZERO, inner.clock.unix_ms());
        core.view.rcu(|view| ReadView {
            active: Arc::clone(&view.active),
            immutables: Vec::new(),
            version: Arc::new(Version::empty()),
        });
    }
    drop(view);
    inner.work.tree_changed();
    if inner.runs_inline() {
        install::remove_unreferenced(inner);
        inner.listeners.tell();
    }
    Ok(true)
}
