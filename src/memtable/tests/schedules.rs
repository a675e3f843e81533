//! The memtable under a scheduler: inserts that split leaves, the publication of what was inserted, and readers.
//!
//! `shuttle` runs several threads through schedules at random, each load and store of a leaf being a step. `loom` runs
//! small models through all schedules with few preemptions, and through all values that the orders of memory allow a
//! load to see. The skiplist and the filter are one step each, and to `loom` sequentially consistent.

use super::*;
use crate::clock::ManualClock;
use crate::db::commit::CommitQueue;
use crate::sync::thread::spawn;
use crate::wal::WalPosition;

/// Splits come with every few inserts.
const FILL: usize = FILL_MIN;

fn key(index: u64) -> Vec<u8> {
    format!("key {index}").into_bytes()
}

/// The keys in the order of their writes. The fourth splits the leaf of the first three: it goes to the right with the
/// second and third, and the fifth takes a slot that they have left.
const KEYS: [u64; 12] = [10, 20, 30, 25, 15, 12, 28, 17, 11, 22, 35, 27];

/// The entry that is inserted as number `sequence`, counted from 1.
fn entry(sequence: u64) -> (Vec<u8>, Trailer, Vec<u8>) {
    (key(KEYS[sequence as usize - 1]), put(sequence), sequence.to_le_bytes().to_vec())
}

/// Inserts number `sequence` as the write path does: takes a place in the commit queue, inserts, becomes visible.
fn write(memtable: &MemTable, queue: &CommitQueue) {
    let (sequence, ticket) = {
        let mut state = queue.lock();
        let sequence = state.next_sequence;
        state.next_sequence = SequenceNumber(sequence.0 + 1);
        (sequence.0, queue.enter(&mut state, sequence, WalPosition::default(), false))
    };
    let (key, trailer, value) = entry(sequence);
    insert(memtable, &key, trailer, &value);
    queue.finish(ticket, &ManualClock::default()).unwrap();
}

/// A lookup finds every entry that is visible.
fn check_lookup(memtable: &Arc<MemTable>, queue: &CommitQueue, sequence: u64) {
    if queue.visible().0 >= sequence {
        let (key, trailer, value) = entry(sequence);
        assert_eq!(get(memtable, &key, Trailer::NEWEST), Some((trailer, value)), "of {sequence}");
    }
}

/// A walk in either direction meets every visible entry, in order.
fn check_walk(memtable: &Arc<MemTable>, queue: &CommitQueue, forward: bool) {
    let visible = queue.visible().0;
    let mut walked = if forward { walk(memtable) } else { walk_back(memtable) };
    if !forward {
        walked.reverse();
    }
    assert!(walked.is_sorted_by(|a, b| rank(a) < rank(b)), "out of order");
    let mut seen: Vec<u64> = walked.iter().map(|entry| entry.1.sequence().0).collect();
    seen.retain(|sequence| *sequence <= visible);
    seen.sort_unstable();
    assert_eq!(seen, (1..=visible).collect::<Vec<_>>(), "entries are missing");
}

fn shared() -> (Arc<MemTable>, Arc<CommitQueue>) {
    let memtable = MemTable::with_leaf_fill(CAPACITY_BYTES, None, FILL);
    (memtable, Arc::new(CommitQueue::new(SequenceNumber(1), None)))
}

#[cfg(esker_shuttle)]
mod shuttled {
    use super::*;
    use crate::schedules::explore::{below, explore};

    #[test]
    fn readers_meet_all_that_is_visible_while_leaves_split() {
        explore("memtable", (300, 12_000, 500_000), || {
            let (memtable, queue) = shared();
            let go = |body: fn(&Arc<MemTable>, &CommitQueue)| {
                let (memtable, queue) = (Arc::clone(&memtable), Arc::clone(&queue));
                spawn(move || body(&memtable, &queue))
            };
            (0..below(3)).for_each(|_| write(&memtable, &queue));
            let writes = |memtable: &Arc<MemTable>, queue: &CommitQueue| {
                (0..4).for_each(|_| write(memtable, queue));
            };
            let reads = |memtable: &Arc<MemTable>, queue: &CommitQueue| {
                for _ in 0..3 {
                    match below(3) {
                        0 => check_walk(memtable, queue, true),
                        1 => check_walk(memtable, queue, false),
                        _ => check_lookup(memtable, queue, 1 + below(8)),
                    }
                }
            };
            let threads = [go(writes), go(writes), go(reads), go(reads)];
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            check_walk(&memtable, &queue, true);
            check_bytes(&memtable);
        });
    }
}

#[cfg(esker_loom)]
mod models {
    use super::*;

    /// Runs a writer of `writes` entries beside `read`, with `before` entries there already.
    fn model(
        before: u64,
        writes: u64,
        read: impl Fn(&Arc<MemTable>, &CommitQueue) + Send + Sync + 'static,
    ) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.max_branches = 100_000;
        builder.check(move || {
            let (memtable, queue) = shared();
            (0..before).for_each(|_| write(&memtable, &queue));
            let writer = {
                let (memtable, queue) = (Arc::clone(&memtable), Arc::clone(&queue));
                spawn(move || (0..writes).for_each(|_| write(&memtable, &queue)))
            };
            read(&memtable, &queue);
            writer.join().unwrap();
        });
    }

    #[test]
    fn the_first_entry_is_found_once_it_is_visible() {
        model(0, 1, |memtable, queue| check_lookup(memtable, queue, 1));
    }

    #[test]
    fn an_entry_put_beside_others_is_found_once_it_is_visible() {
        model(2, 1, |memtable, queue| check_lookup(memtable, queue, 3));
    }

    /// The fourth entry splits the leaf, the fifth takes a slot that the split has freed.
    #[test]
    fn entries_are_found_while_their_leaf_splits_and_slots_are_filled_again() {
        for sequence in 1..=5 {
            model(3, 2, move |memtable, queue| check_lookup(memtable, queue, sequence));
        }
    }

    #[test]
    fn a_walk_meets_all_while_a_leaf_splits() {
        model(3, 1, |memtable, queue| check_walk(memtable, queue, true));
        model(3, 1, |memtable, queue| check_walk(memtable, queue, false));
    }
}
