//! Large values, in pieces and parts.
//!
//! ```text
//! value:    |       piece       |       piece       | part | part | par|
//!                                                      |      |      '------------.
//! block:                                            |  0   |  1   |  2   |  ...  | 15  |
//! ```
//!
//! A value takes as many whole pieces of the pool as it fills. The rest takes free parts of 4 KB, of one block or of
//! several: a block is a piece that is divided into 16 parts. When all parts of a block are free, its piece returns to
//! the pool.
//!
//! The store and the readers of a value share it, so no reader copies it as a whole. Nobody writes to its pieces any
//! more, so a reader sends them as they are. A block has parts of other values too, some of which may be written
//! meanwhile, so a reader copies each part while the block is locked.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Memory, PIECE_SIZE, Piece, lock};

/// The size of a part, in bytes.
pub const PART_SIZE: usize = PIECE_SIZE / PARTS_PER_BLOCK;

/// How many parts a block has: one for each bit of a `u16`.
const PARTS_PER_BLOCK: usize = u16::BITS as usize;

/// A piece that is divided into parts.
#[derive(Debug)]
struct Block {
    number: u64,
    /// Locked while a part is copied, and never while the network is used.
    piece: RwLock<Piece>,
}

/// The blocks that have free parts, each by its number, with a bit for each part: 1 if the part is free.
#[derive(Debug, Default)]
pub struct Blocks {
    with_free_parts: BTreeMap<u64, (Arc<Block>, u16)>,
    last_number: u64,
}

/// A part of a block.
#[derive(Debug)]
struct Part {
    block: Arc<Block>,
    index: u8,
}

/// The value of a large item. It counts as used memory until the store and all its readers have dropped it.
#[derive(Debug)]
pub struct LargeValue {
    /// The beginning of the value. Each of these pieces is full.
    pieces: Vec<Piece>,
    /// The rest of the value.
    parts: Vec<Part>,
    length: usize,
    memory: Arc<Memory>,
}

impl LargeValue {
    /// A copy of these bytes.
    pub fn new(bytes: &[u8], memory: &Arc<Memory>) -> Self {
        let (whole, rest) = bytes.as_chunks::<PIECE_SIZE>();
        let piece = |chunk: &[u8; PIECE_SIZE]| {
            let mut piece = memory.take_piece();
            piece.bytes.copy_from_slice(chunk);
            piece
        };
        let part = |chunk: &[u8]| {
            let part = memory.take_part();
            let mut piece = part
                .block
                .piece
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let start = usize::from(part.index) * PART_SIZE;
            if let Some(room) = piece.bytes.get_mut(start..start + chunk.len()) {
                room.copy_from_slice(chunk);
            }
            drop(piece);
            part
        };
        LargeValue {
            pieces: whole.iter().map(piece).collect(),
            parts: rest.chunks(PART_SIZE).map(part).collect(),
            length: bytes.len(),
            memory: Arc::clone(memory),
        }
    }

    /// How many bytes the value has.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How much memory the value takes, in bytes.
    pub fn size(&self) -> usize {
        self.pieces.len() * PIECE_SIZE + self.parts.len() * PART_SIZE
    }

    /// Passes the value to `write`, one piece or part after the other. The parts are copied to a buffer first.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn write_to<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        for piece in &self.pieces {
            write(&piece.bytes)?;
        }
        let mut left = self.length - self.pieces.len() * PIECE_SIZE;
        let mut buffer = Vec::with_capacity(PART_SIZE);
        for part in &self.parts {
            let piece = part
                .block
                .piece
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            let (start, length) = (usize::from(part.index) * PART_SIZE, left.min(PART_SIZE));
            let bytes = piece.bytes.get(start..start + length);
            buffer.clear();
            buffer.extend_from_slice(bytes.unwrap_or_default());
            drop(piece);
            left -= length;
            write(&buffer)?;
        }
        Ok(())
    }
}

impl Drop for LargeValue {
    fn drop(&mut self) {
        self.pieces.clear();
        for part in self.parts.drain(..) {
            self.memory.return_part(part);
        }
        self.memory.trim_pool();
    }
}

impl Memory {
    /// Takes a free part, from a partly used block if there is one.
    fn take_part(self: &Arc<Self>) -> Part {
        let mut blocks = lock(&self.blocks);
        let (_, (block, free)) = blocks.with_free_parts.pop_first().unwrap_or_else(|| {
            blocks.last_number += 1;
            let (number, piece) = (blocks.last_number, RwLock::new(self.take_piece()));
            (number, (Arc::new(Block { number, piece }), u16::MAX))
        });
        let index = free.trailing_zeros() as u8;
        let free = free & !(1 << index);
        if free != 0 {
            let entry = (Arc::clone(&block), free);
            blocks.with_free_parts.insert(block.number, entry);
        }
        Part { block, index }
    }

    /// How many bytes are free in partly used blocks.
    #[cfg(test)]
    pub fn free_parts(&self) -> usize {
        let blocks = lock(&self.blocks);
        let free = blocks.with_free_parts.values();
        free.map(|(_, free)| free.count_ones() as usize * PART_SIZE)
            .sum()
    }

    fn return_part(&self, part: Part) {
        let (mut blocks, number) = (lock(&self.blocks), part.block.number);
        let known = blocks.with_free_parts.remove(&number);
        let free = known.map_or(0, |(_, free)| free) | 1 << part.index;
        if free != u16::MAX {
            let entry = (part.block, free);
            blocks.with_free_parts.insert(number, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n % 251) as u8).collect()
    }

    fn copy(value: &LargeValue) -> Vec<u8> {
        let mut copy = Vec::new();
        let outcome: Result<(), ()> = value.write_to(|bytes| {
            copy.extend_from_slice(bytes);
            Ok(())
        });
        assert!(outcome.is_ok());
        copy
    }

    #[test]
    fn a_value_in_parts_that_were_used_before_is_what_was_copied_into_them() {
        let memory = Arc::new(Memory::new(usize::MAX / 2));
        for length in [
            1,
            5 * PART_SIZE,
            5 * PART_SIZE + 1,
            40 * PART_SIZE - 1,
            3 * PART_SIZE,
        ] {
            let value = LargeValue::new(&bytes(length), &memory);
            assert_eq!((copy(&value), value.length()), (bytes(length), length));
        }
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn values_share_blocks_and_a_block_counts_until_all_its_parts_are_free() {
        let memory = Arc::new(Memory::new(usize::MAX / 2));
        let values: Vec<_> = (0..8)
            .map(|n| LargeValue::new(&[n; 6 * PART_SIZE], &memory))
            .collect();
        assert_eq!(memory.used(), 3 * PIECE_SIZE);
        let kept: Vec<_> = values.into_iter().step_by(4).collect();
        assert_eq!(memory.used(), 2 * PIECE_SIZE);
        let more: Vec<_> = (0..3)
            .map(|n| LargeValue::new(&[n; 6 * PART_SIZE], &memory))
            .collect();
        assert_eq!(
            memory.used(),
            2 * PIECE_SIZE,
            "the free parts are used again"
        );
        assert_eq!(
            kept.iter().map(copy).collect::<Vec<_>>(),
            [vec![0; 6 * PART_SIZE], vec![4; 6 * PART_SIZE]]
        );
        drop((kept, more));
        assert_eq!(memory.used(), 0);
    }
}
