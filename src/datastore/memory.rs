//! Memory: how much is used, and the pool of equal pieces of which segments are made.
//!
//! ```text
//! | tables and segments | large items | reserved for  | pool |        |
//! |    of all shards    |             | coming values |      |        |
//! |<---------------- used ---------------------------->|      |<- -m ->|
//! ```
//!
//! Each piece of memory is counted by a [`Charge`] in the value that holds it, until that value is dropped. So what a slow reader still holds
//! of an item that was replaced counts as well, until the reader lets go.
//!
//! Segments are made of pieces of one size. A piece that comes free goes into the pool and serves the next segment
//! of any shard, whatever the size of its items: memory is never cut into holes that are too small. The allocator
//! gets pieces back only when something else needs their memory.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::segment::SEGMENT;
use crate::item::{Charge, LargeBytes};

/// The memory of a store.
#[derive(Debug)]
pub struct Memory {
    /// How much may be used, in bytes (`-m`).
    limit: AtomicUsize,
    /// How much is used, in bytes.
    used: Arc<AtomicUsize>,
    /// Pieces that nobody uses.
    pool: Mutex<Vec<Vec<u8>>>,
    /// How much memory the pool is, in bytes.
    pooled: AtomicUsize,
}

/// A piece of memory for a segment. It returns to the pool when it is dropped.
#[derive(Debug)]
pub struct Piece {
    /// Empty at first, with room for [`SEGMENT`] bytes.
    pub bytes: Vec<u8>,
    memory: Arc<Memory>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        lock(&self.memory.pool).push(bytes);
        self.memory.pooled.fetch_add(SEGMENT, Relaxed);
        self.memory.trim_pool();
    }
}

impl Memory {
    /// Memory of which at most so many bytes may be used.
    pub fn new(limit: usize) -> Self {
        Memory {
            limit: AtomicUsize::new(limit),
            used: Arc::default(),
            pool: Mutex::default(),
            pooled: AtomicUsize::new(0),
        }
    }

    /// How much may be used, in bytes.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Changes how much may be used, in bytes.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Relaxed);
        self.trim_pool();
    }

    /// How much is used, in bytes. For a moment it may be more than the limit: see `eviction.rs`.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Whether more is used than may be.
    pub fn is_short(&self) -> bool {
        self.used() > self.limit()
    }

    /// Charges this many bytes for as long as the charge lives. Whether they are there is for [`Memory::is_short`] to say.
    pub fn charge(&self, bytes: usize) -> Charge {
        Charge::new(&self.used, bytes)
    }

    /// The bytes of a large item, charged as long as somebody has them.
    pub fn large(&self, bytes: Vec<u8>) -> LargeBytes {
        LargeBytes::new(bytes, &self.used)
    }

    /// A piece for a segment, which charges for it.
    pub fn piece(self: &Arc<Self>) -> Piece {
        let pooled = lock(&self.pool).pop();
        let bytes = match pooled {
            Some(bytes) => {
                self.pooled.fetch_sub(SEGMENT, Relaxed);
                bytes
            }
            None => Vec::with_capacity(SEGMENT),
        };
        let memory = Arc::clone(self);
        Piece { bytes, memory }
    }

    /// Gives pieces back to the allocator until what is used and the pool together stay within the limit.
    pub fn trim_pool(&self) {
        while self.used() + self.pooled.load(Relaxed) > self.limit() {
            let Some(piece) = lock(&self.pool).pop() else {
                break;
            };
            self.pooled.fetch_sub(SEGMENT, Relaxed);
            drop(piece);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_comes_free_serves_again() {
        let memory = Arc::new(Memory::new(2 * SEGMENT));
        let mut piece = memory.piece();
        piece.bytes.extend_from_slice(b"old");
        let address = piece.bytes.as_ptr();
        drop(piece);
        let piece = memory.piece();
        assert_eq!((piece.bytes.as_ptr(), piece.bytes.len()), (address, 0));
        assert_eq!(memory.pooled.load(Relaxed), 0);
    }

    #[test]
    fn the_pool_gives_way_to_what_is_used() {
        let memory = Arc::new(Memory::new(4 * SEGMENT));
        let pieces: Vec<_> = (0..4).map(|_| memory.piece()).collect();
        drop(pieces);
        assert_eq!(memory.pooled.load(Relaxed), 4 * SEGMENT);
        let large = memory.large(vec![0; 2 * SEGMENT + 1]);
        memory.trim_pool();
        assert_eq!(memory.pooled.load(Relaxed), SEGMENT);
        drop(large);
        memory.set_limit(0);
        assert_eq!((memory.pooled.load(Relaxed), memory.used()), (0, 0));
    }

    #[test]
    fn what_is_charged_is_used_until_the_charge_is_dropped() {
        let memory = Memory::new(100);
        let charge = memory.charge(60);
        assert!(!memory.is_short());
        let more = memory.charge(41);
        assert!(memory.is_short());
        drop(more);
        assert!(!memory.is_short());
        drop(charge);
        assert_eq!(memory.used(), 0);
    }
}
