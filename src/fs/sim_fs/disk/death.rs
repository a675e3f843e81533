//! What is left of a disk when the process dies or the power goes, and what tells two disks apart.
//!
//! The death of the process loses nothing and keeps what was not synced unsynced. A power cut leaves a
//! disk on which everything is durable; which of the unsynced changes are on it, a [`Persist`] says.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::{Disk, Inode, Names};
use crate::fs::sim_fs::content::{Stamp, SurvivingBytes};
use crate::fs::sim_fs::persist::Persist;
use crate::fs::sim_fs::rng::Rng;

impl Disk {
    /// The disk as the death of the process leaves it: no handles, no locks, nothing lost.
    pub(in crate::fs::sim_fs) fn after_kill(&self) -> Disk {
        let inodes = self.inodes.iter();
        let mut disk = Disk {
            inodes: inodes
                .map(|(id, inode)| (*id, Inode::new(inode.content.clone(), inode.link_count)))
                .collect(),
            directories: self.directories.clone(),
            next_inode: self.next_inode,
            next_stamp: self.next_stamp,
        };
        disk.sweep();
        disk
    }

    /// The stamps of all changes that no sync has covered, in order.
    pub(in crate::fs::sim_fs) fn unsynced_stamps(&self) -> Vec<Stamp> {
        let pending = self.directories.values().flat_map(|directory| &directory.pending);
        let contents = self.inodes.values().flat_map(|inode| inode.content.unsynced_stamps());
        let mut stamps: Vec<Stamp> = pending.map(|(stamp, _)| *stamp).chain(contents).collect();
        stamps.sort_unstable();
        stamps
    }

    /// Feeds all names and bytes to `hasher`: what the process sees, and what the disk holds.
    pub(in crate::fs::sim_fs) fn hash(&self, hasher: &mut impl Hasher) {
        for (path, directory) in &self.directories {
            path.hash(hasher);
            self.hash_names(&directory.current, hasher);
            if !directory.pending.is_empty() {
                self.hash_names(&directory.durable, hasher);
            }
        }
    }

    fn hash_names(&self, names: &Names, hasher: &mut impl Hasher) {
        hasher.write_usize(names.len());
        for (name, inode) in names {
            name.hash(hasher);
            self.content(*inode).hash(hasher);
        }
    }

    /// The disk as a power cut leaves it. Directories and inodes are visited in a fixed order, so
    /// that one seed gives one result.
    pub(in crate::fs::sim_fs) fn after_crash(&self, persist: Persist) -> Disk {
        let mut rng = Rng::new(match persist {
            Persist::Random { seed, .. } => seed,
            _ => 0,
        });
        let end = match persist {
            Persist::Prefix { kept } => {
                self.unsynced_stamps().get(kept as usize).copied().unwrap_or(Stamp::MAX)
            }
            _ => 0,
        };
        let mut disk = Disk { next_inode: self.next_inode, ..Disk::default() };
        let mut link_counts = BTreeMap::new();
        for (path, directory) in &self.directories {
            let directory = directory.after_crash(persist, end, &mut rng);
            for inode in directory.current.values() {
                *link_counts.entry(*inode).or_default() += 1;
            }
            disk.directories.insert(path.clone(), directory);
        }
        for (id, link_count) in link_counts {
            let content = &self.inodes[&id].content;
            let surviving = match persist {
                Persist::Nothing | Persist::NamesOnly => SurvivingBytes::Durable,
                Persist::Everything | Persist::BytesOnly | Persist::AllNamesButOne { .. } => {
                    SurvivingBytes::Current
                }
                Persist::NamesAndLengths => SurvivingBytes::Length,
                Persist::Prefix { .. } => SurvivingBytes::Before(end),
                Persist::Torn { kept_bytes, rest } => SurvivingBytes::Torn(kept_bytes, rest),
                Persist::Random { percent, .. } => SurvivingBytes::Random(percent, &mut rng),
            };
            let content = if content.is_synced() {
                content.clone()
            } else {
                Arc::new(content.after_crash(surviving))
            };
            disk.inodes.insert(id, Inode::new(content, link_count));
        }
        disk
    }
}
