//! Tests of the memtable as a whole: against a model, with leaves so small that they split all the
//! time, with threads, and with every interleaving of a split and a reader on one thread.

#[cfg(any(esker_shuttle, esker_loom))]
mod schedules;

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use proptest::collection::vec;
use proptest::prelude::*;

use super::leaf::{LEAF_BYTES, Step, interleave};
use super::*;
use crate::cursor::Cursor;
use crate::key::{KEY_LEN_MAX, SequenceNumber, ValueKind, key_hash};

type Model = BTreeMap<(Vec<u8>, Reverse<u64>), Vec<u8>>;
type Found = (Vec<u8>, Trailer, Vec<u8>);

const CAPACITY_BYTES: u64 = 1 << 16;
/// As small as a leaf can be, so that leaves split all the time.
const FILL_MIN: usize = 3;

fn put(sequence: u64) -> Trailer {
    Trailer::new(SequenceNumber(sequence), ValueKind::Put)
}

fn insert(memtable: &MemTable, key: &[u8], trailer: Trailer, value: &[u8]) {
    memtable.insert(key, trailer, value, key_hash(key));
}

fn get(memtable: &Arc<MemTable>, key: &[u8], bound: Trailer) -> Option<(Trailer, Vec<u8>)> {
    let (trailer, value) = memtable.get(key, key_hash(key), bound)?;
    Some((trailer, value.to_vec()))
}

fn walk(memtable: &Arc<MemTable>) -> Vec<Found> {
    let mut cursor = memtable.cursor();
    cursor.seek_to_first().unwrap();
    let mut entries = Vec::new();
    while cursor.valid() {
        entries.push((cursor.key().to_vec(), cursor.trailer(), cursor.value().to_vec()));
        cursor.next().unwrap();
    }
    entries
}

fn found(cursor: &MemCursor) -> Option<Found> {
    cursor.valid().then(|| (cursor.key().to_vec(), cursor.trailer(), cursor.value().to_vec()))
}

fn rank(entry: &Found) -> (Vec<u8>, Reverse<u64>) {
    (entry.0.clone(), Reverse(entry.1.0))
}

fn rank_of(cursor: &MemCursor) -> Option<(Vec<u8>, Reverse<u64>)> {
    found(cursor).as_ref().map(rank)
}

/// What a lookup of `key` should find.
fn newest_of(model: &Model, key: &[u8], bound: Trailer) -> Option<(Trailer, Vec<u8>)> {
    let ((found, Reverse(trailer)), value) =
        model.range((key.to_vec(), Reverse(bound.0))..).next()?;
    (found == key).then(|| (Trailer(*trailer), value.clone()))
}

/// All entries from the last to the first.
fn walk_back(memtable: &Arc<MemTable>) -> Vec<Found> {
    let mut cursor = memtable.cursor();
    cursor.seek_to_last().unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = found(&cursor) {
        entries.push(entry);
        cursor.prev().unwrap();
    }
    entries
}

fn entry_of(((key, Reverse(trailer)), value): (&(Vec<u8>, Reverse<u64>), &Vec<u8>)) -> Found {
    (key.clone(), Trailer(*trailer), value.clone())
}

/// Few distinct keys, with empty ones, zero bytes, shared heads of eight bytes and more, and long
/// ones.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(0u8..3, 0..4),
        vec(prop_oneof![Just(0u8), Just(0xff)], 6..11),
        vec(b'0'..b'3', 1..4).prop_map(|tail| [b"user00000".as_slice(), &tail].concat()),
        (0u8..4).prop_map(|b| [vec![b'l'; 260], vec![b]].concat()),
    ]
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

fn any_move() -> impl Strategy<Value = Move> {
    let bound = || (0u64..80).prop_map(|s| Trailer::visible_at(SequenceNumber(s)));
    prop_oneof![
        1 => Just(Move::First),
        1 => Just(Move::Last),
        2 => (any_key(), bound()).prop_map(|(k, t)| Move::Seek(k, t)),
        2 => (any_key(), bound()).prop_map(|(k, t)| Move::SeekForPrev(k, t)),
        6 => Just(Move::Next),
        6 => Just(Move::Prev),
    ]
}

/// Where `a_move` leads in `model` from `place`; a step from nowhere leads nowhere.
fn model_move(model: &Model, place: Option<Found>, a_move: &Move) -> Option<Found> {
    let here = place.map(|(key, trailer, _)| (key, Reverse(trailer.0)));
    match a_move {
        Move::First => model.first_key_value(),
        Move::Last => model.last_key_value(),
        Move::Seek(key, trailer) => model.range((key.clone(), Reverse(trailer.0))..).next(),
        Move::SeekForPrev(key, trailer) => {
            model.range(..=(key.clone(), Reverse(trailer.0))).next_back()
        }
        Move::Next => model.range((Bound::Excluded(here?), Bound::Unbounded)).next(),
        Move::Prev => model.range(..here?).next_back(),
    }
    .map(entry_of)
}

proptest! {
    #[test]
    fn behaves_as_an_ordered_map(
        writes in vec((any_key(), any::<bool>(), vec(any::<u8>(), 0..200)), 0..70),
        hint in proptest::option::of((any_key(), any_key())),
        leaf_fill in prop_oneof![FILL_MIN..6, Just(LEAF_LEN)],
        gets in vec((any_key(), 0u64..80), 0..40),
        moves in vec(any_move(), 0..60),
    ) {
        let hint = hint.map(|(min, max)| PrefixHint::between(&min, &max));
        let memtable = MemTable::with_leaf_fill(CAPACITY_BYTES, hint.as_ref(), leaf_fill);
        let mut model = Model::new();
        for (sequence, (key, is_tombstone, value)) in writes.iter().enumerate() {
            let kind = if *is_tombstone { ValueKind::Delete } else { ValueKind::Put };
            let trailer = Trailer::new(SequenceNumber(sequence as u64), kind);
            insert(&memtable, key, trailer, value);
            model.insert((key.clone(), Reverse(trailer.0)), value.clone());
        }

        prop_assert_eq!(walk(&memtable), model.iter().map(entry_of).collect::<Vec<_>>());
        let newest_of_all = writes.iter().map(|(key, ..)| (key, 99));
        let gets = gets.iter().map(|(key, sequence)| (key, *sequence)).chain(newest_of_all);
        for (key, sequence) in gets {
            let bound = Trailer::visible_at(SequenceNumber(sequence));
            prop_assert_eq!(get(&memtable, key, bound), newest_of(&model, key, bound));
        }

        let mut cursor = memtable.cursor();
        let mut place = None;
        for a_move in &moves {
            match a_move {
                Move::Next | Move::Prev if !cursor.valid() => continue,
                Move::First => cursor.seek_to_first().unwrap(),
                Move::Last => cursor.seek_to_last().unwrap(),
                Move::Seek(key, trailer) => cursor.seek(key, *trailer).unwrap(),
                Move::SeekForPrev(key, trailer) => cursor.seek_for_prev(key, *trailer).unwrap(),
                Move::Next => cursor.next().unwrap(),
                Move::Prev => cursor.prev().unwrap(),
            }
            place = model_move(&model, place, a_move);
            prop_assert_eq!(&found(&cursor), &place, "after {:?}", a_move);
        }
    }

    /// While others insert between any two steps of a reader: each move of a cursor leads to an
    /// entry that is there, on the right side, and passes over none that was there at the last
    /// seek; a lookup finds the newest version within its bound.
    #[test]
    fn readers_keep_their_way_while_leaves_split_under_them(
        steps in vec(prop_oneof![
            2 => any_key().prop_map(Err),
            1 => any_move().prop_map(Ok),
        ], 0..200),
        others in vec(vec(any_key(), 0..4), 0..100),
        leaf_fill in prop_oneof![FILL_MIN..6, Just(LEAF_LEN)],
    ) {
        // What a failed run may have left.
        interleave::set(None);
        let memtable = MemTable::with_leaf_fill(CAPACITY_BYTES, None, leaf_fill);
        let now = Rc::new(RefCell::new(Model::new()));
        let mut at_seek = Model::new();
        let insert_now = {
            let (memtable, now) = (Arc::clone(&memtable), Rc::clone(&now));
            move |key: Vec<u8>| {
                let mut now = now.borrow_mut();
                let trailer = put(now.len() as u64);
                insert(&memtable, &key, trailer, b"v");
                now.insert((key, Reverse(trailer.0)), b"v".to_vec());
            }
        };
        let is_reading = Rc::new(Cell::new(false));
        let mut others = others.into_iter();
        let (insert_meanwhile, may_act) = (insert_now.clone(), Rc::clone(&is_reading));
        interleave::set(Some(Box::new(move |step| {
            if step == Step::Read && may_act.get() {
                others.next().into_iter().flatten().for_each(&insert_meanwhile);
            }
        })));
        let mut cursor = memtable.cursor();
        for step in steps {
            let a_move = match step {
                Err(key) => {
                    is_reading.set(false);
                    insert_now(key);
                    continue;
                }
                Ok(a_move) => a_move,
            };
            is_reading.set(true);
            let here = found(&cursor);
            let before = now.borrow().clone();
            let old = match &a_move {
                Move::Next | Move::Prev if here.is_none() => continue,
                Move::Next | Move::Prev => model_move(&at_seek, here.clone(), &a_move),
                Move::Seek(key, trailer) => {
                    let newest = newest_of(&before, key, *trailer);
                    // Else what is inserted meanwhile may be found.
                    if trailer.sequence().0 < before.len() as u64 {
                        prop_assert_eq!(get(&memtable, key, *trailer), newest);
                    }
                    at_seek.clone_from(&before);
                    model_move(&before, None, &a_move)
                }
                _ => {
                    at_seek.clone_from(&before);
                    model_move(&before, None, &a_move)
                }
            };
            let here = here.as_ref().map(rank);
            let (first, second) = match &a_move {
                Move::First => { cursor.seek_to_first().unwrap(); (None, rank_of(&cursor)) }
                Move::Last => { cursor.seek_to_last().unwrap(); (rank_of(&cursor), None) }
                Move::Seek(key, trailer) => {
                    cursor.seek(key, *trailer).unwrap();
                    (Some((key.clone(), Reverse(trailer.0))), rank_of(&cursor))
                }
                Move::SeekForPrev(key, trailer) => {
                    cursor.seek_for_prev(key, *trailer).unwrap();
                    (rank_of(&cursor), Some((key.clone(), Reverse(trailer.0))))
                }
                Move::Next => { cursor.next().unwrap(); (here.clone(), rank_of(&cursor)) }
                Move::Prev => { cursor.prev().unwrap(); (rank_of(&cursor), here.clone()) }
            };
            let there = rank_of(&cursor);
            prop_assert!(first.is_none() || second.is_none() || first <= second);
            let is_step = matches!(a_move, Move::Next | Move::Prev);
            prop_assert!(!is_step || there.is_none() || there != here);
            prop_assert!(there.as_ref().is_none_or(|there| now.borrow().contains_key(there)));
            if let Some(old) = old.as_ref().map(rank) {
                let there = there.expect("an old entry is ahead");
                let is_forward = matches!(a_move, Move::First | Move::Seek(..) | Move::Next);
                let is_passed = if is_forward { there > old } else { there < old };
                prop_assert!(!is_passed, "{:?} passes {:?} on its way to {:?}", a_move, old, there);
            }
        }
        interleave::set(None);
        let now = now.borrow();
        prop_assert_eq!(walk(&memtable), now.iter().map(entry_of).collect::<Vec<_>>());
        prop_assert_eq!(walk_back(&memtable), now.iter().rev().map(entry_of).collect::<Vec<_>>());
    }

    /// Between any two steps of a split, readers find all that was inserted before.
    #[test]
    fn a_split_hides_nothing_at_any_moment(
        keys in vec(any_key(), 0..60),
        leaf_fill in FILL_MIN..6,
    ) {
        interleave::set(None);
        let memtable = MemTable::with_leaf_fill(CAPACITY_BYTES, None, leaf_fill);
        let model = Rc::new(RefCell::new(Model::new()));
        let (table, before) = (Arc::clone(&memtable), Rc::clone(&model));
        interleave::set(Some(Box::new(move |step| if step == Step::Write {
            let before = before.borrow();
            for (key, Reverse(trailer)) in before.keys() {
                assert_eq!(get(&table, key, Trailer(*trailer)).unwrap().0.0, *trailer);
            }
            // The entry that splits the leaf is newer, and may be there.
            let is_old = |entry: &Found| entry.1.sequence().0 < before.len() as u64;
            let expected: Vec<_> = before.iter().map(entry_of).collect();
            let mut walked = walk(&table);
            walked.retain(is_old);
            assert_eq!(walked, expected);
            let mut walked = walk_back(&table);
            walked.retain(is_old);
            walked.reverse();
            assert_eq!(walked, expected);
        })));
        for (sequence, key) in keys.into_iter().enumerate() {
            let trailer = put(sequence as u64);
            insert(&memtable, &key, trailer, b"v");
            model.borrow_mut().insert((key, Reverse(trailer.0)), b"v".to_vec());
        }
        interleave::set(None);
    }

    #[test]
    fn the_next_hint_follows_the_keys_and_orders_them(keys in vec(any_key(), 0..40)) {
        let first = MemTable::new(CAPACITY_BYTES, None);
        for (sequence, key) in keys.iter().enumerate() {
            insert(&first, key, put(sequence as u64), b"");
        }
        let second = MemTable::new(CAPACITY_BYTES, Some(&first.prefix_hint()));
        for (sequence, key) in keys.iter().enumerate().rev() {
            insert(&second, key, put(sequence as u64), b"");
        }
        prop_assert_eq!(walk(&first), walk(&second));
    }
}

#[test]
fn the_hint_is_kept_until_there_are_keys_to_judge_by() {
    let hint = PrefixHint::between(b"abcdef", b"abcxyz");
    let memtable = MemTable::new(CAPACITY_BYTES, Some(&hint));
    assert_eq!(memtable.prefix_hint(), hint);
    (0..100).for_each(|sequence| insert(&memtable, b"one key", put(sequence), b""));
    assert_eq!(memtable.prefix_hint(), hint, "one key says nothing of the others");
    insert(&memtable, b"one kite", put(100), b"");
    assert_eq!(memtable.prefix_hint(), PrefixHint::between(b"one key", b"one kite"));
}

#[test]
fn keys_the_hint_did_not_expect_are_found() {
    let hint = PrefixHint::between(b"user00000001", b"user00000999");
    let memtable = MemTable::new(CAPACITY_BYTES, Some(&hint));
    let keys: [&[u8]; 10] = [
        b"",
        b"\0",
        b"u",
        b"usee99999999",
        b"user",
        b"user0000000",
        b"user00000500",
        b"user0001",
        b"v",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for (sequence, key) in keys.iter().rev().enumerate() {
        insert(&memtable, key, put(sequence as u64), key);
    }
    for key in keys {
        assert_eq!(get(&memtable, key, Trailer::NEWEST).unwrap().1, key);
    }
    assert_eq!(walk(&memtable).iter().map(|e| &*e.0).collect::<Vec<_>>(), keys);
}

#[test]
fn extreme_keys_and_values_are_kept_whole() {
    let memtable = MemTable::new(CAPACITY_BYTES, None);
    let huge = (0..3_000_000u32).map(|i| (i % 251) as u8).collect::<Vec<_>>();
    let long_key = vec![0xab; KEY_LEN_MAX];
    let entries: [(&[u8], &[u8]); 6] = [
        (b"", b""),
        (b"\0", b"zero"),
        (b"\0\0", &huge),
        (b"k", b"\0"),
        (&long_key[..KEY_LEN_MAX - 1], &huge[1..]),
        (&long_key, b""),
    ];
    for (sequence, (key, value)) in entries.iter().enumerate() {
        insert(&memtable, key, put(sequence as u64), value);
    }
    for (key, value) in entries {
        assert!(get(&memtable, key, Trailer::NEWEST).unwrap().1 == value);
    }
    let walked = walk(&memtable);
    assert!(walked.iter().map(|(k, _, v)| (&**k, &**v)).eq(entries));
}

#[test]
fn the_bound_chooses_the_version() {
    let memtable = MemTable::new(CAPACITY_BYTES, None);
    for sequence in [30, 10, 20] {
        insert(&memtable, b"k", put(sequence), sequence.to_string().as_bytes());
    }
    let seen_at = |sequence| {
        get(&memtable, b"k", Trailer::visible_at(SequenceNumber(sequence))).map(|found| found.0)
    };
    assert_eq!(seen_at(9), None);
    assert_eq!(seen_at(10), Some(put(10)));
    assert_eq!(seen_at(29), Some(put(20)));
    assert_eq!(seen_at(31), Some(put(30)));
    assert_eq!(get(&memtable, b"k\0", Trailer::NEWEST), None);
}

#[test]
fn every_byte_is_accounted_for() {
    let memtable = MemTable::new(CAPACITY_BYTES, None);
    let filter_bytes = CAPACITY_BYTES / 64;
    assert_eq!(memtable.bytes(), filter_bytes);
    assert!(memtable.is_empty());
    assert_eq!(memtable.write_time_range_ms(), None);
    assert_eq!(memtable.key_range(), None);

    insert(&memtable, b"0123456789abcdef", put(7), &[1; 100]);
    let leaf_bytes = LEAF_BYTES as u64;
    assert_eq!(memtable.bytes(), filter_bytes + leaf_bytes + (8 + 1 + 16 + 1 + 100));
    insert(&memtable, b"b", Trailer::new(SequenceNumber(5), ValueKind::Delete), b"");
    assert_eq!(memtable.bytes(), filter_bytes + leaf_bytes + 126 + (8 + 1 + 1 + 1));
    assert_eq!((memtable.key_bytes(), memtable.value_bytes()), (17, 100));
    let expiring = MemTable::new(CAPACITY_BYTES, None);
    let trailer = Trailer::new(SequenceNumber(9), ValueKind::PutExpiring);
    insert(&expiring, b"c", trailer, b"12345678value");
    assert_eq!(expiring.user_bytes(), 6, "the time of expiry is not the user's");
    assert_eq!(memtable.entry_count(), 2);
    assert_eq!(memtable.key_range(), Some((b"0123456789abcdef".as_slice(), b"b".as_slice())));
    memtable.note_write_time(40);
    memtable.note_write_time(30);
    assert_eq!(memtable.write_time_range_ms(), Some((30, 40)));

    for sequence in 8..2000u64 {
        let value = vec![
            2;
            sequence as usize * 37 % 900
                + usize::from(sequence.is_multiple_of(400)) * 70_000
        ];
        insert(&memtable, &sequence.to_be_bytes(), put(sequence), &value);
    }
    check_bytes(&memtable);
}

/// What was charged is what was taken.
fn check_bytes(memtable: &MemTable) {
    let taken_bytes = memtable.arena.handed_out_bytes() + memtable.list.bytes();
    assert_eq!(memtable.bytes(), memtable.filter.bytes() + taken_bytes as u64);
}

/// Inserts `count` entries, the key of each by its number, and checks all of them. Gives the
/// average number of entries of a leaf.
fn fill_of(count: u64, leaf_fill: usize, key_of: impl Fn(u64) -> Vec<u8>) -> f64 {
    let memtable = MemTable::with_leaf_fill(CAPACITY_BYTES, None, leaf_fill);
    let mut model = Model::new();
    for sequence in 0..count {
        let key = key_of(sequence);
        insert(&memtable, &key, put(sequence), &sequence.to_le_bytes());
        model.insert((key, Reverse(put(sequence).0)), sequence.to_le_bytes().to_vec());
    }
    for ((key, Reverse(trailer)), value) in &model {
        let expected = Some((Trailer(*trailer), value.clone()));
        assert_eq!(get(&memtable, key, Trailer(*trailer)), expected);
    }
    assert!(walk(&memtable) == model.iter().map(entry_of).collect::<Vec<_>>());
    assert!(walk_back(&memtable) == model.iter().rev().map(entry_of).collect::<Vec<_>>());
    check_bytes(&memtable);
    count as f64 / memtable.list.leaf_count() as f64
}

#[test]
fn leaves_are_well_filled_whatever_the_order_of_keys() {
    let scattered = |i: u64| key_hash(&i.to_be_bytes()).to_be_bytes().to_vec();
    let ascending = fill_of(5000, LEAF_LEN, |i| i.to_be_bytes().to_vec());
    let descending = fill_of(5000, LEAF_LEN, |i| (u64::MAX - i).to_be_bytes().to_vec());
    let random = fill_of(5000, LEAF_LEN, scattered);
    assert!(ascending > 31.0, "{ascending}");
    assert!(descending > 30.0, "{descending}");
    assert!(random > 20.0, "{random}");
    // Two ascending streams, one of which never ends the list.
    let streams = fill_of(5000, LEAF_LEN, |i| {
        [vec![(i & 1) as u8], scattered(1), i.to_be_bytes().to_vec()].concat()
    });
    assert!(streams > 30.0, "{streams}");
}

#[test]
fn versions_of_one_key_fill_many_leaves() {
    for leaf_fill in [FILL_MIN, 4, LEAF_LEN] {
        fill_of(300, leaf_fill, |_| b"the only key".to_vec());
        fill_of(300, leaf_fill, |i| vec![b'k'; 9 + usize::from(i % 7 == 3)]);
    }
}

#[test]
fn keys_of_one_prefix_are_told_apart() {
    for leaf_fill in [FILL_MIN, 4, LEAF_LEN] {
        for multiplier in [1, 7919, u64::MAX] {
            fill_of(1000, leaf_fill, |i| {
                let tail = (i.wrapping_mul(multiplier) as u32).to_be_bytes();
                [b"one long beginning".as_slice(), &tail].concat()
            });
        }
        // Beside the greatest prefix, which also stands for the lack of a neighbour.
        fill_of(500, leaf_fill, |i| {
            [vec![0xff; 8], (i * 7919 % 503).to_be_bytes().to_vec()].concat()
        });
    }
}

#[test]
fn values_and_cursors_outlive_their_memtable_handle() {
    let memtable = MemTable::new(CAPACITY_BYTES, None);
    insert(&memtable, b"a", put(1), b"first");
    insert(&memtable, b"b", put(2), b"second");
    let (_, first) = memtable.get(b"a", key_hash(b"a"), Trailer::NEWEST).unwrap();
    let mut cursor = memtable.cursor();
    cursor.seek(b"b", Trailer::NEWEST).unwrap();
    let second = cursor.pin_value();
    let alive = Arc::downgrade(&memtable);
    drop(memtable);
    cursor.prev().unwrap();
    assert_eq!(cursor.key(), b"a");
    let cursor = std::thread::scope(|scope| {
        scope
            .spawn(move || {
                cursor.next().unwrap();
                cursor
            })
            .join()
            .unwrap()
    });
    assert_eq!(cursor.value(), b"second");
    drop(cursor);
    assert_eq!((&*first, &*second.clone()), (b"first".as_slice(), b"second".as_slice()));
    drop(first);
    assert!(alive.upgrade().is_some());
    drop(second);
    assert!(alive.upgrade().is_none());
}

#[test]
#[should_panic(expected = "is there already")]
#[cfg(debug_assertions)]
fn an_entry_is_inserted_once() {
    let memtable = MemTable::new(CAPACITY_BYTES, None);
    insert(&memtable, b"k", put(1), b"v");
    insert(&memtable, b"k", put(1), b"w");
}

const WRITERS: u64 = 4;
const WRITES_EACH: u64 = 2500;

/// Entry `index` of `writer`: scattered over the key space, every key written by all writers.
fn stress_entry(writer: u64, index: u64) -> (Vec<u8>, Trailer, Vec<u8>) {
    let scattered = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    let key = format!("key{scattered:08}").into_bytes();
    let sequence = index * WRITERS + writer;
    let value = vec![sequence as u8; (sequence % 300) as usize];
    (key, put(sequence), value)
}

#[test]
fn concurrent_readers_see_every_published_entry_and_none_is_lost() {
    let hint = PrefixHint::between(b"key00000000", b"key00009999");
    for leaf_fill in [FILL_MIN, 5, LEAF_LEN] {
        stress(&MemTable::with_leaf_fill(4 << 20, Some(&hint), leaf_fill));
        // Without a hint all prefixes are alike, so that every comparison follows records.
        stress(&MemTable::with_leaf_fill(4 << 20, None, leaf_fill));
    }
}

fn stress(memtable: &Arc<MemTable>) {
    let published: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let published = &published[writer as usize];
                scope.spawn(move || {
                    for index in 0..WRITES_EACH {
                        let (key, trailer, value) = stress_entry(writer, index);
                        insert(memtable, &key, trailer, &value);
                        published.store(index + 1, Ordering::Release);
                    }
                })
            })
            .collect();
        for reader in 0..2u64 {
            let (published, done) = (&published, &done);
            scope.spawn(move || {
                let mut state = reader + 1;
                let mut round = 0u64;
                while !done.load(Ordering::Relaxed) {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let writer = (state >> 33) % WRITERS;
                    let count = published[writer as usize].load(Ordering::Acquire);
                    if count > 0 {
                        // Half the time the newest one, the most likely to be missed.
                        let index =
                            if round.is_multiple_of(2) { count - 1 } else { (state >> 40) % count };
                        let (key, trailer, value) = stress_entry(writer, index);
                        assert_eq!(get(memtable, &key, trailer), Some((trailer, value)));
                    }
                    if round.is_multiple_of(256) {
                        check_walk(published, || walk(memtable));
                    } else if round.is_multiple_of(128) {
                        check_walk(published, || {
                            let mut entries = walk_back(memtable);
                            entries.reverse();
                            entries
                        });
                    }
                    round += 1;
                }
            });
        }
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });

    let mut expected: Vec<_> = (0..WRITERS)
        .flat_map(|writer| (0..WRITES_EACH).map(move |index| stress_entry(writer, index)))
        .collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    assert!(walk(memtable) == expected);
    assert_eq!(memtable.entry_count(), WRITERS * WRITES_EACH);
    check_bytes(memtable);
}

/// A walk during inserts is in order and meets all that was published before it began.
fn check_walk(published: &[AtomicU64], walk: impl Fn() -> Vec<Found>) {
    let counts: Vec<_> = published.iter().map(|count| count.load(Ordering::Acquire)).collect();
    let walked = walk();
    assert!(walked.is_sorted_by(|a, b| (&a.0, Reverse(a.1)) < (&b.0, Reverse(b.1))));
    let is_old = |entry: &&Found| {
        let sequence = entry.1.sequence().0;
        sequence / WRITERS < counts[(sequence % WRITERS) as usize]
    };
    assert_eq!(walked.iter().filter(is_old).count() as u64, counts.iter().sum::<u64>());
}
