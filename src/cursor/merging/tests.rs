//! The merge against the sorted union of its sources, with failures in each.

use std::cell::Cell;
use std::rc::Rc;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::key::{SequenceNumber, ValueKind};

type Entry = (Vec<u8>, Trailer);

/// Counts the moves of all sources and fails the one whose turn has come.
#[derive(Clone, Default)]
struct Fuse {
    moves: Rc<Cell<u64>>,
    fails_at: Rc<Cell<Option<u64>>>,
}

impl Fuse {
    fn burn(&self) -> Result<()> {
        let number = self.moves.get();
        self.moves.set(number + 1);
        if self.fails_at.get() == Some(number) {
            return Err(Error::new(ErrorKind::Io, format!("move {number} failed")));
        }
        Ok(())
    }
}

/// A cursor over a sorted vector. After an error it stands nowhere, as the contract wants.
struct VecCursor {
    entries: Vec<Entry>,
    at: Option<usize>,
    fuse: Fuse,
}

impl VecCursor {
    fn new(entries: Vec<Entry>, fuse: &Fuse) -> Self {
        VecCursor { entries, at: None, fuse: fuse.clone() }
    }

    fn go(&mut self, to: impl FnOnce(&Self) -> Option<usize>) -> Result<()> {
        let to = to(self);
        self.at = None;
        self.fuse.burn()?;
        self.at = to.filter(|&index| index < self.entries.len());
        Ok(())
    }

    fn here(&self) -> &Entry {
        &self.entries[self.at.expect("valid")]
    }
}

fn count_before(entries: &[Entry], key: &[u8], trailer: Trailer, inclusive: bool) -> usize {
    entries.partition_point(|(k, t)| {
        let order = compare_entries((k, *t), (key, trailer));
        order.is_lt() || inclusive && order.is_eq()
    })
}

impl Cursor for VecCursor {
    fn valid(&self) -> bool {
        self.at.is_some()
    }
    fn seek_to_first(&mut self) -> Result<()> {
        self.go(|_| Some(0))
    }
    fn seek_to_last(&mut self) -> Result<()> {
        self.go(|this| this.entries.len().checked_sub(1))
    }
    fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.go(|this| Some(count_before(&this.entries, key, trailer, false)))
    }
    fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.go(|this| count_before(&this.entries, key, trailer, true).checked_sub(1))
    }
    fn next(&mut self) -> Result<()> {
        self.go(|this| Some(this.at.expect("valid") + 1))
    }
    fn prev(&mut self) -> Result<()> {
        self.go(|this| this.at.expect("valid").checked_sub(1))
    }
    fn key(&self) -> &[u8] {
        &self.here().0
    }
    fn trailer(&self) -> Trailer {
        self.here().1
    }
    fn value(&self) -> &[u8] {
        &self.here().0
    }
}

#[derive(Clone, Debug)]
enum Move {
    First,
    Last,
    Seek(Vec<u8>, Trailer),
    SeekForPrev(Vec<u8>, Trailer),
    Next,
    Prev,
}

/// Keys that are short, long, shared up to the eighth byte and beyond, and zero-padded look-alikes.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(0u8..3, 0..4),
        vec(0u8..2, 7..11),
        vec(prop_oneof![Just(0u8), Just(0xff)], 0..10),
        any::<u8>().prop_map(|b| [b"samehead".as_slice(), &[b]].concat()),
    ]
}

fn any_trailer() -> impl Strategy<Value = Trailer> {
    (0u64..6).prop_map(|s| Trailer::new(SequenceNumber(s), ValueKind::Put))
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        1 => Just(Move::First),
        1 => Just(Move::Last),
        2 => (any_key(), any_trailer()).prop_map(|(k, t)| Move::Seek(k, t)),
        2 => (any_key(), any_trailer()).prop_map(|(k, t)| Move::SeekForPrev(k, t)),
        6 => Just(Move::Next),
        6 => Just(Move::Prev),
    ]
}

/// Distinct entries dealt to sources; some sources may stay empty.
fn any_sources() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    (0usize..10).prop_flat_map(|source_count| {
        btree_set((any_key(), 0u64..6), 0..60).prop_flat_map(move |entries| {
            let len = entries.len();
            vec(0..source_count.max(1), len).prop_map(move |owners| {
                let mut sources = vec![Vec::new(); source_count];
                for ((key, sequence), owner) in entries.iter().zip(owners) {
                    if let Some(source) = sources.get_mut(owner) {
                        let trailer = Trailer::new(SequenceNumber(*sequence), ValueKind::Put);
                        source.push((key.clone(), trailer));
                    }
                }
                for source in &mut sources {
                    source.sort_by(|a, b| compare_entries((&a.0, a.1), (&b.0, b.1)));
                }
                sources
            })
        })
    })
}

fn merge_of(sources: &[Vec<Entry>], fuse: &Fuse) -> MergingCursor<VecCursor> {
    MergingCursor::new(sources.iter().map(|s| VecCursor::new(s.clone(), fuse)).collect())
}

/// All entries in one source, which the merge must behave like.
fn model_of(sources: &[Vec<Entry>]) -> VecCursor {
    let mut all = sources.concat();
    all.sort_by(|a, b| compare_entries((&a.0, a.1), (&b.0, b.1)));
    VecCursor::new(all, &Fuse::default())
}

/// Whether `a_move` is allowed where `cursor` stands.
fn allowed(cursor: &impl Cursor, a_move: &Move) -> bool {
    cursor.valid() || !matches!(a_move, Move::Next | Move::Prev)
}

fn apply(cursor: &mut impl Cursor, a_move: &Move) -> Result<()> {
    match a_move {
        Move::First => cursor.seek_to_first(),
        Move::Last => cursor.seek_to_last(),
        Move::Seek(key, trailer) => cursor.seek(key, *trailer),
        Move::SeekForPrev(key, trailer) => cursor.seek_for_prev(key, *trailer),
        Move::Next => cursor.next(),
        Move::Prev => cursor.prev(),
    }
}

fn place(cursor: &impl Cursor) -> Option<(Vec<u8>, Trailer, Vec<u8>)> {
    cursor.valid().then(|| (cursor.key().to_vec(), cursor.trailer(), cursor.value().to_vec()))
}

proptest! {
    #[test]
    fn merge_moves_as_one_sorted_source(
        sources in any_sources(),
        moves in vec(any_move(), 0..60),
    ) {
        let mut merge = merge_of(&sources, &Fuse::default());
        let mut model = model_of(&sources);
        prop_assert!(!merge.valid());
        for a_move in &moves {
            if !allowed(&model, a_move) {
                continue;
            }
            apply(&mut merge, a_move).unwrap();
            apply(&mut model, a_move).unwrap();
            prop_assert_eq!(place(&merge), place(&model), "after {:?}", a_move);
        }
    }

    #[test]
    fn no_failed_move_of_a_source_is_swallowed(
        sources in any_sources(),
        moves in vec(any_move(), 1..25),
        fails_at in 0u64..120,
    ) {
        let fuse = Fuse::default();
        fuse.fails_at.set(Some(fails_at));
        let mut merge = merge_of(&sources, &fuse);
        let mut model = model_of(&sources);
        for a_move in &moves {
            if !allowed(&model, a_move) {
                continue;
            }
            let moved = apply(&mut merge, a_move);
            let blown = fuse.moves.get() > fails_at;
            prop_assert_eq!(moved.is_err(), blown, "{:?}", a_move);
            if blown {
                prop_assert!(!merge.valid());
                let failure = moved.unwrap_err().to_string();
                prop_assert_eq!(merge.next().unwrap_err().to_string(), failure);
                prop_assert!(merge.prev().is_err());
                prop_assert!(!merge.valid());
                // A seek heals: the merge is as good as new.
                merge.seek_to_first().unwrap();
                model.seek_to_first().unwrap();
                while model.valid() {
                    prop_assert_eq!(place(&merge), place(&model));
                    merge.next().unwrap();
                    model.next().unwrap();
                }
                prop_assert!(!merge.valid());
                break;
            }
            apply(&mut model, a_move).unwrap();
            prop_assert_eq!(place(&merge), place(&model));
        }
    }
}

fn put(key: &[u8], sequence: u64) -> Entry {
    (key.to_vec(), Trailer::new(SequenceNumber(sequence), ValueKind::Put))
}

#[test]
fn every_move_of_a_walk_may_fail_and_none_is_lost() {
    let sources = [
        vec![put(b"a", 1), put(b"d", 4), put(b"g", 1)],
        vec![put(b"b", 9), put(b"d", 3)],
        vec![],
        vec![put(b"c", 2), put(b"d", 2), put(b"f", 7)],
    ];
    let walk = |fails_at| {
        let fuse = Fuse::default();
        fuse.fails_at.set(fails_at);
        let mut merge = merge_of(&sources, &fuse);
        let walked = (|| {
            merge.seek_to_first()?;
            let mut keys = Vec::new();
            while merge.valid() {
                keys.push(merge.key().to_vec());
                // Two forward and one back crosses every entry in both directions.
                merge.next()?;
                if merge.valid() {
                    merge.prev()?;
                    merge.next()?;
                }
            }
            Ok::<_, Error>(keys)
        })();
        (walked, fuse.moves.get())
    };
    let (whole, move_count) = walk(None);
    assert_eq!(whole.unwrap(), [b"a", b"b", b"c", b"d", b"d", b"d", b"f", b"g"]);
    for fails_at in 0..move_count {
        assert!(walk(Some(fails_at)).0.is_err(), "failure of move {fails_at} was swallowed");
    }
}

#[test]
fn a_forward_step_moves_one_source_and_a_turn_seeks_the_others() {
    let sources: Vec<Vec<Entry>> =
        (0..8u8).map(|s| (0..10u8).map(|i| put(&[i, s], 1)).collect()).collect();
    let fuse = Fuse::default();
    let mut merge = merge_of(&sources, &fuse);
    merge.seek_to_first().unwrap();
    assert_eq!(fuse.moves.get(), 8);
    for step in 1..=30 {
        merge.next().unwrap();
        assert_eq!(fuse.moves.get(), 8 + step);
    }
    merge.prev().unwrap();
    assert_eq!(fuse.moves.get(), 38 + 7 + 1);
    assert_eq!(merge.key(), [3, 5]);
    assert_eq!(merge.current().entries, sources[5]);
}

#[test]
fn no_sources_and_one_source() {
    let mut none = MergingCursor::<VecCursor>::new(Vec::new());
    none.seek_to_first().unwrap();
    assert!(!none.valid());
    none.seek_for_prev(b"x", Trailer::OLDEST).unwrap();
    assert!(!none.valid());

    let fuse = Fuse::default();
    let mut one = merge_of(&[vec![put(b"a", 1), put(b"b", 1)]], &fuse);
    one.seek_to_last().unwrap();
    one.prev().unwrap();
    one.next().unwrap();
    assert_eq!(one.key(), b"b");
    assert_eq!(fuse.moves.get(), 3, "one source needs no seek to turn");
    one.next().unwrap();
    assert!(!one.valid());
}
