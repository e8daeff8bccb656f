//! Memory: how much is used, and the pool of equal pieces that all items are stored in.
//!
//! ```text
//! |<----------------------------- -m ------------------------------>|
//! | tables and segments | large values | pending items | pool | free |
//! |<----------------- used ---------------------------->|
//!
//! piece    64 KB, the unit of the pool
//! segment  a piece of small items (`datastore/segment.rs`)
//! block    a piece in sixteen parts of 4 KB, which several large values share (`memory/large.rs`)
//! ```
//!
//! The owner of a piece, of a table or of a reservation has a [`Charge`]: the bytes count as used until the owner is
//! dropped. So a large value that was replaced counts too, as long as a slow reader is sending it. (What is small
//! beside them does not count, for example the keys of large items.)
//!
//! Items, small and large, are stored in pieces of one size. A piece that is freed goes into the pool, and is used
//! again for the next segment or block: memory never has holes that are too small to be used. A piece is returned to
//! the allocator only when something else needs its memory. (Large values in allocations of their own were measured:
//! with 100 clients, values of 20 KB after small ones, and `-m 64`, the process grew to 123 MB. The reason is that
//! glibc has an arena for every few threads, and these do not share their holes.)

mod large;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use large::Blocks;
pub use large::LargeValue;

/// The size of a piece, in bytes.
pub const PIECE_SIZE: usize = 64 << 10;

/// Used memory and the pool together may exceed the limit by 1/32 of it: a piece that an eviction has freed must be
/// there for the next segment. When pieces were returned to the allocator each time, the holes between them were
/// measured at a third of `-m`.
const POOL_ALLOWANCE_DIVISOR: usize = 32;

/// The memory of a store.
#[derive(Debug)]
pub struct Memory {
    /// How much may be used, in bytes (`-m`).
    limit: AtomicUsize,
    /// How much is used, in bytes.
    used: AtomicUsize,
    /// Pieces that are not in use.
    pool: Mutex<Vec<Vec<u8>>>,
    /// The length of `pool`. It is kept outside the lock, because every write to the store reads it.
    pooled: AtomicUsize,
    /// The blocks that large values are stored in.
    blocks: Mutex<Blocks>,
}

impl Memory {
    /// Memory of which at most `limit` bytes may be used.
    pub fn new(limit: usize) -> Self {
        Memory {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            pool: Mutex::default(),
            pooled: AtomicUsize::new(0),
            blocks: Mutex::default(),
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

    /// How much is used, in bytes. For a moment it may be more than the limit: see `datastore/reserve.rs`.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Whether more is used than the limit.
    pub fn is_short(&self) -> bool {
        self.used() > self.limit()
    }

    /// Counts this many bytes as used until the charge is dropped. This call does not check the limit.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Relaxed);
        let memory = Arc::clone(self);
        Charge { memory, bytes }
    }

    /// Takes a piece from the pool, or a new one.
    pub fn take_piece(self: &Arc<Self>) -> Piece {
        let mut pool = lock(&self.pool);
        let pooled = pool.pop();
        self.pooled.store(pool.len(), Relaxed);
        drop(pool);
        Piece {
            // The system provides zeros without writing them: what a segment does not use yet is not resident.
            bytes: pooled.unwrap_or_else(|| vec![0; PIECE_SIZE]),
            charge: self.charge(PIECE_SIZE),
        }
    }

    /// Returns pieces of the pool to the allocator, until used memory and the pool together are within the limit and
    /// its allowance.
    pub fn trim_pool(&self) {
        let allowed = self.limit() + self.limit() / POOL_ALLOWANCE_DIVISOR;
        let pieces = allowed.saturating_sub(self.used()) / PIECE_SIZE;
        if self.pooled.load(Relaxed) > pieces {
            let mut pool = lock(&self.pool);
            pool.truncate(pieces);
            self.pooled.store(pool.len(), Relaxed);
        }
    }
}

/// A piece of memory. It returns to the pool when it is dropped.
#[derive(Debug)]
pub struct Piece {
    /// [`PIECE_SIZE`] bytes. At first they may have any value.
    pub bytes: Vec<u8>,
    charge: Charge,
}

impl Drop for Piece {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let memory = &self.charge.memory;
        let mut pool = lock(&memory.pool);
        pool.push(bytes);
        memory.pooled.store(pool.len(), Relaxed);
    }
}

/// Memory that counts as used as long as this value lives.
#[derive(Debug)]
pub struct Charge {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Charge {
    /// How many bytes are charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets how many bytes are charged. An equal value is skipped, because all threads contend for the counter.
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            // The difference may be negative. Then it wraps around, and so does the sum, which is right again.
            let more = bytes.wrapping_sub(self.bytes);
            self.memory.used.fetch_add(more, Relaxed);
            self.bytes = bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// Locks a mutex, and ignores poisoning: each change under these locks is complete in itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_piece_is_used_again() {
        let memory = Arc::new(Memory::new(2 * PIECE_SIZE));
        let piece = memory.take_piece();
        let address = piece.bytes.as_ptr();
        assert_eq!(memory.used(), PIECE_SIZE);
        drop(piece);
        assert_eq!(memory.used(), 0);
        let piece = memory.take_piece();
        assert_eq!(
            (piece.bytes.as_ptr(), piece.bytes.len()),
            (address, PIECE_SIZE)
        );
    }

    #[test]
    fn the_pool_shrinks_when_used_memory_grows() {
        let memory = Arc::new(Memory::new(32 * PIECE_SIZE));
        let pooled = || lock(&memory.pool).len();
        drop((0..32).map(|_| memory.take_piece()).collect::<Vec<_>>());
        assert_eq!(pooled(), 32);
        let charge = memory.charge(30 * PIECE_SIZE);
        memory.trim_pool();
        assert_eq!(
            pooled(),
            3,
            "two fit within the limit, and the allowance is one more"
        );
        drop(charge);
        memory.set_limit(0);
        assert_eq!(pooled(), 0);
    }

    #[test]
    fn a_charge_counts_as_used_memory_until_it_is_dropped() {
        let memory = Arc::new(Memory::new(100));
        let mut charge = memory.charge(60);
        assert!(!memory.is_short());
        charge.set(101);
        assert!(memory.is_short());
        charge.set(30);
        assert_eq!((memory.used(), charge.bytes()), (30, 30));
        drop(charge);
        assert_eq!(memory.used(), 0);
    }
}
