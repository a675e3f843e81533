//! Names and inodes.
//!
//! A directory maps names to inodes twice: `current` is what the process sees, `durable` is what
//! the disk holds. Between them lie the changes that no directory sync has covered, in the order in
//! which they were made. A crash applies none, all, a prefix, or a subset of them to `durable`. A
//! change that no longer fits is dropped: a rename whose source never reached the disk did not
//! happen either.
//!
//! An inode lives as long as a name, current or durable or pending, or an open handle needs it.
//! Locks belong to inodes, as with `flock`.
//!
//! Directories themselves are durable as soon as they exist, because `create_dir_all` syncs their
//! parents. They are never removed, and names move only within their directory.
//!
//! Every change of a name, of bytes and of a length takes the next stamp of one counter, so that all
//! unsynced changes of a disk have one order.
//!
//! What a crash makes of all that is in the child `death`.
//!
//! This file knows nothing of faults, operation numbers or capacity.

mod death;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::content::{BLOCK_BYTES, Content, Stamp, block_count};
use super::persist::Persist;
use super::rng::Rng;
use crate::fs::{DirEntry, LockKind};

/// One in this many directories loses an arbitrary subset of its unsynced changes, not a suffix.
const SUBSET_ONE_IN: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InodeId(u64);

struct Inode {
    content: Arc<Content>,
    /// How many current names it has.
    link_count: u32,
    handle_count: u32,
    exclusive_lock: bool,
    shared_lock_count: u32,
}

impl Inode {
    fn new(content: Arc<Content>, link_count: u32) -> Self {
        Inode { content, link_count, handle_count: 0, exclusive_lock: false, shared_lock_count: 0 }
    }
}

type Names = BTreeMap<String, InodeId>;

/// A change of a directory that a sync of it makes durable.
#[derive(Clone)]
enum NameChange {
    Create { name: String, inode: InodeId },
    Rename { from: String, to: String, inode: InodeId },
    Remove { name: String, inode: InodeId },
}

impl NameChange {
    fn inode(&self) -> InodeId {
        match *self {
            NameChange::Create { inode, .. }
            | NameChange::Rename { inode, .. }
            | NameChange::Remove { inode, .. } => inode,
        }
    }

    /// Makes the change if what it changes is there.
    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Create { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                    names.insert(to.clone(), *inode);
                }
            }
            NameChange::Remove { name, inode } => {
                if names.get(name) == Some(inode) {
                    names.remove(name);
                }
            }
        }
    }
}

#[derive(Clone, Default)]
struct Directory {
    current: Names,
    durable: Names,
    pending: Vec<(Stamp, NameChange)>,
}

impl Directory {
    fn change(&mut self, stamp: Stamp, change: NameChange) {
        change.apply(&mut self.current);
        self.pending.push((stamp, change));
    }

    /// The directory as a crash leaves it; of an ordered one the changes before `end`. One that is
    /// synced is shared, not copied.
    fn after_crash(self: &Arc<Self>, persist: Persist, end: Stamp, rng: &mut Rng) -> Arc<Self> {
        if self.pending.is_empty() {
            return self.clone();
        }
        let names = match persist {
            Persist::Nothing | Persist::BytesOnly => self.durable.clone(),
            Persist::Everything
            | Persist::NamesOnly
            | Persist::NamesAndLengths
            | Persist::Torn { .. } => self.current.clone(),
            Persist::Prefix { .. } => self.first_names(end),
            Persist::AllNamesButOne { index } => {
                self.names_without((index % self.pending.len() as u64) as usize)
            }
            Persist::Random { percent, .. } => self.random_names(percent, rng),
        };
        Arc::new(Directory { current: names.clone(), durable: names, pending: Vec::new() })
    }

    fn first_names(&self, end: Stamp) -> Names {
        let mut names = self.durable.clone();
        let first = self.pending.iter().take_while(|(stamp, _)| *stamp < end);
        first.for_each(|(_, change)| change.apply(&mut names));
        names
    }

    fn names_without(&self, missing: usize) -> Names {
        let mut names = self.durable.clone();
        let others = self.pending.iter().enumerate().filter(|(at, _)| *at != missing);
        others.for_each(|(_, (_, change))| change.apply(&mut names));
        names
    }

    fn random_names(&self, percent: u8, rng: &mut Rng) -> Names {
        let kept: Vec<bool> = self.pending.iter().map(|_| rng.percent(percent)).collect();
        let prefix = kept.iter().filter(|&&kept| kept).count();
        let any_subset = rng.below(SUBSET_ONE_IN) == 0;
        let mut names = self.durable.clone();
        for (at, (_, change)) in self.pending.iter().enumerate() {
            if if any_subset { kept[at] } else { at < prefix } {
                change.apply(&mut names);
            }
        }
        names
    }
}

/// Everything that a simulated file system stores.
#[derive(Default)]
pub(super) struct Disk {
    inodes: BTreeMap<InodeId, Inode>,
    directories: BTreeMap<PathBuf, Arc<Directory>>,
    next_inode: u64,
    next_stamp: Stamp,
}

/// `path` without `.` and `..`. The empty path is the working directory.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

fn os_error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Disk {
    /// A disk with nothing but the root and the working directory.
    pub(super) fn new() -> Self {
        let mut disk = Disk::default();
        for root in ["", "/"] {
            disk.directories.insert(PathBuf::from(root), Arc::default());
        }
        disk
    }

    // ---- names ----

    /// The directory and the name in it that `path` stands for.
    fn split(&self, path: &Path) -> io::Result<(PathBuf, String)> {
        let path = normal(path);
        if self.directories.contains_key(&path) {
            return Err(os_error(libc::EISDIR));
        }
        let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if self.directories.contains_key(&dir) {
            return Ok((dir, name));
        }
        Err(os_error(if self.inode_at(&dir).is_some() { libc::ENOTDIR } else { libc::ENOENT }))
    }

    /// Changes the names of `dir`, which exists.
    fn change_names(&mut self, dir: &Path, change: NameChange) {
        let stamp = self.take_stamp();
        self.directory_mut(dir).change(stamp, change);
    }

    fn take_stamp(&mut self) -> Stamp {
        self.next_stamp += 1;
        self.next_stamp - 1
    }

    fn directory_mut(&mut self, dir: &Path) -> &mut Directory {
        Arc::make_mut(self.directories.get_mut(dir).expect("split returns directories that exist"))
    }

    fn inode_at(&self, path: &Path) -> Option<InodeId> {
        let path = normal(path);
        let names = &self.directories.get(path.parent()?)?.current;
        names.get(path.file_name()?.to_str()?).copied()
    }

    /// The file at `path`; `None` if there is none. A directory is an error (`EISDIR`).
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<InodeId>> {
        match self.split(path) {
            Ok((dir, name)) => Ok(self.directories[&dir].current.get(&name).copied()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The file at `path`, created empty if there is none. Its name is pending then.
    pub(super) fn find_or_create(&mut self, path: &Path) -> io::Result<InodeId> {
        let (dir, name) = self.split(path)?;
        if let Some(&inode) = self.directories[&dir].current.get(&name) {
            return Ok(inode);
        }
        let inode = self.add_inode(Content::default());
        self.change_names(&dir, NameChange::Create { name, inode });
        Ok(inode)
    }

    fn add_inode(&mut self, content: Content) -> InodeId {
        let id = InodeId(self.next_inode);
        self.next_inode += 1;
        self.inodes.insert(id, Inode::new(Arc::new(content), 1));
        id
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from) = self.split(from)?;
        let (to_dir, to) = self.split(to)?;
        let names = &self.directories[&from_dir].current;
        let inode = *names.get(&from).ok_or_else(|| os_error(libc::ENOENT))?;
        if from_dir != to_dir {
            return Err(os_error(libc::EXDEV));
        }
        if from == to {
            return Ok(());
        }
        if let Some(replaced) = names.get(&to).copied() {
            if replaced == inode {
                // Two names of one file: a rename between them does nothing, as on the operating system.
                return Ok(());
            }
            self.inode_mut(replaced).link_count -= 1;
        }
        self.change_names(&to_dir, NameChange::Rename { from, to, inode });
        Ok(())
    }

    /// Gives the file `from` the name `to` as well. The name is pending, like that of a new file.
    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.find(from)?.ok_or_else(|| os_error(libc::ENOENT))?;
        let (to_dir, name) = self.split(to)?;
        if self.directories[&to_dir].current.contains_key(&name) {
            return Err(os_error(libc::EEXIST));
        }
        self.inode_mut(inode).link_count += 1;
        self.change_names(&to_dir, NameChange::Create { name, inode });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.split(path)?;
        let inode = self.directories[&dir].current.get(&name).copied();
        let inode = inode.ok_or_else(|| os_error(libc::ENOENT))?;
        self.inode_mut(inode).link_count -= 1;
        self.change_names(&dir, NameChange::Remove { name, inode });
        Ok(())
    }

    /// Creates `dir` and its parents; false if a file stands in the way.
    pub(super) fn create_dir_all(&mut self, dir: &Path) -> bool {
        let dir = normal(dir);
        let missing: Vec<PathBuf> = dir
            .ancestors()
            .take_while(|dir| !self.directories.contains_key(*dir))
            .map(Path::to_path_buf)
            .collect();
        if missing.iter().any(|dir| self.inode_at(dir).is_some()) {
            return false;
        }
        self.directories.extend(missing.into_iter().map(|dir| (dir, Arc::default())));
        true
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        let directory = self.directories.get_mut(&normal(dir));
        let directory = Arc::make_mut(directory.ok_or_else(|| os_error(libc::ENOENT))?);
        directory.durable.clone_from(&directory.current);
        directory.pending.clear();
        self.sweep();
        Ok(())
    }

    pub(super) fn has_dir(&self, dir: &Path) -> bool {
        self.directories.contains_key(&normal(dir))
    }

    /// What stands in `dir`, by name; `None` if it does not exist.
    pub(super) fn list(&self, dir: &Path) -> Option<Vec<DirEntry>> {
        let dir = normal(dir);
        let files = self.directories.get(&dir)?.current.iter().map(|(name, inode)| DirEntry {
            name: name.clone(),
            bytes: self.content(*inode).bytes(),
            is_file: true,
        });
        let children = self.directories.keys().filter(|path| path.parent() == Some(&dir));
        let directories = children.filter_map(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(DirEntry { name, bytes: 0, is_file: false })
        });
        let mut entries: Vec<DirEntry> = files.chain(directories).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Some(entries)
    }

    // ---- inodes ----

    fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        self.inodes.get_mut(&id).expect("an inode outlives its names and handles")
    }

    pub(super) fn content(&self, id: InodeId) -> &Content {
        &self.inodes[&id].content
    }

    pub(super) fn content_mut(&mut self, id: InodeId) -> &mut Content {
        Arc::make_mut(&mut self.inode_mut(id).content)
    }

    /// Writes `bytes` at `offset`; the file grows as needed.
    pub(super) fn write(&mut self, id: InodeId, offset: u64, bytes: &[u8]) {
        let stamp = self.take_stamp();
        self.content_mut(id).write(offset, bytes, stamp);
    }

    /// Sets the length; new bytes are zero.
    pub(super) fn resize(&mut self, id: InodeId, bytes: u64) {
        let stamp = self.take_stamp();
        self.content_mut(id).resize(bytes, stamp);
    }

    pub(super) fn add_handle(&mut self, id: InodeId) {
        self.inode_mut(id).handle_count += 1;
    }

    pub(super) fn drop_handle(&mut self, id: InodeId) {
        self.inode_mut(id).handle_count -= 1;
    }

    /// Takes a lock; false if another handle excludes it.
    pub(super) fn try_lock(&mut self, id: InodeId, kind: LockKind) -> bool {
        let inode = self.inode_mut(id);
        match kind {
            _ if inode.exclusive_lock => false,
            LockKind::Shared => {
                inode.shared_lock_count += 1;
                true
            }
            LockKind::Exclusive => {
                inode.exclusive_lock = inode.shared_lock_count == 0;
                inode.exclusive_lock
            }
        }
    }

    pub(super) fn unlock(&mut self, id: InodeId, kind: LockKind) {
        let inode = self.inode_mut(id);
        match kind {
            LockKind::Exclusive => inode.exclusive_lock = false,
            LockKind::Shared => inode.shared_lock_count -= 1,
        }
    }

    /// The space that files take: those with a name, and removed ones that are still open.
    pub(super) fn used_bytes(&self) -> u64 {
        let held =
            self.inodes.values().filter(|inode| inode.link_count > 0 || inode.handle_count > 0);
        held.map(|inode| block_count(inode.content.bytes()) * BLOCK_BYTES as u64).sum()
    }

    /// Forgets the inodes that neither a name nor a handle needs.
    fn sweep(&mut self) {
        let mut needed = BTreeSet::new();
        for directory in self.directories.values() {
            needed.extend(directory.current.values().chain(directory.durable.values()).copied());
            needed.extend(directory.pending.iter().map(|(_, change)| change.inode()));
        }
        self.inodes.retain(|id, inode| inode.handle_count > 0 || needed.contains(id));
    }

    // ---- from outside: tests that damage files ----

    /// Makes `bytes` the durable content of the file at `path`; a name that was not there becomes
    /// durable too.
    pub(super) fn put_durable(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (dir, name) = self.split(path)?;
        if let Some(&inode) = self.directories[&dir].current.get(&name) {
            *self.content_mut(inode) = Content::of_durable(bytes);
        } else {
            let inode = self.add_inode(Content::of_durable(bytes));
            let directory = self.directory_mut(&dir);
            directory.current.insert(name.clone(), inode);
            directory.durable.insert(name, inode);
        }
        Ok(())
    }

    /// Removes the file at `path` so that no crash brings it back.
    pub(super) fn remove_durable(&mut self, path: &Path) -> io::Result<()> {
        self.remove(path)?;
        let (dir, name) = self.split(path)?;
        let directory = self.directory_mut(&dir);
        directory.durable.remove(&name);
        let Some((_, NameChange::Remove { inode: removed, .. })) = directory.pending.pop() else {
            unreachable!("remove leaves its change last")
        };
        // Names that it had before; not those that it still has.
        if !directory.current.values().any(|inode| *inode == removed) {
            directory.durable.retain(|_, inode| *inode != removed);
            directory.pending.retain(|(_, change)| change.inode() != removed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_live_as_long_as_a_name_or_a_handle_needs_them() {
        let mut disk = Disk::new();
        let held = disk.find_or_create(Path::new("/held")).unwrap();
        disk.add_handle(held);
        disk.find_or_create(Path::new("/named")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        for name in ["/held", "/named"] {
            disk.remove(Path::new(name)).unwrap();
        }
        // A crash would bring both back.
        disk.sweep();
        assert_eq!(disk.inodes.len(), 2);
        disk.sync_dir(Path::new("/")).unwrap();
        assert_eq!(disk.inodes.keys().collect::<Vec<_>>(), [&held]);
        assert!(disk.after_kill().inodes.is_empty());
        disk.drop_handle(held);
        disk.sync_dir(Path::new("/")).unwrap();
        assert!(disk.inodes.is_empty());
    }
}
