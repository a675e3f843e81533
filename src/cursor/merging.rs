//! Several cursors seen as one: the merge of sorted sources by a loser tree.
//!
//! The sources form the leaves of a tournament; each inner node remembers the source that lost
//! there and the root the one that won. A step moves the winner only and replays the matches on its
//! way to the root: about log2(k) comparisons, no allocation, no copied key.
//!
//! Each source's head is remembered as an integer that orders as its key does, so most matches
//! compare two words of one small array. Only ties look at the keys. In the reverse direction the
//! integer is complemented: the least one wins in both directions, and only the slow path asks
//! which way we go.
//!
//! # Invariants
//! * While the cursor stands on an entry going forward, every other source stands on its first
//!   entry after it or at its end; going backward, on its last entry before it or at its start. A
//!   change of direction re-seeks the others.
//! * A source's head in `heads` is what the source stands on. It is renewed whenever the source
//!   moves.
//! * No two sources hold the same key and trailer. Should they, the lower index counts as newer and
//!   comes first.
//! * After an error the cursor stands nowhere and repeats the error, until it is moved by a seek.
//!
//! The merge knows nothing of visibility or tombstones: it yields every entry of every source.

use std::cmp::Ordering;

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key::{Trailer, compare_entries, key_prefix};

/// A loser-tree node nobody has reached yet, while the tree is built.
const VACANT: usize = usize::MAX;

/// The merge of sorted sources.
#[derive(Debug)]
pub(crate) struct MergingCursor<C> {
    sources: Vec<C>,
    /// What each source stands on, in brief.
    heads: Vec<Head>,
    /// At 0 the winner, at 1.. the losers of the inner nodes; node `n` has the children `2n` and
    /// `2n + 1`, and leaf `i` is node `sources.len() + i`.
    tree: Vec<usize>,
    direction: Direction,
    /// The error that stopped the cursor, until the next seek.
    failure: Option<Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// Where a source stands.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// Orders as the key does in the direction of travel; the greatest when there is no entry.
    rank: u64,
    valid: bool,
}

impl Head {
    const NOWHERE: Head = Head { rank: u64::MAX, valid: false };

    #[inline]
    fn of<C: Cursor>(source: &C, direction: Direction) -> Head {
        if !source.valid() {
            return Head::NOWHERE;
        }
        let prefix = key_prefix(source.key());
        let rank = if direction == Direction::Forward { prefix } else { !prefix };
        Head { rank, valid: true }
    }
}

impl<C: Cursor> MergingCursor<C> {
    /// A merge of `sources`, newest first, standing nowhere. An entry that two of them hold comes twice, from the
    /// earlier source first.
    pub(crate) fn new(sources: Vec<C>) -> Self {
        MergingCursor {
            heads: vec![Head::NOWHERE; sources.len()],
            tree: vec![0; sources.len()],
            sources,
            direction: Direction::Forward,
            failure: None,
        }
    }

    /// Calls `visit` with each source, to gather what it counted.
    pub(crate) fn for_each_source(&mut self, visit: impl FnMut(&mut C)) {
        self.sources.iter_mut().for_each(visit);
    }

    /// The source whose entry the cursor stands on. Must be valid.
    #[inline]
    pub(crate) fn current(&self) -> &C {
        &self.sources[self.tree[0]]
    }

    /// Which source that is.
    #[inline]
    pub(crate) fn current_index(&self) -> usize {
        self.tree[0]
    }

    /// The sources, in the order in which they were given.
    pub(crate) fn sources(&self) -> &[C] {
        &self.sources
    }

    /// Moves every source by `place` and finds the new winner.
    fn place_all(
        &mut self,
        direction: Direction,
        place: impl FnMut(&mut C) -> Result<()>,
    ) -> Result<()> {
        self.direction = direction;
        self.failure = None;
        // Heads of sources not reached before an error are stale; the failure hides them.
        let placed = self.sources.iter_mut().try_for_each(place);
        self.settle(placed)?;
        self.renew_heads();
        Ok(())
    }

    /// Keeps the error of `moved`, so that the cursor stays stopped, and passes it on.
    #[inline]
    fn settle(&mut self, moved: Result<()>) -> Result<()> {
        if let Err(error) = &moved {
            self.failure = Some(error.clone());
        }
        moved
    }

    fn renew_heads(&mut self) {
        for (head, source) in self.heads.iter_mut().zip(&self.sources) {
            *head = Head::of(source, self.direction);
        }
        // Each inner node is reached twice: the first comer waits there, the second plays it.
        self.tree.fill(VACANT);
        for leaf in 0..self.sources.len() {
            let mut winner = leaf;
            let mut node = self.parent_of_leaf(leaf);
            while node > 0 && self.tree[node] != VACANT {
                winner = self.play(node, winner);
                node /= 2;
            }
            self.tree[node] = winner;
        }
    }

    /// Moves the winner one entry in the direction of travel, which `step` must do, and finds the
    /// new winner.
    #[inline]
    fn step(&mut self, step: impl FnOnce(&mut C) -> Result<()>) -> Result<()> {
        let moved = self.tree[0];
        let stepped = step(&mut self.sources[moved]);
        self.settle(stepped)?;
        if self.sources.len() == 1 {
            self.heads[0].valid = self.sources[0].valid();
            return Ok(());
        }
        self.heads[moved] = Head::of(&self.sources[moved], self.direction);
        let mut winner = moved;
        let mut node = self.parent_of_leaf(moved);
        while node > 0 {
            winner = self.play(node, winner);
            node /= 2;
        }
        self.tree[0] = winner;
        Ok(())
    }

    #[inline]
    fn parent_of_leaf(&self, leaf: usize) -> usize {
        let node = self.sources.len() + leaf;
        node / 2
    }

    /// Plays `challenger` against the one who waits at `node`; leaves the loser there and returns
    /// the winner.
    #[inline]
    fn play(&mut self, node: usize, challenger: usize) -> usize {
        let waiting = self.tree[node];
        if self.wins(waiting, challenger) {
            self.tree[node] = challenger;
            waiting
        } else {
            challenger
        }
    }

    /// Whether source `a` stands before source `b` in the direction of travel.
    #[inline]
    fn wins(&self, a: usize, b: usize) -> bool {
        let (head_a, head_b) = (self.heads[a], self.heads[b]);
        if head_a.rank == head_b.rank { self.wins_tie(a, b) } else { head_a.rank < head_b.rank }
    }

    fn wins_tie(&self, a: usize, b: usize) -> bool {
        if !self.heads[a].valid || !self.heads[b].valid {
            return self.heads[a].valid;
        }
        let (source_a, source_b) = (&self.sources[a], &self.sources[b]);
        let order = compare_entries(
            (source_a.key(), source_a.trailer()),
            (source_b.key(), source_b.trailer()),
        );
        // No two sources of ours hold the same entry. Those of crafted files may, and then any order will do.
        let order = order.then(a.cmp(&b));
        order
            == if self.direction == Direction::Forward { Ordering::Less } else { Ordering::Greater }
    }

    /// Places all sources but the winner beyond its entry, for travel in the other direction.
    fn turn(&mut self, direction: Direction) -> Result<()> {
        self.direction = direction;
        let (before, rest) = self.sources.split_at_mut(self.tree[0]);
        let (winner, after) = rest.split_first_mut().expect("the winner is one of the sources");
        let (key, trailer) = (winner.key(), winner.trailer());
        let turned = before.iter_mut().chain(after).try_for_each(|source| match direction {
            Direction::Forward => source.seek(key, trailer),
            Direction::Backward => source.seek_for_prev(key, trailer),
        });
        self.settle(turned)?;
        self.renew_heads();
        Ok(())
    }

    /// Makes ready for a step in `direction`: repeats an old error, and turns if need be.
    #[inline]
    fn face(&mut self, direction: Direction) -> Result<()> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        assert!(self.valid(), "a cursor that stands nowhere cannot step");
        if self.direction != direction && self.sources.len() > 1 {
            return self.turn(direction);
        }
        Ok(())
    }
}

impl<C: Cursor> Cursor for MergingCursor<C> {
    #[inline]
    fn valid(&self) -> bool {
        self.failure.is_none() && self.tree.first().is_some_and(|&winner| self.heads[winner].valid)
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.place_all(Direction::Forward, C::seek_to_first)
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.place_all(Direction::Backward, C::seek_to_last)
    }

    fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.place_all(Direction::Forward, |source| source.seek(key, trailer))
    }

    fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.place_all(Direction::Backward, |source| source.seek_for_prev(key, trailer))
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        self.face(Direction::Forward)?;
        self.step(C::next)
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        self.face(Direction::Backward)?;
        self.step(C::prev)
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.current().key()
    }

    #[inline]
    fn trailer(&self) -> Trailer {
        self.current().trailer()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.current().value()
    }
}

#[cfg(test)]
mod tests;
