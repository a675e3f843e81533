//! The arena: memory that is handed out piece by piece and given back all at once.
//!
//! Memory comes in chunks that never move and are freed when the arena is dropped. The first chunk
//! is small, so that a tiny memtable is tiny; each further one doubles, up to 1 MiB. A large piece
//! gets a chunk of its own, so that it does not end a chunk early.
//!
//! # Concurrency
//! Any thread may allocate. A piece is taken from the current chunk by one `fetch_add`; the lock is
//! taken only to add a chunk. When a piece does not fit, the `fetch_add` has pushed the chunk's
//! mark past its end, which closes the chunk for good: each thread overshoots a chunk at most once,
//! since it then moves on to the next one.
//!
//! # Accounting
//! Each allocation says how many bytes it used up: its own, and for the one that closes a chunk
//! also the bytes left over at that chunk's end. The sum is exact. What is untouched in the current
//! chunk does not count.
//!
//! # Alignment
//! Chunks begin at a multiple of 8, and pieces follow one another without a gap. So if all pieces
//! of an arena are of lengths that are multiples of 8, all are aligned to 8; else none need be.
//!
//! The arena knows nothing of what is stored in it.

#![expect(unsafe_code, reason = "hands out raw memory; each block has its proof")]

use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The first chunk.
const CHUNK_BYTES_MIN: usize = 4 << 10;
/// The chunks of a large memtable: so few that adding one costs nothing per entry.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// From here on a piece gets its own chunk. A sixteenth of a full chunk: closing one wastes no more
/// than that.
const OWN_CHUNK_BYTES_MIN: usize = CHUNK_BYTES_MAX / 16;

/// Memory handed out piece by piece, freed when dropped.
pub(super) struct Arena {
    /// The chunk that pieces are taken from; null before the first.
    current: AtomicPtr<Chunk>,
    /// All chunks, by raw pointer: a `Box` would claim to be the only way to reach its chunk. Freed
    /// in `drop`.
    chunks: Mutex<Vec<NonNull<Chunk>>>,
}

/// A piece of the arena's memory.
pub(super) struct Piece {
    /// Uninitialised memory of the length asked for; see "Alignment" in the module text.
    pub(super) start: NonNull<u8>,
    /// What the piece used up of the arena.
    pub(super) charged_bytes: usize,
}

struct Chunk {
    /// From `Box::into_raw`; returned to it when the chunk is dropped.
    memory: NonNull<[MaybeUninit<u64>]>,
    /// Where the next piece starts; past the end once the chunk is closed.
    used: AtomicUsize,
}

// SAFETY: what keeps `Arena` from being Send and Sync is the raw pointers to chunks. The arena owns
// the chunks, they are freed only by its `drop`, and a shared chunk is changed only through its
// atomic; the bytes are written only by those to whom disjoint pieces were handed.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena that has allocated nothing yet.
    pub(super) fn new() -> Self {
        Arena { current: AtomicPtr::new(ptr::null_mut()), chunks: Mutex::new(Vec::new()) }
    }

    /// Hands out `len` bytes that nobody else will be given, good until the arena is dropped.
    #[inline]
    pub(super) fn allocate(&self, len: usize) -> Piece {
        if len >= OWN_CHUNK_BYTES_MIN {
            return self.allocate_own_chunk(len);
        }
        let mut left_over_bytes = 0;
        loop {
            // Acquire: the chunk's fields were written before the pointer was stored with Release.
            let current = self.current.load(Ordering::Acquire);
            // SAFETY: `current` is null or a chunk of this arena; those are freed only by `drop`,
            // which has `&mut`.
            if let Some(chunk) = unsafe { current.as_ref() } {
                match chunk.take(len) {
                    Ok(start) => return Piece { start, charged_bytes: len + left_over_bytes },
                    Err(left_over) => left_over_bytes += left_over,
                }
            }
            self.replace_current(current, len);
        }
    }

    /// Hands out a chunk of `len` bytes; the current chunk stays open.
    #[cold]
    fn allocate_own_chunk(&self, len: usize) -> Piece {
        let chunk = Chunk::new(len);
        let start =
            chunk.take(len).unwrap_or_else(|_| unreachable!("the chunk was made this long"));
        self.chunks.lock().push(chunk.into_raw());
        Piece { start, charged_bytes: len }
    }

    /// Puts a new chunk that holds `len` bytes in the place of `full`, unless somebody has done so
    /// already.
    #[cold]
    fn replace_current(&self, full: *mut Chunk, len: usize) {
        let mut chunks = self.chunks.lock();
        // Relaxed: `current` is stored only under the lock that we hold.
        if self.current.load(Ordering::Relaxed) != full {
            return;
        }
        // SAFETY: as in `allocate`.
        let full_bytes = unsafe { full.as_ref() }.map_or(0, Chunk::len);
        let doubled_bytes = (full_bytes * 2).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let chunk = Chunk::new(doubled_bytes.max(len.next_power_of_two())).into_raw();
        chunks.push(chunk);
        self.current.store(chunk.as_ptr(), Ordering::Release);
    }

    /// The bytes of all closed chunks and the used ones of the current chunk.
    #[cfg(test)]
    pub(super) fn handed_out_bytes(&self) -> usize {
        let chunks = self.chunks.lock();
        // SAFETY: as in `allocate`.
        let chunks = chunks.iter().map(|chunk| unsafe { chunk.as_ref() });
        chunks.map(|chunk| chunk.used.load(Ordering::Relaxed).min(chunk.len())).sum()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for chunk in self.chunks.get_mut().drain(..) {
            // SAFETY: each pointer in `chunks` came from `Chunk::into_raw` and is in there once.
            // `&mut self` proves that no thread is in `allocate`; the owner of the arena lets no
            // piece outlive it.
            drop(unsafe { Box::from_raw(chunk.as_ptr()) });
        }
    }
}

impl Chunk {
    /// A chunk of at least `len` bytes.
    fn new(len: usize) -> Self {
        let memory = Box::<[u64]>::new_uninit_slice(len.div_ceil(size_of::<u64>()));
        let memory = Box::into_raw(memory);
        let memory = NonNull::new(memory).expect("a box is not null");
        Chunk { memory, used: AtomicUsize::new(0) }
    }

    fn into_raw(self) -> NonNull<Chunk> {
        NonNull::new(Box::into_raw(Box::new(self))).expect("a box is not null")
    }

    /// The size in bytes.
    fn len(&self) -> usize {
        self.memory.len() * size_of::<u64>()
    }

    /// The next `len` bytes. If they do not fit, the chunk is closed; the error is the number of
    /// bytes left over, told to the caller that closed it and 0 to the others.
    #[inline]
    fn take(&self, len: usize) -> Result<NonNull<u8>, usize> {
        // Relaxed: the pieces are disjoint by the atomicity of the addition alone. No overflow: a
        // thread overshoots a chunk once, by less than `OWN_CHUNK_BYTES_MIN`.
        let start = self.used.fetch_add(len, Ordering::Relaxed);
        if start + len > self.len() {
            return Err(self.len().saturating_sub(start));
        }
        // SAFETY: `start + len` is within the chunk's one allocation, checked above.
        Ok(unsafe { self.memory.cast::<u8>().add(start) })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw` in `new` and is given back once, here.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills `piece` with `byte`.
    fn fill(piece: &Piece, byte: u8, len: usize) {
        // SAFETY: the piece is `len` bytes of the living arena that only this test writes.
        unsafe { piece.start.write_bytes(byte, len) };
    }

    fn is_filled(piece: &Piece, byte: u8, len: usize) -> bool {
        // SAFETY: `fill` initialised these bytes and the arena lives.
        let bytes = unsafe { std::slice::from_raw_parts(piece.start.as_ptr(), len) };
        bytes.iter().all(|&b| b == byte)
    }

    #[test]
    fn pieces_are_disjoint_and_charged_exactly() {
        let arena = Arena::new();
        let lens = [0, 1, 4000, 96, 1, 9000, 65535, 65536, 200_000, 3, 1 << 20, 30_000];
        let mut pieces = Vec::new();
        let mut charged_bytes = 0;
        for round in 0..40 {
            for (index, &len) in lens.iter().enumerate() {
                let piece = arena.allocate(len);
                let byte = (round * 13 + index) as u8;
                fill(&piece, byte, len);
                charged_bytes += piece.charged_bytes;
                pieces.push((piece, byte, len));
                assert_eq!(charged_bytes, arena.handed_out_bytes());
            }
        }
        assert!(pieces.iter().all(|(piece, byte, len)| is_filled(piece, *byte, *len)));
    }

    #[test]
    fn a_tiny_arena_is_tiny_and_an_empty_one_is_nothing() {
        let arena = Arena::new();
        assert!(arena.chunks.lock().is_empty());
        arena.allocate(100);
        let chunks = arena.chunks.lock();
        assert_eq!(chunks.len(), 1);
        // SAFETY: the chunk belongs to the living arena.
        assert_eq!(unsafe { chunks[0].as_ref() }.len(), CHUNK_BYTES_MIN);
    }

    #[test]
    fn the_thread_that_finds_a_chunk_replaced_already_adds_none() {
        let arena = Arena::new();
        let seen = arena.current.load(Ordering::Relaxed);
        arena.replace_current(seen, 10);
        let current = arena.current.load(Ordering::Relaxed);
        arena.replace_current(seen, 10);
        assert_eq!(arena.current.load(Ordering::Relaxed), current);
        assert_eq!(arena.chunks.lock().len(), 1);
    }

    #[test]
    fn a_large_piece_does_not_close_the_current_chunk() {
        let arena = Arena::new();
        let first = arena.allocate(10);
        arena.allocate(OWN_CHUNK_BYTES_MIN);
        let second = arena.allocate(10);
        assert_eq!(second.start.addr().get(), first.start.addr().get() + 10);
    }

    #[test]
    fn threads_get_disjoint_pieces_and_charge_each_byte_once() {
        let arena = Arena::new();
        let charged_bytes: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4u8)
                .map(|thread| {
                    let arena = &arena;
                    scope.spawn(move || {
                        let mut charged_bytes = 0;
                        let mut pieces = Vec::new();
                        for index in 0..2000usize {
                            let len =
                                index * 7919 % 1500 + if index % 500 == 0 { 66_000 } else { 0 };
                            let piece = arena.allocate(len);
                            fill(&piece, thread, len);
                            charged_bytes += piece.charged_bytes;
                            pieces.push((piece, len));
                        }
                        assert!(pieces.iter().all(|(piece, len)| is_filled(piece, thread, *len)));
                        charged_bytes
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(charged_bytes, arena.handed_out_bytes());
    }
}
